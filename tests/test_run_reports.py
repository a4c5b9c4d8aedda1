"""What a run prints for people: header, evaluations, table; a dry run; what follows the machine; short reprs."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import small_extractor, small_model
from test_docs import write_ecgs
from test_scripts import LAUNCHER, QUICK, TRAINING, flags

from ecg_hf import PostTrainer, PostTrainingArguments, Record, cli, read_ecg
from ecg_hf.files import json_text
from ecg_hf.post_training.reports import results_table
from ecg_hf.runs.devices import has_accelerator
from ecg_hf.runs.timing import duration

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

ENCODER = TRAINING.parent / "hub_cards/ecg-transformer-ptbxl-100hz"
FIGURE = r"\d\.\d{3}"
FEW = r"\d\d? s"
TIME = rf"Time +about {FEW} on this machine, measured on 3 steps:"
PROBE = rf"Linear probe {FEW}"
INTERVAL = rf"{FIGURE} \[{FIGURE}, {FIGURE}\]"


@pytest.fixture(scope="module")
def printed(simulated_folder, simulated_cache, tmp_path_factory, module_capture):
    """A run by the command: its folder, and what it printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("printed") / "run"
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": folder}
    out, err = module_capture(lambda: cli.main(["train", *flags(**QUICK, **places)]))
    return folder, out, err


@pytest.fixture(scope="module")
def module_capture():
    """Calls a function -> what it printed."""

    def call(function) -> tuple[str, str]:
        streams = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            function()
        return streams[0].getvalue(), streams[1].getvalue()

    return call


# ---- The header ----


def test_a_run_begins_with_model_data_device_and_stages(printed):
    folder, _, err = printed
    lines = err.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("Model "))
    titles = [line.split()[0] for line in lines[first:] if re.match(r"[A-Z]\w+  ", line)]
    assert titles == ["Model", "Data", "Device", "Stages", "Output"]
    text = "\n".join(lines[first:])
    size = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    assert re.search(rf"Model +ptbxl_100hz, random weights: {size:,} parameters; windows of 2.5 s at 100 Hz", text)
    assert "simulated ECGs: 5 labels; records and positives\n" in text
    assert re.search(r"^ +records +CD +HYP +MI +NORM +STTC$", text, flags=re.MULTILINE)
    assert "Linear probe of the frozen encoder: 2 epochs of 512 windows, learning rate 0.001" in text
    assert "Fine-tuning: 2 steps of 32 records, learning rate 0.0005" in text
    assert re.search(r"Device +CPU \(\d+ threads?\), float32\n", text) and str(folder) in text


def test_the_positives_of_the_header_are_those_of_the_labels(printed, simulated_splits):
    _, _, err = printed
    names = ["CD", "HYP", "MI", "NORM", "STTC"]
    for split, dataset in simulated_splits.items():
        counts = [sum(row[index] == 1 for row in dataset["labels"]) for index in range(len(names))]
        numbers = re.search(rf"^ +{split} +(.*)$", err, flags=re.MULTILINE)[1].split()
        assert list(map(int, numbers)) == [len(dataset), *counts]


def test_of_many_labels_the_header_has_ten(simulated_folder, simulated_cache, tmp_path, capsys):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    cli.main(["train", *flags(**QUICK, **places, task="all", dry_run=True)])
    printed = capsys.readouterr().err
    assert "71 labels; records and positives, of which the 10 most frequent" in printed
    (header,) = re.findall(r"^ +records +(.*)$", printed, flags=re.MULTILINE)
    assert len(header.split()) == 10 and "NORM" in header and "SR" in header


# ---- On its way ----


def test_each_evaluation_is_one_line_on_stderr(printed):
    folder, out, err = printed
    lines = [line for line in err.splitlines() if ": validation " in line]
    logged = [entry for entry in json.loads((folder / "log_history.json").read_text()) if "eval_loss" in entry]
    logged = [entry for entry in logged if entry["stage"] == "finetune"]
    assert len(lines) == len(logged) == 2
    for step, (line, entry) in enumerate(zip(lines, logged, strict=True), start=1):
        assert line.startswith(f"Fine-tuning, step {step} of 2, epoch ")
        assert f"macro AUROC {entry['eval_macro_auroc']:.4g}, macro AUPRC" in line
    assert "'eval_loss'" not in out + err and "{'" not in out


