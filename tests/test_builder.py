import csv
import errno
import itertools
import logging
import os
import pickle
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ecg_hf.ptbxl import LEAD_NAMES, PTBXL, RecordError, load_ptbxl, task_labels
from ecg_hf.ptbxl.builder import TABLE_NAME

NUM_RECORDS = 20
CODES = ("{'NORM': 100.0, 'SR': 0.0}", "{'IMI': 15.0, 'ABQRS': 0.0}", "{'AFIB': 0.0}", "{'LVH': 80.0, 'NDT': 100.0}")
COLUMNS = (
    "ecg_id patient_id age sex height weight nurse site device recording_date report scp_codes strat_fold filename "
    "sampling_rate lead_names signal labels"
).split()


def write_signals(folder, filename, signals, rate=100, leads=LEAD_NAMES):
    """Write int16 (12, samples) in the form of PTB-XL's own files."""
    path = folder / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    signals.T.astype("<i2").tofile(f"{path}.dat")
    lines = [f"{path.name} {len(signals)} {rate} {signals.shape[1]}"]
    for lead, samples in zip(leads, signals, strict=True):
        checksum = int(samples.sum(dtype=int)) % 65536
        lines.append(f"{path.name}.dat 16 1000.0(0)/mV 16 0 {samples[0]} {checksum} 0 {lead.upper()}")
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def write_table(folder, rows, **kwargs):
    with open(folder / TABLE_NAME, "w", newline="", encoding=kwargs.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **kwargs)
        writer.writeheader()
        writer.writerows(rows)


def table_row(ecg_id):
    # Folds 1 to 10 in turn; the ids are not contiguous, as in PTB-XL.
    return {
        "ecg_id": 3 * ecg_id + 1,
        "patient_id": f"{100 + ecg_id}.0",
        "age": "300.0",
        "sex": ecg_id % 2,
        "height": "",
        "weight": "63.5",
        "nurse": "2.0",
        "site": "",
        "device": "CS-12   E",
        "recording_date": "1984-11-09 09:17:34",
        "report": 'sinusrhythmus, "normales" ekg\nzweite zeile',
        "scp_codes": CODES[ecg_id % len(CODES)],
        "heart_axis": "",
        "strat_fold": ecg_id % 10 + 1,
        "filename_lr": f"records100/00000/{ecg_id:05d}_lr",
        "filename_hr": f"records500/00000/{ecg_id:05d}_hr",
    }


@pytest.fixture
def rows():
    return [table_row(ecg_id) for ecg_id in range(NUM_RECORDS)]


@pytest.fixture
def signals():
    """int16 (records, 12, 1000)"""
    return np.random.default_rng(0).integers(-2000, 2000, (NUM_RECORDS, 12, 1000)).astype(np.int16)


@pytest.fixture
def folder(tmp_path, rows, signals):
    folder = tmp_path / "ptbxl"
    folder.mkdir()
    write_table(folder, rows)
    for row, record in zip(rows, signals, strict=True):
        write_signals(folder, row["filename_lr"], record)
    return folder


@pytest.fixture
def load(folder, tmp_path):
    def load(task="all", sampling_rate=100, data_dir=folder, **kwargs):
        return load_ptbxl(data_dir, task, sampling_rate, cache_dir=tmp_path / "cache", **kwargs)

    return load


def signals_of(dataset):
    """int16 (records, 12 x samples) by record, through the index mapping."""
    return np.stack(dataset.with_format("numpy", columns=["signal"], dtype=np.int16)[:]["signal"])


def arrow_files(tmp_path):
    return sorted(tmp_path.glob("cache/**/*.arrow"))


def load_error(load, kind=ValueError, **kwargs):
    """The error of loading; no data set is left behind, and the last line is not that of `datasets`."""
    with pytest.raises(kind) as caught:
        load(**kwargs)
    assert "while generating the dataset" not in str(caught.value)
    assert not isinstance(caught.value, datasets.exceptions.DatasetsError)
    return str(caught.value)


