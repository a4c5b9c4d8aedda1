"""Stories of people with ECGs of their own, from their files to findings, at the commands."""

import csv
import json
import pathlib

import numpy as np
import pytest
import torch
from test_tables import write_record

from ecg_hf import ECGTransformerFeatureExtractor, cli
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.post_training.data import TaskArguments, load_splits
from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.runs.windows import EvaluationWindows
from ecg_hf.synthetic import simulate_ecg

ROOT = pathlib.Path(__file__).parents[1]
ENCODER = ROOT / "hub_cards/ecg-transformer-ptbxl-100hz"
QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--num_bootstrap_resamples", "10"]
STATEMENTS = ("NORM", "CLBBB", "AFIB")


def simulated(index: int, rate: int = 250) -> np.ndarray:
    """(12 leads, samples) in mV; every third record has a left bundle branch block, every third fibrillates."""
    rng = np.random.default_rng(index)
    return simulate_ecg([STATEMENTS[index % 3]], sampling_rate=500, rng=rng)[:, :: 500 // rate] / 1000


def write_table(path, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows(rows)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Sixty records of 250 Hz with eight leads in another order and a gain of 200, in a table with German columns."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "ekg").mkdir()
    leads = ["V6", "V5", "V4", "V3", "V2", "V1", "II", "I"]
    rows = [["datei", "fall", "schenkelblock", "flimmern"]]
    for index in range(60):
        signal = simulated(index)[[LEAD_NAMES.index(name) for name in leads]]
        write_record(folder / "ekg", f"A{index:03}x", signal, lead_names=leads)
        rows.append(
            [f"ekg/A{index:03}x", f"F-{index // 2}", int(index % 3 == 1), "" if index == 7 else int(index % 3 == 2)]
        )
    write_table(folder / "ekgs.csv", rows)
    return folder


def table_flags(folder, *more):
    return ["--table", folder / "ekgs.csv", "--record_column", "datei", "--patient_column", "fall", *more]


def texts(*parts) -> list[str]:
    return [str(part) for part in parts]


@pytest.fixture(scope="module")
def post_trained(stranger, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "mine"
    labels = ["--label_columns", "schenkelblock", "flimmern"]
    cli.train(
        texts(
            *table_flags(stranger, *labels),
            *("--model_name_or_path", ENCODER, "--output_dir", output, "--cache_dir", stranger / "cache"),
            *("--num_train_epochs", 1, "--per_device_train_batch_size", 16, *QUICK),
        )
    )
    return output


def test_a_strangers_table_becomes_a_classifier_with_a_card(stranger, post_trained, capsys):
    results = json.loads((post_trained / "all_results.json").read_text())
    assert results["test_macro_auroc"] > 0.9 and {"probe_seconds", "finetune_seconds"} <= results.keys()
    rows = list(csv.DictReader(open(post_trained / "splits.csv", encoding="utf-8")))
    assert len(rows) == 60 and {row["split"] for row in rows} == {"train", "validation", "test"}
    data = json.loads((post_trained / "metrics.json").read_text())["data"]
    assert sum(counts["schenkelblock"] for counts in data["num_positives"].values()) == 20
    card = (post_trained / "README.md").read_text()
    assert "own records (ekgs.csv)" in card and "| schenkelblock |" in card and "| flimmern |" in card
    assert "--table path/to/ekgs.csv" in card
    cli.classify(texts(stranger / "ekg/A001x.hea", "--model", post_trained, "--format", "json"))
    findings = json.loads(capsys.readouterr().out)
    scores = {finding["label"]: finding["score"] for finding in findings[0]["findings"]}
    assert scores["schenkelblock"] > scores["flimmern"]


def test_evaluation_finds_the_same_split_again(stranger, post_trained, tmp_path):
    flags = table_flags(stranger, "--label_columns", "schenkelblock", "flimmern", "--cache_dir", stranger / "cache")
    given = ["--model_name_or_path", post_trained, "--output_dir", tmp_path / "test", "--use_cpu", "true"]
    metrics = cli.evaluate(texts(*flags, *given))
    expected = json.loads((post_trained / "metrics.json").read_text())["test"]
    assert metrics["macro_auroc"] == expected["macro_auroc"] and metrics["data"] == "own records (ekgs.csv)"
    # All records of another table.
    flags = ["--test_table", stranger / "ekgs.csv", *flags[2:]]
    assert cli.evaluate(texts(*flags, *given[:3], tmp_path / "all", *given[4:]))["num_records"] == 60


def test_a_record_gives_the_same_windows_on_each_of_the_five_ways(stranger, post_trained, tmp_path, monkeypatch):
    extractor = ECGTransformerFeatureExtractor.from_pretrained(post_trained)
    seen = {}

    def note(way):
        original = ECGTransformerFeatureExtractor.__call__

        def watched(self, signal, **recording):
            features = original(self, signal, **recording)
            seen.setdefault(way, []).append(features["input_values"])
            return features

        return watched

    for command in ("classify", "embed"):
        with monkeypatch.context() as patch:
            patch.setattr(ECGTransformerFeatureExtractor, "__call__", note(command))
            more = ["--output", tmp_path / "x.npy"] if command == "embed" else []
            getattr(cli, command)(texts(stranger / "ekg/A005x", "--model", post_trained, *more))
    cache = {"cache_dir": str(stranger / "cache"), "table": str(stranger / "ekgs.csv"), "record_column": "datei"}
    task = TaskArguments(**cache, label_columns=["schenkelblock"])
    splits = load_splits(None, task, 0)
    row = next(
        part.select([place]) for part in splits.values() for place, name in enumerate(part["ecg_id"]) if "A005" in name
    )
    seen["train and evaluate"] = [EvaluationWindows(row, extractor)[0]["input_values"][0]]
    records = load_training_records(RecordArguments(**cache), 2.5)
    row = records.select([5]).add_column("labels", [[0.0]])
    seen["pretrain"] = [EvaluationWindows(row, extractor)[0]["input_values"][0]]
    first, *others = (torch.cat(windows) for windows in seen.values())
    assert len(others) == 3 and first.abs().max() > 0
    assert all(torch.equal(first, other) for other in others)


def test_one_lead_tells_an_age(tmp_path, capsys):
    """A made-up relation: the amplitude of lead I grows with age."""
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 90, 120)
    rows = [["path", "age"]]
    for index, age in enumerate(ages):
        # CSV files of one column without a header: rate, unit and lead come from the flags.
        np.savetxt(tmp_path / f"r{index:03}.csv", simulated(index * 3)[0] * age / 50, fmt="%.4f")
        rows.append([f"r{index:03}.csv", "" if index == 5 else f"{age:.1f}".replace(".", ",")])
    write_table(tmp_path / "ages.csv", rows)
    said = ["--lead_names", "I", "--sampling_rate", 250, "--units", "mV"]
    cli.train(
        texts(
            *("--table", tmp_path / "ages.csv", "--label_columns", "age", "--problem_type", "regression", *said),
            *("--model_name_or_path", ENCODER, "--output_dir", tmp_path / "run", "--cache_dir", tmp_path / "cache"),
            *("--stages", "probe", "--split_fractions", 0.6, 0.1, 0.3, *QUICK),
        )
    )
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    assert metrics["mae"] < 0.8 * np.abs(ages - ages.mean()).mean()  # of the best guess without an ECG
    card = (tmp_path / "run/README.md").read_text()
    assert "| leads | I |" in card
    capsys.readouterr()
    record = texts(tmp_path / "r000.csv", "--model", tmp_path / "run", "--format", "json", *said)
    cli.classify(record)
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["findings"][0]["label"] == "age" and 0 < answer["findings"][0]["value"] < 120
