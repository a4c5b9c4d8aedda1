"""Inputs that were misread or refused without help, and messages that were too long or wrong in number."""

import json
import os
import shutil
import sys

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_models import LABELS, small_extractor, small_model
from test_post_training import extractor, make_trainer
from test_pretraining import arguments as pretraining_arguments
from test_pretraining import extractor as pretraining_extractor
from test_pretraining import own_records, run_cli
from test_pretraining import small_model as small_encoder
from transformers.utils import logging

from ecg_hf import ECGCollator, PostTrainer, PostTrainingArguments, PreTrainer, cli, name_labels, read_ecg
from ecg_hf.cards import write_model_card
from ecg_hf.ecg_transformer.pipeline_ecg_classification import ECGClassificationPipeline
from ecg_hf.post_training.run import TaskArguments, load_splits
from ecg_hf.pretraining.records import folder_files, load_records
from ecg_hf.runs import folder as run_folder
from ecg_hf.runs.windows import EvaluationWindows


@pytest.fixture(scope="module")
def classifier():
    return ECGClassificationPipeline(
        model=small_model(initializer_range=0.3), feature_extractor=small_extractor(), device="cpu"
    )


# ---- Units ----

MICRO = ["uV", "\u00b5V", "\u03bcV", "UV", "uv", "\u00b5v"]


@pytest.mark.parametrize("unit", MICRO)
def test_microvolts_in_any_spelling_are_microvolts(classifier, simulated_splits, unit):
    row = simulated_splits["test"][0]
    row = {name: row[name] for name in ("signal", "sampling_rate", "lead_names")}
    expected = classifier(row)
    assert classifier({**row, "units": unit}) == expected
    features = small_extractor()(**{**row, "signal": np.array(row["signal"])}, units=unit)["input_values"]
    collated = ECGCollator(small_extractor(), units=unit)([row])["input_values"]
    assert np.isin(np.asarray(collated), np.asarray(features)).all()
    floats = (
        simulated_splits["test"]
        .select(range(2))
        .map(
            lambda record: {"signal": [float(value) for value in record["signal"]], "units": unit},
            features=datasets.Features(
                {
                    **simulated_splits["test"].features,
                    "signal": datasets.List(datasets.Value("float32")),
                    "units": datasets.Value("string"),
                }
            ),
        )
    )
    windows = (EvaluationWindows(data, small_extractor()) for data in (floats, simulated_splits["test"]))
    first, second = (window.__getitems__([0, 1])["input_values"] for window in windows)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("unit", ["MV", "mv"])
def test_millivolts_in_any_case_are_millivolts(unit):
    signal = np.random.default_rng(0).normal(size=(12, 1000))
    recording = {"sampling_rate": 100, "lead_names": list(small_extractor().lead_names)}
    first, second = (small_extractor()(signal, **recording, units=name)["input_values"] for name in (unit, "mV"))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("unit", ["V", "", "pV", 3])
def test_another_unit_is_refused_with_the_known_ones(unit):
    with pytest.raises(ValueError, match="`units` must be one of mV, uV, got `"):
        small_extractor()(np.zeros((12, 1000)), sampling_rate=100, lead_names=["I"], units=unit)


# ---- The pipeline ----


def test_a_column_of_flat_signals_is_classified_as_its_rows_are(classifier, simulated_splits):
    split = simulated_splits["test"].select(range(3))
    arguments = {"sampling_rate": 100, "lead_names": split[0]["lead_names"], "units": "uV"}
    expected = [classifier(row) for row in split]
    assert classifier(split["signal"], **arguments) == expected
    assert classifier(split["signal"][:], **arguments) == expected
    assert classifier(split.with_format("numpy")["signal"], **arguments) == expected
    with pytest.raises(ValueError, match="give their `units`"):
        classifier(split["signal"], **{**arguments, "units": None})
    with pytest.raises(ValueError, match="got \\(12000,\\) and None"):
        classifier(split["signal"], sampling_rate=100, units="uV")
    with pytest.raises(ValueError, match="12000 values, no multiple of the 11 leads"):
        classifier(split["signal"], **{**arguments, "lead_names": arguments["lead_names"][:-1]})


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.24])
def test_a_record_of_which_little_but_padding_is_left_is_refused(classifier, seconds):
    signal = np.random.default_rng(0).normal(size=(12, round(seconds * 500)))
    recording = {"sampling_rate": 500, "lead_names": list(small_extractor().lead_names)}
    message = rf"record has {seconds:g} s, of which the model reads windows of 2.5 s: shorter than .* token \(0.25 s\)"
    with pytest.raises(ValueError, match=message):
        classifier(signal, **recording)
    with pytest.raises(ValueError, match=message):
        classifier({"signal": signal.reshape(-1), **recording})
    assert len(classifier(np.tile(signal, 300)[:, :250], **recording)) == len(LABELS)  # half a second


