"""LoRA as a stage of post-training, and features of the frozen encoder that runs share."""

import json
import os
import pathlib
import shutil
import signal
import sys

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from forked import Forked, launch_forked
from hub_server import HubServer
from safetensors.torch import load_file
from small_models import small_model
from test_hub import TOKENS, Client, environment
from test_post_training import arguments, extractor, make_resumable, make_trainer, same_weights, weights_of
from test_targets import REGRESSION, SINGLE, records
from transformers import AutoModelForSequenceClassification

from ecg_hf import ECGTransformerConfig, ECGTransformerForMultiLabel, PostTrainer, cli, name_labels
from ecg_hf.hub import write_release
from ecg_hf.post_training import features as features_module
from ecg_hf.runs.windows import EvaluationWindows
from ecg_hf.synthetic import simulate_ptbxl

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

ROOT = pathlib.Path(__file__).parents[1]
ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
PROJECTIONS = {f"{name}_proj" for name in "qkvo"}


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="the package peft is not installed (extra `peft`)")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder of an encoder without a head, and its feature extractor."""
    folder = tmp_path_factory.mktemp("pretrained") / "my-encoder"
    small_model().ecg_transformer.save_pretrained(folder)
    extractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def records_200(tmp_path_factory):
    return simulate_ptbxl(tmp_path_factory.mktemp("two-hundred") / "ptbxl", 200, seed=2, sampling_rates=(100,))


def train(output, data, encoder, **flags):
    """`ecg-hf train` with a few steps on a CPU."""
    settings = {
        **{"model_name_or_path": encoder, "data_dir": data, "task": "superdiagnostic", "output_dir": output},
        **{"num_train_epochs": 2, "probe_num_train_epochs": 3, "per_device_train_batch_size": 32},
        **{"logging_steps": 1, "num_bootstrap_resamples": 20, "use_cpu": "true", "disable_tqdm": "true"},
        **flags,
    }
    argv = []
    for name, value in settings.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return cli.train(argv)


def lora_trainer(splits, output, model=None, stages=("probe", "lora"), **fields) -> PostTrainer:
    return make_trainer(
        splits,
        output,
        model=model,
        **{"stages": list(stages), "keep_best_stage": False, "learning_rate": 5e-4, **fields},
    )


def logits_of(model, splits) -> torch.Tensor:
    """Of all windows of the test records."""
    test = splits["test"]
    batch = EvaluationWindows(test, extractor()).__getitems__(range(len(test)))
    with torch.no_grad():
        return model.eval()(batch["input_values"].flatten(0, 1)).logits


@pytest.fixture(scope="module")
def story(peft, records_200, encoder, tmp_path_factory):
    """A run of the command, with 200 records: (folder, results)."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    return folder, train(folder, records_200, encoder, stages=["probe", "lora"], keep_best_stage="false")


@pytest.fixture(scope="module")
def finished(peft, encoder, simulated_splits, tmp_path_factory):
    """A run from Python with adapters in the MLP too: (folder, trainer, results)."""
    folder = tmp_path_factory.mktemp("lora") / "mlp"
    model = ECGTransformerForMultiLabel.from_pretrained(encoder, num_labels=5)
    model.replace_head(small_model().config.id2label)
    trainer = lora_trainer(simulated_splits, folder, model, lora_mlp=True, lora_rank=4, lora_learning_rate=0.01)
    return folder, trainer, trainer.post_train()


# ---- The story of a run ----

WITHOUT_PEFT = """
import sys
sys.modules["peft"] = None  # as if it were not installed
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules"), type(model)
torch.manual_seed(0)
with torch.no_grad():
    torch.save(model(torch.randn(3, 12, model.config.num_samples)).logits, sys.argv[2])
"""


