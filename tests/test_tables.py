"""Own records: tables in the forms that people keep them, their labels, and the splits that are made of them."""

import io
import multiprocessing
import os
import signal

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import wfdb

from ecg_hf import load_ecg_dataset, read_ecg
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.readers.channels import Said
from ecg_hf.tables import store
from ecg_hf.tables.split import split_by_patient
from ecg_hf.tables.table import open_table, source_of

NUM_RECORDS = 40


def write_record(folder, name, signal=None, rate=250, lead_names=LEAD_NAMES, gain=200.0):
    """`signal` (leads, samples) in mV as a WFDB record; by default noise that the name decides."""
    if signal is None:
        rng = np.random.default_rng(list(name.encode()))
        signal = rng.normal(0, 0.2, (len(lead_names), 2 * rate))
    count = len(lead_names)
    wfdb.wrsamp(
        name,
        rate,
        ["mV"] * count,
        list(lead_names),
        p_signal=signal.T,
        fmt=["16"] * count,
        adc_gain=[gain] * count,
        baseline=[0] * count,
        write_dir=str(folder),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty records in the folder `sig`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sig").mkdir()
    for index in range(NUM_RECORDS):
        write_record(folder / "sig", f"r{index:02}")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def frame(**columns) -> pd.DataFrame:
    """A table of the forty records; two records a patient."""
    paths = [f"sig/r{index:02}" for index in range(NUM_RECORDS)]
    patients = [f"p{index // 2}" for index in range(NUM_RECORDS)]
    af = [index % 3 == 0 for index in range(NUM_RECORDS)]
    return pd.DataFrame({"path": paths, "who": patients, "AF": np.array(af, dtype=int), **columns})


def rows_of(splits) -> dict:
    """Everything but the signal of each record, by its id."""
    return {
        row["ecg_id"]: {**row, "split": name}
        for name, dataset in splits.items()
        for row in dataset.remove_columns("signal")
    }


# ---- Forms of tables ----


def as_csv(table, path, separator=",", encoding="utf-8", newline="\n"):
    path = path / "table.csv"
    text = table.to_csv(index=False, sep=separator, lineterminator=newline)
    path.write_bytes(text.encode(encoding))
    return path


FORMS = {
    "comma": lambda table, path: as_csv(table, path),
    "semicolon": lambda table, path: as_csv(table, path, ";"),
    "tab": lambda table, path: as_csv(table, path, "\t"),
    "BOM and CRLF": lambda table, path: as_csv(table, path, ";", "utf-8-sig", "\r\n"),
    "Parquet": lambda table, path: table.to_parquet(path / "table.parquet") or path / "table.parquet",
    "folder of datasets": lambda table, path: (
        datasets.Dataset.from_pandas(table).save_to_disk(path / "saved") or path / "saved"
    ),
    "frame": lambda table, path: table.sample(frac=1, random_state=0).sort_values("path"),
    "data set": lambda table, path: datasets.Dataset.from_pandas(table),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_in_any_form_gives_the_same_records(form, folder, cache, tmp_path):
    table = FORMS[form](frame(), tmp_path)
    splits = load_ecg_dataset(table, label_columns=["AF"], patient_column="who", data_dir=folder, cache_dir=cache)
    expected = load_ecg_dataset(frame(), label_columns=["AF"], patient_column="who", data_dir=folder, cache_dir=cache)
    assert rows_of(splits) == rows_of(expected) and len(rows_of(splits)) == NUM_RECORDS
    row = splits["train"].with_format("numpy")[0]
    signal, _ = wfdb.rdsamp(str(folder / row["ecg_id"]))
    assert np.abs(row["signal"].reshape(12, -1) / 1000 - signal.T).max() <= 0.0005
    assert row["sampling_rate"] == 250 and list(row["lead_names"]) == list(LEAD_NAMES)
    assert label_names_of(splits["train"]) == ["AF"]
    assert splits["train"].features["labels"] == datasets.List(datasets.Value("float32"), length=1)


def test_a_table_beside_its_records_needs_no_folder(folder, cache):
    splits = load_ecg_dataset(as_csv(frame(), folder), label_columns="A*", cache_dir=cache)
    assert len(rows_of(splits)) == NUM_RECORDS
    assert splits["train"].info.dataset_name == "own records (table.csv)"


def test_saved_splits_stay_as_they_are(folder, cache, tmp_path):
    table = datasets.Dataset.from_pandas(frame())
    saved = datasets.DatasetDict({"train": table.select(range(30)), "test": table.select(range(30, 40))})
    saved.save_to_disk(tmp_path / "saved")
    splits = load_ecg_dataset(tmp_path / "saved", label_columns=["AF"], data_dir=folder, cache_dir=cache)
    # The training records give the validation records, which no table has.
    assert len(splits["test"]) == 10 and len(splits["train"]) + len(splits["validation"]) == 30
    assert splits["test"]["ecg_id"][:] == table["path"][30:]


def test_decimal_commas_are_numbers_and_never_thousands(folder, cache, tmp_path):
    values = [54.5 + index for index in range(NUM_RECORDS)]
    cells = [f"{value:.1f}" if value < 60 else f"{value:.2E}" for value in values]
    table = frame(age=[cell.replace(".", ",") for cell in cells])
    options = {"label_columns": ["age"], "problem_type": "regression", "data_dir": folder, "cache_dir": cache}
    splits = load_ecg_dataset(as_csv(table, tmp_path, ";", "utf-8-sig"), **options)
    found = {ecg_id: row["labels"][0] for ecg_id, row in rows_of(splits).items()}
    assert [found[path] for path in table["path"]] == values
    with pytest.raises(
        ValueError, match=r"`age` .* must be a number or empty; it is not in row 1 \('54,5'\), .* and 30"
    ):
        load_ecg_dataset(as_csv(table, tmp_path, ","), **options)


# ---- Records that are signals ----


def test_blanks_around_names_and_cells_do_not_matter(folder, cache):
    rows = [f" {path} ; {af} " for path, af in zip(frame()["path"], frame()["AF"], strict=True)]
    (folder / "blanks.csv").write_text("\n".join([" path ; AF", *rows]))
    found = load_ecg_dataset(folder / "blanks.csv", label_columns=["AF"], cache_dir=cache)
    (folder / "plain.csv").write_text(frame()[["path", "AF"]].to_csv(index=False))
    plain = load_ecg_dataset(folder / "plain.csv", label_columns=["AF"], cache_dir=cache)
    assert rows_of(found) == rows_of(plain)


def test_a_table_in_latin_1_is_refused_by_its_name(folder):
    text = frame().rename(columns={"who": "Größe"}).to_csv(index=False, sep=";")
    (folder / "latin.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"The table .*latin.csv cannot be read \(.*: it must be UTF-8 with a header"):
        load_ecg_dataset(folder / "latin.csv", label_columns=["AF"])


def test_signals_in_a_data_set_are_read_in_their_unit(cache):
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 0.3, (30, 3, 500)).astype(np.float32)
    labels = {"AF": [0, 1] * 15}
    given = {"label_columns": ["AF"], "record_column": "signal", "cache_dir": cache}
    said = {"sampling_rate": 250, "lead_names": ["I", "II", "V5"]}
    forms = {
        "mV": datasets.Dataset.from_dict({"signal": list(signals), **labels}),
        "flat": datasets.Dataset.from_dict({"signal": list(signals.reshape(30, -1)), **labels}),
        "V": datasets.Dataset.from_dict({"signal": list(signals / 1000), "units": ["V"] * 30, **labels}),
        "uV": datasets.Dataset.from_dict(
            {"signal": list(np.rint(signals * 1000).astype(np.int32)), "units": ["uV"] * 30, **labels}
        ),
        "columns": datasets.Dataset.from_dict(
            {
                "signal": list(signals),
                "sampling_rate": [250.0] * 30,
                "lead_names": [["I", "ii", " V5"]] * 30,
                **labels,
            }
        ),
    }
    for name, dataset in forms.items():
        splits = load_ecg_dataset(dataset, **given, **({} if name == "columns" else said))
        for row in splits["train"].with_format("numpy"):
            expected = np.rint(signals[row["ecg_id"]].astype(np.float64) * 1000)
            assert np.abs(row["signal"].reshape(3, -1) - expected).max() <= 1, name
            assert list(row["lead_names"]) == ["I", "II", "V5"] and row["sampling_rate"] == 250
    integers = forms["uV"].remove_columns("units")
    with pytest.raises(ValueError, match="Record 0: lead I has no unit of voltage: give `units`"):
        load_ecg_dataset(integers, **given, **said)
    with pytest.raises(ValueError, match="nothing names its leads"):
        load_ecg_dataset(forms["mV"], **given, sampling_rate=250)


def test_arrays_are_stored_to_the_nearest_microvolt(tmp_path, cache):
    millivolts = np.tile([-1.0006, -0.9994, 0.0006, 0.0014], 250)
    rng = np.random.default_rng(0)
    for index in range(20):
        signal = np.tile(millivolts, (12, 1)) + rng.uniform(-1, 1, (12, 1000))
        np.save(tmp_path / f"a{index}.npy", signal)
    table = pd.DataFrame({"path": [f"a{index}.npy" for index in range(20)], "AF": [0, 1] * 10})
    options = {"label_columns": ["AF"], "data_dir": tmp_path, "cache_dir": cache}
    splits = load_ecg_dataset(table, **options, sampling_rate=100, units="mV", lead_names=LEAD_NAMES)
    errors = []
    for dataset in splits.values():
        for row in dataset.with_format("numpy"):
            errors.append(row["signal"].reshape(12, -1) - 1000 * np.load(tmp_path / row["ecg_id"]))
    assert np.abs(errors).max() <= 0.5001 and abs(np.mean(errors)) < 0.01
    with pytest.raises(ValueError, match="20[\\s\\S]*a0.npy"):
        load_ecg_dataset(table, **options, units="mV", lead_names=LEAD_NAMES)  # no rate


def test_columns_beside_arguments_name_the_channels_and_must_not_contradict(tmp_path, cache):
    """The leads of the argument are those to take, as of files that name them themselves."""
    signals = np.random.default_rng(0).integers(-900, 900, (20, 2, 300))
    for index, (first, second) in enumerate(signals):
        header = ["time,a,b"] if index % 2 else []  # a time is no lead, whatever the number of names
        times = [f"{row / 100}," if header else "" for row in range(300)]
        rows = [f"{time}{one},{two}" for time, one, two in zip(times, first, second, strict=True)]
        (tmp_path / f"r{index}.csv").write_text("\n".join(header + rows))
    table = pd.DataFrame({"path": [f"r{index}.csv" for index in range(20)], "AF": [0, 1] * 10})
    table = table.assign(sampling_rate=100, units="uV", lead_names="I V1")
    options = {"label_columns": ["AF"], "data_dir": tmp_path, "cache_dir": cache}
    splits = load_ecg_dataset(table, **options, lead_names=["V1"], sampling_rate=100.0, units="µV")
    for row in (row for dataset in splits.values() for row in dataset):
        assert row["lead_names"] == ["V1"]
        assert row["signal"] == signals[int(row["ecg_id"][1:-4]), 1].tolist()
    with pytest.raises(ValueError, match="r0.csv: it has no lead II; it has I, V1"):
        load_ecg_dataset(table, **options, lead_names=["II", "I"])
    for name, value in {"sampling_rate": 250, "units": "mV"}.items():
        with pytest.raises(ValueError, match=f"The column `{name}` of the frame contradicts .*{value} .* in row 1 "):
            load_ecg_dataset(table, **options, **{name: value})
    said = {"sampling_rate": 100, "units": "uV", "lead_names": ["I", "II", "V1"]}
    with pytest.raises(ValueError, match="r1.csv: it has 300 x 2 values, expected"):
        load_ecg_dataset(table[["path", "AF"]][1::2], **options, **said)


# ---- Labels ----


CODES = {
    "lists": [["AF", "RBBB"], [], ["RBBB"], None],
    "semicolons": ["AF;RBBB", "[]", "RBBB", ""],
    "bars": ["RBBB | AF", "[]", " RBBB", None],
    "literals": ["['AF', 'RBBB']", "[]", "['RBBB']", " "],
    "sets": ["{'RBBB', 'AF'}", "set()", "frozenset({'RBBB'})", None],
    "NumPy": ["[np.str_('AF'), np.str_('RBBB')]", "array([], dtype=object)", "array(['RBBB'], dtype='<U4')", None],
    "likelihoods": ["{'AF': np.float64(100.0), 'RBBB': np.float64(15.0)}", "{}", "{np.str_('RBBB'): 0.0}", None],
}


@pytest.mark.parametrize("form", CODES)
def test_a_column_of_codes_is_a_label_for_each(form, folder, cache):
    table = frame(dx=CODES[form] * 10)
    splits = load_ecg_dataset(table, label_column="dx", data_dir=folder, cache_dir=cache)
    assert label_names_of(splits["test"]) == ["AF", "RBBB"]
    found = rows_of(splits)
    expected = [[1, 1], [0, 0], [0, 1], [-100, -100]]
    assert [found[path]["labels"] for path in table["path"]] == expected * 10


def test_labels_that_are_asked_for_alone_and_in_order(folder, cache, caplog):
    table = frame(dx=CODES["semicolons"] * 10)
    splits = load_ecg_dataset(table, label_column="dx", labels=["RBBB"], data_dir=folder, cache_dir=cache)
    assert label_names_of(splits["train"]) == ["RBBB"]
    assert "1 labels beside those asked for: 'AF' (10 rows)" in caplog.text
    assert "`dx` of the frame is empty in 10 of 40 rows: their labels are unknown" in caplog.text
    assert "upper and lower case" not in caplog.text
    load_ecg_dataset(table, label_column="dx", labels=["RBBB", "af"], data_dir=folder, cache_dir=cache)
    assert "differ in upper and lower case alone: 'af' and 'AF'" in caplog.text
    with pytest.raises(ValueError, match=r"2 labels beside .* and none of those: 'afib', 'sr'\. Write them in the"):
        load_ecg_dataset(table, label_column="dx", labels=["afib", "sr"], data_dir=folder, cache_dir=cache)


def test_empty_cells_are_unknown(folder, cache):
    table = frame(MI=["1", "0", "", "1.0", "True", " "] + ["0"] * (NUM_RECORDS - 6))
    found = rows_of(load_ecg_dataset(table, label_columns=["MI", "AF"], data_dir=folder, cache_dir=cache))
    assert [found[path]["labels"][0] for path in table["path"][:6]] == [1, 0, -100, 1, 1, -100]


def test_one_of_several_classes(folder, cache):
    table = frame(rhythm=["sinus", "AF", "paced", ""] * 10)
    options = {"problem_type": "single_label_classification", "data_dir": folder, "cache_dir": cache}
    splits = load_ecg_dataset(table, label_column="rhythm", **options)
    found = rows_of(splits)
    assert label_names_of(splits["train"]) == ["AF", "paced", "sinus"]
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [-100] * 3]
    assert [found[path]["labels"] for path in table["path"]] == expected * 10
    columns = frame(B=1 - frame()["AF"])
    found = rows_of(load_ecg_dataset(columns, label_columns=["AF", "B"], **options))
    assert all(sum(row["labels"]) == 1 for row in found.values())
    columns.loc[4, "B"] = 0
    with pytest.raises(ValueError, match=r"exactly one of the label columns must be 1.*row 5 \(0\)"):
        load_ecg_dataset(columns, label_columns=["AF", "B"], **options)


# ---- Patients and splits ----


def test_spellings_that_nobody_sees_are_one_patient(folder, cache):
    table = frame(who=["7", "\uff17", "7\u200b", "\ufeff7", "7,00", "7.", None, None] * 5)
    splits = load_ecg_dataset(table, label_columns=["AF"], patient_column="who", data_dir=folder, cache_dir=cache)
    found = rows_of(splits)
    assert [found[path]["patient_id"] for path in table["path"]] == (["7"] * 6 + [None] * 2) * 5


def test_four_spellings_are_one_patient_and_blanks_are_each_alone(folder, cache, caplog):
    spellings = [7, "7", "7.0", " 7", "", None, np.nan, "  "]
    table = frame(who=(spellings * 5))
    for seed in range(5):
        splits = load_ecg_dataset(
            table, label_columns=["AF"], patient_column="who", data_dir=folder, cache_dir=cache, seed=seed
        )
        found = rows_of(splits)
        patients = [found[path]["patient_id"] for path in table["path"]]
        assert patients == (["7"] * 4 + [None] * 4) * 5
        assert (
            len({found[path]["split"] for path, patient in zip(table["path"], patients, strict=True) if patient}) == 1
        )
        assert len({row["split"] for row in found.values()}) == 3


@pytest.mark.parametrize("name, count, warned", [("unknown", 20, True), ("-", 25, True), ("p0", 19, False)])
def test_a_patient_of_very_many_records_is_doubted(name, count, warned, folder, cache, caplog):
    table = frame()
    table["who"] = [f"p{row}" if row >= count else name for row in range(NUM_RECORDS)]
    load_ecg_dataset(table, label_columns=["AF"], patient_column="who", data_dir=folder, cache_dir=cache)
    found = f"The patient {name!r} of `who` has {count} of the 40 records, where 1 are usual" in caplog.text
    assert found == warned == ("stands for unknown patients" in caplog.text)


def test_the_split_is_by_patient_stratified_and_seeded():
    rng = np.random.default_rng(0)
    patients = [f"p{number}" for number in rng.integers(0, 2000, 5000)]
    labels = (rng.random((5000, 6)) < [0.5, 0.2, 0.1, 0.05, 0.02, 0.01]).astype(np.float32)
    labels[rng.random(labels.shape) < 0.05] = -100
    split = split_by_patient(patients, labels)
    table = pd.DataFrame({"patient": patients, "split": split})
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert np.mean(split == name) == pytest.approx(share, abs=0.02)
        positives = (labels[split == name] == 1).sum(axis=0) / (labels == 1).sum(axis=0)
        np.testing.assert_allclose(positives, share, atol=0.03)
    assert (split == split_by_patient(patients, labels)).all()
    assert (split != split_by_patient(patients, labels, seed=1)).any()
    # The order of the rows decides nothing.
    order = rng.permutation(5000)
    again = split_by_patient([patients[row] for row in order], labels[order])
    assert (again == split[order]).all()


def test_targets_of_a_regression_are_spread_over_the_splits():
    rng = np.random.default_rng(0)
    ages = rng.normal(60, 15, (1000, 1)).astype(np.float32)
    ages[::7] = np.nan
    split = split_by_patient([None] * 1000, ages, is_regression=True)
    means = [np.nanmean(ages[split == name]) for name in ("train", "validation", "test")]
    assert np.ptp(means) < 2


def test_a_split_of_ones_own(folder, cache):
    names = ["train", "Training", "valid", "TEST"] * 10
    table = frame(part=names)
    options = {"label_columns": ["AF"], "data_dir": folder, "cache_dir": cache, "split_column": "part"}
    splits = load_ecg_dataset(table, **options)
    assert {name: len(dataset) for name, dataset in splits.items()} == {"train": 20, "validation": 10, "test": 10}
    table.loc[2, "part"] = "fold 3"
    with pytest.raises(ValueError, match=r"must be train, validation or test; it is not in row 3 \('fold 3'\)"):
        load_ecg_dataset(table, **options)
    with pytest.raises(ValueError, match="either `split_column` or tables"):
        load_ecg_dataset(frame(part=names), **options, test_table=frame(part=names))


def test_tables_of_the_splits(folder, cache):
    table = frame()
    options = {"label_columns": ["AF"], "data_dir": folder, "cache_dir": cache}
    splits = load_ecg_dataset(table[:20], validation_table=table[20:30], test_table=table[30:], **options)
    assert [len(dataset) for dataset in splits.values()] == [20, 10, 10]
    splits = load_ecg_dataset(table[:20], test_table=table[20:], **options)
    assert len(splits["test"]) == 20 and len(splits["train"]) + len(splits["validation"]) == 20
    assert list(load_ecg_dataset(table[:20], validation_table=table[20:], **options)) == ["train", "validation"]
    assert list(load_ecg_dataset(None, test_table=table, **options)) == ["test"]


# ---- Records that cannot be read, and the cache ----


def test_a_few_broken_records_are_skipped_and_named(tmp_path, caplog):
    (tmp_path / "sig").mkdir()
    for index in range(NUM_RECORDS):
        write_record(tmp_path / "sig", f"r{index:02}")
    (tmp_path / "sig/r07.dat").write_bytes(b"short")
    (tmp_path / "sig/r09.hea").unlink()
    options = {"label_columns": ["AF"], "data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match=r"More than 1% of the 40 records .*: 2\.[\s\S]*r07[\s\S]*r09"):
        load_ecg_dataset(frame(), **options)
    splits = load_ecg_dataset(frame(), **options, max_skipped=0.05)
    assert len(rows_of(splits)) == NUM_RECORDS - 2
    assert "2 of 40 records are skipped" in caplog.text
    (named,) = (tmp_path / "cache").rglob("skipped-*.txt")
    assert str(named) in caplog.text and "r07" in named.read_text() and "r09" in named.read_text()
    # A record that cannot be read moves no other to another split.
    (tmp_path / "sig/r07.dat").unlink(), (tmp_path / "sig/r07.hea").unlink()
    for name in ("r07", "r09"):
        write_record(tmp_path / "sig", name)
    whole = rows_of(load_ecg_dataset(frame(), **options))
    assert {path: whole[path]["split"] for path in rows_of(splits)} == {
        path: row["split"] for path, row in rows_of(splits).items()
    }


def test_a_cache_that_was_interrupted_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RECORDS_PER_FILE", 10)
    read = []
    original = store.read_leads

    def watched(path, said):
        if len(read) == 25:
            raise KeyboardInterrupt
        read.append(path)
        return original(path, said)

    monkeypatch.setattr(store, "read_leads", watched)
    options = {"label_columns": ["AF"], "data_dir": folder, "cache_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        load_ecg_dataset(frame(), **options)
    read = read[:0]
    splits = load_ecg_dataset(frame(), **options)
    assert len(read) == 20  # two of the four files were whole
    read.clear()
    assert rows_of(load_ecg_dataset(frame(), **options)) == rows_of(splits) and not read
    assert not list(tmp_path.rglob(".*.arrow"))  # nothing half-written is left


def test_a_cache_whose_process_was_killed_goes_on_where_it_was(folder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RECORDS_PER_FILE", 10)
    read, original = [], store.read_leads
    options = {"label_columns": ["AF"], "data_dir": folder}

    def watched(path, said):
        read.append(path)
        if len(read) == 26 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, said)

    monkeypatch.setattr(store, "read_leads", watched)
    loading = {"args": (frame(),), "kwargs": {**options, "cache_dir": tmp_path}}
    killed = multiprocessing.get_context("fork").Process(target=load_ecg_dataset, **loading)
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    splits = load_ecg_dataset(frame(), **options, cache_dir=tmp_path)
    assert read == [str(folder / f"sig/r{index:02}") for index in range(20, 40)]
    whole = load_ecg_dataset(frame(), **options, cache_dir=cache)
    assert [row for part in splits.values() for row in part] == [row for part in whole.values() for row in part]


def test_a_changed_record_is_read_again_and_its_old_content_comes_back(tmp_path):
    (tmp_path / "sig").mkdir()
    for index in range(NUM_RECORDS):
        write_record(tmp_path / "sig", f"r{index:02}")
    options = {"label_columns": ["AF"], "data_dir": tmp_path, "cache_dir": tmp_path / "cache"}

    def signal():
        splits = load_ecg_dataset(frame(), **options)
        return next(row["signal"] for part in splits.values() for row in part if row["ecg_id"] == "sig/r05")

    before = signal()
    write_record(tmp_path / "sig", "r05", np.full((12, 500), 0.1) * np.linspace(0, 1, 500))
    changed = signal()
    write_record(tmp_path / "sig", "r05")
    assert before != changed and signal() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_read_the_same(folder, cache, tmp_path, monkeypatch, method):
    monkeypatch.setattr(store, "RECORDS_PER_FILE", 20)
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context._concrete_contexts[method])
    options = {"label_columns": ["AF"], "data_dir": folder}
    several = load_ecg_dataset(frame(), **options, cache_dir=tmp_path, num_proc=2)
    one = load_ecg_dataset(frame(), **options, cache_dir=cache)
    assert [row for part in several.values() for row in part] == [row for part in one.values() for row in part]


class _NeverSent(store.Files):
    def __reduce__(self):
        raise AssertionError("sent to a process")


def test_no_part_takes_the_list_of_all_records_along(folder, tmp_path, monkeypatch):
    """Otherwise the time of a record would grow with their number."""
    monkeypatch.setattr(store, "RECORDS_PER_FILE", 10)
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context._concrete_contexts["fork"])
    paths = [str(folder / f"sig/r{index:02}") for index in range(NUM_RECORDS)]
    stored = store.store_records(_NeverSent(paths, [Said()] * NUM_RECORDS), tmp_path, num_proc=2)
    assert len(stored.records) == NUM_RECORDS


def test_records_of_all_lengths_are_stored_as_they_are_read(tmp_path, monkeypatch):
    """Several to a batch, some of them larger than all before."""
    monkeypatch.setattr(store, "_RECORDS_PER_BATCH", 4)
    monkeypatch.setattr(store, "_VALUES_PER_BATCH", 5000)
    paths, steps = [], (500, 700, 100, 2000, 300, 300, 300, 300, 300, 9000, 50, 60)
    for index, length in enumerate(steps):
        leads = LEAD_NAMES[: 1 + index % 3]
        # Of a gain of 3000 a step is a fraction of 1 µV, which is kept until here.
        signal = np.random.default_rng(index).normal(0, 0.2, (len(leads), length))
        write_record(tmp_path, f"r{index}", signal, lead_names=leads, gain=3000.0 if index % 2 else 200.0)
        paths.append(str(tmp_path / f"r{index}"))
    stored = store.store_records(store.Files(paths, [Said()] * len(paths)), tmp_path / "cache")
    for path, row in zip(paths, stored.records, strict=True):
        record = read_ecg(path)
        expected = np.rint(record.signal).astype(np.int16)
        assert row["lead_names"] == list(record.lead_names) and row["sampling_rate"] == record.sampling_rate
        assert row["signal"] == expected.reshape(-1).tolist()


# ---- Bad input ----


def broken(**columns):
    return lambda: frame(**columns)


BAD = {
    "no such column": (lambda: frame(), {"label_columns": ["LBBB"]}, "has no column `LBBB`; it has path, who, AF"),
    "no such pattern": (lambda: frame(), {"label_columns": "dx_*"}, r"has no column `dx_\*`"),
    "no path": (lambda: frame().drop(columns="path"), {}, "`record_column`: .* has no column `path`"),
    "labels": (broken(AF=[0, 1, 2, "x"] * 10), {}, r"must be 0, 1 or empty; it is not in row 3 \(2\), row 4 \('x'\)"),
    "many labels": (broken(AF=["?"] * 40), {}, "row 10 .* and 30 more"),
    "empty path": (broken(path=[""] + ["sig/r01"] * 39), {}, "is empty in row 1"),
    "path twice": (broken(path=["sig/r00", "sig/r00.hea"] * 20), {}, "names a record again in row 2"),
    "leaves the folder": (broken(path=["../sig/r00"] + [f"sig/r{i:02}" for i in range(1, 40)]), {}, "outside of the"),
    "absolute": (broken(path=["/etc/passwd"] + [f"sig/r{i:02}" for i in range(1, 40)]), {}, "outside of the folder"),
    "no rows": (lambda: frame()[:0], {}, "has no rows"),
    "both": (lambda: frame(), {"label_column": "AF"}, "Give either `label_columns`"),
    "neither": (lambda: frame(), {"label_columns": None}, "Give either `label_columns`"),
    "problem": (lambda: frame(), {"problem_type": "ranking"}, "`problem_type` must be one of"),
    "fractions": (lambda: frame(), {"split_fractions": (0.5, 0.1, 0.1)}, "that add up to 1"),
    "fractions of a split that is told": (
        broken(part=["train", "test"] * 20),
        {"split_column": "part", "split_fractions": (0.5, 0.25, 0.25)},
        "`split_fractions` is for a split that is drawn, and `split_column` says which it is",
    ),
    "fractions that leave the table of training nothing": (
        lambda: frame(),
        {"test_table": frame(), "split_fractions": (0, 0, 1)},
        "leaves no share for train or validation, and the test has a table",
    ),
    "seed of a split in tables": (
        lambda: frame(),
        {"validation_table": frame(), "seed": 3},
        "The seed of the split .*, and a table says which it is",
    ),
    "one patient": (broken(who=["p"] * 40), {"patient_column": "who"}, "1 patients cannot be split into 3 parts"),
    "rate": (broken(sampling_rate=["fast"] * 40), {}, "row 1, is 'fast'; expected Hz above 0"),
    "missing": (
        broken(path=[f"sig/x{i:02}" for i in range(40)]),
        {},
        r"40 records .*: 40\.[\s\S]*x00[\s\S]*and 30 more",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_table_that_cannot_be_used_is_refused_in_one_message(fault, folder, tmp_path):
    make, changes, message = BAD[fault]
    options = {"label_columns": ["AF"], "data_dir": folder, "cache_dir": tmp_path, **changes}
    with pytest.raises(ValueError, match=message):
        load_ecg_dataset(make(), **options)


def parquet(**columns) -> bytes:
    """A file of these columns; what stands behind two underlines of a name is not of it."""
    file = io.BytesIO()
    names = [name.partition("__")[0] for name in columns]
    pyarrow.parquet.write_table(pa.table(list(map(pa.array, columns.values())), names=names), file)
    return file.getvalue()


_CODES = pa.array([[("AF", 100)]], pa.map_(pa.string(), pa.int64()))
FILES = {
    "absent": (None, FileNotFoundError, "does not exist"),
    "empty": (b"", ValueError, "empty"),
    "ragged": (b"path,AF\nsig/r00,1\nsig/r01\n", ValueError, "equally many cells"),
    "Latin-1": ("path,AF,name\nsig/r00,1,M\xfcller\n".encode("latin-1"), ValueError, "must be UTF-8"),
    "blanks": (b"path AF\nsig/r00 1\n", ValueError, "separate its cells by comma"),
    "column twice": (b"path,AF,AF\nsig/r00,1,0\n", ValueError, "2 columns with the name `AF`"),
    "Parquet, cut": (b"PAR1\0\0", ValueError, "not a whole Parquet file"),
    "Parquet, no rows": (parquet(path=pa.array([], pa.string()), AF=pa.array([], pa.int8())), ValueError, "no rows"),
    "Parquet, column twice": (parquet(path=["r"], AF=[1], AF__2=[0]), ValueError, "columns with the name `AF`: give"),
    "Parquet, map": (parquet(path=["r"], AF=[1], dx=_CODES), ValueError, "`dx` of .* has the type map<.*as lists"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_is_no_table_is_refused_in_one_message(fault, folder, tmp_path):
    content, kind, message = FILES[fault]
    if content is not None:
        (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        load_ecg_dataset(tmp_path / "table.csv", label_columns=["AF"], data_dir=folder, cache_dir=tmp_path)
    assert "ller" not in str(caught.value)  # of a patient


def test_many_rows_share_what_is_said_of_their_files():
    table = pd.DataFrame({"path": [f"{row:04}.npy" for row in range(1000)], "sampling_rate": [100, 250] * 500})
    source, _ = source_of(open_table(table), "path", units="mV", lead_names=["I", "II"])
    assert len({id(said) for said in source.said}) == 2
    assert [said.sampling_rate for said in source.said[:3]] == [100, 250, 100]
    assert type(source.paths[0]) is str and source.paths.names.nbytes < 16 * len(table)