def test_the_columns_and_values_are_those_of_the_folder(load, rows, signals):
    dataset = load()
    assert {split: part.column_names for split, part in dataset.items()} == dict.fromkeys(
        ["train", "validation", "test"], COLUMNS
    )
    assert dataset["train"]["ecg_id"][:] == [row["ecg_id"] for row in rows if row["strat_fold"] <= 8]
    assert dataset["validation"]["strat_fold"][:] == [9, 9]
    assert dataset["test"]["strat_fold"][:] == [10, 10]
    record = dataset["test"][1]
    np.testing.assert_array_equal(record.pop("signal"), signals[19].reshape(-1))
    labels = record.pop("labels")
    assert [task_labels("all")[i] for i in np.flatnonzero(labels)] == ["LVH", "NDT"]
    assert record == {
        "ecg_id": 58,
        "patient_id": 119,
        "age": 300.0,
        "sex": 1,
        "height": None,
        "weight": 63.5,
        "nurse": 2,
        "site": None,
        "device": "CS-12   E",
        "recording_date": "1984-11-09 09:17:34",
        "report": 'sinusrhythmus, "normales" ekg\nzweite zeile',
        "scp_codes": [{"code": "LVH", "likelihood": 80.0}, {"code": "NDT", "likelihood": 100.0}],
        "strat_fold": 10,
        "filename": "records100/00000/00019_lr",
        "sampling_rate": 100,
        "lead_names": list(LEAD_NAMES),
    }