def test_an_evaluation_says_how_long_it_will_take(simulated_folder, simulated_cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PostTrainer, "stage_seconds", lambda self: 600.0)
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    cli.main(["train", *flags(**{**QUICK, "stages": "finetune"}, **places)])
    first, last = (line for line in capsys.readouterr().err.splitlines() if ": validation " in line)
    assert first.endswith("; about 10 min left") and "left" not in last


def test_bars_have_names_and_leave_the_lines(simulated_folder, simulated_cache, tmp_path, capsys):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    cli.main(["train", *flags(**{**QUICK, "disable_tqdm": False}, **places, logging_steps=1)])
    printed = capsys.readouterr()
    for name in ("Fine-tuning: ", "Evaluation: ", "Linear probe: "):
        assert name in printed.err, name
    assert len(re.findall(r"Fine-tuning, step \d of 2, epoch [\d.]+: validation", printed.err)) == 2
    assert "shards" not in printed.err  # a bar of the library for each file would break the others
    assert "loss=" in printed.err and "{'" not in printed.out + printed.err


# ---- The table ----


def test_a_run_ends_with_a_table_and_where_everything_is(printed):
    folder, out, _ = printed
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    lines = out.splitlines()
    assert lines[0] == f"Test: {metrics['num_records']} records; in brackets 95 % intervals"
    assert lines[1].split() == ["positives", "AUROC", "AUPRC"]
    assert lines[2].startswith("macro ")
    rows = {line.split()[0]: line for line in lines[3:8]}
    assert list(rows) == ["CD", "HYP", "MI", "NORM", "STTC"]
    for label, values in metrics["per_label"].items():
        assert rows[label].split()[1] == str(values["num_positive"])
        ends = values["auroc_interval"]
        interval = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
        assert f"{values['auroc']:.3f}{interval}" in rows[label]
    assert f"{metrics['macro_auroc']:.3f}" in lines[2]
    assert lines[-1].endswith(f"are in {folder}")


