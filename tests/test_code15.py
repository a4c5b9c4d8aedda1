"""CODE-15 % with its known defects: joined by id, without padding, by patient; and a run on it."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ecg_hf import cli, load_code15
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.readers import formats
from ecg_hf.tables import code15
from ecg_hf.tables.code15 import is_code15_folder

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

SHIPPED = Path(__file__).parents[1] / "hub_cards/ecg-transformer-ptbxl-100hz"

COLUMNS = ["exam_id", "age", "is_male", "nn_predicted_age", *code15.LABELS, "patient_id", "death", "timey"]
COLUMNS += ["normal_ecg", "trace_file"]
SAMPLES = 1024
PER_PART = 12
PADDED = 150


def exam(index: int) -> dict:
    """The row of `exams.csv` of an exam; two exams a patient, part 0 and 1 in turns."""
    row = dict.fromkeys(COLUMNS, "")
    row |= {"exam_id": 1000 + 7 * index, "age": 20 + index, "is_male": index % 2 == 0, "patient_id": 500 + index // 2}
    row |= {name: index % 6 == place for place, name in enumerate(code15.LABELS)}
    return row | {"normal_ecg": False, "trace_file": f"exams_part{index % 2}.hdf5"}


def tracing(index: int) -> np.ndarray:
    """(samples, leads) in mV; every third one has zeros at both ends."""
    values = np.random.default_rng(index).normal(0, 0.3, (SAMPLES, 12)).astype(np.float32)
    if index % 3 == 0:
        values[:PADDED] = values[-PADDED:] = 0
    return values


def write_part(path, exams, tracings, has_id_of_zeros=True) -> None:
    """As published: an extra row of zeros behind the last exam."""
    ids = [row["exam_id"] for row in exams] + ([0] if has_id_of_zeros else [])
    with h5py.File(path, "w") as file:
        file["tracings"] = np.stack([*tracings, np.zeros((SAMPLES, 12), np.float32)])
        file["exam_id"] = np.array(ids)


def write_table(path, exams) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(exams)


def write_folder(folder, has_id_of_zeros=True):
    """24 exams in two parts, in another order in the table."""
    folder.mkdir()
    exams = [exam(index) for index in range(2 * PER_PART)]
    for part in (0, 1):
        indices = range(part, 2 * PER_PART, 2)
        write_part(
            folder / f"exams_part{part}.hdf5",
            [exams[index] for index in indices],
            map(tracing, indices),
            has_id_of_zeros,
        )
    write_table(folder / "exams.csv", [exams[index] for index in np.random.default_rng(0).permutation(len(exams))])
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "code15")


def load(folder, **options):
    return load_code15(
        folder, **{"split_fractions": (0.5, 0.25, 0.25), "cache_dir": folder.parent / "cache", **options}
    )


def records_of(splits) -> dict:
    return {row["ecg_id"]: row for split in splits.values() for row in split}


# ---- What is read ----


@pytest.mark.parametrize("has_id_of_zeros", [True, False])
def test_signals_and_labels_are_joined_by_id(tmp_path, has_id_of_zeros, caplog):
    splits = load(write_folder(tmp_path / "code15", has_id_of_zeros))
    assert label_names_of(splits["train"]) == ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]
    rows = records_of(splits)
    assert len(rows) == 24 and "left out" not in caplog.text and "skipped" not in caplog.text
    for index in range(24):
        row, written = rows[1000 + 7 * index], tracing(index)
        if index % 3 == 0:
            written = written[PADDED:-PADDED]
        signal = np.reshape(row["signal"], (12, -1))
        assert signal.shape == written.T.shape and np.abs(signal / 1000 - written.T).max() <= 0.000501
        assert row["sampling_rate"] == 400 and row["lead_names"] == list(LEAD_NAMES)
        assert (row["age"], row["sex"], row["patient_id"]) == (20 + index, index % 2, str(500 + index // 2))
        assert row["labels"] == [float(index % 6 == place) for place in range(6)]


def test_all_exams_of_a_patient_are_in_one_split(folder):
    splits = load(folder)
    patients = {name: set(split["patient_id"]) for name, split in splits.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 12


def test_the_target_may_be_the_age(folder):
    splits = load(folder, problem_type="regression")
    assert label_names_of(splits["train"]) == ["age"]
    assert {ecg_id: row["labels"] for ecg_id, row in records_of(splits).items()} == {
        1000 + 7 * index: [20.0 + index] for index in range(24)
    }


def test_labels_and_leads_that_are_asked_for(folder):
    splits = load(folder, labels=["AF", "normal_ecg"], lead_names=["V5", "I"])
    row = records_of(splits)[1000 + 7 * 5]
    assert label_names_of(splits["train"]) == ["AF", "normal_ecg"] and row["labels"] == [1, 0]
    assert row["lead_names"] == ["V5", "I"]
    assert np.abs(np.reshape(row["signal"], (2, -1)) / 1000 - tracing(5).T[[10, 0]]).max() <= 0.000501


def test_several_processes_and_blocks_give_the_same(folder, tmp_path, monkeypatch):
    expected = records_of(load(folder))
    monkeypatch.setattr("ecg_hf.tables.store.RECORDS_PER_FILE", 5)
    monkeypatch.setattr(code15, "_BYTES_PER_BLOCK", 3 * SAMPLES * 12 * 4)
    assert records_of(load(folder, num_proc=2, cache_dir=tmp_path / "several")) == expected
    monkeypatch.setattr(code15, "_BYTES_PER_BLOCK", 1)
    assert records_of(load(folder, cache_dir=tmp_path / "one")) == expected


def test_each_file_is_opened_once_to_read_and_rows_come_in_blocks(folder, monkeypatch):
    opened = []
    open_file = code15._open
    monkeypatch.setattr(code15, "_open", lambda path: opened.append(path) or open_file(path))
    load(folder)
    assert len(opened) == 4  # the ids, then the signals
    load(folder)
    assert len(opened) == 6  # the ids alone


def test_a_changed_part_is_read_again(folder):
    load(folder)
    with h5py.File(folder / "exams_part0.hdf5", "a") as file:
        file["tracings"][1, 500, 0] = 3.0  # exam 2
    signal = np.reshape(records_of(load(folder))[1014]["signal"], (12, -1))
    assert signal[0, 500] == 3000


# ---- What is left out ----


def test_a_part_that_is_missing_is_named_with_its_exams(folder, caplog):
    (folder / "exams_part1.hdf5").unlink()
    assert len(records_of(load(folder))) == 12
    assert "12 of the 24 exams in exams.csv are left out, since their signals are not there" in caplog.text
    assert "12 of exams_part1.hdf5, which is missing." in caplog.text


def test_copies_of_exams_and_rows_are_left_out(folder, caplog):
    exams = [exam(index) for index in range(24)]
    write_table(folder / "exams.csv", [*exams, exams[3]])
    copies = [exams[0], exams[2], exams[0]]
    write_part(folder / "exams_part2.hdf5", copies, [tracing(90), tracing(91), tracing(92)])
    rows = records_of(load(folder))
    assert len(rows) == 24
    assert np.abs(np.reshape(rows[1014]["signal"], (12, -1)) / 1000 - tracing(2).T).max() <= 0.000501
    assert "1 rows of the table" in caplog.text and "repeat another row and are left out" in caplog.text
    assert "3 rows repeat the `exam_id` of another one and are left out" in caplog.text


def test_exams_that_the_table_does_not_name_are_counted(folder, caplog):
    write_table(folder / "exams.csv", [exam(index) for index in range(20)])
    assert len(records_of(load(folder))) == 20
    assert "4 exams in the parts are left out, since exams.csv does not name them." in caplog.text


def test_an_exam_of_zeros_is_skipped(folder, caplog):
    with h5py.File(folder / "exams_part0.hdf5", "a") as file:
        file["tracings"][1] = 0
    with pytest.raises(ValueError, match="More than 1% .*(?s:.)*Exam 1014 of .*exams_part0.hdf5: it is 0 throughout"):
        load(folder)
    assert len(records_of(load(folder, max_skipped=0.1))) == 23
    assert "Exam 1014" in caplog.text


# ---- Bad input ----


def no_parts(folder):
    for path in folder.glob("*.hdf5"):
        path.unlink()


def truncated(folder):
    path = folder / "exams_part1.hdf5"
    path.write_bytes(path.read_bytes()[:-5000])


def overwritten(folder):
    path = folder / "exams_part1.hdf5"
    content = bytearray(path.read_bytes())
    content[200:900] = bytes(700)
    path.write_bytes(content)


def other_shape(folder):
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file["tracings"] = np.zeros((3, 12, SAMPLES), np.float32)
        file["exam_id"] = np.arange(3)


def too_few_ids(folder):
    with h5py.File(folder / "exams_part0.hdf5", "a") as file:
        del file["exam_id"]
        file["exam_id"] = np.arange(3)


def elsewhere(folder):
    with h5py.File(folder / "exams_part0.hdf5", "a") as file:
        del file["tracings"]
        file["tracings"] = h5py.ExternalLink("exams_part1.hdf5", "tracings")


def bad_cell(name, text):
    def write(folder):
        exams = [exam(index) for index in range(24)]
        write_table(folder / "exams.csv", [exams[0], {**exams[1], name: text}, *exams[2:]])

    return write


def contradicting_rows(folder):
    exams = [exam(index) for index in range(24)]
    write_table(folder / "exams.csv", [*exams, {**exams[3], "AF": True}])


def without_column(folder):
    (folder / "exams.csv").write_text("exam_id,AF,patient_id\n1000,True,3\n")


def other_ids(folder):
    write_table(folder / "exams.csv", [{**exam(index), "exam_id": index} for index in range(24)])


BAD = {
    no_parts: (FileNotFoundError, "has exams.csv, but none of its signals, exams_part0.hdf5"),
    truncated: (ValueError, "exams_part1.hdf5 is damaged or truncated, or no HDF5 file: download it again"),
    overwritten: (ValueError, "exams_part1.hdf5 is damaged or truncated, or no HDF5 file: download it again"),
    other_shape: (
        ValueError,
        r"`tracings` of floats \(exams, samples, 12\), found \(3, 12, 1024\) of the type float32",
    ),
    too_few_ids: (ValueError, "must have a data set `exam_id` of 13 whole numbers, found \\(3,\\)"),
    elsewhere: (
        ValueError,
        "exams_part0.hdf5: its data set tracings is a link; only what lies in the file itself is read",
    ),
    bad_cell("AF", "maybe"): (ValueError, "`AF` of the table .* must be 0, 1 or empty; it is not in row 2 \\('maybe'"),
    bad_cell("exam_id", "x7"): (ValueError, "`exam_id` of the table .* whole numbers; it is not in row 2 \\('x7'\\)"),
    contradicting_rows: (ValueError, "2 rows with the `exam_id` of another row and other cells, such as exam 1021"),
    without_column: (ValueError, "`label_columns`: the table .* has no column `1dAVb`"),
    other_ids: (ValueError, "No exam in exams_part0.hdf5, exams_part1.hdf5 is in exams.csv"),
}


@pytest.mark.parametrize("fault", BAD)
def test_files_of_another_form_are_refused_in_one_message(folder, fault):
    fault(folder)
    kind, message = BAD[fault]
    with pytest.raises(kind, match=message):
        load(folder)


def test_a_folder_without_the_table_is_refused(tmp_path):
    assert not is_code15_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="exams.csv does not exist"):
        load_code15(tmp_path)


def test_without_h5py_one_sentence_says_what_to_install(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(formats.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"HDF5 needs the package h5py: pip install 'ecg-hf\[readers\]'"):
        load(folder)


def test_one_class_for_each_exam_is_refused(folder):
    with pytest.raises(ValueError, match="`problem_type` must be one of multi_label_classification, regression"):
        load(folder, problem_type="single_label_classification")


def test_the_licence_is_said_of_the_whole_set(folder, monkeypatch):
    info = load(folder)["train"].info
    assert info.dataset_name == "CODE-15 %" and not info.license
    monkeypatch.setattr(code15, "_NUM_EXAMS", 24)
    info = load(folder)["train"].info
    assert info.license == "CC BY 4.0" and "4916206" in info.homepage and info.citation.startswith("Ribeiro")


# ---- Commands ----


def flags(**values) -> list[str]:
    parts = []
    for name, value in values.items():
        parts += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return parts


QUICK = {"max_steps": 2, "probe_num_train_epochs": 2, "per_device_train_batch_size": 4, "use_cpu": True}
QUICK |= {"disable_tqdm": True, "num_bootstrap_resamples": 10}
SPLIT = {"split_fractions": [0.5, 0.25, 0.25], "split_seed": 3, "num_proc": 1}


def run(folder, tmp_path, **given):
    shared = {"data_dir": folder, "cache_dir": tmp_path / "cache", **SPLIT}
    cli.train(flags(model_name_or_path=SHIPPED, output_dir=tmp_path / "run", **shared, **QUICK, **given))
    metrics = cli.evaluate(
        flags(model_name_or_path=tmp_path / "run", output_dir=tmp_path / "evaluation", use_cpu=True, **shared)
    )
    judged = json.loads((tmp_path / "run/metrics.json").read_text())["test"]["num_records"]
    assert (metrics["data"], metrics["num_records"]) == ("CODE-15 %", judged)
    return json.loads((tmp_path / "run/config.json").read_text()), (tmp_path / "run/README.md").read_text()


def test_from_the_files_to_a_card_and_an_evaluation(folder, tmp_path):
    config, card = run(folder, tmp_path)
    assert config["label_names"] == code15.LABELS
    assert "\nCODE-15 %, " in card and "licence: not stated" in card and str(tmp_path) not in card
    assert "No: it was pre-trained on 17,418 records of PTB-XL's folds 1 to 8." in card


def test_a_model_of_the_age_from_one_lead(folder, tmp_path):
    config, card = run(folder, tmp_path, problem_type="regression", lead_names=["I"])
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "age"}
    assert config["lead_names"] == ["I"]
    assert "CODE-15 %" in card