def test_signals_stay_int16_in_arrow_and_numpy_also_after_a_selection(load, signals):
    train = load("rhythm")["train"].select([3, 1])
    assert train.features["signal"] == datasets.List(datasets.Value("int16"), length=12_000)
    arrow = train.with_format("arrow")[:]
    assert arrow.schema.field("signal").type == train.data.schema.field("signal").type == pa.list_(pa.int16(), 12_000)
    flat = arrow["signal"].combine_chunks().flatten().to_numpy().reshape(2, -1)
    assert flat.dtype == signals_of(train).dtype == np.int16
    np.testing.assert_array_equal(flat, signals_of(train))
    rows = [ecg_id // 3 for ecg_id in train["ecg_id"]]
    np.testing.assert_array_equal(flat, signals[rows].reshape(2, -1))


def test_a_task_keeps_the_records_with_a_statement_of_its_kind(load, caplog):
    dataset = load("form")
    train = dataset["train"]
    assert train.features["labels"] == datasets.List(datasets.Value("float32"), length=19)
    codes = [{item["code"] for item in items} & set(task_labels("form")) for items in train["scp_codes"]]
    assert len(train) == 8 and all(codes)
    for labels, expected in zip(train["labels"], codes, strict=True):
        assert {task_labels("form")[i] for i in np.flatnonzero(labels)} == expected
    assert "10 of 20 records have no statement of the task form and are excluded" in caplog.text


def test_all_tasks_share_one_copy_of_the_signals(load, tmp_path):
    load("all")
    before = arrow_files(tmp_path)
    assert [file.name for file in before] == ["ptbxl-test.arrow", "ptbxl-train.arrow", "ptbxl-validation.arrow"]
    for task in ("diagnostic", "superdiagnostic", "form", "rhythm"):
        files = {entry["filename"] for part in load(task).values() for entry in part.cache_files}
        assert files <= {str(file) for file in before}
    assert arrow_files(tmp_path) == before


def test_the_rates_have_their_own_copies(load, folder, rows, signals):
    for row, record in zip(rows, signals, strict=True):
        write_signals(folder, row["filename_hr"], np.repeat(record, 5, axis=1), rate=500)
    for rate in (100, 500):
        train = load(sampling_rate=rate)["train"]
        assert train["sampling_rate"][0] == rate
        assert train["filename"][0].startswith(f"records{rate}/")
        np.testing.assert_array_equal(signals_of(train)[0], np.repeat(signals[0], rate // 100, axis=1).reshape(-1))


def test_leads_of_another_order_are_put_in_order(load, folder, rows, signals):
    write_signals(folder, rows[0]["filename_lr"], signals[0][::-1], leads=LEAD_NAMES[::-1])
    np.testing.assert_array_equal(signals_of(load()["train"])[0], signals[0].reshape(-1))


def test_many_records_are_read_in_order(tmp_path, signals):
    # More than one chunk.
    rows = [table_row(ecg_id) for ecg_id in range(600)]
    for ecg_id, row in enumerate(rows):
        row["filename_lr"] = f"records100/{ecg_id % NUM_RECORDS}"
        row["strat_fold"] = 1
    write_table(tmp_path, rows)
    for number, record in enumerate(signals):
        write_signals(tmp_path, f"records100/{number}", record)
    train = load_ptbxl(tmp_path, "all", 100, cache_dir=tmp_path / "cache")["train"]
    assert train["ecg_id"][:] == [row["ecg_id"] for row in rows]
    np.testing.assert_array_equal(signals_of(train), np.tile(signals.reshape(NUM_RECORDS, -1), (30, 1)))


def test_splits_without_records_are_empty(load, folder, rows):
    write_table(folder, [row for row in rows if row["strat_fold"] == 10])
    assert load("form").num_rows == {"train": 0, "validation": 0, "test": 2}
    assert load("form")["train"].column_names == COLUMNS


@pytest.mark.parametrize("nothing", ["", "NA", "NULL"])  # as R and databases write it
def test_all_cells_but_four_may_be_empty(load, folder, rows, nothing):
    required = {"ecg_id", "scp_codes", "strat_fold", "filename_lr"}
    write_table(folder, [{name: row[name] if name in required else nothing for name in row} for row in rows])
    record = load()["test"][0]
    assert all(record[name] is None for name in "patient_id age sex nurse device recording_date report".split())


def test_a_table_with_byte_order_mark_and_crlf_is_read(load, folder, rows):
    expected = load()["train"].remove_columns("signal")[:]
    write_table(folder, rows, encoding="utf-8-sig", lineterminator="\r\n")
    assert load()["train"].remove_columns("signal")[:] == expected


def with_floats(table):
    return table.assign(**{name: table[name].astype(float) for name in ("ecg_id", "strat_fold", "patient_id")})


@pytest.mark.parametrize(
    "save",
    [
        lambda table, path: table.to_csv(path),  # the index becomes a column without a name
        lambda table, path: table.set_index("ecg_id").to_csv(path),
        lambda table, path: table.sample(frac=1, random_state=0).to_csv(path, index=False),
        lambda table, path: with_floats(table).to_csv(path, index=False),
        lambda table, path: table.assign(scp_codes=table["scp_codes"].str.replace("'", '"')).to_csv(path, index=False),
    ],
    ids=["index", "index of ids", "shuffled", "floats", "JSON quotes"],
)
def test_a_table_that_pandas_saved_again_gives_the_same_labels(load, folder, save):
    def labels():
        return {name: dict(zip(split["ecg_id"], split["labels"], strict=True)) for name, split in load().items()}

    expected = labels()
    table = pd.read_csv(folder / TABLE_NAME)
    save(table, folder / TABLE_NAME)
    assert labels() == expected


def test_blanks_around_a_code_are_ignored(load, folder, rows):
    rows[0]["scp_codes"] = "{' IMI': 100.0}"
    write_table(folder, rows)
    assert load()["train"]["scp_codes"][0] == [{"code": "IMI", "likelihood": 100.0}]


# The cache


def test_changed_content_gives_new_data_and_the_old_content_the_old_data(load, folder, rows, signals):
    def content():
        train = load()["train"]
        return signals_of(train), np.array(train["labels"])

    first_signals, first_labels = content()
    changed = signals[0].copy()
    changed[1, 500] += 1
    write_signals(folder, rows[0]["filename_lr"], changed)
    np.testing.assert_array_equal(content()[0][0], changed.reshape(-1))
    write_table(folder, [{**rows[0], "scp_codes": "{'PVC': 0.0}"}, *rows[1:]])
    np.testing.assert_array_equal(content()[0][0], changed.reshape(-1))
    assert np.flatnonzero(content()[1][0]) == [task_labels("all").index("PVC")]
    write_signals(folder, rows[0]["filename_lr"], signals[0])
    write_table(folder, rows)
    for found, expected in zip(content(), (first_signals, first_labels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_unchanged_folder_is_not_read_again(load, monkeypatch):
    expected = signals_of(load()["train"])
    monkeypatch.setattr("ecg_hf.ptbxl.builder.read_record", None)
    np.testing.assert_array_equal(signals_of(load()["train"]), expected)


def test_every_spelling_of_the_folders_path_is_the_same_cache(load, folder, tmp_path, monkeypatch):
    load()
    files = arrow_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    for data_dir in (f"{folder}/", "ptbxl", "./ptbxl/", "link", f"{folder}/../ptbxl"):
        load(data_dir=data_dir)
    assert arrow_files(tmp_path) == files


def test_a_relative_cache_is_found_again_from_another_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = load_ptbxl(folder, "all", 100, cache_dir="my cache")["test"]
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(signals_of(pickle.loads(pickle.dumps(test))), signals_of(test))


def test_a_double_colon_in_a_path_is_an_ordinary_name(load, folder, tmp_path):
    # `datasets` would read it as the path of an archive's member.
    other = shutil.copytree(folder, tmp_path / "a::b")
    assert len(load(data_dir=other)["train"]) == len(load(data_dir=other)["train"]) == 16


def test_the_same_folder_has_the_same_fingerprint_in_every_process(load, folder, new_process, tmp_path):
    fingerprint = load("form")["train"]._fingerprint
    code = (
        "import sys; from ecg_hf.ptbxl import load_ptbxl; "
        "print(load_ptbxl(sys.argv[1], 'form', 100, cache_dir=sys.argv[2])['train']._fingerprint)"
    )
    assert new_process(code, folder, tmp_path / "cache").stdout.split() == [fingerprint]


def test_what_a_killed_build_left_is_not_trusted(load, tmp_path, signals):
    load()
    (complete,) = (file.parent for file in tmp_path.glob("cache/**/ptbxl-train.arrow"))
    complete.rename(f"{complete}.incomplete")
    for file in complete.with_name(f"{complete.name}.incomplete").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(signals_of(load()["train"])[0], signals[0].reshape(-1))


def test_a_full_disk_leaves_no_cache(load, tmp_path, monkeypatch, signals):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("datasets.arrow_writer.ArrowWriter.write_table", fail)
        error = load_error(load, OSError)
    assert "No space left on device" in error and str(tmp_path / "cache") in error
    assert not arrow_files(tmp_path)
    np.testing.assert_array_equal(signals_of(load()["train"])[0], signals[0].reshape(-1))


# Bad input


def test_an_unknown_task_is_an_error_that_lists_the_tasks(load):
    assert "`task` must be one of all, diagnostic, subdiagnostic" in load_error(load, task="super")


@pytest.mark.parametrize("rate", [250, "100", None])
def test_an_unknown_rate_is_an_error_that_lists_the_rates(load, rate):
    assert f"100 and 500 Hz, not at {rate!r} Hz" in load_error(load, sampling_rate=rate)


def test_an_absent_rate_is_an_error_that_says_which_is_there(load, folder):
    error = load_error(load, FileNotFoundError, sampling_rate=500)
    assert f"{folder} has no records at 500 Hz" in error and "it has records at 100 Hz" in error
    assert load_error(load, FileNotFoundError, sampling_rate=500, skip_missing_records=True) == error


def test_a_folder_without_the_table_is_an_error(load, tmp_path):
    error = load_error(load, FileNotFoundError, data_dir=tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere' / TABLE_NAME} does not exist" in error


@pytest.mark.parametrize("ending", [".hea", ".dat"])
def test_missing_records_are_counted_and_may_be_left_out(load, folder, rows, ending, caplog):
    for row in rows[4:7]:
        (folder / f"{row['filename_lr']}{ending}").unlink()
    error = load_error(load, FileNotFoundError)
    assert f"3 of the 20 records in {TABLE_NAME} are missing" in error
    assert "the first is records100/00000/00004_lr" in error and "--skip_missing_records" in error
    with caplog.at_level(logging.WARNING):
        train = load(skip_missing_records=True)["train"]
    assert f"3 of the 20 records in {TABLE_NAME} are missing" in caplog.text
    assert set(train["ecg_id"]) == {row["ecg_id"] for row in rows[:4] + rows[7:] if row["strat_fold"] <= 8}
    # A cache without the missing records is no answer to one who wants them all.
    assert load_error(load, FileNotFoundError) == error


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("scp_codes", "{'NORM': 100.0, 'XYZ': 0.0}", "SCP code 'XYZ' is not one of PTB-XL's 71 statements"),
        ("scp_codes", "NORM", "must be a dictionary of likelihoods, as numbers"),
        ("scp_codes", "{'NORM': 100.0", "must be a dictionary"),
        ("scp_codes", "['NORM']", "must be a dictionary"),
        ("scp_codes", "{'NORM': None}", "must be a dictionary"),
        ("scp_codes", "{'NORM': nan}", "as numbers, by SCP code"),
        ("scp_codes", "{'NORM': 100.0, ' NORM': 0.0}", "names a statement twice"),
        ("scp_codes", "", "must not be empty"),
        ("strat_fold", "", "must not be empty"),
        ("strat_fold", "11", "must be a fold from 1 to 10"),
        ("filename_lr", "", "must not be empty"),
        ("filename_lr", "../other/00000_lr", "must lie inside the data folder"),
        ("filename_lr", "/etc/00000_lr", "must lie inside the data folder"),
        ("age", "old", "could not convert"),
        ("age", "inf", "must be a finite number"),
        ("sex", "0.5", "must be an integer"),
    ],
)
def test_a_cell_that_cannot_be_read_is_an_error_that_names_record_and_column(
    load, folder, rows, column, cell, problem
):
    rows[7][column] = cell
    write_table(folder, rows)
    error = load_error(load)
    assert str(folder / TABLE_NAME) in error
    assert f"`{column.removesuffix('_lr')}` of ecg_id 22 is {cell!r}" in error and problem in error


def test_an_id_that_stands_twice_or_nowhere_is_an_error(load, folder, rows):
    write_table(folder, [*rows, {**rows[3], "ecg_id": "10.0", "strat_fold": 10}])
    assert f"{folder / TABLE_NAME}: ecg_id 10 is in 2 rows" in load_error(load)
    write_table(folder, [{**rows[0], "ecg_id": ""}, *rows[1:]])
    assert "`ecg_id` of ecg_id ? is ''" in load_error(load)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Empty CSV file"),
        (b"ecg_id;patient_id\n1;2\n", "Column 'ecg_id' in include_columns does not exist"),
        (b"\xff\xfee\x00c\x00g\x00", "comma-separated in UTF-8"),
    ],
)
def test_another_kind_of_table_is_an_error(load, folder, content, problem):
    (folder / TABLE_NAME).write_bytes(content)
    error = load_error(load)
    assert str(folder / TABLE_NAME) in error and problem in error


def test_a_truncated_table_is_an_error(load, folder):
    table = folder / TABLE_NAME
    table.write_bytes(table.read_bytes()[:-30])
    assert f"{table}: it is not PTB-XL's table, comma-separated in UTF-8: CSV parse error" in load_error(load)


def test_a_table_without_rows_is_an_error(load, folder, rows):
    write_table(folder, rows)
    table = folder / TABLE_NAME
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert f"{table}: it has no rows" in load_error(load)


def truncate(path, record):
    path.with_suffix(".dat").write_bytes(record.T.tobytes()[:-100])


def mark_as_invalid(path, record):
    record[8, 100:111] = -(2**15)
    write_signals(path.parent, path.name, record)


def damage(path, record):
    record[8, 100] += 1
    record.T.tofile(path.with_suffix(".dat"))


def drop_leads(path, record):
    write_signals(path.parent, path.name, record[:8], leads=LEAD_NAMES[:8])


def shorten(path, record):
    write_signals(path.parent, path.name, record[:, :990])


def resample(path, record):
    write_signals(path.parent, path.name, record, rate=500)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (truncate, "00012_lr.dat is truncated"),
        (mark_as_invalid, "marked as invalid (NaN): lead V3 11 of 1000"),
        (damage, "lead V3 has the checksum"),
        (drop_leads, "this one has 1000 of I, II, III, aVR, aVL, aVF, V1, V2"),
        (shorten, "this one has 990 of I"),
        (resample, "the sampling rate is 500 Hz, expected 100 Hz"),
    ],
)
def test_a_bad_record_is_named_and_leaves_no_cache(load, folder, rows, signals, tmp_path, spoil, problem):
    path = folder / rows[12]["filename_lr"]
    spoil(path, signals[12].copy())
    error = load_error(load, RecordError)
    assert error.startswith(f"Record {path}: ") and problem in error
    assert not arrow_files(tmp_path)
    write_signals(path.parent, path.name, signals[12])
    assert len(load()["train"]) == 16