def test_classify_prints_findings_and_no_bars(simulated_folder, tmp_path, capfd):
    small_model(initializer_range=0.3).save_pretrained(tmp_path)
    small_extractor().save_pretrained(tmp_path)
    capfd.readouterr()
    cli.classify([str(simulated_folder / "records100/00000/00001_lr"), "--model", str(tmp_path)])
    printed = capfd.readouterr()
    assert "NORM" in printed.out and "Loading" not in printed.err and "%|" not in printed.err
    assert logging.is_progress_bar_enabled()


# ---- Pre-training ----


def test_folders_are_read_through_links_and_each_file_once(tmp_path):
    elsewhere = own_records(tmp_path / "elsewhere", 2)
    folder = own_records(tmp_path / "data", 1)
    (folder / "b").symlink_to(elsewhere)
    (folder / "c").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    found = [str(file.path.relative_to(folder)) for file in folder_files(folder)]
    assert found == ["b/r000", "b/r001", "r000"]
    assert len(load_records(folder_files(folder), 2.5, tmp_path / "cache")) == 3


def test_a_folder_stands_for_the_same_files_in_all_commands(classifier, tmp_path, capsys):
    folder = own_records(tmp_path / "data", 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    signal = read_ecg(folder / "r001").signal / 1000
    for place, factor in ((folder / "a.npy", 0.5), (elsewhere / "b.NPY", 0.6), (folder / "r001.npy", 1)):
        np.save(place.with_suffix(".npy"), signal * factor)
        place.with_suffix(".npy").rename(place)
    np.savetxt(folder / "c.csv", signal.T * 0.7)
    np.savetxt(folder / "notes.csv", signal.T)
    (folder / "c.json").write_text("{}")
    for name in ("._r000.hea", "._a.npy"):  # as macOS leaves them on a disk of Windows
        (folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    shutil.copytree(elsewhere, folder / ".snapshot")
    said = ["--sampling_rate", "100", "--units", "mV", "--lead_names", *small_extractor().lead_names]
    expected = ["a.npy", "c.csv", "linked/b.NPY", "r000", "r001"]
    cli.prepare(["--data_dir", str(folder), "--output_dir", str(tmp_path / "shards"), *said])
    shard = pq.read_table(next((tmp_path / "shards" / "data").iterdir()))
    assert shard["lead_names"].to_pylist() == [list(small_extractor().lead_names)] * len(expected)
    files = [str(file.path.relative_to(folder)) for file in folder_files(folder)]
    assert sorted(files) == expected and len(shard) == len(expected)
    classifier.model.save_pretrained(tmp_path / "model")
    classifier.feature_extractor.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    cli.classify([str(folder), "--model", str(tmp_path / "model"), "--format", "csv", "--wide", *said])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [os.path.relpath(line.split(",")[0], folder) for line in lines] == expected


def test_test_folds_behind_a_link_are_refused(simulated_folder, tmp_path):
    folder = own_records(tmp_path / "data", 1)
    (folder / "more").symlink_to(simulated_folder / "records100")
    with pytest.raises(ValueError, match="not known to be of its training folds .*16 of fold 10, 16 of fold 9"):
        run_cli(folder, tmp_path / "cache", tmp_path / "run")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A run of one epoch on eight records."""
    folder = tmp_path_factory.mktemp("encoder")
    records = own_records(folder / "own", 8)
    run_cli(records, folder / "cache", folder / "run", max_steps=2, per_device_train_batch_size=4)
    return folder / "run"


@pytest.mark.parametrize(
    ("folds", "words"), [([3], "fold 3"), ([1, 2], "folds 1 and 2"), (list(range(1, 9)), "folds 1 to 8")]
)
def test_the_card_of_an_encoder_names_the_folds_that_it_saw(encoder, tmp_path, folds, words):
    folder = shutil.copytree(encoder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["provenance"] |= {"ptbxl_folds": folds, "pretraining_data": f"8 records of PTB-XL's {words}"}
    (folder / "config.json").write_text(json.dumps(config))
    card = write_model_card(folder)
    assert (
        f"- Evaluation on PTB-XL: the signals of {words} were used for pre-training, those of folds 9 and 10" in card
    )
    assert "**Recipe**: 1 epoch of 8 records" in card


@pytest.mark.parametrize(("folds", "words"), [([3], "PTB-XL's fold 3"), ([1, 2, 3], "PTB-XL's folds 1 to 3")])
def test_the_records_of_a_pre_training_are_described_in_words(simulated_splits, tmp_path, folds, words):
    data = {"name": "PTB-XL", "ptbxl_folds": folds}
    trainer = PreTrainer(
        model=small_encoder(),
        args=pretraining_arguments(tmp_path / "run", per_device_train_batch_size=8),
        train_dataset=simulated_splits["validation"],
        feature_extractor=pretraining_extractor(),
        data=data,
    )
    assert trainer.model.config.provenance["pretraining_data"] == f"15 records of {words}"


# ---- Runs ----


def test_what_changed_is_said_in_short(simulated_splits, tmp_path):
    means = [0.0] * 12
    trainer = make_trainer(simulated_splits, tmp_path / "run", feature_extractor=extractor(mean=means))
    trainer.open_run(False)
    trainer.close_run()
    changed = make_trainer(
        simulated_splits, tmp_path / "run", feature_extractor=extractor(mean=[*means[:-2], 0.125, 1])
    )
    with pytest.raises(ValueError, match="cannot be resumed") as caught:
        changed.post_train(resume_from_checkpoint=True)
    assert "`feature_extractor.mean` was" in str(caught.value) and "0.125" in str(caught.value)
    long = list(run_folder.differences({"a": [0.5] * 300, "b": "x" * 500}, {"a": [0.5] * 298 + [1, 2], "b": None}))
    assert long[0] == "`a` was 0.5, now 1 at place 298, the first of 2 of 300 values that differ"
    assert len(long[1]) < 120 and long[1].endswith("now None")


@pytest.mark.parametrize("name", ["README.md", "config.json", "metrics.json", "recipe.yaml"])
def test_a_file_in_another_encoding_is_named(finished_folder, tmp_path, name):
    folder = shutil.copytree(finished_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages"))
    with open(folder / name, "ab") as file:
        file.write("Universitätsklinikum".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"run/{name}` is not UTF-8 \(byte 0xe4 at place \d+\)"):
        write_model_card(folder)


@pytest.fixture(scope="module")
def finished_folder(simulated_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    make_trainer(simulated_splits, folder, stages=["probe"]).post_train()
    return folder


def test_names_of_labels_that_were_replaced_are_refused(simulated_splits, tmp_path):
    def replace(record):
        return {"labels": record["labels"][:3]}

    features = simulated_splits["train"].features.copy()
    features["labels"] = datasets.List(datasets.Value("float32"))
    splits = {name: split.map(replace, features=features) for name, split in simulated_splits.items()}
    model = small_model(["a", "b", "c"])
    with pytest.raises(ValueError, match="have 3 labels and 5 names for them .*MI.*`ecg_hf.name_labels`"):
        make_trainer(splits, tmp_path / "run", model=model)
    named = {name: name_labels(split, ["a", "b", "c"]) for name, split in splits.items()}
    assert make_trainer(named, tmp_path / "run", model=model).train_dataset is named["train"]


def test_a_share_of_patients_that_are_texts_or_unknown(simulated_splits, monkeypatch):
    split = simulated_splits["train"]
    features = split.features.copy()
    features["patient_id"] = datasets.Value("string")

    def text(record, row):
        return {"patient_id": None if row < 20 else " " if row < 30 else f"P-{record['patient_id']}"}

    texts = split.map(text, with_indices=True, features=features)

    def chosen(train, fraction):
        monkeypatch.setattr(
            "ecg_hf.post_training.data.load_ptbxl", lambda *args, **kwargs: {**simulated_splits, "train": train}
        )
        return load_splits("x", TaskArguments(demo=True, train_fraction=fraction), seed=0)["train"]

    few, more = chosen(texts, 0.3), chosen(texts, 0.6)
    assert set(few["ecg_id"]) < set(more["ecg_id"]) and 0 < len(few) < len(more) < len(texts)
    others = texts.filter(lambda record: record["ecg_id"] not in set(few["ecg_id"]))
    patients = [set(part["patient_id"]) - {None, " "} for part in (few, others)]
    assert patients[0].isdisjoint(patients[1])
    # A record without a patient is one of its own, and not all of them are taken or left together.
    unknown = [patient for patient in more["patient_id"] if patient in (None, " ")]
    assert 0 < len(unknown) < 30
    assert len(chosen(texts.remove_columns("patient_id"), 0.5)) == len(texts) // 2


def test_a_trainer_that_only_predicts_needs_no_strategies(simulated_splits, tmp_path):
    args = PostTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True, report_to="none")
    trainer = PostTrainer(model=small_model(), args=args, feature_extractor=extractor())
    test = simulated_splits["test"]
    assert trainer.predict(test).predictions.shape == (len(test), len(LABELS))
    assert 0 <= trainer.evaluate(test)["eval_macro_auroc"] <= 1
    with pytest.raises(ValueError, match="Training needs a `train_dataset`"):
        trainer.post_train()
    # Whoever trains still needs records to choose an epoch by.
    with pytest.raises(ValueError, match="eval_dataset"):
        PostTrainer(
            model=small_model(), args=args, train_dataset=simulated_splits["train"], feature_extractor=extractor()
        ).post_train()


def test_a_system_without_posix_locks_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match="Training needs Linux or macOS.*use WSL"):
        run_folder.RunFolder(tmp_path / "run").open({}, resume=False)
    assert not list(tmp_path.iterdir())
