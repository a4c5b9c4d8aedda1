"""What a process does not load: help takes no library, reading no torch, and an Auto class no model but its own."""

import gc
import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import write_help
from new_process import ROOT, environment
from small_models import small_extractor, small_model
from transformers import pipeline

from ecg_hf import cli
from ecg_hf.command import RUNS
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.loading import load

HEAVY = (
    *("numpy", "scipy", "pandas", "pyarrow", "yaml", "matplotlib", "wfdb", "tqdm", "safetensors", "huggingface_hub"),
    *("torch", "transformers", "datasets", "accelerate"),
)


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=environment(), capture_output=True, text=True)


def loaded_by(code: str) -> set[str]:
    """The modules that a new process has after the code, which is to end well."""
    ended = run_python("-c", f"{code}\nimport sys; print(*sys.modules)")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].split())


def packages(modules: set[str]) -> set[str]:
    return {name for name in HEAVY if name in modules}


# ---- Help ----


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_loads_no_library(arguments):
    ended = run_python("-X", "importtime", "-m", "ecg_hf.cli", *arguments)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: ecg-hf")
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "ecg_hf.help" in imported  # the test sees them
    assert packages(imported) == set()


def test_the_overview_says_what_each_command_does(capsys):
    cli.main(["--help"])
    printed = capsys.readouterr().out
    for name, function in cli.COMMANDS.items():
        assert f"  {name} " in printed
        assert " ".join(function.__doc__.split()[:4]) in " ".join(printed.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_with_other_flags_is_help(name, capsys):
    cli.main([name, "--config", "nowhere.yaml", "-h"])
    assert f"ecg-hf {name} " in capsys.readouterr().out


def test_a_command_that_is_not_known_is_an_error(capsys):
    for argv in ([], ["clasify", "--help"], ["--zzz"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        assert "usage: ecg-hf {pretrain,train," in str(ended.value.code)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each Python lays the text out in its own way")
def test_the_texts_are_what_the_parsers_say():
    for name, text in write_help.help_texts().items():
        assert cli.help_of(name) == text.rstrip("\n"), f"`{name}`: run `python training/write_help.py`"
    assert {file.stem for file in write_help.TEXTS.iterdir()} == set(cli.COMMANDS)
    assert not [name for name in ("evaluate", "export") if "train_fraction" in cli.help_of(name)]


@pytest.mark.parametrize("name", RUNS)
def test_help_of_a_run_has_its_own_flags_and_help_all_the_librarys_too(name, capsys):
    cli.main([name, "--help"])
    own = capsys.readouterr().out
    assert "--architecture" in own and "--learning_rate" in own and "--help-all" in own
    assert "--gradient_accumulation_steps" not in own
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help-all"])
    everything = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--architecture" in everything and "--gradient_accumulation_steps" in everything


def test_help_all_is_a_flag_of_runs_alone(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["classify", "record", "--model", "m", "--help-all"])
    assert ended.value.code == 2 and "no flag `--help-all`" in capsys.readouterr().err


# ---- Importing ----


def test_the_package_loads_no_library():
    assert packages(loaded_by("import ecg_hf; dir(ecg_hf)")) == set()


def test_reading_loads_numpy_alone(tmp_path):
    (tmp_path / "record.csv").write_text("I,II\n" + "0.1,0.2\n0.3,0.1\n" * 500)
    code = f"from ecg_hf import read_ecg; read_ecg({str(tmp_path / 'record.csv')!r}, sampling_rate=500, units='mV')"
    assert packages(loaded_by(code)) == {"numpy"}


NOT_FOR_A_MODEL = {"scipy.signal", "datasets", "matplotlib", "wfdb", "pandas", "transformers.pipelines"}


def test_the_classes_of_the_model_load_what_they_are_made_of():
    names = "ECGTransformerModel, ECGTransformerForMultiLabel, ECGTransformerFeatureExtractor"
    modules = loaded_by(f"from ecg_hf import read_ecg, {names}")
    assert "transformers" in modules
    assert not modules & NOT_FOR_A_MODEL


def test_every_public_name_is_there():
    import ecg_hf

    assert set(ecg_hf.__all__) <= set(dir(ecg_hf))
    for name in ecg_hf.__all__:
        assert getattr(ecg_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute `read_egc`"):
        ecg_hf.read_egc  # noqa: B018


# ---- Registration: what `import ecg_hf` promises, in whatever order, and without loading what is registered ----

MODELING = "ecg_hf.ecg_transformer.modeling_ecg_transformer"
OUR_PIPELINES = "ecg_hf.ecg_transformer.pipeline_ecg_classification"
ORDERS = {
    "we are first": "import ecg_hf\nfrom transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline",
    "we are last": "from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline\nimport ecg_hf",
    "our pipelines are first": f"import {OUR_PIPELINES}\nfrom transformers import AutoModel, pipeline",
    "our model is first": f"import {MODELING}\nfrom transformers import AutoModel, pipeline",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> pathlib.Path:
    """The folder of a small classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    small_model(["NORM", "MI"], num_samples=500, patch_size=10, initializer_range=0.3).save_pretrained(folder)
    small_extractor(num_samples=500, window_stride=250).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("order", ORDERS)
def test_the_registries_know_us(order, checkpoint, new_process):
    code = f"""
{ORDERS[order]}
import transformers
folder = {str(checkpoint)!r}
from ecg_hf import *
config = transformers.AutoConfig.from_pretrained(folder)
assert type(config) is ECGTransformerConfig
assert type(transformers.AutoFeatureExtractor.from_pretrained(folder)) is ECGTransformerFeatureExtractor
assert type(transformers.AutoModel.from_pretrained(folder)) is ECGTransformerForMultiLabel
config.architectures = ["ECGTransformerModel"]
assert type(transformers.AutoModel.from_config(config)) is ECGTransformerModel
assert type(transformers.AutoModelForPreTraining.from_config(config)) is ECGTransformerForPreTraining
assert type(transformers.AutoModelForSequenceClassification.from_config(config)) is ECGTransformerForMultiLabel
classify = transformers.pipeline("ecg-classification", model=folder)
assert type(classify) is ECGClassificationPipeline and classify.read_file.__module__ == "ecg_hf.pipelines"
assert type(transformers.pipeline("feature-extraction", model=folder)) is ECGFeatureExtractionPipeline
"""
    ended = new_process(code)
    assert ended.returncode == 0, ended.stderr


def test_registration_loads_no_model(checkpoint):
    modules = loaded_by(
        "import ecg_hf; from transformers import AutoConfig, AutoFeatureExtractor, AutoModel\n"
        f"config = AutoConfig.from_pretrained({str(checkpoint)!r}); assert config.model_type == 'ecg_transformer'\n"
        "from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification"
    )
    assert "ecg_hf.ecg_transformer.configuration_ecg_transformer" in modules
    assert not modules & {MODELING, OUR_PIPELINES, "transformers.modeling_utils", "transformers.pipelines"}


def test_another_model_does_not_load_ours(tmp_path):
    modules = loaded_by(
        "import ecg_hf; from transformers import AutoModel, BertConfig\n"
        "AutoModel.from_config(BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, vocab_size=9))"
    )
    assert "transformers.modeling_utils" in modules and MODELING not in modules


def test_registered_classes_are_a_tuple_of_classes():
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    from ecg_hf import ECGTransformerConfig, ECGTransformerForMultiLabel, ECGTransformerModel

    classes = MODEL_MAPPING[ECGTransformerConfig]
    assert classes[0] is ECGTransformerModel and len(classes) == len(list(classes)) == 3
    assert ECGTransformerForMultiLabel in classes and "ECGTransformerModel" not in classes


# ---- Findings of one record ----

NOT_FOR_A_RECORD = {
    "scipy.signal",
    "scipy.stats",
    "sklearn",
    "pandas",
    "pyarrow",
    "datasets",
    "evaluate",
    "matplotlib",
}


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> pathlib.Path:
    """A WFDB record of ten seconds at the rate of the model."""
    folder = tmp_path_factory.mktemp("record")
    samples = np.rint(np.random.default_rng(0).normal(scale=300, size=(1000, 12))).astype("<i2")
    samples.tofile(folder / "r.dat")
    lines = [
        f"r.dat 16 1000/mV 16 0 {channel[0]} {channel.sum(dtype=np.int16)} 0 {lead}"
        for lead, channel in zip(LEAD_NAMES, samples.T, strict=True)
    ]
    (folder / "r.hea").write_text("\n".join(["r 12 100 1000", *lines, ""]))
    return folder / "r"


def test_findings_of_a_record_are_the_pipelines_and_load_only_the_model(record, checkpoint):
    argv = ["classify", str(record), "--model", str(checkpoint), "--format", "json", "--device", "cpu"]
    ended = run_python("-X", "importtime", "-m", "ecg_hf.cli", *argv)
    assert ended.returncode == 0, ended.stderr
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "transformers.pipelines.base" in imported
    assert not imported & (NOT_FOR_A_RECORD | {"wfdb"})
    (answer,) = json.loads(ended.stdout)
    assert answer["findings"] == pipeline("ecg-classification", model=str(checkpoint), device="cpu")(str(record))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_command_loads_is_one_line(number, code, record):
    command = [sys.executable, "-m", "ecg_hf.cli", "classify", str(record), "--model", "m"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(0.7)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.split()[:3]) == (code, ["Stopped", "by", number.name])
    assert len(errors.strip().splitlines()) == 1


def test_a_folder_is_read_as_before(record, checkpoint, capsys):
    cli.main(["classify", str(record.parent), "--model", str(checkpoint), "--format", "json", "--device", "cpu"])
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["record"] == str(record)


def test_a_folder_is_classified_without_what_trains(record, checkpoint):
    argv = ["classify", str(record.parent), "--model", str(checkpoint), "--device", "cpu"]
    modules = loaded_by(f"import sys\nfrom ecg_hf import cli\ncli.main({argv!r})")
    assert "datasets" in modules and not modules & {"transformers.trainer", "ecg_hf.runs.trainer"}


WITHOUT_FCNTL = """
import os, sys
import filelock  # it has other locks where there is no fcntl
sys.modules["fcntl"] = None
del os.register_at_fork
sys.stdout = sys.stderr
from ecg_hf import cli
"""


def test_a_system_without_posix_locks_does_all_but_training(
    record, checkpoint, simulated_folder, simulated_cache, new_process, tmp_path
):
    """As Windows, where a run cannot lock its folder."""
    with_five = tmp_path / "five"
    small_model().save_pretrained(with_five)
    small_extractor().save_pretrained(with_five)
    model, data = (
        ["--model", str(checkpoint)],
        ["--data_dir", str(simulated_folder), "--cache_dir", str(simulated_cache)],
    )
    report = ["--output_dir", str(tmp_path / "report"), "--num_bootstrap_resamples", "20", "--use_cpu", "true"]
    commands = [
        ["classify", str(record.parent), *model, "--output", str(tmp_path / "findings.csv")],
        ["embed", str(record.parent), *model, "--output", str(tmp_path / "features.npy")],
        ["export", *model, "--output", str(tmp_path / "model.onnx")],
        ["evaluate", "--model_name_or_path", str(with_five), *data, *report],
    ]
    ended = new_process(f"{WITHOUT_FCNTL}\nfor argv in {commands!r}: cli.main(argv)")
    assert ended.returncode == 0, ended.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"findings.csv", "features.npy", "model.onnx", "report"}


# ---- Loading ----


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_as_it_was(collects):
    (gc.enable if collects else gc.disable)()
    try:
        assert load("version").__name__ == "ecg_hf.version"
        assert gc.isenabled() == collects
        with pytest.raises(ModuleNotFoundError):
            load("nowhere")
        assert gc.isenabled() == collects
    finally:
        gc.enable()