@pytest.mark.parametrize(("steps", "logged"), [(3, [3]), (5, [4, 5])])
def test_the_last_step_is_logged_whatever_logging_steps(simulated_folder, simulated_cache, tmp_path, steps, logged):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    settings = {"max_steps": steps, "logging_steps": 4, "per_device_train_batch_size": 16}
    cli.train(flags(**{**QUICK, **settings, **places}))
    log = json.loads((tmp_path / "run/log_history.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry and entry["stage"] == "finetune"] == logged


def test_json_for_files_has_a_line_for_a_list_of_numbers():
    content = {"a [ b": [1, 2.5, None], "c": [[1, -2e-9], []], "d": ["x", "y [\n 1 ]"], "e": [{"f": [True]}], "g": {}}
    text = json_text(content)
    assert json.loads(text) == content and text.endswith("}\n")
    assert '"a [ b": [1, 2.5, null],\n' in text and '"f": [true]' in text and "[1, -2e-09]" in text
    assert json.loads(json_text({"x": float("inf")})) == {"x": float("inf")}


def test_json_is_for_programs_alone(printed, simulated_folder, simulated_cache, capsys, monkeypatch):
    folder, out, _ = printed
    assert json.dumps(json.loads((folder / "all_results.json").read_text()), indent=2) in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": folder}
    cli.main(["train", *flags(**QUICK, **places, resume_from_checkpoint=True)])
    shown = capsys.readouterr().out
    assert shown.startswith("Test: ") and str(folder) in shown and "{" not in shown


@pytest.fixture(scope="module")
def ecgs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ecgs")
    write_ecgs(folder)
    return folder / "ecgs.csv"


def trained_on(ecgs, tmp_path, capsys, **values) -> tuple[str, str]:
    few = {"architecture": "tiny", "stages": "probe", "max_skipped": 0.5, "split_fractions": (0.4, 0.2, 0.4)}
    settings = {**QUICK, **few, "table": ecgs, "patient_column": "patient", "output_dir": tmp_path / "run", **values}
    argv = [str(part) for name, value in settings.items() for part in (f"--{name}", *_several(value))]
    cli.main(["train", *argv, "--cache_dir", str(tmp_path / "cache")])
    printed = capsys.readouterr()
    return printed.out, printed.err


def _several(value):
    return value if isinstance(value, tuple) else (value,)


def test_the_table_of_one_of_several_classes_has_its_accuracy(ecgs, tmp_path, capsys):
    single = {"label_column": "rhythm", "problem_type": "single_label_classification"}
    out, err = trained_on(ecgs, tmp_path, capsys, **single)
    lines = out.splitlines()
    assert re.match(rf"accuracy {FIGURE}", lines[1]) and lines[3].startswith("macro ")
    assert [line.split()[0] for line in lines[4:7]] == ["block", "fibrillation", "normal"]
    assert "3 classes; records and positives" in err


def test_the_table_of_a_regression_has_its_errors(ecgs, tmp_path, capsys):
    out, err = trained_on(ecgs, tmp_path, capsys, label_columns="age", problem_type="regression")
    lines = out.splitlines()
    assert lines[1].split() == ["known", *"mean absolute error root mean squared error R²".split()]
    assert lines[2].startswith("mean ") and lines[3].startswith("age ")
    assert "1 targets; records and known values" in err


def test_at_most_twenty_labels_are_shown_and_the_rarest_are_not():
    per_label = {f"L{count:02}": {"auroc": 0.5, "auprc": None, "num_positive": count} for count in range(30)}
    intervals = {name: {"value": 0.75, "low": None, "high": None} for name in ("macro_auroc", "macro_auprc")}
    metrics = {"num_records": 1234, "per_label": per_label, "intervals": intervals}
    lines = results_table("validation", metrics, "multi_label_classification").splitlines()
    assert lines[0].startswith("Validation: 1,234 records") and lines[2].split() == ["macro", "0.750", "0.750"]
    assert [line.split()[0] for line in lines[3:-1]] == [f"L{count:02}" for count in range(10, 30)]
    assert lines[3].split() == ["L10", "10", "0.500", "undefined"]
    assert lines[-1] == "10 labels with fewer positives are in metrics.json."


# ---- A dry run ----


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            [
                r"Fine-tuning: 2 steps of 32 records",
                rf"{TIME} Linear probe {FEW}, Fine-tuning {FEW}, ev",
                r"Groups .* learning rate 0\.0005, weight decay 0\.05",
            ],
        ),
        (
            {"stages": "probe"},
            [
                r"Linear probe of the frozen encoder: 2 epochs of 512 windows",
                rf"{TIME} Linear probe {FEW}, evaluation {FEW}",
            ],
        ),
        (
            {"stages": "finetune", "layer_decay": 0.5, "warmup_steps": 200},
            [
                *(r"\(\d+ groups between\)", r"learning rate 0\.00025"),
                r"learning rate 0\.0005, not reached in a warm-up of 200 steps: give fewer `warmup_steps`",
            ],
        ),
        (
            {"stages": "lora", "model_name_or_path": ENCODER},
            [r"LoRA: 2 steps", rf"{TIME} LoRA {FEW}", r"Groups +66,176"],
        ),
        ({"max_steps": -1, "num_train_epochs": 3}, [r"Fine-tuning: 12 steps \(3 epochs\) of 32 records"]),
        (
            {"optim": "adafactor", "lr_scheduler_type": "constant", "warmup_steps": 200},
            [r"that of the optimizer `adafactor` is not known", r"learning rate 0\.0005\n"],
        ),
    ],
    ids=["both stages", "probe", "layer decay and long warm-up", "LoRA", "epochs", "another optimizer"],
)
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    settings, expected, simulated_folder, simulated_cache, tmp_path, capsys, request
):
    if settings.get("stages") == "lora":
        pytest.importorskip("peft")
    if "layer_decay" in settings:
        request.getfixturevalue("whole_presets")
    fields = {name: value for name, value in QUICK.items() if name != "architecture" or "stages" not in settings}
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "runs/dry"}
    before = sorted(tmp_path.rglob("*"))
    cli.main(["train", *flags(**{**fields, **places, **settings}), "--dry_run"])
    printed = capsys.readouterr()
    for pattern in [*expected, r"Memory +weights \d+\.\d MB", "This was a dry run: nothing was trained or written"]:
        assert re.search(pattern, printed.err), pattern
    assert printed.out == "" and sorted(tmp_path.rglob("*")) == before


