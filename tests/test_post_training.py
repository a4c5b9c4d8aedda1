import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
import signal
import types

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from forked import Forked
from safetensors.torch import load_file
from small_models import LABELS, small_extractor, small_model, stopped_at
from transformers import (
    AutoFeatureExtractor,
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    TrainerCallback,
)
from transformers.training_args import OptimizerNames

from ecg_hf import (
    ECGTransformerFeatureExtractor,
    PostTrainer,
    PostTrainingArguments,
    name_labels,
)
from ecg_hf.metrics import macro_auroc
from ecg_hf.post_training import probe
from ecg_hf.post_training import trainer as trainer_module
from ecg_hf.post_training.evaluation import record_losses
from ecg_hf.runs.folder import last_complete_checkpoint
from ecg_hf.runs.windows import EpochSampler, EvaluationWindows, TrainingWindows, identity_collate

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

FINAL_FILES = {
    "all_results.json",
    "config.json",
    "learning_curves.png",
    "log_history.json",
    "model.safetensors",
    "README.md",
    "label_metrics.png",
    "metrics.json",
    "precision_recall.png",
    "precision_recall.svg",
    "preprocessor_config.json",
    "recipe.yaml",
    "reliability.png",
    "reliability.svg",
    "test_predictions.csv",
    "_stages",
}


def extractor(**fields) -> ECGTransformerFeatureExtractor:
    return small_extractor(**{"window_stride": 125, **fields})


def arguments(output_dir, **fields) -> PostTrainingArguments:
    defaults = {
        "num_train_epochs": 2,
        "probe_num_train_epochs": 3,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "num_bootstrap_resamples": 50,
    }
    return PostTrainingArguments(output_dir=str(output_dir), **{**defaults, **fields})


def make_trainer(splits, output_dir, model=None, feature_extractor=None, **fields) -> PostTrainer:
    return PostTrainer(
        model=model or small_model(),
        args=arguments(output_dir, **fields),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=splits["test"],
        feature_extractor=feature_extractor or extractor(),
    )


def numbers(results: dict) -> list[float]:
    """Without the name of the stage that is kept, and the ends of intervals that 15 records do not have."""
    return [value for value in results.values() if value is not None and not isinstance(value, str)]


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(pathlib.Path(folder) / "model.safetensors")


def same_weights(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def finished(simulated_splits, tmp_path_factory):
    """A run of both stages: (folder, trainer, results, initial weights)."""
    folder = tmp_path_factory.mktemp("run") / "both"
    trainer = make_trainer(simulated_splits, folder, eval_on_start=True)
    initial = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return folder, trainer, trainer.post_train(), initial


# ---- The story of a run ----


def test_a_run_leaves_a_whole_checkpoint_and_its_results(finished):
    folder, _, results, _ = finished
    assert {file.name for file in folder.iterdir() if file.suffix != ".py"} == FINAL_FILES
    assert json.loads((folder / "all_results.json").read_text()) == results
    expected = {"probe_eval_macro_auroc", "eval_macro_auroc", "eval_macro_auprc", "test_macro_auroc"}
    assert expected | {"test_macro_auprc", "probe_seconds", "finetune_seconds", "world_size"} <= results.keys()
    # The test records are of fewer than 20 patients; tests/test_metrics.py has a run with an interval.
    assert results["test_macro_auroc_low"] is None


def test_the_saved_checkpoint_gives_the_predictions_of_the_run(finished, simulated_splits):
    folder, trainer, results, _ = finished
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)
    table = pd.read_csv(folder / "test_predictions.csv")
    test = simulated_splits["test"]
    assert table["ecg_id"].tolist() == list(test["ecg_id"])
    assert list(table)[1:] == [f"prob_{name}" for name in LABELS] + [f"true_{name}" for name in LABELS]
    for row, record in zip(table.itertuples(index=False), test, strict=True):
        signal = np.array(record["signal"], dtype=np.int16).reshape(12, -1)
        features = feature_extractor(signal, sampling_rate=100, lead_names=record["lead_names"], units="uV")
        with torch.no_grad():
            scores = model.aggregate_windows(model(**features).logits[None])[0].sigmoid().numpy()
        np.testing.assert_allclose(scores, row[1:6], atol=1e-6)
        assert list(row[6:]) == record["labels"]
    assert model.config.id2label == dict(enumerate(LABELS)) and len(model.config.thresholds) == 5
    auroc = macro_auroc(table.filter(like="true_").to_numpy(), table.filter(like="prob_").to_numpy())
    assert auroc == pytest.approx(results["test_macro_auroc"], abs=1e-9)


def test_the_probe_leaves_the_backbone_alone_and_fine_tuning_moves_everything(finished):
    folder, _, _, initial = finished
    probe, final = weights_of(folder / "_stages" / "probe"), weights_of(folder)
    for name, value in initial.items():
        assert torch.equal(probe[name], value) != name.startswith("classifier"), name
        assert not torch.equal(final[name], probe[name]), name


def test_fine_tuning_starts_where_the_probe_ended(finished):
    _, trainer, results, _ = finished
    history = trainer.state.log_history
    start = next(entry for entry in history if entry["stage"] == "finetune" and "eval_loss" in entry)
    assert start["epoch"] == 0
    assert start["eval_loss"] == pytest.approx(results["probe_eval_loss"], abs=1e-5)
    assert start["eval_macro_auroc"] == pytest.approx(results["probe_eval_macro_auroc"], abs=1e-5)
    assert {entry["stage"] for entry in history} == {"probe", "finetune"}


def test_the_head_of_the_probe_is_linear_in_the_raw_features(finished, simulated_splits):
    folder, trainer, results, _ = finished
    model = AutoModelForSequenceClassification.from_pretrained(folder / "_stages" / "probe").eval()
    validation = simulated_splits["validation"]
    batch = EvaluationWindows(validation, extractor()).__getitems__(range(len(validation)))
    with torch.no_grad():
        logits = model(batch["input_values"].flatten(0, 1)).logits.view(len(validation), 7, -1)
    losses = record_losses(logits, batch["window_mask"], batch["labels"])
    assert losses.mean().item() == pytest.approx(results["probe_eval_loss"], abs=1e-5)