def test_a_run_of_the_command_is_a_checkpoint_like_any_other_without_peft(story, new_process, tmp_path):
    folder, results = story
    logits = tmp_path / "logits.pt"
    done = new_process(WITHOUT_PEFT, folder, logits, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(torch.randn(3, 12, model.config.num_samples)).logits
    assert torch.equal(torch.load(logits), expected)
    assert results["kept_stage"] == "lora"
    figures = {"probe_seconds", "probe_eval_macro_auroc", "lora_seconds", "lora_eval_macro_auroc", "test_macro_auroc"}
    assert figures <= results.keys() and "finetune_seconds" not in results


def test_recipe_card_and_curves_name_the_stage(story):
    folder, results = story
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    expected = {"lora_rank": 8, "lora_alpha": 16.0, "lora_dropout": 0.0, "lora_mlp": False}
    assert expected.items() <= recipe.items() and recipe["stages"] == ["probe", "lora"]
    # 2 blocks x 4 maps of 16 x 16, each with A and B of rank 8; the head has 5 labels
    assert results["lora_trained_parameters"] == 2 * 4 * 2 * 16 * 8 + 5 * 17
    card = (folder / "README.md").read_text()
    assert "and then by low-rank adaptation (LoRA, [arXiv 2106.09685]" in card and "`adapter/` for `peft`" in card
    assert (
        "2,133 trained parameters: `rank` 8, `alpha` 16.0, `dropout` 0.0, `learning_rate` 0.003, `mlp` False" in card
    )
    assert "fine-tuning" not in card.split("<!-- /generated -->")[0]
    history = json.loads((folder / "log_history.json").read_text())
    assert {entry["stage"] for entry in history} == {"probe", "lora"}
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert max(rates) <= recipe["lora_learning_rate"] and min(rates) < 0.6 * max(rates)
    assert (folder / "learning_curves.png").is_file()


def test_a_run_without_the_stage_has_the_recipe_that_it_had(tmp_path):
    assert not [name for name in arguments(tmp_path).recipe() if name.startswith(("lora", "feature"))]


@pytest.mark.parametrize("run", ["story", "finished"])
def test_only_adapted_maps_and_the_head_have_changed(request, run, encoder):
    folder, *_ = request.getfixturevalue(run)
    maps = PROJECTIONS | ({"fc1", "fc2"} if run == "finished" else set())
    before, after = weights_of(folder / "_stages" / "probe"), weights_of(folder)
    base = weights_of(encoder)
    assert before.keys() == after.keys()
    for name, value in before.items():
        *_, module, kind = name.split(".")
        learned = name.startswith("classifier.") or (".layers." in name and module in maps and kind == "weight")
        assert torch.equal(after[name], value) != learned, name
        if not name.startswith("classifier."):
            assert torch.equal(value, base[name.removeprefix("ecg_transformer.")]), name


def test_the_adapter_beside_the_model_gives_its_logits_on_the_base(peft, finished, simulated_splits, encoder):
    folder, *_ = finished
    assert sorted(file.name for file in (folder / "adapter").iterdir()) == ADAPTER
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-encoder" and str(encoder.parent) not in json.dumps(config)
    assert config["modules_to_save"] == ["classifier"] and (config["r"], config["lora_alpha"]) == (4, 16)
    base = ECGTransformerForMultiLabel.from_pretrained(encoder, num_labels=5)
    adapted = peft.PeftModel.from_pretrained(base, folder / "adapter")
    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = logits_of(merged, simulated_splits)
    torch.testing.assert_close(logits_of(adapted, simulated_splits), expected, atol=1e-5, rtol=1e-5)
    probe = AutoModelForSequenceClassification.from_pretrained(folder / "_stages" / "probe")
    assert (logits_of(probe, simulated_splits) - expected).abs().max() > 0.01  # the adapters do something


def test_the_trainer_ends_with_the_merged_model_and_all_of_it_learns_again(finished, simulated_splits):
    folder, trainer, results = finished
    assert same_weights(dict(trainer.model.state_dict()), weights_of(folder))
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    predicted = trainer.predict(simulated_splits["validation"]).metrics["test_macro_auroc"]
    assert predicted == results["eval_macro_auroc"]
    table = pd.read_csv(folder / "test_predictions.csv")
    assert len(table) == len(simulated_splits["test"])


def test_the_head_begins_where_the_probe_ended_and_the_best_epoch_is_kept(peft, simulated_splits, tmp_path):
    trainer = lora_trainer(simulated_splits, tmp_path / "run", eval_on_start=True, num_train_epochs=4)
    results = trainer.post_train()
    evaluated = [entry for entry in trainer.state.log_history if entry["stage"] == "lora" and "eval_loss" in entry]
    assert evaluated[0]["eval_loss"] == pytest.approx(results["probe_eval_loss"], abs=1e-5)
    best = max(entry["eval_macro_auroc"] for entry in evaluated)
    assert results["lora_eval_macro_auroc"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("keep", [True, False])
def test_the_better_stage_is_kept(peft, simulated_splits, tmp_path, caplog, keep):
    folder = tmp_path / "run"
    fields = {"lora_learning_rate": 10.0, "num_train_epochs": 1, "keep_best_stage": keep}
    results = lora_trainer(simulated_splits, folder, **fields).post_train()
    assert results["lora_eval_macro_auroc"] < results["probe_eval_macro_auroc"]
    assert "LoRA ended worse than the probe that it began with" in caplog.text
    assert "lower `lora_learning_rate`" in caplog.text
    assert results["kept_stage"] == ("probe" if keep else "lora")
    assert same_weights(weights_of(folder), weights_of(folder / "_stages/probe")) == keep
    # The adapter is of the weights that are published.
    assert (folder / "adapter").is_dir() != keep and (folder / "_stages/lora/adapter").is_dir()
    assert ("`adapter/` for `peft`" in (folder / "README.md").read_text()) != keep


def test_the_stage_runs_alone(peft, simulated_splits, tmp_path):
    results = lora_trainer(simulated_splits, tmp_path / "run", stages=["lora"]).post_train()
    assert "probe_seconds" not in results and results["kept_stage"] == "lora"
    assert not (tmp_path / "run" / "_stages" / "lora" / "start.safetensors").exists()
    assert "It was post-trained by low-rank adaptation (LoRA" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("kind", [SINGLE, REGRESSION])
def test_other_targets_are_adapted_and_their_adapter_loads_with_their_configuration(peft, encoder, tmp_path, kind):
    names = ["slow", "fast", "flutter"] if kind == SINGLE else ["first", "second"]
    splits = {
        name: name_labels(records(kind, 24, seed), names) for seed, name in enumerate(("train", "validation", "test"))
    }
    model = ECGTransformerForMultiLabel.from_pretrained(encoder, num_labels=len(names))
    model.replace_head(dict(enumerate(names)), problem_type=kind)
    results = lora_trainer(splits, tmp_path / "run", model, lora_learning_rate=0.01).post_train()
    assert np.isfinite(results["lora_eval_" + ("mae" if kind == REGRESSION else "accuracy")])
    config = ECGTransformerConfig.from_pretrained(tmp_path / "run")
    base = ECGTransformerForMultiLabel.from_pretrained(encoder, config=config)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    expected = logits_of(AutoModelForSequenceClassification.from_pretrained(tmp_path / "run"), splits)
    torch.testing.assert_close(logits_of(adapted, splits), expected, atol=1e-5, rtol=1e-5)


# ---- Stops ----


def make_lora(splits, output, stages):
    return make_resumable(
        splits, output, stages=stages, keep_best_stage=False, lora_dropout=0.2, lora_learning_rate=0.01
    )


def killed_run(splits, output, stages, moment):
    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    trainer = make_lora(splits, output, stages)
    if moment == "publishing":
        replace = pathlib.Path.replace

        def replaced(file, target):
            replace(file, target)
            if file.name == "adapter":
                die()

        pathlib.Path.replace = replaced
    else:
        step = trainer.training_step
        trainer.training_step = lambda *args: step(*args) if trainer.state.global_step < moment else die()
    trainer.post_train()


@pytest.fixture(scope="module")
def undisturbed(peft, simulated_splits, tmp_path_factory):
    runs = {}
    for stages in (("probe", "lora"), ("lora",)):
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        make_lora(simulated_splits, folder, list(stages)).post_train()
        runs[stages] = folder
    return runs


@pytest.mark.parametrize(
    ("stages", "moment", "found"),
    [
        (["probe", "lora"], 5, {"checkpoint-3"}),
        (["probe", "lora"], 1, set()),
        (["lora"], 1, set()),
        (["probe", "lora"], "publishing", {"checkpoint-3", "checkpoint-6", "checkpoint-9", "checkpoint-12"}),
    ],
)
def test_a_killed_run_ends_with_the_bits_of_one_left_alone(
    peft, simulated_splits, tmp_path, undisturbed, stages, moment, found
):
    output = tmp_path / "run"
    killed = Forked(output, killed_run, simulated_splits, output, stages, moment)
    assert killed.wait() == -signal.SIGKILL, killed.stderr
    assert {path.name for path in (output / "_stages").glob("lora/checkpoint-*")} == found
    assert not (output / "config.json").exists()
    make_lora(simulated_splits, output, stages).post_train(resume_from_checkpoint=True)
    expected = undisturbed[tuple(stages)]
    assert same_weights(weights_of(output), weights_of(expected))
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (output, expected)]
    assert same_weights(*adapters)


@pytest.mark.parametrize("stages", [["probe", "lora"], ["lora"]])
def test_a_trainer_that_was_stopped_goes_on_with_the_same_bits(peft, simulated_splits, tmp_path, undisturbed, stages):
    trainer = make_lora(simulated_splits, tmp_path / "run", stages)
    head, step = type(trainer.model.classifier), trainer.training_step

    def stop(*args):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return step(*args)

    trainer.training_step = stop
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    assert type(trainer.model.classifier) is head and all(value.requires_grad for value in trainer.model.parameters())
    assert not any("lora" in name for name in trainer.model.state_dict())
    trainer.training_step = step
    trainer.post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(tmp_path / "run"), weights_of(undisturbed[tuple(stages)]))


