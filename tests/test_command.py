"""How the command line ends: with a line for what its user can mend, with a traceback for a fault, by a signal."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time
import tomllib
import warnings

import pytest
import torch

import ecg_hf
from ecg_hf import ECGTransformerConfig, PostTrainingArguments, cli, info
from ecg_hf.ecg_transformer.wfdb_ecg_transformer import RecordError
from ecg_hf.runs.devices import has_accelerator

ROOT = pathlib.Path(__file__).parents[1]


def error_of(capsys, *argv, code=2) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in argv])
    assert ended.value.code == code
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("ecg-hf: error: ")
    return line.removeprefix("ecg-hf: error: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("train", "--output_dir", "x", "--learning_rat", 1),
            "Did you mean `--learning_rate`?",
        ),
        (("train", "--output_dir", "x", "--learning_rate", "abc"), "invalid float value: 'abc'"),
        (("train", "--output_dir", "x", "--zzzzzzz=3"), "no flag `--zzzzzzz`. `--help` lists all"),
        (("train", "--output_dir", "x", "stray"), "`stray` belongs to no flag"),
        (("train", "--output_dir", "x", "--train_fraction", 2), r"`train_fraction` must lie in \(0, 1\], got 2.0"),
        (("train", "--output_dir", "x", "--use_cpu", "true"), "Give one source of records: `--table`"),
        (("pretrain", "--output_dir", "x", "--data_dir", "nowhere", "--use_cpu", "true"), "nowhere"),
        (("evaluate", "--output_dir", "x", "--model_name_or_path", "y", "--split", "tset"), "`split` must be one of"),
        (("classify", "--model", "m", "--topk", 3, "record"), "no flag `--topk`. Did you mean `--top_k`"),
        (("classify", "--model", "./nowhere", "record"), "`./nowhere` is no folder here.* would be `owner/name`"),
        (("classify", "--model", "nowhere", "record"), "no checkpoint of this installation .*ecg-transformer-ptbxl"),
        (
            ("classify", "--model", "runs/nowhere", "record"),
            "no folder here.* as an id of the Hub it cannot be loaded",
        ),
        (
            ("train", "--demo", "true", "--output_dir", "x", "--model_name_or_path", "nowhere"),
            "`nowhere` is no folder",
        ),
        (("convert", "nowhere.pt", "--output_dir", "x"), "nowhere.pt"),
        (("convert", "nowhere.pt", "--output_dir", "x", "--source", "ecg"), "invalid choice: 'ecg'"),
        (("prepare-ptbxl", "--data_dir", "nowhere", "--output_dir", "x"), "nowhere"),
        (("release", "nowhere", "--output_dir", "x"), "`nowhere` lacks `config.json`"),
        (("train", "--demo", "true", "--output_dir", "x", "--labels", "AF"), "`--labels` is for own records"),
        (("train", "--demo", "true", "--output_dir", "x", "--units", "mV"), "`--units` is for own records"),
        (("train", "--demo", "true", "--output_dir", "x", "--patient_column", "p"), "`--patient_column` is for own"),
        (("train", "--config"), "`--config` needs the name"),
        (("train", "--config="), "`--config` needs the name"),
        (("train", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "--config=nowhere.yaml"), "nowhere.yaml"),
        (("train", "--config=a.yaml", "--output_dir", "x", "--config", "b.yaml"), "given once, got it 2 times"),
        (("info", "--everything"), "no flag `--everything`"),
    ],
)
def test_what_a_user_can_mend_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, error_of(capsys, *argv))
    assert not (tmp_path / "x").exists()


def test_a_warning_for_the_user_is_its_message_alone(monkeypatch):
    shown = []

    def command(argv):
        for filename in (cli.__file__, __file__):
            shown.append(warnings.formatwarning("Few patients.", UserWarning, filename, 1, "code"))

    monkeypatch.setitem(cli.COMMANDS, "info", command)
    cli.main(["info"])
    cli.main(["info", "--debug"])
    of_package, of_others, *with_debug = shown
    assert of_package == "Warning: Few patients.\n"
    assert all("test_command.py" in text or "cli.py" in text for text in (of_others, *with_debug))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1\n", "expected ',' or ']'"), ("- a\n", "`name: value` lines"), ("a: 1\nb:\t2\n", "line 2, found")],
)
def test_a_config_that_is_no_table_is_one_message(text, message, capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--config", str(tmp_path / "recipe.yaml")])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith("ecg-hf: error: ") and "Traceback" not in printed
    assert message in printed and "recipe.yaml" in printed and printed.count("\n") == 1


def test_a_number_of_a_checkpoint_that_is_not_finite_is_one_line(capsys, tmp_path):
    import json

    fields = ECGTransformerConfig().to_dict() | {"layer_norm_eps": float("nan")}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    line = error_of(capsys, "classify", "--model", tmp_path, "record")
    assert "config.json` cannot be used (`layer_norm_eps` must be above 0 and finite, got nan.)" in line


@pytest.mark.parametrize("debug_first", [True, False])
def test_debug_shows_the_traceback(debug_first, tmp_path):
    argv = ["release", str(tmp_path), "--output_dir", "x"]
    argv.insert(0 if debug_first else len(argv), "--debug")
    with pytest.raises(FileNotFoundError, match="lacks `config.json`"):
        cli.main(argv)


def test_the_debug_of_the_library_goes_on_to_it(capsys, monkeypatch):
    seen = []
    monkeypatch.setitem(cli.COMMANDS, "train", cli.train)
    monkeypatch.setattr("ecg_hf.post_training.run.post_train", lambda *args: seen.append(args[-1].debug) or {})
    cli.main(["train", "--output_dir", "x", "--use_cpu", "true", "--debug", "underflow_overflow"])
    assert [option.value for option in seen[0]] == ["underflow_overflow"]


FAULTS = {
    ValueError: lambda argv: int("x"),
    TypeError: lambda argv: len(3),
    KeyError: lambda argv: {}["x"],
    AttributeError: lambda argv: None.x,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_keeps_its_traceback(kind, monkeypatch):
    def release(argv):
        FAULTS[kind](argv)

    monkeypatch.setitem(cli.COMMANDS, "release", release)
    with pytest.raises(kind):
        cli.main(["release"])


def test_a_call_within_the_package_that_goes_wrong_is_a_fault(monkeypatch):
    from ecg_hf import simulate_ptbxl

    monkeypatch.setitem(cli.COMMANDS, "release", lambda argv: simulate_ptbxl([], "x", seed=1))
    with pytest.raises(TypeError):
        cli.main(["release"])


def test_a_damaged_record_ends_with_its_own_code(capsys, monkeypatch, tmp_path):
    (tmp_path / "r.hea").write_text("r 1 100\n")

    def release(argv):
        from ecg_hf.ecg_transformer.wfdb_ecg_transformer import read_record

        read_record(argv[0])

    monkeypatch.setitem(cli.COMMANDS, "release", release)
    with pytest.raises(RecordError):
        release([str(tmp_path / "r")])
    assert str(tmp_path / "r") in error_of(capsys, "release", tmp_path / "r", code=1)


# ---- Signals before the run began ----


def ended(command: list[str], seconds: float, number: signal.Signals, folder) -> tuple[int, str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    time.sleep(seconds)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.4, 0.9, 1.5])
def test_a_signal_while_the_libraries_load_is_one_line(number, seconds, tmp_path):
    started = [sys.executable, "-m", "ecg_hf.cli", "train", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    code, errors = ended(started, seconds, number, tmp_path)
    assert code == 128 + number and errors.split("\n")[-2] == f"Stopped by {number.name} before the run began."
    assert "Traceback" not in errors


def test_the_script_of_a_launcher_ends_so_too(tmp_path):
    script = [sys.executable, str(ROOT / "training/pretrain.py"), "--output_dir", str(tmp_path / "run")]
    code, errors = ended(script, 0.6, signal.SIGTERM, tmp_path)
    assert code == 143 and errors.strip() == "Stopped by SIGTERM before the run began."


def test_importing_the_package_leaves_the_handlers_of_others_alone():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_command_that_is_no_run_stops_with_one_line(capsys, monkeypatch):
    def release(argv):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(cli.COMMANDS, "release", release)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["release"])
    assert stopped.value.code == 130 and capsys.readouterr().err == "\nStopped by SIGINT.\n"


# ---- The command itself ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["clasify", "record"], "there is no command `clasify`. Did you mean `classify`?"),
        (["trian", "--help"], "there is no command `trian`. Did you mean `train`?"),
        (["download_ptbxl"], "Did you mean `download-ptbxl`?"),
        (["zzzzz"], "there is no command `zzzzz`. `ecg-hf --help` lists all."),
        (["--verbose"], "there is no command `--verbose`."),
    ],
)
def test_a_wrong_command_gives_the_nearest(argv, message, tmp_path):
    command = [sys.executable, "-m", "ecg_hf.cli", *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    error, usage = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == ""
    assert error.startswith("ecg-hf: error: ") and message in error and usage.startswith("usage: ecg-hf {pretrain,")


def test_the_version_is_that_of_the_package(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"ecg-hf {ecg_hf.__version__}\n"


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_flags_override_a_config_wherever_it_stands(joined, last, tmp_path):
    file = tmp_path / "with space=.yaml"
    file.write_text("learning_rate: 0.5\nseed: 7\nstages: [probe, finetune]\nmax_steps: null\n")
    config = [f"--config={file}"] if joined else ["--config", str(file)]
    flags = ["--output_dir", "x", "--use_cpu", "true", "--seed", "8"]
    (args,) = cli.parse_arguments([*flags, *config] if last else [*config, *flags], PostTrainingArguments)
    assert (args.learning_rate, args.seed, args.stages, args.max_steps) == (0.5, 8, ["probe", "finetune"], -1)


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("train", ["model", "data", "probe", "fine-tuning, and what the stages share", "LoRA", "output"]),
        (
            "pretrain",
            ["model", "data", "pre-training", "probe, which reads the encoder's quality on the way", "output"],
        ),
    ],
)
def test_the_help_of_a_run_is_in_groups_and_has_each_own_flag_once(name, titles, capsys):
    cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert re.findall(r"^([\w].*):$", printed, flags=re.MULTILINE) == titles
    kinds = cli.post_training_arguments() if name == "train" else cli.pretraining_arguments()
    own = {"output_dir", "dry_run", "seed", "num_train_epochs", *vars(kinds[-1])["__annotations__"]}
    own |= {field.name for kind in kinds[:-1] for field in dataclasses.fields(kind)}
    for field in own:
        assert len(re.findall(rf"^  --{field}\b", printed, flags=re.MULTILINE)) == 1, field
    groups = dict(zip(titles, re.split(r"^\w.*:$", printed, flags=re.MULTILINE)[1:], strict=True))
    assert "--table " in groups["data"] and "--output_dir " in groups["output"]
    assert "--config FILE.yaml" in printed and "--adam_beta1" not in printed


def test_all_flags_follow_the_own_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--help-all"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert 0 < printed.index("\noutput:\n") < printed.index("All flags") < printed.index("--adam_beta1")


# ---- ecg-hf info ----


def test_info_has_versions_device_and_caches(capsys):
    cli.main(["info"])
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["ecg-hf"] == ecg_hf.__version__ and lines["Python"].startswith(platform.python_version())
    for name in ("torch", "transformers", "numpy"):
        assert f"{name} {importlib.metadata.version(name)}" in lines["packages"]
    assert f"{torch.get_num_threads()} threads" in lines["CPU"] and ("none" in lines["GPU"]) == (not has_accelerator())
    assert {"extra readers", "extra export", "extra peft", "models", "data sets"} <= lines.keys()


def test_info_names_no_user_and_no_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/jdoe")
    monkeypatch.setenv("USER", "jdoe")
    monkeypatch.setattr(platform, "node", lambda: "cardio7")
    assert info.without_names("/home/jdoe/.cache/huggingface/hub") == "~/.cache/huggingface/hub"
    assert info.without_names("/scratch/jdoe/cardio7/hub") == "/scratch/.../.../hub"
    assert info.without_names("/data/hub") == "/data/hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/mnt/cardio7/jdoe/hub")
    assert not re.search("jdoe|cardio7", info.text())


def test_info_says_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(info.PACKAGES, "extra peft", ("no-such-package",))
    assert dict(info.facts())["extra peft"] == "no-such-package is not installed"


def test_info_has_the_packages_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {f"extra {name}": found for name, found in project["optional-dependencies"].items() if name != "test"}
    for title, requirements in {"packages": project["dependencies"], **extras}.items():
        names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}
        assert set(info.PACKAGES[title]) == names, title
    assert info.PACKAGES.keys() == {"packages", *extras}


@pytest.mark.parametrize("command", ["--help", "info"])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(command):
    """As `| head` goes."""
    words = [sys.executable, "-m", "ecg_hf.cli", command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 128 + 13