def test_with_few_records_the_probe_makes_more_passes(simulated_splits, tmp_path):
    splits = {**simulated_splits, "train": simulated_splits["train"].select(range(20))}
    trainer = make_trainer(splits, tmp_path / "run", stages=["probe"], probe_num_train_epochs=None)
    trainer.post_train()
    evaluated = [entry["epoch"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated[-1] == 1000 and len(evaluated) == 50  # 20 x 7 windows are one step
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["probe_num_train_epochs"] == 1000


def test_a_label_that_cannot_be_learned_is_named_and_does_not_choose_the_epoch(simulated_splits, tmp_path, caplog):
    column = LABELS.index("HYP")

    def without_hypertrophy(record):
        return {"labels": [0 if index == column else value for index, value in enumerate(record["labels"])]}

    splits = {**simulated_splits, "train": simulated_splits["train"].map(without_hypertrophy)}
    make_trainer(splits, tmp_path / "run", stages=["probe"]).post_train()
    assert "1 of 5 labels are the same in all training records and cannot be learned: HYP" in caplog.text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"]["unlearnable_labels"] == ["HYP"]
    assert metrics["validation"]["per_label"]["HYP"]["auroc"] == 0.5
    assert "so that their scores mean nothing: HYP." in (tmp_path / "run" / "README.md").read_text()


def test_a_better_fine_tuning_is_kept_and_both_stages_are_told(finished):
    folder, _, results, _ = finished
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    assert stages.keys() == {"probe", "finetune"}
    assert stages["finetune"]["macro_auroc"] == results["finetune_eval_macro_auroc"]


@pytest.mark.parametrize("stages", [["probe"], ["finetune"]])
def test_each_stage_runs_alone(simulated_splits, tmp_path, stages):
    trainer = make_trainer(simulated_splits, tmp_path / "run", stages=stages, num_train_epochs=1)
    results = trainer.post_train()
    other = {"probe": "finetune_seconds", "finetune": "probe_seconds"}[stages[0]]
    assert f"{stages[0]}_seconds" in results and other not in results
    if stages == ["probe"]:
        assert results["eval_macro_auroc"] == pytest.approx(results["probe_eval_macro_auroc"], abs=1e-6)


@pytest.mark.parametrize("stages", [["finetune", "probe"], [], ["probe", "distil"]])
def test_unknown_or_swapped_stages_are_refused(tmp_path, stages):
    with pytest.raises(ValueError, match="`stages` must be one or both of probe, finetune"):
        arguments(tmp_path, stages=stages)


def test_bfloat16_runs_both_stages(simulated_splits, tmp_path):
    results = make_trainer(simulated_splits, tmp_path / "run", bf16=True, num_train_epochs=1).post_train()
    assert np.isfinite(numbers(results)).all()


@pytest.mark.slow
def test_a_compiled_model_is_saved_under_its_own_names(simulated_splits, tmp_path):
    trainer = make_trainer(
        simulated_splits, tmp_path / "run", max_steps=2, torch_compile=True, torch_compile_backend="aot_eager"
    )
    trainer.post_train()
    assert weights_of(tmp_path / "run").keys() == small_model().state_dict().keys()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    batch = EvaluationWindows(simulated_splits["test"], extractor()).__getitems__(range(2))["input_values"][:, 0]
    expected = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).eval()(batch).logits
    torch.testing.assert_close(loaded.eval()(batch).logits, expected)


def test_gradient_checkpointing_gives_the_same_bits_under_dropout_and_stochastic_depth(simulated_splits, tmp_path):
    steps, weights = [], []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        model = small_model(num_hidden_layers=6, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        fields = {"gradient_checkpointing": checkpointing, "drop_path_rate": 0.5, "max_steps": 3}
        trainer = make_trainer(simulated_splits, folder, model=model, stages=["finetune"], **fields)
        trainer.post_train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        steps.append([(step["loss"], step["grad_norm"]) for step in trainer.state.log_history if "grad_norm" in step])
        weights.append(weights_of(folder))
    assert steps[0] == steps[1] and len(steps[0]) == 3
    assert same_weights(*weights)


def test_labels_and_records_that_are_wholly_unknown_are_counted_and_harm_no_stage(simulated_splits, tmp_path):
    def hidden(split):
        labels = np.array(split["labels"], dtype=np.float32)
        labels[:, 1] = -100
        labels[::5] = -100
        return name_labels(split.remove_columns("labels").add_column("labels", labels.tolist()), LABELS)

    splits = {name: hidden(split) for name, split in simulated_splits.items()}
    trainer = make_trainer(splits, tmp_path / "run")
    results = trainer.post_train()
    assert np.isfinite(numbers(results)).all()
    losses = [entry[name] for entry in trainer.state.log_history for name in ("loss", "eval_loss") if name in entry]
    assert np.isfinite(losses).all() and len(losses) > 4
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"]["num_undefined"] == 1 and metrics["test"]["per_label"][LABELS[1]]["num_known"] == 0
    table = pd.read_csv(tmp_path / "run/test_predictions.csv")
    assert (table[f"true_{LABELS[1]}"] == -100).all()
    assert (table.filter(like="true_").iloc[0] == -100).all()
    metadata = yaml.safe_load((tmp_path / "run/README.md").read_text().split("---")[1])
    assert "null" not in json.dumps(metadata) and "NaN" not in json.dumps(metadata)


def test_one_label_of_any_type_and_a_last_batch_of_one(simulated_splits, tmp_path):
    def single(dataset, kind):
        labels = np.array(dataset["labels"])[:, :1].astype(kind).tolist()
        return name_labels(dataset.remove_columns("labels").add_column("labels", labels), ["CD"])

    for kind in (bool, np.int64, np.float64):
        splits = {name: single(split, kind) for name, split in simulated_splits.items()}
        splits["train"] = splits["train"].select(range(33))
        folder = tmp_path / np.dtype(kind).name
        trainer = make_trainer(
            splits, folder, model=small_model(["CD"]), num_train_epochs=1, per_device_eval_batch_size=5
        )
        results = trainer.post_train()
        assert np.isfinite(numbers(results)).all()
        assert trainer.predict(splits["test"].select([0])).predictions.shape == (1, 1)


def test_single_numbers_as_labels_are_refused_by_their_type(simulated_splits, tmp_path):
    train = simulated_splits["train"]
    numbers = train.remove_columns("labels").add_column("labels", [int(labels[0]) for labels in train["labels"]])
    with pytest.raises(ValueError, match="`labels` has the type int64; it must be a list of numbers"):
        make_trainer({**simulated_splits, "train": numbers}, tmp_path, model=small_model(["CD"]))


# ---- Heads of other forms ----

OTHER_HEADS = [
    {"classifier_type": "mlp", "classifier_hidden_size": 8},
    {"classifier_type": "cosine"},
    {"classifier_bias": False},
]


def model_with_head(fields):
    model = small_model(**fields)
    torch.manual_seed(1)
    for parameter in model.classifier.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("fields", OTHER_HEADS)
def test_a_converted_head_is_evaluated_as_it_is(simulated_splits, tmp_path, fields):
    test = simulated_splits["test"]
    model = model_with_head(fields).eval()
    batch = EvaluationWindows(test, extractor()).__getitems__(range(len(test)))
    with torch.no_grad():
        logits = model(batch["input_values"].flatten(0, 1)).logits.view(len(test), 7, -1)
        expected = model.aggregate_windows(logits, batch["window_mask"]).numpy()
    trainer = make_trainer(simulated_splits, tmp_path / "run", model=model)
    np.testing.assert_allclose(trainer.predict(test).predictions, expected, atol=1e-5)
    assert trainer.evaluate(test)["eval_loss"] == pytest.approx(
        record_losses(logits, batch["window_mask"], batch["labels"]).mean().item(), abs=1e-5
    )
    assert trainer.model.classifier is model.classifier and not trainer.model.head_is_random


@pytest.mark.parametrize("fields", OTHER_HEADS)
def test_the_probe_replaces_a_converted_head_also_when_it_is_resumed(simulated_splits, tmp_path, fields):
    folder = tmp_path / "run"
    trainer = make_resumable(simulated_splits, folder, model=model_with_head(fields), keep_best_stage=False)
    training_step = trainer.training_step

    def interrupt(*args):
        if trainer.state.global_step == 5:
            raise KeyboardInterrupt
        return training_step(*args)

    trainer.training_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    make_resumable(simulated_splits, folder, model=model_with_head(fields), keep_best_stage=False).post_train(True)
    alone = make_resumable(simulated_splits, tmp_path / "alone", model=model_with_head(fields), keep_best_stage=False)
    alone.post_train()
    assert same_weights(weights_of(folder), weights_of(tmp_path / "alone"))
    assert weights_of(folder)["classifier.weight"].shape == (5, 16)


# ---- Choosing the epoch ----


@pytest.mark.parametrize(("metric", "epoch"), [("macro_auroc", 2), ("macro_auprc", 3), ("loss", 4), ("eval_loss", 4)])
def test_the_best_epoch_is_the_first_of_the_best_by_the_metric_asked_for(simulated_splits, tmp_path, metric, epoch):
    scripted = {
        "macro_auroc": [0.70, 0.90, 0.90, 0.80],
        "macro_auprc": [0.1, 0.2, 0.5, 0.4],
        "loss": [0.5, 0.3, 0.4, 0.2],
    }
    trainer = make_trainer(
        simulated_splits, tmp_path / "run", num_train_epochs=4, metric_for_best_model=metric, save_total_limit=1
    )
    seen, calls = {}, iter(range(4))

    def evaluation(prediction):
        call = next(calls)
        seen[call + 1] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        return {name: values[call] for name, values in scripted.items()}

    trainer.compute_metrics = evaluation
    trainer.train()
    assert same_weights(trainer.model.state_dict(), seen[epoch])


@pytest.mark.parametrize(("metric", "epoch"), [("macro_auroc", 2), ("macro_auprc", 3), ("loss", 4), ("eval_loss", 4)])
def test_the_probe_keeps_the_first_of_its_best_epochs(simulated_splits, tmp_path, monkeypatch, metric, epoch):
    scripted = {
        "macro_auroc": [0.70, 0.90, 0.90, 0.80],
        "macro_auprc": [0.1, 0.2, 0.5, 0.4],
        "loss": [0.5, 0.3, 0.4, 0.2],
        "f_max": [0.5] * 4,
    }
    heads = []

    def evaluation(head, *args):
        heads.append(head["weight"].clone())
        return {name: values[len(heads) - 1] for name, values in scripted.items()}

    monkeypatch.setattr(probe, "_evaluate_head", evaluation)
    trainer = make_trainer(
        simulated_splits, tmp_path / "run", stages=["probe"], probe_num_train_epochs=4, metric_for_best_model=metric
    )
    results = trainer.post_train()
    assert results["probe_eval_macro_auroc"] == scripted["macro_auroc"][epoch - 1]
    kept = weights_of(tmp_path / "run")["classifier.weight"]
    assert [torch.equal(kept, head) for head in heads] == [number == epoch for number in range(1, 5)]


@pytest.mark.parametrize(
    "steps",
    [
        {"eval_steps": 1, "save_steps": 2},
        {"eval_steps": 1, "save_steps": 1000},
        {"eval_steps": 0.25, "save_steps": 0.5},
    ],
)
@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_best_evaluation_has_its_checkpoint_whenever_others_are_saved(simulated_splits, tmp_path, steps, best):
    trainer, seen = scripted_trainer(
        simulated_splits, tmp_path / "run", best, eval_strategy="steps", save_strategy="steps", max_steps=4, **steps
    )
    trainer.train()
    assert same_weights(trainer.model.state_dict(), seen[best])


def scripted_trainer(splits, folder, best, **fields):
    """A trainer whose best evaluation is the given one of four, and where it writes down the weights of each."""
    trainer = make_trainer(splits, folder, **fields)
    seen = {}

    def evaluation(prediction):
        seen[trainer.state.global_step] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        value = 0.9 - 0.1 * abs(trainer.state.global_step - best)
        return {"macro_auroc": value, "macro_auprc": value, "loss": 1 - value, "f_max": value, "num_undefined": 0}

    trainer.compute_metrics = evaluation
    return trainer, seen


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(
    ("best", "fields", "falls"),
    [
        (4, {}, False),  # macro AUROC rises to the end
        (1, {}, True),
        (4, {"metric_for_best_model": "loss"}, False),
        (4, {"mode": "min"}, True),
    ],
)
def test_a_schedule_that_follows_the_metric_knows_its_direction(
    simulated_splits, tmp_path, schedule, best, fields, falls
):
    fields = dict(fields)
    kwargs = {"patience": 0, "factor": 0.5, "min_lr": 1e-9}
    kwargs |= {"mode": fields.pop("mode")} if "mode" in fields else {}
    steps = {"eval_strategy": "steps", "save_strategy": "no", "max_steps": 4, "eval_steps": 1}
    fields |= {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": kwargs, "load_best_model_at_end": False}
    trainer, _ = scripted_trainer(simulated_splits, tmp_path, best, stages=["finetune"], **steps, **fields)
    trainer.train()
    assert (trainer.lr_scheduler.get_last_lr()[0] < trainer.args.learning_rate) == falls
    assert trainer.args.lr_scheduler_kwargs == kwargs


@pytest.mark.parametrize("moved", [True, False])
def test_a_resumed_run_finds_its_best_checkpoint_and_not_that_of_another_run(simulated_splits, tmp_path, moved):
    """Killed after the last save; moved, and another run has begun in the old place."""
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "max_steps": 4, "eval_steps": 1, "save_steps": 1}
    first = tmp_path / "first"
    trainer, seen = scripted_trainer(simulated_splits, first, 2, save_total_limit=5, stages=["finetune"], **steps)
    expected = {}

    def die(*args, **kwargs):
        expected.update(seen)
        raise KeyboardInterrupt

    class Dies(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 4:
                die()

    trainer.add_callback(Dies())
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    folder = first
    if moved:
        folder = first.rename(tmp_path / "second")
        other, _ = scripted_trainer(
            simulated_splits, first, 4, save_total_limit=5, learning_rate=0.5, stages=["finetune"], **steps
        )
        other.train()
    resumed, _ = scripted_trainer(simulated_splits, folder, 2, save_total_limit=5, stages=["finetune"], **steps)
    resumed.post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(folder), expected[2])


def test_a_relative_folder_is_resumed_from_another_directory(simulated_splits, tmp_path, monkeypatch):
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "max_steps": 4, "eval_steps": 1, "save_steps": 1}
    monkeypatch.chdir(tmp_path)
    trainer, seen = scripted_trainer(simulated_splits, "run", 2, save_total_limit=5, stages=["finetune"], **steps)
    trainer.train()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resumed, _ = scripted_trainer(simulated_splits, "../run", 2, save_total_limit=5, stages=["finetune"], **steps)
    resumed.train(last_complete_checkpoint("../run/_stages/finetune", world_size=1))
    assert same_weights(resumed.model.state_dict(), seen[2])


def test_a_lost_best_checkpoint_is_named(simulated_splits, tmp_path):
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "max_steps": 4, "eval_steps": 1, "save_steps": 1}
    trainer, _ = scripted_trainer(simulated_splits, tmp_path / "run", 2, save_total_limit=5, **steps)
    trainer.train()
    checkpoints = tmp_path / "run/_stages/finetune"
    (checkpoints / "checkpoint-2").rename(tmp_path / "gone")
    resumed, _ = scripted_trainer(simulated_splits, tmp_path / "run", 2, save_total_limit=5, **steps)
    with pytest.raises(FileNotFoundError, match="checkpoint-2` is gone, the checkpoint of the best evaluation"):
        resumed.train(str(checkpoints / "checkpoint-4"))