def test_a_run_is_not_resumed_with_another_rank(peft, simulated_splits, tmp_path):
    lora_trainer(simulated_splits, tmp_path / "run", num_train_epochs=1).post_train()
    other = lora_trainer(simulated_splits, tmp_path / "run", num_train_epochs=1, lora_rank=2)
    with pytest.raises(ValueError, match="`recipe.lora_rank` was 8, now 2"):
        other.post_train(resume_from_checkpoint=True)


# ---- Speed and memory ----


def test_gradient_checkpointing_gives_the_same_bits(peft, simulated_splits, tmp_path):
    weights = []
    for checkpointing in (False, True):
        fields = {"gradient_checkpointing": checkpointing, "drop_path_rate": 0.5, "max_steps": 3}
        trainer = lora_trainer(simulated_splits, tmp_path / str(checkpointing), stages=["lora"], **fields)
        trainer.post_train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        weights.append(weights_of(tmp_path / str(checkpointing)))
    assert same_weights(*weights)


def test_a_compiled_model_is_adapted_and_saved_merged(peft, simulated_splits, tmp_path):
    fields = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 2}
    trainer = lora_trainer(simulated_splits, tmp_path / "run", stages=["lora"], **fields)
    trainer.post_train()
    expected = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert same_weights(dict(loaded.state_dict()), dict(expected.state_dict()))
    assert not any("lora" in name or "base_layer" in name for name in weights_of(tmp_path / "run"))