def test_the_steps_of_a_dry_run_are_those_of_the_run(simulated_folder, simulated_cache, tmp_path, capsys):
    more = {
        "max_steps": -1,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 3,
        "per_device_train_batch_size": 16,
    }
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    command = ["train", *flags(**{**QUICK, **places, **more, "stages": "finetune"})]
    cli.main([*command, "--dry_run"])
    steps = int(re.search(r"Fine-tuning: (\d+) steps", capsys.readouterr().err)[1])
    cli.main(command)
    assert f"step {steps} of {steps}" in capsys.readouterr().err


def test_a_dry_run_of_pretraining(simulated_folder, simulated_cache, tmp_path, capsys):
    settings = {"architecture": "ptbxl_100hz", "max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True}
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "runs/dry"}
    cli.main(["pretrain", *flags(**settings, **places, dry_run=True)])
    printed = capsys.readouterr()
    assert "2 crops of each" in printed.err and "Pre-training: 2 steps of 16 records" in printed.err
    assert "Groups" in printed.err and "nothing was trained" in printed.err
    assert re.search(rf"{TIME} Pre-training {FEW}, its linear probe {FEW}", printed.err)
    assert printed.out == "" and not (tmp_path / "runs").exists()
    cli.main(["pretrain", *flags(**settings, **places, disable_tqdm=True)])
    printed = capsys.readouterr()
    assert re.match(r"\d+ records, [\d.]+ epochs: loss [\d.]+, accuracy", printed.out)
    assert re.search(rf"^last +{FIGURE} +{FIGURE}$", printed.out, flags=re.MULTILINE)
    assert "Pre-training, step 0 of 2, epoch 0: linear probe macro AUROC" in printed.err


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_checkpoint_that_is_stored_in_16_bits_is_trained_in_32(
    command, simulated_folder, simulated_cache, tmp_path, capsys
):
    small_model().bfloat16().save_pretrained(tmp_path / "half")
    small_extractor().save_pretrained(tmp_path / "half")
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    settings = {"max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True, "dry_run": True}
    cli.main([command, *flags(**places, **settings, model_name_or_path=tmp_path / "half")])
    assert re.search(r"Device +CPU \(\d+ threads?\), float32\n", capsys.readouterr().err)


def test_a_dry_run_refuses_what_the_run_would_refuse(simulated_folder, simulated_cache, tmp_path, capsys):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *flags(**QUICK, **places, dry_run=True, dataloader_drop_last=True, train_fraction=0.1)])
    assert ended.value.code == 2 and "training records do not fill a batch of 32" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [True, False])
def test_a_dry_run_looks_at_the_output_folder_as_the_run_does(
    dry, printed, simulated_folder, simulated_cache, tmp_path, capsys
):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache}
    (tmp_path / "others.txt").write_text("mine")
    for folder, message in {printed[0]: "holds another run", tmp_path: "holds files of another run"}.items():
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *flags(**QUICK, **places, output_dir=folder, dry_run=dry)])
        assert ended.value.code == 2 and message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["others.txt"]


def test_a_dry_run_publishes_nothing(simulated_splits, tmp_path, monkeypatch):
    monkeypatch.setattr("ecg_hf.post_training.trainer.create_repository", lambda *args, **kwargs: pytest.fail("asked"))
    args = PostTrainingArguments(output_dir=str(tmp_path / "run"), push_to_hub=True, dry_run=True)
    assert not args.push_to_hub and "dry_run" not in args.recipe()


# ---- How long it takes ----