# ---- Windows ----


def test_a_crop_depends_on_seed_epoch_and_record_alone(simulated_splits):
    train = simulated_splits["train"]
    windows = TrainingWindows(train, extractor(), seed=3)
    batch = windows.__getitems__([(4, index) for index in range(10)])
    alone = torch.cat([windows[4, index]["input_values"] for index in reversed(range(10))]).flip(0)
    assert torch.equal(batch["input_values"], alone)
    shuffled = TrainingWindows(train.select([7, 2]), extractor(), seed=3).__getitems__([(4, 1), (4, 0)])
    assert torch.equal(shuffled["input_values"], batch["input_values"][[2, 7]])
    for other in (TrainingWindows(train, extractor(), seed=5)[4, 0], windows[5, 0]):
        assert not torch.equal(other["input_values"], batch["input_values"][:1])


def test_crops_lie_in_the_record_and_reach_both_ends(simulated_splits):
    record = np.array(simulated_splits["train"][0]["signal"]).reshape(12, -1)[6]
    windows = TrainingWindows(simulated_splits["train"], extractor(mean=0.0, std=1.0), seed=0)
    starts = []
    for epoch in range(300):
        crop = (windows[epoch, 0]["input_values"][0, 6].numpy() * 1000).round()
        starts += [start for start in range(751) if np.array_equal(record[start : start + 250], crop)]
    assert len(starts) == 300 and min(starts) < 20 and max(starts) > 730