def run_of_two(splits, output):
    lora_trainer(splits, output, num_train_epochs=1).post_train()


@pytest.mark.distributed
def test_two_processes_adapt_one_model(peft, simulated_splits, tmp_path):
    processes = launch_forked(tmp_path / "log", run_of_two, simulated_splits, tmp_path / "run")
    assert [process.wait() for process in processes] == [0, 0], processes[0].stderr[-3000:]
    before, after = weights_of(tmp_path / "run/_stages/probe"), weights_of(tmp_path / "run")
    name = "ecg_transformer.layers.1.attention.o_proj.weight"
    assert not torch.equal(before[name], after[name])
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["world_size"] == 2


# ---- What is refused ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ["finetune", "lora"]}, "cannot have both finetune and lora"),
        ({"stages": ["probe", "finetune", "lora"]}, "cannot have both finetune and lora"),
        ({"stages": ["lora", "probe"]}, "or lora in place of finetune; got lora, probe"),
        ({"layer_decay": 0.7}, "`layer_decay` must be 1 with the stage `lora`, got 0.7"),
        ({"lora_rank": 0}, "`lora_rank` must be at least 1, got 0"),
        ({"lora_alpha": 0.0}, "`lora_alpha` must be above 0, got 0.0"),
        ({"lora_alpha": float("nan")}, "`lora_alpha` must be above 0"),
        ({"lora_learning_rate": -1.0}, "`lora_learning_rate` must be above 0"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must lie in \[0, 1\), got 1.0"),
        ({"stages": ["probe"], "lora_rank": 4}, "`lora_rank` is for the stage `lora`, which is not among `stages`"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
            "cannot ask for `use_reentrant`",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(peft, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **{"stages": ["probe", "lora"], **fields})


def test_a_number_in_quotes_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`lora_rank` is the string '8'"):
        arguments(tmp_path, stages=["lora"], lora_rank="8")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ["lora"], "learning_rate": 0.01}, "the stage `lora` learns at `lora_learning_rate` 0.003"),
        (
            {"stages": ["probe"], "num_train_epochs": 9, "learning_rate": 0.01},
            "`learning_rate`, `num_train_epochs` are for fine-tuning, which is not among `stages` (probe)",
        ),
        ({"stages": ["finetune"], "probe_learning_rate": 0.1}, "`probe_learning_rate` is for the probe, which is not"),
        ({"stages": ["probe", "finetune"], "probe_learning_rate": 0.1, "learning_rate": 0.01}, None),
    ],
)
def test_settings_of_an_absent_stage_are_said_to_serve_nothing(peft, tmp_path, caplog, fields, message):
    arguments(tmp_path, **fields)
    found = [line for line in caplog.messages if "among `stages`" in line]
    assert not found if message is None else len(found) == 1 and message in found[0]