def test_the_builder_alone_gives_all_records_without_labels(folder, tmp_path):
    builder = PTBXL(folder, 100, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    assert builder.as_dataset().num_rows == {"train": 16, "validation": 2, "test": 2}
    assert builder.as_dataset("test").column_names == COLUMNS[:-1]


# The real PTB-XL

SPLIT_SIZES = {
    "all": (17_418, 2_183, 2_198),
    "diagnostic": (17_084, 2_146, 2_158),
    "subdiagnostic": (17_084, 2_146, 2_158),
    "superdiagnostic": (17_084, 2_146, 2_158),
    "form": (7_197, 901, 880),
    "rhythm": (16_832, 2_100, 2_098),
}
POSITIVES = {
    "all": {"NORM": 9514, "SR": 16748, "ABQRS": 3327, "NDT": 1825, "PSVT": 24},
    "diagnostic": {"NORM": 9514, "NDT": 1825, "NST_": 767, "DIG": 181, "LNGQT": 117},
    "subdiagnostic": {
        "NORM": 9514, "IMI": 3271, "AMI": 3078, "STTC": 2239, "LVH": 2132, "LAFB/LPFB": 1797, "ISC_": 1272,
        "IRBBB": 1118, "ISCA": 941, "_AVB": 823, "IVCD": 787, "NST_": 767, "CRBBB": 541, "CLBBB": 536, "LAO/LAE": 426,
        "ISCI": 397, "LMI": 201, "RVH": 126, "RAO/RAE": 99, "WPW": 79, "ILBBB": 77, "SEHYP": 29, "PMI": 17,
    },
    "superdiagnostic": {"NORM": 9514, "MI": 5469, "STTC": 5235, "CD": 4898, "HYP": 2649},
    "form": {
        "ABQRS": 3327, "NDT": 1825, "PVC": 1143, "STD_": 1009, "VCLVH": 875, "NST_": 767, "QWAVE": 548, "LOWT": 438,
        "NT_": 423, "PAC": 398, "LPR": 340, "INVT": 294, "LVOLT": 182, "DIG": 181, "LNGQT": 117, "HVOLT": 62,
        "TAB_": 35, "STE_": 28, "PRC(S)": 10,
    },
    "rhythm": {
        "SR": 16748, "AFIB": 1514, "STACH": 826, "SARRH": 772, "SBRAD": 637, "PACE": 294, "SVARR": 157, "BIGU": 82,
        "AFLT": 73, "SVTAC": 27, "PSVT": 24, "TRIGU": 20,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("task", SPLIT_SIZES)
def test_the_full_set_has_the_benchmarks_counts(ptbxl_100hz, full_cache, task):
    dataset = load_ptbxl(ptbxl_100hz, task, 100, cache_dir=full_cache)
    assert tuple(dataset.num_rows.values()) == SPLIT_SIZES[task]
    labels = np.concatenate([part.with_format("numpy", columns=["labels"])[:]["labels"] for part in dataset.values()])
    counts = dict(zip(task_labels(task), labels.sum(axis=0).astype(int).tolist(), strict=True))
    assert {code: counts[code] for code in POSITIVES[task]} == POSITIVES[task]
    patients = [set(part["patient_id"]) for part in dataset.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(patients, 2))


def test_a_partial_folder_of_500_hz_has_the_full_sets_labels(ptbxl_500hz, tmp_path):
    dataset = load_ptbxl(ptbxl_500hz, "superdiagnostic", 500, cache_dir=tmp_path / "cache")
    assert dataset["train"].features["labels"].length == 5
    assert dataset["train"].features["signal"].length == 60_000


MEMORY_OF_A_BUILD = """
import pathlib, sys, threading
from ecg_hf.ptbxl.builder import load_ptbxl

def anonymous_megabytes():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

peak = 0
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, anonymous_megabytes())

watcher = threading.Thread(target=watch)
watcher.start()
for folder in sys.argv[2:]:
    load_ptbxl(folder, "all", 100, cache_dir=sys.argv[1])
    print(max(peak, anonymous_megabytes()))
done.set()
watcher.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="anonymous memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_records(ptbxl_100hz, tmp_path):
    folders = []
    for num_records in (200, 2000, 8000):
        folder = tmp_path / f"{num_records}"
        folder.mkdir()
        with open(ptbxl_100hz / TABLE_NAME) as table:
            (folder / TABLE_NAME).write_text("".join(itertools.islice(table, num_records + 1)))
        (folder / "records100").symlink_to(ptbxl_100hz / "records100")
        folders.append(str(folder))
    command = [sys.executable, "-c", MEMORY_OF_A_BUILD, str(tmp_path / "cache"), *folders]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, few, many = map(float, printed.split())
    # 6,000 more records are 144 MB of signals and 18 MB of cells as text; their labels of this task are 1.7 MB, and
    # two runs of the same differ by a few.
    assert many - few < 12, printed