def test_epochs_visit_each_record_once_in_another_order():
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(50))
    assert [index for _, index in first] != [index for _, index in second]
    assert {epoch for epoch, _ in second} == {1}


def test_evaluation_gives_one_row_for_each_record_of_any_length(simulated_splits):
    rows = simulated_splits["validation"].select(range(3)).to_list()
    for row, samples in zip(rows, (1000, 400, 130), strict=True):
        row["signal"] = np.array(row["signal"]).reshape(12, -1)[:, :samples].ravel().tolist()
    dataset = datasets.Dataset.from_list(rows)
    batch = EvaluationWindows(dataset, extractor()).__getitems__([0, 1, 2])
    assert batch["input_values"].shape == (3, 7, 12, 250)
    assert batch["window_mask"].sum(1).tolist() == [7, 3, 1]
    alone = EvaluationWindows(dataset, extractor())[1]
    assert torch.equal(batch["input_values"][1, :3], alone["input_values"][0])


def test_unknown_labels_take_no_part_in_the_loss_of_a_record():
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([[1.0, 0.0, -100.0, 1.0], [-100.0, -100.0, -100.0, -100.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = record_losses(logits, mask, labels)
    known = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[0, :2][:, [0, 1, 3]], labels[0, [0, 1, 3]].expand(2, 3)
    )
    torch.testing.assert_close(losses[0], known)
    assert losses[1].isnan()


def test_what_workers_need_can_be_pickled_and_gives_the_same_bits(simulated_splits):
    windows = TrainingWindows(simulated_splits["train"], extractor(), seed=0)
    keys = [(0, 3), (0, 1)]
    again = pickle.loads(pickle.dumps(windows))
    assert torch.equal(again.__getitems__(keys)["input_values"], windows.__getitems__(keys)["input_values"])
    assert pickle.loads(pickle.dumps(identity_collate))({"x": 1}) == {"x": 1}
    assert same_weights(pickle.loads(pickle.dumps(small_model())).state_dict(), small_model().state_dict())


def test_spawned_workers_give_the_losses_of_no_worker(simulated_splits, tmp_path):
    losses = []
    for workers in (0, 1):
        trainer = make_trainer(
            simulated_splits,
            tmp_path / str(workers),
            num_train_epochs=1,
            dataloader_num_workers=workers,
            dataloader_multiprocessing_context="spawn" if workers else None,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_persistent_workers_leave_no_process_and_change_nothing(simulated_splits, tmp_path):
    """Stochastic depth reads the random stream that torch draws from for workers; resuming within an epoch as well."""
    weights = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        fields = {
            "dataloader_num_workers": workers,
            "dataloader_persistent_workers": workers > 0,
            "stages": ["finetune"],
        }
        make_resumable(simulated_splits, folder, **fields).post_train()
        assert not multiprocessing.active_children()
        trainer = make_resumable(simulated_splits, tmp_path / f"{workers}-resumed", **fields)
        training_step = trainer.training_step

        def interrupt(*args, trainer=trainer, training_step=training_step):
            if trainer.state.global_step == 5:
                raise KeyboardInterrupt
            return training_step(*args)

        trainer.training_step = interrupt
        with pytest.raises(KeyboardInterrupt):
            trainer.post_train()
        assert not multiprocessing.active_children()
        make_resumable(simulated_splits, tmp_path / f"{workers}-resumed", **fields).post_train(True)
        weights += [weights_of(folder), weights_of(tmp_path / f"{workers}-resumed")]
    assert all(same_weights(weights[0], other) for other in weights[1:])


# ---- Early stopping ----


@pytest.mark.parametrize("step", [3, 4, 5])
def test_early_stopping_goes_on_with_its_patience(simulated_splits, tmp_path, step):
    """Best at step 2, patience 3: ends at step 5 of 8, also if the run is stopped after the checkpoint of any step."""
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 8}

    class Dies(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    def early(folder):
        trainer, seen = scripted_trainer(simulated_splits, folder, 2, stages=["finetune"], save_total_limit=9, **steps)
        trainer.add_callback(EarlyStoppingCallback(3))
        return trainer, seen

    alone, seen = early(tmp_path / "alone")
    alone.post_train()
    assert max(seen) == alone.state.global_step == 5
    trainer, _ = early(tmp_path / "run")
    trainer.add_callback(Dies())
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    resumed, seen = early(tmp_path / "run")
    resumed.post_train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert same_weights(weights_of(tmp_path / "run"), weights_of(tmp_path / "alone"))
    configs = [(tmp_path / name / "config.json").read_text() for name in ("run", "alone")]
    assert configs[0] == configs[1]


# ---- Layers and rates ----


def test_rates_fall_with_depth_and_every_parameter_is_in_one_group(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run", layer_decay=0.5, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    parameters = dict(trainer.model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(parameters) == len(rates)
    assert groups[0]["lr"] == 1e-3
    backbone = "ecg_transformer."
    assert rates[parameters["classifier.weight"]] == rates[parameters[backbone + "norm.weight"]] == 1e-3
    assert rates[parameters[backbone + "layers.1.mlp.fc1.weight"]] == 0.5e-3
    assert rates[parameters[backbone + "layers.0.mlp.fc1.weight"]] == 0.25e-3
    assert rates[parameters[backbone + "embeddings.cls_token"]] == 0.125e-3
    for name, parameter in parameters.items():
        plain = parameter.ndim == 1 or name.endswith(("cls_token", "position_embeddings"))
        assert decays[parameter] == (0.0 if plain else 0.1), name


def test_drop_path_rate_is_that_of_the_arguments_or_the_model(simulated_splits, tmp_path):
    for asked, expected in ((0.3, 0.3), (None, 0.2)):
        trainer = make_trainer(
            simulated_splits,
            tmp_path / str(asked),
            model=small_model(drop_path_rate=0.2),
            drop_path_rate=asked,
            max_steps=1,
        )
        trainer.train()
        assert trainer.model.config.drop_path_rate == expected
        assert trainer.model.ecg_transformer.layers[1].drop_path_rate == expected


# ---- Bad input ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric_for_best_model": "macro_auc"}, "macro_auroc, macro_auprc, f_max, loss, got `macro_auc`"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is not supported"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must lie in \[0, 1\)"),
        ({"layer_decay": 0.0}, r"`layer_decay` must lie in \(0, 1\]"),
        ({"probe_num_train_epochs": 0}, "at least 1"),
        ({"expect_world_size": 2}, "Asked for 2 processes but the world size is 1"),
        ({"resume_from_checkpoint": "runs/a/checkpoint-7"}, "true or false, got `runs/a/checkpoint-7`"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be false"),
        ({"greater_is_better": False}, "`greater_is_better` must be True for `macro_auroc`"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"do_eval": True},
        {"do_predict": True},
        {"bf16_full_eval": True},
        {"fp16_full_eval": True},
        {"train_sampling_strategy": "sequential"},
        {"train_sampling_strategy": "group_by_length"},
    ],
)
def test_arguments_without_effect_are_refused_by_name(tmp_path, fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"^`{name}` (is not supported|must be)"):
        arguments(tmp_path, **fields)
    args = arguments(tmp_path)
    assert dataclasses.replace(args, learning_rate=0.1).learning_rate == 0.1


class PeftModel(torch.nn.Module):
    """Has PEFT's name and form, which is not installed: a wrapper that is no `PreTrainedModel`."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.config, self.peft_config = model, model.config, {}


@pytest.mark.parametrize(
    "keywords",
    [
        {"optimizers": (torch.optim.SGD([torch.zeros(1)], lr=1e-12), None)},
        {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 1e-12})},
        {"data_collator": identity_collate},
        {"processing_class": small_extractor()},
        {"compute_metrics": len},
        {"preprocess_logits_for_metrics": len},
        {"compute_loss_func": len},
    ],
)
def test_what_a_run_cannot_honour_is_refused_at_construction(simulated_splits, tmp_path, keywords):
    (name,) = keywords
    common = {"train_dataset": simulated_splits["train"], "eval_dataset": simulated_splits["validation"]}
    common |= {"args": arguments(tmp_path / "run"), "feature_extractor": extractor()}
    with pytest.raises(ValueError, match=f"^`{name}` is not supported"):
        PostTrainer(model=small_model(), **common, **keywords)
    PostTrainer(model=small_model(), **common, optimizers=(None, None), data_collator=None)


def test_a_run_that_is_never_evaluated_says_that_it_keeps_the_last_weights(simulated_splits, tmp_path, caplog):
    make_trainer(
        simulated_splits, tmp_path / "run", stages=["finetune"], num_train_epochs=1, eval_delay=9
    ).post_train()
    assert "No evaluation in the 4 steps gave macro_auroc: the weights of the last step are kept" in caplog.text


def test_a_model_within_another_is_refused(simulated_splits, tmp_path):
    with pytest.raises(ValueError, match="without adapters, got PeftModel: .*merge_and_unload"):
        make_trainer(simulated_splits, tmp_path / "run", model=PeftModel(small_model()), layer_decay=0.5)
    model = small_model()
    model._hf_peft_config_loaded = True  # as after `add_adapter`
    with pytest.raises(ValueError, match="without adapters"):
        make_trainer(simulated_splits, tmp_path / "run", model=model)
    with pytest.raises(ValueError, match="the ECG Transformer itself, got DataParallel: .*`torch_compile`"):
        make_trainer(simulated_splits, tmp_path / "run", model=torch.nn.DataParallel(small_model()))
    model = small_model()
    model.ecg_transformer = torch.compile(model.ecg_transformer)
    with pytest.raises(ValueError, match="has wrapped its part `ecg_transformer`.*`torch_compile`"):
        make_trainer(simulated_splits, tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [item.value for item in OptimizerNames])
def test_every_optimizer_of_the_library_trains_or_is_refused_by_name(simulated_splits, tmp_path, name):
    fields = {"optim": name, "max_steps": 2, "warmup_steps": 0, "eval_strategy": "no", "save_strategy": "no"}
    try:
        trainer = make_trainer(simulated_splits, tmp_path / "run", load_best_model_at_end=False, **fields)
    except ValueError as error:
        assert str(error).startswith(f"`optim` cannot be `{name}`: ")
        assert name not in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
    else:
        before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        trainer.train()
        assert not same_weights(before, trainer.model.state_dict())


def test_what_is_set_free_between_two_trainings_learns_in_the_second(simulated_splits, tmp_path):
    """At the rate that the arguments then have; the library keeps the optimizer of the first."""
    fields = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "max_steps": 2}
    trainer = make_trainer(simulated_splits, tmp_path / "run", warmup_steps=0, learning_rate=1e-2, **fields)
    encoder = trainer.model.ecg_transformer.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    trainer.train()
    assert same_weights(before, encoder.state_dict())
    encoder.requires_grad_(True)
    trainer.args.learning_rate = 1e-3
    trainer.train()
    assert not same_weights(before, encoder.state_dict())
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {1e-3}


def test_the_data_seed_changes_the_order_of_records_alone(simulated_splits, tmp_path):
    def order(**fields):
        trainer = make_trainer(simulated_splits, tmp_path / "run", **fields)
        trainer.get_train_dataloader()
        return list(trainer.epoch_sampler)

    assert order(seed=1) == order(seed=2, data_seed=1) != order(seed=2)
    assert arguments(tmp_path, data_seed=3).recipe()["data_seed"] == 3


def test_the_recipe_has_the_batch_size_that_was_found_and_the_precision_of_the_launcher(
    simulated_splits, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    fields = {"auto_find_batch_size": True, "num_train_epochs": 1, "per_device_train_batch_size": 18}
    trainer = make_trainer(simulated_splits, tmp_path / "run", **fields)
    training_step = trainer.training_step

    def step(model, inputs, *args):
        if len(inputs["labels"]) > 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB.")
        return training_step(model, inputs, *args)

    trainer.training_step = step
    trainer.post_train()
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    found = recipe["per_device_train_batch_size"]
    assert found <= 16 and trainer.state.max_steps == -(-len(simulated_splits["train"]) // found)
    assert recipe["bf16"] and not recipe["fp16"]
    again = make_trainer(simulated_splits, tmp_path / "run", **fields)
    assert again.post_train(resume_from_checkpoint=True)["kept_stage"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    other = make_trainer(simulated_splits, tmp_path / "run", **fields)
    with pytest.raises(ValueError, match="`recipe.bf16` was True, now False"):
        other.post_train(resume_from_checkpoint=True)


def test_a_number_that_yaml_read_as_text_and_a_text_in_place_of_a_list_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`learning_rate` is the string '1e-3'.*1.0e-3"):
        arguments(tmp_path, learning_rate="1e-3")
    for name in ("stages", "teacher_predictions"):
        with pytest.raises(TypeError, match=f"`{name}` is the text 'probe' where a list is expected"):
            arguments(tmp_path, **{name: "probe"})


def test_paths_and_numbers_of_numpy_stand_in_the_recipe_as_text_and_numbers(tmp_path):
    values = {"learning_rate": np.float32(0.25), "num_train_epochs": np.int64(3), "drop_path_rate": np.float32(0.5)}
    places = {"feature_cache": tmp_path / "features", "prepared_cache": tmp_path}
    places["teacher_predictions"] = (tmp_path / "teacher.csv",)
    args = arguments(tmp_path, **values, **places)
    recipe = json.loads(json.dumps(args.recipe()))
    assert {name: recipe[name] for name in values} == {name: value.item() for name, value in values.items()}
    assert recipe["teacher_predictions"] == ["teacher.csv"] and args.feature_cache == str(tmp_path / "features")


@pytest.mark.parametrize("with_mkldnn", [True, False])
def test_bfloat16_that_the_processor_must_emulate_is_warned_of(with_mkldnn, tmp_path, monkeypatch):
    """torch without MKLDNN, as for some Macs, has no such operators at all."""
    operators = types.SimpleNamespace(**({"_is_mkldnn_bf16_supported": lambda: False} if with_mkldnn else {}))
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: with_mkldnn)
    with pytest.warns(UserWarning, match="ten times as long as in float32: pass `--bf16 false`"):
        arguments(tmp_path, bf16=True)


def test_a_folder_that_holds_another_run_is_refused(finished, simulated_splits, tmp_path):
    folder, *_ = finished
    with pytest.raises(FileExistsError, match="holds another run.*--resume_from_checkpoint true"):
        make_trainer(simulated_splits, folder).post_train()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files of another run"):
        make_trainer(simulated_splits, tmp_path).post_train()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_finished_run_returns_its_results_when_resumed(finished, simulated_splits):
    folder, _, results, _ = finished
    assert (
        make_trainer(simulated_splits, folder, eval_on_start=True).post_train(resume_from_checkpoint=True) == results
    )


@pytest.mark.parametrize("stages", [["probe", "finetune"], ["finetune"]])
@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.filterwarnings("error", "ignore:Too few patients")  # such as those of unpickling the random state
def test_an_interrupted_run_is_resumed_by_the_same_trainer(simulated_splits, tmp_path, stages, step):
    """A notebook's Ctrl-C, before and after the first checkpoint (step 3)."""
    make_resumable(simulated_splits, tmp_path / "alone", stages=stages).post_train()
    trainer = make_resumable(simulated_splits, tmp_path / "run", stages=stages)
    with stopped_at(trainer, step):
        trainer.post_train()
    results = trainer.post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(tmp_path / "run"), weights_of(tmp_path / "alone"))
    assert trainer.post_train(resume_from_checkpoint=True) == results  # finished, and called again
    assert not list((tmp_path / "run").rglob("start.safetensors"))


def test_a_run_does_not_go_on_with_other_settings_data_or_labels(finished, simulated_splits):
    folder, *_ = finished
    with pytest.raises(ValueError, match="`recipe.learning_rate` was 0.001, now 0.01"):
        make_trainer(simulated_splits, folder, learning_rate=0.01).post_train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="`recipe.eval_strategy` was epoch, now steps"):
        make_trainer(simulated_splits, folder, eval_strategy="steps", save_strategy="steps").post_train(True)

    def louder(record):
        return {"signal": [record["signal"][0] + 1, *record["signal"][1:]]}

    changed = simulated_splits["train"].map(louder, features=simulated_splits["train"].features)
    with pytest.raises(ValueError, match="`data.train` was"):
        make_trainer({**simulated_splits, "train": changed}, folder).post_train(resume_from_checkpoint=True)
    fewer = {**simulated_splits, "train": simulated_splits["train"].select(range(64))}
    with pytest.raises(ValueError, match="`data.train` was"):
        make_trainer(fewer, folder).post_train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="`feature_extractor.std` was 0.3, now 0.6"):
        make_trainer(simulated_splits, folder, feature_extractor=extractor(std=0.6)).post_train(True)
    unnamed = {name: split.select(range(len(split))) for name, split in simulated_splits.items()}
    for split in unnamed.values():
        split.info.description = ""
    with pytest.raises(ValueError, match="`labels` was .*'CD'.*now .*'LABEL'"):
        make_trainer(unnamed, folder, model=small_model([*LABELS[1:], "LABEL"])).post_train(True)


