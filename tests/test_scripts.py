"""The scripts and the command line, as a user calls them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import benchmark
import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
import yaml
from benchmark_rows.models import PlainEncoder
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from ecg_hf import ECGTransformerForMultiLabel, ECGTransformerModel, cli
from ecg_hf.post_training.run import TaskArguments, load_splits
from ecg_hf.synthetic import simulate_ptbxl

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

TRAINING = pathlib.Path(__file__).parents[1] / "training"
CARDS = TRAINING.parent / "hub_cards"
OTHERS = ("pretrain_", "public_", "study")
RECIPES = sorted(path.name for path in (TRAINING / "configs").glob("*.yaml") if not path.name.startswith(OTHERS))
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(TRAINING / "launch/single.yaml")]
QUICK = {
    "architecture": "ptbxl_100hz",
    "max_steps": 2,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
    "probe_num_train_epochs": 2,
    "num_bootstrap_resamples": 20,
    "per_device_train_batch_size": 32,
    "use_cpu": True,
    "disable_tqdm": True,
}


def flags(**values) -> list[str]:
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(simulated_folder, simulated_cache, tmp_path_factory):
    """A checkpoint that `accelerate launch train.py`, called in `training/`, left behind, and what it printed."""
    output = tmp_path_factory.mktemp("trained") / "run"
    command = flags(**QUICK, data_dir=simulated_folder, cache_dir=simulated_cache, output_dir=output)
    done = subprocess.run([*LAUNCHER, "train.py", *command], cwd=TRAINING, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return output, done.stdout


def train(simulated_folder, simulated_cache, output, **values):
    settings = {**QUICK, "data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": output, **values}
    return cli.train(flags(**settings))


def test_training_prints_its_metrics_and_where_everything_is(trained):
    output, printed = trained
    results = json.loads((output / "all_results.json").read_text())
    assert json.dumps(results, indent=2) in printed and str(output) in printed
    assert results["test_macro_auroc"] > 0.5 and results["world_size"] == 1


def test_evaluation_gives_the_figures_of_the_training_run(trained, simulated_folder, simulated_cache, tmp_path):
    output, _ = trained
    results = json.loads((output / "all_results.json").read_text())
    command = flags(
        model_name_or_path=output,
        data_dir=simulated_folder,
        cache_dir=simulated_cache,
        output_dir=tmp_path / "evaluation",
        num_bootstrap_resamples=20,
        use_cpu=True,
    )
    done = subprocess.run(
        [sys.executable, str(TRAINING / "evaluate_model.py"), *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    for name in ("macro_auroc", "macro_auprc"):
        assert metrics[name] == pytest.approx(results[f"test_{name}"], abs=1e-9)
        assert metrics["intervals"][name]["low"] == pytest.approx(results[f"test_{name}_low"], abs=1e-9)
    assert metrics["num_records"] == len(pd.read_csv(output / "test_predictions.csv"))
    assert metrics["per_label"]["MI"]["num_known"] == metrics["num_records"]
    first, second = (
        pd.read_csv(path) for path in (output / "test_predictions.csv", tmp_path / "evaluation/predictions.csv")
    )
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_evaluation_refuses_other_labels_and_untrained_heads(trained, simulated_folder, simulated_cache, tmp_path):
    output, _ = trained
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "evaluation"}
    with pytest.raises(ValueError, match="gives the labels CD, HYP, MI.*the task `rhythm` has AFIB"):
        cli.evaluate(flags(model_name_or_path=output, task="rhythm", **places))
    ECGTransformerModel.from_pretrained(output).save_pretrained(tmp_path / "encoder")
    shutil.copy(output / "preprocessor_config.json", tmp_path / "encoder")
    with pytest.raises(ValueError, match="has no trained head"), pytest.warns(UserWarning, match="no trained head"):
        cli.evaluate(flags(model_name_or_path=tmp_path / "encoder", **places))
    with pytest.raises(ValueError, match="`split` must be one of train, validation, test, got `tset`"):
        cli.evaluate(flags(model_name_or_path=output, split="tset", **places))
    assert not (tmp_path / "evaluation").exists()


def test_an_evaluation_does_not_write_into_the_folder_of_a_run(
    trained, simulated_folder, simulated_cache, tmp_path, monkeypatch
):
    output, _ = trained
    (tmp_path / "under way/_stages").mkdir(parents=True)
    (tmp_path / "metrics").mkdir()
    shutil.copy(output / "metrics.json", tmp_path / "metrics")
    (tmp_path / "link").symlink_to(output)
    (tmp_path / "file").write_text("")
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    monkeypatch.setattr("ecg_hf.evaluation.run.load_splits", lambda *args: pytest.fail("something was computed"))
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "model_name_or_path": output}
    for folder in (output, tmp_path / "link", tmp_path / "under way", tmp_path / "metrics"):
        with pytest.raises(FileExistsError, match="holds a run or a model .*choose another folder"):
            cli.evaluate(flags(output_dir=folder, **places))
    with pytest.raises(FileExistsError, match="is a file"):
        cli.evaluate(flags(output_dir=tmp_path / "file", **places))
    assert before == {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}


def test_a_checkpoint_of_other_labels_gets_a_new_head(trained, simulated_folder, simulated_cache, tmp_path, caplog):
    output, _ = trained
    settings = {"model_name_or_path": output, "task": "rhythm", "stages": "probe", "window_stride_seconds": 2.5}
    train(simulated_folder, simulated_cache, tmp_path / "run", **settings)
    assert "was trained for other labels or another kind of label (CD, HYP, MI, NORM, STTC" in caplog.text
    model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run")
    assert model.config.num_labels == 12 and model.config.label_names["AFIB"] == "atrial fibrillation"
    before, after = (
        type(model).from_pretrained(folder).base_model.state_dict() for folder in (output, tmp_path / "run")
    )
    assert all((before[name] == after[name]).all() for name in before)
    strides = [AutoFeatureExtractor.from_pretrained(folder).window_stride for folder in (output, tmp_path / "run")]
    assert strides == [125, 250]


def test_a_checkpoint_keeps_what_it_was_trained_with(trained, simulated_folder, simulated_cache, tmp_path):
    output, _ = trained
    for train_on in (cli.train, cli.pretrain):
        with pytest.raises(ValueError, match="--window_seconds, --pooling would change what the checkpoint"):
            train_on(
                flags(
                    model_name_or_path=output,
                    data_dir=simulated_folder,
                    output_dir=tmp_path / "run",
                    window_seconds=5,
                    pooling="cls",
                )
            )
    with pytest.raises(ValueError, match="`window_stride_seconds` must be above 0, got 0"):
        train(simulated_folder, simulated_cache, tmp_path / "run", model_name_or_path=output, window_stride_seconds=0)
    assert not (tmp_path / "run").exists()


def test_a_config_file_gives_flags_that_the_command_line_overrides(simulated_folder, simulated_cache, tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump({"learning_rate": 2e-4, "stages": ["probe"], "seed": 3, "cache_dir": None}))
    train(simulated_folder, simulated_cache, tmp_path / "run", config=config, seed=4)
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["learning_rate"] == 2e-4 and recipe["stages"] == ["probe"] and recipe["seed"] == 4
    assert not any(str(place) in (tmp_path / "run/recipe.yaml").read_text() for place in (tmp_path, simulated_folder))
    config.write_text("learning_rat: 0.1\n")
    with pytest.raises(ValueError, match="learning_rat"):
        train(simulated_folder, simulated_cache, tmp_path / "other", config=config)


def test_a_run_from_its_own_recipe_gives_the_same_weights(simulated_folder, simulated_cache, tmp_path):
    unusual = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 3,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": '{"min_lr": 0.0001}',
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    }
    few = {"max_train_records": 48, "max_eval_records": 8, "per_device_train_batch_size": 16}
    few["window_stride_seconds"] = 2.5
    train(simulated_folder, simulated_cache, tmp_path / "first", architecture="tiny", **few, **unusual)
    recipe = yaml.safe_load((tmp_path / "first/recipe.yaml").read_text())
    assert recipe["lr_scheduler_kwargs"] == {"min_lr": 0.0001} and recipe["optim_args"] == "momentum=0.9"
    cli.train(
        flags(
            config=tmp_path / "first/recipe.yaml",
            data_dir=simulated_folder,
            cache_dir=simulated_cache,
            output_dir=tmp_path / "second",
            use_cpu=True,
            disable_tqdm=True,
        )
    )
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = yaml.safe_load((tmp_path / "second/recipe.yaml").read_text())
    assert again == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_understood(name, tmp_path):
    from ecg_hf.post_training.arguments import PostTrainingArguments
    from ecg_hf.runs.arguments import ModelArguments

    command = ["--config", str(TRAINING / "configs" / name), *flags(output_dir=tmp_path, use_cpu=True)]
    _, data_args, args = cli.parse_arguments(command, ModelArguments, TaskArguments, PostTrainingArguments)
    assert args.stages == ["probe", "finetune"] and data_args.sampling_rate == 100


def test_records_come_from_one_place(tmp_path):
    for places in ({}, {"demo": True, "data_dir": tmp_path}):
        with pytest.raises(ValueError, match="Give one source of records: `--table`.*`--data_dir`.*or `--demo`"):
            cli.train(flags(output_dir=tmp_path / "run", use_cpu=True, **places))


def test_five_hundred_hertz_files_train_a_model_of_another_rate(tmp_path, simulated_cache):
    folder = simulate_ptbxl(tmp_path / "ptbxl", 100, seed=2, sampling_rates=(500,))
    train(folder, simulated_cache, tmp_path / "run", sampling_rate=500, stages="probe")
    model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run")
    assert model.config.sampling_rate == 100 and model.config.num_samples == 250


def test_fractions_are_of_patients_and_nested(simulated_folder, simulated_cache):
    def records(fraction):
        data_args = TaskArguments(
            data_dir=str(simulated_folder), cache_dir=str(simulated_cache), train_fraction=fraction
        )
        splits = load_splits(data_args.data_dir, data_args, seed=0)
        return set(splits["train"]["ecg_id"]), splits["train"]["patient_id"], len(splits["validation"])

    few, patients, validation = records(0.2)
    more, others, _ = records(0.5)
    everything, _, all_validation = records(1.0)
    assert few < more < everything and validation == all_validation
    assert abs(len(set(patients)) / len(set(others)) - 0.4) < 0.05


@pytest.mark.parametrize(("script", "fields"), [("pretrain", {"crops_per_record": 4}), ("train", {})])
def test_the_benchmark_compares_a_trainer_with_a_bare_loop(simulated_folder, simulated_cache, capsys, script, fields):
    settings = {name: QUICK[name] for name in ("architecture", "use_cpu", "disable_tqdm")}
    settings |= {"data_dir": simulated_folder, "cache_dir": simulated_cache, "per_device_train_batch_size": 16}
    quick = ["--num_records", "32", "64", *flags(num_steps=1, num_rounds=1, **settings, **fields)]
    rows = benchmark.main([script, *quick])
    assert [row["num_records"] for row in rows] == [32, 64]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["trainer_records_per_second"] / row["bare_records_per_second"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_records"] == 64
    with pytest.raises(ValueError, match="fewer than `num_records` asks for"):
        benchmark.main([script, *quick, "--num_records", "100000"])


def test_the_benchmark_prints_a_table_and_writes_it(simulated_folder, tmp_path, capsys):
    output = tmp_path / "speed.json"
    data = flags(data_dir=simulated_folder, num_records=32, num_rounds=1)
    rows = benchmark.main(["--only", "pipeline", "reading", "--output", str(output), *data])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| row | what | before | aim | measured |" and len(table) == 2 + len(rows)
    assert [row["name"] for row in rows] == ["reading", "pipeline"]
    written = json.loads(output.read_text())
    assert written["rows"] == rows and written["versions"]["torch"] == torch.__version__
    assert written["machine"]["cores"] and written["num_records"] == 32
    for row, line in zip(rows, table[2:], strict=True):
        assert line.endswith(f"| {row['before']:g} | {row['aim']:g} | {row['measured']:.2f} |")
        assert row["reached"] == ((row["measured"] >= row["aim"]) == (row["name"] == "reading"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--only", "redaing"], "invalid choice: 'redaing'"),
        (["--num_rounds", "0"], "at least 1"),
        (["--output", "nowhere/speed.json"], "the folder nowhere does not exist"),
        (["--data_dir", "tests"], "no folder `records100` in tests"),
        (["preytrain"], "unrecognized arguments: preytrain"),
    ],
)
def test_arguments_of_the_table_that_are_wrong_end_before_it(wrong, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(wrong)
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_the_benchmarks_encoders_are_of_one_size():
    config = ECGTransformerModel.from_pretrained(CARDS / "ecg-transformer-ptbxl-100hz").config
    plain = PlainEncoder(config)
    assert plain(torch.zeros(2, 12, 250)).shape == (2, config.hidden_size)
    own = sum(weight.numel() for weight in ECGTransformerModel(config).layers.parameters())
    assert sum(weight.numel() for weight in plain.encoder.parameters()) == own


def test_classify_answers_for_the_others_when_a_record_is_broken(trained, simulated_folder, tmp_path, capsys):
    output, _ = trained
    records = [str(simulated_folder / f"records100/00000/0000{number}_lr") for number in (1, 2)]
    signal = wfdb.rdrecord(records[0], physical=False, return_res=16).d_signal
    signal[100:110, 8] = -32768
    wfdb.wrsamp(
        "broken",
        100,
        ["mV"] * 12,
        wfdb.rdheader(records[0]).sig_name,
        d_signal=signal,
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path),
    )
    with pytest.raises(SystemExit, match="1 of 3 records could not be classified"):
        cli.classify([records[0], str(tmp_path / "broken"), records[1], "--model", str(output)])
    printed = capsys.readouterr()
    assert all(record in printed.out for record in records) and printed.out.count("normal ECG") == 2
    assert "broken" in printed.err and "V3" in printed.err and "10" in printed.err


# ---- Memory ----

MEMORY = """
import json, sys
sys.path.insert(0, {tests!r})
from ecg_hf import load_ptbxl
from test_post_training import extractor, make_trainer

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