def test_without_peft_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ImportError, match=r"^The stage `lora` needs the package peft: pip install 'ecg-hf\[peft\]'\.$"
    ):
        arguments(tmp_path, stages=["probe", "lora"])
    arguments(tmp_path)  # all else goes on


def test_the_command_ends_with_that_sentence(monkeypatch, encoder, records_200, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    argv = ["train", "--model_name_or_path", str(encoder), "--data_dir", str(records_200), "--stages", "probe", "lora"]
    monkeypatch.setattr(sys, "argv", ["ecg-hf", *argv, "--output_dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    expected = "ecg-hf: error: The stage `lora` needs the package peft: pip install 'ecg-hf[peft]'."
    assert stopped.value.code == 2 and capsys.readouterr().err.strip().splitlines()[-1] == expected
    assert not (tmp_path / "run").exists()


def test_shards_are_refused_before_anything_is_written(peft, simulated_splits, tmp_path):
    trainer = lora_trainer(simulated_splits, tmp_path / "run")
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="not supported under FSDP, whose shards cannot be merged"):
        trainer.post_train()
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "_stages").exists()


def test_fine_tuning_alone_is_not_asked_of_a_trainer_of_adapters(peft, finished):
    _, trainer, _ = finished
    with pytest.raises(ValueError, match="`train\\(\\)` is fine-tuning, and `stages` has `lora` instead"):
        trainer.train()


def test_a_checkpoint_of_the_stage_is_no_model_and_fine_tuning_does_not_go_on_from_it(
    finished, simulated_splits, tmp_path
):
    checkpoint = next((finished[0] / "_stages/lora").glob("checkpoint-*"))
    with pytest.raises(RuntimeError, match="adapters of PEFT that are not merged. Of a run of the stage `lora` load"):
        ECGTransformerForMultiLabel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="is a checkpoint of another stage or model, from which this one cannot"):
        make_trainer(simulated_splits, tmp_path / "run").train(str(checkpoint))


