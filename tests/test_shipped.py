"""Checkpoints that ship: found by name from anywhere, complete, small, measured as stored, and as good as promised."""

import ast
import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score
from small_models import small_extractor, small_model
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline

import ecg_hf
from ecg_hf import ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel, ECGTransformerModel, cli, shipped
from ecg_hf.metrics import choose_thresholds
from ecg_hf.ptbxl.labels import task_labels
from ecg_hf.shipped import DEFAULT_CLASSIFIER, SHIPPED, located

ROOT = pathlib.Path(__file__).parents[1]
CARDS = ROOT / "hub_cards"
ENCODER = "ecg-transformer-ptbxl-100hz"
FOLDERS = sorted(path for path in CARDS.iterdir() if path.is_dir())

PROMISED = {DEFAULT_CLASSIFIER: ("all", 0.930, 0.375), f"{ENCODER}-superdiagnostic": ("superdiagnostic", 0.930, 0.825)}
"""Task, and the least macro AUROC and AUPRC on fold 10."""


def default_classifier(folder: pathlib.Path) -> pathlib.Path:
    """A place with the classifier that ships; before it does, with a small one of the same labels."""
    target = folder / DEFAULT_CLASSIFIER
    if (CARDS / DEFAULT_CLASSIFIER).is_dir():
        shutil.copytree(CARDS / DEFAULT_CLASSIFIER, target)
    else:
        small_model(task_labels("all")).save_pretrained(target)
        small_extractor().save_pretrained(target)
    return folder


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Another working directory, and the default classifier where a wheel has it."""
    monkeypatch.setattr(shipped, "PLACES", (default_classifier(tmp_path / "checkpoints"), CARDS))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


# ---- Names ----


@pytest.mark.parametrize("load", [AutoModel, ECGTransformerModel, ecg_hf.ECGTransformerForPreTraining])
def test_a_name_gives_the_weights_of_its_folder(load, installation):
    with_head = load is ecg_hf.ECGTransformerForPreTraining
    context = pytest.warns(UserWarning, match="no trained head") if with_head else torch.no_grad()
    with context:
        named = load.from_pretrained(ENCODER)
    weights = {name.removeprefix("ecg_transformer."): value for name, value in named.state_dict().items()}
    for name, value in load_file(CARDS / ENCODER / "model.safetensors").items():
        assert torch.equal(weights[name.removeprefix("ecg_transformer.")], value.float()), name
    assert AutoConfig.from_pretrained(ENCODER).hidden_size == named.config.hidden_size
    assert AutoFeatureExtractor.from_pretrained(ENCODER).to_dict() == (
        ECGTransformerFeatureExtractor.from_pretrained(CARDS / ENCODER).to_dict()
    )


def test_a_folder_of_that_name_in_the_working_directory_wins(installation):
    small_model(model_class=ECGTransformerModel).save_pretrained(ENCODER)
    assert AutoModel.from_pretrained(ENCODER).config.hidden_size == 16
    assert AutoModel.from_pretrained(CARDS / ENCODER).config.hidden_size == 128


@pytest.mark.parametrize(
    "name", [None, "bert-base-uncased", f"me/{ENCODER}", "", "..", ".", CARDS / ENCODER, "../wheel"]
)
def test_other_names_are_left_alone(name):
    assert located(name) is name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_that_is_not_installed_says_where_to_get_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "PLACES", (default_classifier(tmp_path),))
    monkeypatch.chdir(CARDS.parent / "tests")
    if name == DEFAULT_CLASSIFIER:
        assert located(name) == str(tmp_path / name)
        monkeypatch.setattr(shipped, "PLACES", (tmp_path / "nothing",))
    where = f"`{name}` is not part of this installation.*copy the folder `hub_cards/{name}`"
    with pytest.raises(FileNotFoundError, match=where):
        AutoModel.from_pretrained(name)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.main(["classify", "test_shipped.py", "--model", name])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ecg-hf: error: The checkpoint") and "hub_cards" in line


# ---- Without a model ----


def test_classify_and_embed_need_no_model(installation, simulated_folder, capsys):
    record = str(simulated_folder / "records100/00000/00001_lr")
    cli.main(["classify", record])
    printed = capsys.readouterr()
    name, *lines = printed.out.splitlines()
    assert name == record and {line.split()[1] for line in lines} == set(task_labels("all"))
    notes = [line for line in printed.err.splitlines() if "--model" in line]
    assert notes == [f"`--model` is not given: {DEFAULT_CLASSIFIER} is used, which ships with ecg_hf."]
    cli.main(["classify", record, "--model", DEFAULT_CLASSIFIER])
    named = capsys.readouterr()
    assert named.out == printed.out and "--model" not in named.err
    cli.main(["embed", record, "--output", "features.npy"])
    assert DEFAULT_CLASSIFIER in capsys.readouterr().err
    assert np.load("features.npy").shape == (1, AutoConfig.from_pretrained(DEFAULT_CLASSIFIER).hidden_size)


def test_the_pipeline_needs_no_model(installation, simulated_folder):
    record = str(simulated_folder / "records100/00000/00001_lr")
    classifier = pipeline("ecg-classification", device="cpu")
    assert classifier.model.name_or_path == DEFAULT_CLASSIFIER and classifier.model.dtype == torch.float32
    assert classifier(record) == pipeline("ecg-classification", model=located(DEFAULT_CLASSIFIER), device="cpu")(
        record
    )


# ---- The folders ----


def test_all_folders_together_have_at_most_14_megabytes():
    assert sum(file.stat().st_size for file in CARDS.rglob("*") if file.is_file()) <= 14e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_complete(folder):
    assert folder.name in SHIPPED
    files = {"README.md", "config.json", "preprocessor_config.json", "metrics.json", "all_results.json", "recipe.yaml"}
    assert files <= {file.name for file in folder.iterdir()} and not list(folder.rglob("*.py"))
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float16}
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32" and config["provenance"]["license"] == "apache-2.0"
    model = AutoModel.from_pretrained(folder)
    assert model.dtype == torch.float32 and "stored in 16 bit" in (folder / "README.md").read_text()
    if isinstance(model, ECGTransformerForMultiLabel):
        assert not model.head_is_random and len(config["thresholds"]) == len(config["label_names"])
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["measured_weights"] == "float16" and {"validation", "test"} <= metrics.keys()
        curves = {f"{name}.{kind}" for name in ("reliability", "precision_recall") for kind in ("png", "svg")}
        assert curves <= {file.name for file in folder.iterdir()}
        assert model.config.labels == task_labels(PROMISED[folder.name][0])


def fold_ten(folder: pathlib.Path, task: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Signals (12, samples) in µV and labels, read without the package."""
    with open(folder / "scp_statements.csv", newline="") as file:
        classes = {row[""]: row["diagnostic_class"] for row in csv.DictReader(file)}
    with open(folder / "ptbxl_database.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["strat_fold"] in ("10", "10.0")]
    names, signals, labels = task_labels(task), [], []
    for row in rows:
        codes = set(ast.literal_eval(row["scp_codes"]))
        found = codes if task == "all" else {classes[code] for code in codes} - {""}
        if found:
            labels.append([name in found for name in names])
            signals.append(np.fromfile(folder / f"{row['filename_lr']}.dat", dtype="<i2").reshape(-1, 12).T)
    return signals, np.array(labels)


def probabilities(folder: pathlib.Path, signals: list[np.ndarray]) -> np.ndarray:
    """(records, labels) as the model of a folder gives them."""
    model = ECGTransformerForMultiLabel.from_pretrained(folder).eval()
    extractor = ECGTransformerFeatureExtractor.from_pretrained(folder)
    logits = []
    for start in range(0, len(signals), 128):
        batch = signals[start : start + 128]
        inputs = extractor(batch, sampling_rate=100, lead_names=ecg_hf.ECGTransformerConfig().lead_names, units="uV")
        with torch.inference_mode():
            # Small enough for the caches of a processor.
            windows = torch.cat([model(chunk).logits for chunk in inputs["input_values"].split(128)])
            logits.append(model.aggregate_windows(windows.unflatten(0, (len(batch), -1))))
    return torch.cat(logits).double().sigmoid().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.filterwarnings("ignore:.*(limb leads|constant|flat).*:UserWarning")
def test_the_models_that_ship_keep_what_is_promised(name, request):
    task, least_auroc, least_auprc = PROMISED[name]
    if not (CARDS / name).is_dir():
        pytest.skip(f"hub_cards has no {name} yet")
    signals, labels = fold_ten(request.getfixturevalue("ptbxl_100hz"), task)
    assert len(signals) == {"all": 2198, "superdiagnostic": 2158}[task]
    scores = probabilities(CARDS / name, signals)
    defined = labels.any(axis=0) & ~labels.all(axis=0)
    auroc = roc_auc_score(labels[:, defined], scores[:, defined])
    auprc = average_precision_score(labels[:, defined], scores[:, defined])
    stated = json.loads((CARDS / name / "metrics.json").read_text())["test"]
    assert (stated["macro_auroc"], stated["macro_auprc"]) == pytest.approx((auroc, auprc), abs=1e-4)
    assert auroc >= least_auroc and auprc >= least_auprc


# ---- A release ----


@pytest.fixture(scope="module")
def run(simulated_folder, simulated_cache, tmp_path_factory):
    """A finished run whose figures, thresholds and curves are spoiled, so that what a release measures differs."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("runs") / "probe"
    small_model(model_class=ECGTransformerModel).save_pretrained(base)
    small_extractor().save_pretrained(base)
    values = {"model_name_or_path": base, "data_dir": simulated_folder, "cache_dir": simulated_cache}
    values |= {"output_dir": folder, "stages": "probe", "probe_num_train_epochs": 3, "num_bootstrap_resamples": 20}
    values |= {"use_cpu": True, "disable_tqdm": True}
    cli.train([str(part) for name, value in values.items() for part in (f"--{name}", value)])
    for name in ("metrics.json", "all_results.json", "config.json"):
        content = json.loads((folder / name).read_text())
        if name == "metrics.json":
            content["validation"]["macro_auroc"] = content["test"]["macro_auroc"] = 0.123
        elif name == "all_results.json":
            content |= {"eval_macro_auroc": 0.123, "test_macro_auprc": 0.123, "test_macro_auroc_low": 0.123}
        else:
            content["thresholds"] = [0.123] * 5
        (folder / name).write_text(json.dumps(content))
    for path in (*folder.glob("reliability.*"), *folder.glob("precision_recall.*"), folder / "test_predictions.csv"):
        path.unlink()
    return folder


def released(run, target, *flags) -> pathlib.Path:
    cli.main(["release", str(run), "--output_dir", str(target), *map(str, flags)])
    return target


def test_a_release_is_measured_after_rounding(run, simulated_splits, simulated_folder, simulated_cache, tmp_path):
    target = released(run, tmp_path / "mine", "--data_dir", simulated_folder, "--cache_dir", simulated_cache)
    metrics, results, config = (
        json.loads((target / name).read_text()) for name in ("metrics.json", "all_results.json", "config.json")
    )
    for split, prefix in (("validation", "eval"), ("test", "test")):
        records = simulated_splits[split].with_format("numpy")
        labels = np.stack(records["labels"][:])
        scores = probabilities(target, [signal.reshape(12, -1) for signal in records["signal"][:]])
        defined = labels.any(axis=0) & ~labels.all(axis=0)
        auroc = roc_auc_score(labels[:, defined], scores[:, defined])
        assert metrics[split]["macro_auroc"] == results[f"{prefix}_macro_auroc"] == pytest.approx(auroc, abs=1e-6)
        auprc = average_precision_score(labels[:, defined], scores[:, defined])
        assert metrics[split]["macro_auprc"] == results[f"{prefix}_macro_auprc"] == pytest.approx(auprc, abs=1e-6)
        if split == "validation":
            thresholds = choose_thresholds(labels, scores, config["label_names"])
            assert config["thresholds"] == pytest.approx(thresholds, abs=1e-6)
    assert results["test_macro_auroc_low"] == metrics["test"]["intervals"]["macro_auroc"]["low"]
    before = json.loads((run / "metrics.json").read_text())
    assert metrics["measured_weights"] == "float16" and metrics["stages"] == before["stages"]
    assert metrics["data"] == before["data"] and "0.123" not in (target / "README.md").read_text()
    card = (target / "README.md").read_text()
    assert "thresholds and results are those of the stored weights" in card
    assert "](reliability.png)" in card and "](precision_recall.svg)" in card
    assert "Reliability on the test records" in (target / "reliability.svg").read_text()


def test_the_test_records_are_judged_only_if_asked_for(run, simulated_folder, simulated_cache, tmp_path):
    flags = ["--data_dir", simulated_folder, "--cache_dir", simulated_cache, "--evaluate_test", "false"]
    target = released(run, tmp_path / "mine", *flags)
    metrics, results = (json.loads((target / name).read_text()) for name in ("metrics.json", "all_results.json"))
    assert "test" not in metrics and not [name for name in results if name.startswith("test_")]
    assert "on the validation records" in (target / "precision_recall.svg").read_text()


def test_a_release_without_records_says_that_its_figures_are_older(run, tmp_path):
    target = released(run, tmp_path / "mine")
    assert json.loads((target / "metrics.json").read_text()) == json.loads((run / "metrics.json").read_text())
    assert "the results are those of the weights before rounding" in (target / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "OTHER"], "was judged on 15 validation records, and 2 are given"),
        (["--evaluate_test", "true"], "needs the records"),
        (["--evaluate_test", "perhaps"], "argument --evaluate_test: "),
        (["--cache_dir", "x"], "Give one source of records"),
        (["--data_dir", "SAME", "--dataset_name", "x"], "Give one source of records"),
        (["--data_dir", "nowhere"], "nowhere"),
    ],
)
def test_records_that_are_not_the_runs_are_refused(flags, message, run, simulated_folder, tmp_path, capsys, request):
    if "OTHER" in flags:
        ecg_hf.simulate_ptbxl(tmp_path / "OTHER", 20, seed=2, sampling_rates=(100,))
    places = {"OTHER": str(tmp_path / "OTHER"), "SAME": str(simulated_folder)}
    with pytest.raises(SystemExit) as exit_:
        released(run, tmp_path / "mine", *(places.get(flag, flag) for flag in flags))
    assert exit_.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_an_encoder_has_no_labels_to_judge(simulated_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        released(CARDS / ENCODER, tmp_path / "mine", "--data_dir", simulated_folder)
    assert "is an encoder, which has no labels to judge" in capsys.readouterr().err