splits = load_ptbxl({folder!r}, "superdiagnostic", 100, cache_dir={cache!r})
peaks = []
for count in (250, 450, 1050):
    several = {{name: split.select([i % len(split) for i in range(count)]) for name, split in splits.items()}}
    trainer = make_trainer(several, f"{output}/{{count}}", num_train_epochs=1, logging_steps=50,
        per_device_eval_batch_size=64, num_bootstrap_resamples=20, feature_extractor=extractor(window_stride=250))
    step, seen = trainer.prediction_step, []
    trainer.prediction_step = lambda *args, **kwargs: seen.append(anonymous()) or step(*args, **kwargs)
    trainer.post_train()
    peaks.append(max(*seen, anonymous()))
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_anonymous_memory_does_not_grow_with_the_number_of_records(simulated_folder, simulated_cache, tmp_path):
    code = MEMORY.format(
        tests=str(pathlib.Path(__file__).parent),
        folder=str(simulated_folder),
        cache=str(simulated_cache),
        output=str(tmp_path),
    )
    # glibc moves these limits as it goes, by default: what is freed is then given back at one time and not at another.
    steady = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "131072") | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | steady)
    assert done.returncode == 0, done.stderr[-4000:]
    _, few, many = json.loads(done.stdout.splitlines()[-1])
    # 600 records more are 14 MB of signals, and .4 MB of predictions.
    assert many - few < 4, f"{few:.0f} MB with 450 records, {many:.0f} MB with 1,050"