def test_random_weights_are_adapted_with_a_warning(peft, records_200, tmp_path, caplog):
    argv = ["--architecture", "ptbxl_100hz"]
    argv += ["--data_dir", str(records_200), "--task", "superdiagnostic", "--output_dir", str(tmp_path / "run")]
    argv += ["--stages", "lora", "--max_steps", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
    argv += ["--evaluate_test", "false", "--max_train_records", "32"]
    cli.train(argv)
    assert "keeps the encoder's weights, and these are random" in caplog.text
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert "has random weights, to which adapters were trained" in (tmp_path / "run" / "README.md").read_text()


# ---- Publishing ----


def test_a_push_has_the_adapter_and_that_of_another_model_takes_it_away(finished, tmp_path):
    folder, *_ = finished
    without = shutil.copytree(folder, tmp_path / "without", ignore=shutil.ignore_patterns("_stages", "adapter"))
    with HubServer(TOKENS) as server:
        home = environment(tmp_path / "home", server.url, HF_TOKEN="hf_alice", PYTHONPATH=str(ROOT))
        client = Client(home, tmp_path)
        push = "from ecg_hf.hub import push_model; push_model({!r}, 'alice/adapted'); result = None"
        try:
            client.run(push.format(str(folder)))
            published = server.files("alice/adapted")
            for name in ADAPTER:
                assert published[f"adapter/{name}"] == (folder / "adapter" / name).read_bytes()
            assert not any("checkpoint" in name or name.startswith("_") for name in published)
            client.run(push.format(str(without)))
            assert server.files("alice/adapted").keys() == published.keys() - {f"adapter/{name}" for name in ADAPTER}
        finally:
            client.close()


def test_a_release_has_the_adapter(finished, tmp_path):
    folder, *_ = finished
    released = write_release(folder, tmp_path / "release")
    for name in ADAPTER:
        assert (released / "adapter" / name).read_bytes() == (folder / "adapter" / name).read_bytes()


# ---- Features that runs share ----


class Passes:
    """Counts the splits whose features were computed."""

    def __init__(self, monkeypatch):
        self.splits = []
        compute = features_module._feature_batches

        def counted(trainer, split, dataset):
            self.splits.append(split)
            return compute(trainer, split, dataset)

        monkeypatch.setattr(features_module, "_feature_batches", counted)

    def taken(self) -> list[str]:
        splits, self.splits = self.splits, []
        return splits


@pytest.fixture
def passes(monkeypatch):
    return Passes(monkeypatch)


def probe(splits, output, cache, model=None, feature_extractor=None, **fields):
    """The weights and results of a probe alone."""
    fields = {"stages": ["probe"], "feature_cache": None if cache is None else str(cache), **fields}
    results = make_trainer(splits, output, model, feature_extractor, **fields).post_train()
    return weights_of(output), results


ALL_SPLITS = ["train", "validation", "test"]


def test_other_settings_of_the_probe_take_the_features_of_an_earlier_run(simulated_splits, tmp_path, passes):
    first, results = probe(simulated_splits, tmp_path / "first", tmp_path / "cache")
    assert passes.taken() == ALL_SPLITS
    again, same = probe(simulated_splits, tmp_path / "again", tmp_path / "cache")
    assert same_weights(first, again) and same["test_macro_auroc"] == results["test_macro_auroc"]
    other, _ = probe(simulated_splits, tmp_path / "other", tmp_path / "cache", probe_learning_rate=0.1)
    assert not same_weights(first, other)
    assert passes.taken() == []
    alone, expected = probe(simulated_splits, tmp_path / "alone", None)
    assert passes.taken() == ["train", "validation"] and same_weights(first, alone)
    for name in ("eval_macro_auroc", "test_macro_auroc", "probe_eval_loss"):
        assert results[name] == pytest.approx(expected[name], abs=1e-6), name
    tables = [pd.read_csv(tmp_path / name / "test_predictions.csv") for name in ("first", "alone")]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
    assert not (tmp_path / "alone" / "_stages" / "probe" / "features").exists()


def test_other_labels_take_the_same_features(simulated_splits, tmp_path, passes):
    probe(simulated_splits, tmp_path / "first", tmp_path / "cache")
    passes.taken()
    splits = {
        split: name_labels(
            dataset.map(lambda record: {"labels": record["labels"][:2]}, features=None), ["left", "right"]
        )
        for split, dataset in simulated_splits.items()
    }
    shared, _ = probe(splits, tmp_path / "second", tmp_path / "cache", small_model(["left", "right"]))
    assert passes.taken() == []
    alone, _ = probe(splits, tmp_path / "alone", None, small_model(["left", "right"]))
    assert same_weights(shared, alone) and shared["classifier.weight"].shape == (2, 16)


def changed_weight(splits):
    model = small_model()
    model.ecg_transformer.layers[1].mlp.fc2.bias.data[3] += 1e-6
    return {"model": model}


def changed_records(splits):
    def louder(record):
        return {"signal": [record["signal"][0] + 1, *record["signal"][1:]]}

    train = splits["train"]
    first = train.select([0]).map(louder, features=train.features)
    rest = train.select(range(1, len(train)))
    return {"splits": {**splits, "train": datasets.concatenate_datasets([first, rest])}}


CHANGES = {
    "a weight": (changed_weight, ALL_SPLITS),
    "a number of the extractor": (lambda splits: {"feature_extractor": extractor(std=0.3001)}, ALL_SPLITS),
    "the stride of windows": (lambda splits: {"feature_extractor": extractor(window_stride=124)}, ALL_SPLITS),
    "a sample of a record": (changed_records, ["train"]),
    "the order of records": (
        lambda splits: {"splits": {**splits, "train": splits["train"].select([1, 0])}},
        ["train"],
    ),
    "the epsilon of a norm": (lambda splits: {"model": small_model(layer_norm_eps=1e-5)}, ALL_SPLITS),
    "the precision": (lambda splits: {"bf16": True}, ALL_SPLITS),
}


@pytest.fixture(scope="module")
def features_of_a_probe(simulated_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    probe(simulated_splits, folder / "run", folder / "cache")
    return folder / "cache"


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_computed_again(simulated_splits, features_of_a_probe, tmp_path, passes, what):
    shutil.copytree(features_of_a_probe, tmp_path / "cache")
    change, expected = CHANGES[what]
    changed = {"splits": simulated_splits, **change(simulated_splits)}
    probe(changed.pop("splits"), tmp_path / "second", tmp_path / "cache", **changed)
    assert passes.taken() == expected


@pytest.mark.parametrize("name", ["features.bin", "records.npz"])
def test_features_that_are_cut_short_are_computed_again(simulated_splits, tmp_path, passes, caplog, name):
    first, _ = probe(simulated_splits, tmp_path / "first", tmp_path / "cache")
    passes.taken()
    for file in (tmp_path / "cache").glob(f"*/{name}"):
        file.write_bytes(file.read_bytes()[:-4])
    again, _ = probe(simulated_splits, tmp_path / "second", tmp_path / "cache")
    assert passes.taken() == ALL_SPLITS and "are cut short: they are computed again" in caplog.text
    assert same_weights(first, again)


def test_a_stop_while_features_are_written_leaves_none(simulated_splits, tmp_path, monkeypatch, passes):
    compute = features_module._feature_batches

    def stop(*args):
        yield next(compute(*args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features_module, "_feature_batches", stop)
        with pytest.raises(KeyboardInterrupt):
            probe(simulated_splits, tmp_path / "first", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    passes.taken()
    probe(simulated_splits, tmp_path / "second", tmp_path / "cache")
    assert passes.taken() == ALL_SPLITS


def test_features_are_those_without_dropout_where_a_run_is_resumed_after_the_probe(
    simulated_splits, tmp_path, monkeypatch
):
    compute = features_module._feature_batches

    def stop(trainer, split, dataset):
        if split == "test":
            raise KeyboardInterrupt
        return compute(trainer, split, dataset)

    def trainer(name):
        fields = {"stages": ["probe"], "feature_cache": str(tmp_path / f"features of {name}")}
        return make_trainer(simulated_splits, tmp_path / name, small_model(hidden_dropout_prob=0.5), **fields)

    with monkeypatch.context() as patch:
        patch.setattr(features_module, "_feature_batches", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer("stopped").post_train()
    trainer("stopped").post_train(resume_from_checkpoint=True)
    trainer("whole").post_train()
    predictions = [(tmp_path / name / "test_predictions.csv").read_text() for name in ("stopped", "whole")]
    assert predictions[0] == predictions[1]


def test_the_command_shares_features_in_the_folder_of_the_cache(records_200, encoder, tmp_path, passes):
    flags = {"stages": ["probe"], "cache_dir": tmp_path / "cache"}
    train(tmp_path / "first", records_200, encoder, **flags)
    assert passes.taken() == ALL_SPLITS
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 3
    train(tmp_path / "second", records_200, encoder, **flags, probe_learning_rate=0.01)
    assert passes.taken() == []
    recipes = [yaml.safe_load((tmp_path / name / "recipe.yaml").read_text()) for name in ("first", "second")]
    assert [name for name in recipes[0] if recipes[0][name] != recipes[1][name]] == ["probe_learning_rate"]
    train(tmp_path / "third", records_200, encoder, stages=["probe"], feature_cache=tmp_path / "elsewhere")
    assert passes.taken() == ALL_SPLITS and len(list((tmp_path / "elsewhere").iterdir())) == 3


def test_the_stages_after_the_probe_take_the_features_and_no_more(simulated_splits, tmp_path, passes):
    fields = {"num_train_epochs": 1, "feature_cache": str(tmp_path / "cache")}
    make_trainer(simulated_splits, tmp_path / "first", **fields).post_train()
    assert passes.taken() == ["train", "validation"]
    make_trainer(simulated_splits, tmp_path / "second", **fields).post_train()
    assert passes.taken() == []
    make_trainer(simulated_splits, tmp_path / "alone", num_train_epochs=1).post_train()
    weights = [weights_of(tmp_path / name) for name in ("first", "second", "alone")]
    assert same_weights(weights[0], weights[1]) and same_weights(weights[1], weights[2])