def test_cached_features_follow_the_numbers_of_the_feature_extractor(simulated_splits, tmp_path):
    """Changed after the trainer was made: the features of the probe that a stopped run leaves are made with these."""

    def stopped(*paths):
        raise KeyboardInterrupt

    trainer = make_trainer(simulated_splits, tmp_path / "run")
    trainer.processing_class.std = 0.6
    trainer._fit_probe = stopped
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    with pytest.raises(ValueError, match="`feature_extractor.std` was 0.6, now 0.3"):
        make_trainer(simulated_splits, tmp_path / "run").post_train(resume_from_checkpoint=True)
    trainer.processing_class.std = 0.3
    with pytest.raises(ValueError, match="`feature_extractor.std` was 0.6, now 0.3"):
        trainer.post_train(resume_from_checkpoint=True)
    louder = make_trainer(simulated_splits, tmp_path / "run", feature_extractor=extractor(std=0.6))
    assert louder.post_train(resume_from_checkpoint=True)["world_size"] == 1


def test_data_that_does_not_fit_the_model_is_refused(simulated_splits, tmp_path):
    with pytest.raises(ValueError, match="The records have 5 labels, the model 2"):
        make_trainer(simulated_splits, tmp_path, model=small_model(["a", "b"]))
    with pytest.raises(ValueError, match="its `num_samples` is 500, the model's 250"):
        make_trainer(simulated_splits, tmp_path, feature_extractor=extractor(num_samples=500))
    rows = simulated_splits["train"].select(range(2))
    nested = rows.to_list()
    for row in nested:
        row["signal"] = [row["signal"]]
    for wrong, message in (
        (rows.remove_columns("ecg_id"), "lacks the columns ecg_id: add them, as `load_ecg_dataset` has them"),
        (datasets.Dataset.from_list(nested), "`signal` has the type .*; it must be a list of numbers, one lead after"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer({**simulated_splits, "train": wrong}, tmp_path)
    with pytest.raises(ValueError, match="lacks the columns lead_names"):
        TrainingWindows(simulated_splits["train"].remove_columns("lead_names"), extractor(), seed=0)


def test_a_broken_record_is_named(simulated_splits):
    row = simulated_splits["train"][0]
    row["signal"] = [-32768] + row["signal"][1:]
    with pytest.raises(ValueError, match=rf"records \[{row['ecg_id']}\].*"):
        TrainingWindows(datasets.Dataset.from_list([row]), extractor(), seed=0)[0, 0]


# ---- Going on after a kill ----


def killed_run(splits, output, moment):
    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    trainer = make_resumable(splits, output)
    if moment == "probe":
        trainer_module.fit_linear_probe = die
    elif moment == "while a checkpoint is written":
        save = trainer._save_rng_state
        trainer._save_rng_state = lambda folder: save(folder) if trainer.state.global_step < 6 else die()
    else:
        step = trainer.training_step
        trainer.training_step = lambda *args: step(*args) if trainer.state.global_step < 5 else die()
    trainer.post_train()


@pytest.fixture(scope="module")
def undisturbed(simulated_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    make_resumable(simulated_splits, folder).post_train()
    return weights_of(folder)


def make_resumable(splits, folder, model=None, **fields) -> PostTrainer:
    steps = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    settings = {"num_train_epochs": 3, "drop_path_rate": 0.5, "save_total_limit": 5, **steps, **fields}
    return make_trainer(splits, folder, model=model, **settings)


@pytest.mark.parametrize("moment", ["probe", "fine-tuning", "while a checkpoint is written"])
def test_a_killed_run_ends_with_the_bits_of_one_left_alone(moment, undisturbed, simulated_splits, tmp_path):
    output = tmp_path / "run"
    killed = Forked(output, killed_run, simulated_splits, output, moment)
    assert killed.wait() == -signal.SIGKILL, killed.stderr
    steps = {path.name for path in (output / "_stages").glob("finetune/checkpoint-*")}
    expected = {"probe": set(), "fine-tuning": {"checkpoint-3"}}
    assert steps == expected.get(moment, {"checkpoint-3", "checkpoint-6"})
    assert not (output / "config.json").exists()
    make_resumable(simulated_splits, output).post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(output), undisturbed)


@pytest.mark.parametrize("fault", ["lost", "cut"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(simulated_splits, tmp_path_factory, name, fault, caplog):
    folder = _two_checkpoints(simulated_splits, tmp_path_factory)
    damaged = folder / "checkpoint-2" / name
    kept = damaged.read_bytes()
    try:
        damaged.unlink() if fault == "lost" else damaged.write_bytes(kept[: len(kept) // 2])
        assert last_complete_checkpoint(folder, world_size=1) == str(folder / "checkpoint-1")
    finally:
        damaged.write_bytes(kept)
    assert last_complete_checkpoint(folder, world_size=1) == str(folder / "checkpoint-2")
    assert last_complete_checkpoint(folder, world_size=2) is None


_CHECKPOINTS = {}


def _two_checkpoints(splits, tmp_path_factory) -> pathlib.Path:
    if "folder" not in _CHECKPOINTS:
        folder = tmp_path_factory.mktemp("checkpoints") / "run"
        steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
        make_trainer(splits, folder, max_steps=2, save_total_limit=5, **steps).train()
        _CHECKPOINTS["folder"] = folder / "_stages" / "finetune"
    return _CHECKPOINTS["folder"]


def test_a_full_disk_leaves_no_folder_that_looks_finished(simulated_splits, tmp_path, monkeypatch):
    trainer = make_trainer(simulated_splits, tmp_path / "run", stages=["probe"])
    import ecg_hf.runs.trainer as module

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "plot_learning_curves", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.post_train()
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.undo()
    results = make_trainer(simulated_splits, tmp_path / "run", stages=["probe"]).post_train(
        resume_from_checkpoint=True
    )
    assert (tmp_path / "run" / "config.json").exists() and "probe_eval_macro_auroc" in results