def time_left(err: str) -> tuple[float, int, int]:
    """(seconds, steps left, steps of the stage) of the one line of a run that says them."""
    (found,) = re.findall(r"^Fine-tuning: about (\d+) s left, for (\d+) of (\d+) steps, measured on 3$", err, re.M)
    return tuple(map(int, found))


def test_a_run_says_how_long_it_takes_after_its_first_steps(
    simulated_folder, simulated_cache, tmp_path, capsys, monkeypatch
):
    """Each step takes a tenth of a second longer, so that the time is known: no machine does a tiny one as slowly."""
    monkeypatch.setattr("ecg_hf.runs.timing.FIRST_SECONDS", 0)
    step = PostTrainer.training_step
    monkeypatch.setattr(PostTrainer, "training_step", lambda *args: time.sleep(0.1) or step(*args))
    settings = {"stages": "finetune", "max_steps": 12, "per_device_train_batch_size": 2, "max_train_records": 48}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    cli.main(["train", *flags(**{**QUICK, **settings, **places})])
    seconds, left, steps = time_left(capsys.readouterr().err)
    assert (left, steps) == (8, 12)  # the first is not counted
    taken = json.loads((tmp_path / "run/all_results.json").read_text())["finetune_seconds"]
    assert 0.1 * left - 0.5 <= seconds <= 1.5 * taken + 0.5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "1 s"), (59.6, "60 s"), (99.6, "1.7 min"), (1000, "17 min"), (6000, "1.7 h"), (360000, "100 h")],
)
def test_a_duration_has_two_digits(seconds, expected):
    assert duration(seconds) == expected


def test_a_measured_plan_leaves_the_model_alone(simulated_splits, tmp_path, capsys):
    settings = {"num_samples": 250}
    trainer = PostTrainer(
        model=small_model(["CD", "HYP", "MI", "NORM", "STTC"], patch_size=10, **settings),
        args=PostTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, dry_run=True, max_steps=4),
        train_dataset=simulated_splits["train"],
        eval_dataset=simulated_splits["validation"],
        feature_extractor=small_extractor(**settings),
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.post_train() == {}
    assert "Time " in capsys.readouterr().err and trainer.optimizer is None
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


# ---- The precision of the machine ----


def told(capabilities: bool, monkeypatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(f"torch.cpu.{name}", lambda: capabilities)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_what_the_processor_has_and_the_recipe_says_which(
    has_bf16, simulated_folder, simulated_cache, tmp_path, monkeypatch, capsys
):
    told(has_bf16, monkeypatch)
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    few = {"max_train_records": 32, "stages": "probe", "architecture": "tiny"}
    cli.main(["train", *flags(**{**QUICK, **places, **few}, bf16="auto")])
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["bf16"] is has_bf16
    assert ("bfloat16" if has_bf16 else "float32") in capsys.readouterr().err


def bf16_of(*argv, output="x") -> bool:
    return cli.parse_arguments(["--output_dir", output, "--use_cpu", *argv], PostTrainingArguments)[0].bf16


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], False),
        (["--bf16"], True),
        (["--bf16", "true"], True),
        (["--bf16=False"], False),
        (["--bf16", "auto"], True),
        (["--bf16", "AUTO"], True),
    ],
)
def test_the_flag_takes_true_false_and_auto(argv, expected, monkeypatch):
    told(True, monkeypatch)
    assert bf16_of(*argv) is expected


def test_auto_follows_a_launcher_that_says_more(monkeypatch):
    told(True, monkeypatch)
    for precision in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        assert bf16_of("--bf16", "auto") is True
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="`fp16` needs a GPU"):
        bf16_of("--bf16", "auto", "--use_cpu", "true")
    told(False, monkeypatch)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert bf16_of("--bf16", "auto") is True


def test_another_precision_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--output_dir", str(tmp_path / "x"), "--bf16", "maybe"])
    assert ended.value.code == 2
    assert "`bf16` must be true, false or auto, got `maybe`" in capsys.readouterr().err


@pytest.mark.skipif(has_accelerator(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_used_unasked_and_without_warnings(tmp_path, recwarn):
    for bf16 in (True, False):
        args = PostTrainingArguments(output_dir=str(tmp_path), bf16=bf16)
        assert args.use_cpu and not args.dataloader_pin_memory and args.bf16 is bf16
    assert [str(warning.message) for warning in recwarn if "pin_memory" in str(warning.message)] == []


# ---- Recipes ----

CONFIGS = TRAINING / "configs"
TASKS = ("superdiagnostic", "subdiagnostic", "diagnostic", "form", "rhythm", "all")


def test_every_recipe_follows_the_device():
    recipes = [path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("study")]
    for path in recipes:
        recipe = yaml.safe_load(path.read_text())
        assert recipe.get("bf16", "auto") == "auto" and "use_cpu" not in recipe, path.name


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_recipe_of_the_encoder_that_ships(task):
    recipe = yaml.safe_load((CONFIGS / f"post_train_{task}.yaml").read_text())
    assert recipe["task"] == task and (TRAINING.parent / recipe["model_name_or_path"] / "config.json").is_file()


@pytest.mark.parametrize(("task", "column"), [("superdiagnostic", 3), ("all", 6)])
def test_a_measured_recipe_is_the_run_of_the_readmes_figure(task, column):
    """Of the runs with all labels that post-train the encoder the best one, by validation macro AUROC."""
    lines = (TRAINING / "results/pretraining/runs.jsonl").read_text().splitlines()
    runs = [run for run in map(json.loads, lines) if run["task"] == task and run["train_fraction"] == 1]
    best = max(
        (run for run in runs if run["method"] == "post-trained from the encoder"),
        key=lambda run: run["eval_macro_auroc"],
    )
    recipe = yaml.safe_load((CONFIGS / f"post_train_{task}.yaml").read_text())
    # Attention and precision are the device's; the others are the defaults of the command.
    left_out = {"attn_implementation", "train_fraction", "seed"}
    expected = {name: value for name, value in best["arguments"].items() if name not in left_out}
    assert {name: value for name, value in recipe.items() if name != "bf16"} == expected
    figure = f"{best['eval_macro_auroc']:.3f}".lstrip("0")
    (row,) = re.findall(r"^\| \*\*post-trained\*\* .*$", (TRAINING.parent / "README.md").read_text(), re.MULTILINE)
    assert figure in row.split("|")[column + 1] and figure in (CONFIGS / f"post_train_{task}.yaml").read_text()


def test_the_launcher_adds_nothing_to_what_a_run_prints(tmp_path):
    command = [*LAUNCHER, "--quiet", "train.py", "--output_dir", str(tmp_path / "x"), "--zzz"]
    done = subprocess.run(command, cwd=TRAINING, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.splitlines() == ["ecg-hf: error: There is no flag `--zzz`. `--help` lists all."]


# ---- Objects in a notebook ----


def test_a_record_is_shown_without_its_samples(simulated_folder):
    record = read_ecg(simulated_folder / "records100/00000/00001_lr")
    expected = "Record(I II III aVR aVL aVF V1 V2 V3 V4 V5 V6; 1000 samples at 100 Hz (10 s), int16 µV)"
    assert repr(record) == expected
    others = Record(record.signal[:1], 100, ("I",), ("RESP", "PLETH"))
    assert repr(others) == "Record(I, and left out: RESP, PLETH; 1000 samples at 100 Hz (10 s), int16 µV)"


def test_a_trainer_is_one_line(simulated_splits, tmp_path):
    settings = {"num_samples": 250}
    trainer = PostTrainer(
        model=small_model(["CD", "HYP", "MI", "NORM", "STTC"], patch_size=10, **settings),
        args=PostTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True),
        train_dataset=simulated_splits["train"],
        eval_dataset=simulated_splits["validation"],
        feature_extractor=small_extractor(**settings),
    )
    counts = len(simulated_splits["train"]), len(simulated_splits["validation"])
    assert re.fullmatch(
        rf"PostTrainer\(ECGTransformerForMultiLabel with [\d,]+ parameters, {counts[0]} training, {counts[1]} "
        rf"validation records, output_dir='{re.escape(str(tmp_path / 'run'))}'\)",
        repr(trainer),
    )
