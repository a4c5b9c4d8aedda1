"""PTB-XL as Parquet: faulty files, caches that may only be read, processes side by side."""

import os
import pathlib
import shutil
import subprocess
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import CONTEXT, Forked

from ecg_hf import load_ptbxl
from ecg_hf.cards import write_dataset_card
from ecg_hf.files import whole_folder
from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.ptbxl import download
from ecg_hf.ptbxl.parquet import load_ptbxl_parquet, write_ptbxl_parquet

TASK = "superdiagnostic"


@pytest.fixture(scope="module")
def parquet(simulated_folder, simulated_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet") / "ptb-xl"
    write_ptbxl_parquet(simulated_folder, 100, folder, cache_dir=simulated_cache)
    write_dataset_card(folder)
    return folder


@pytest.fixture
def spoiled(parquet, tmp_path):
    """Write the training file again, changed; the changed copy of the folder."""

    def spoil(change):
        folder = shutil.copytree(parquet, tmp_path / "ptb-xl")
        (file,) = folder.glob("data/100hz/train-*.parquet")
        pq.write_table(change(pq.read_table(file).replace_schema_metadata(None)), file)
        return folder

    return spoil


def with_cell(table, name, row, value):
    """The table with one cell changed, the column as lists of any length."""
    column = table[name].to_pylist()
    column[row] = value
    kind = table.schema.field(name).type
    kind = pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind
    return table.set_column(table.schema.get_field_index(name), name, pa.array(column, kind))


def cast(table, name, kind):
    return table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))


def test_the_rows_are_those_of_load_ptbxl(parquet, simulated_splits, tmp_path):
    splits = load_ptbxl_parquet(str(parquet), TASK, 100, cache_dir=tmp_path)
    for name, records in simulated_splits.items():
        assert splits[name].with_format("arrow")[:].to_pydict() == records.with_format("arrow")[:].to_pydict()
        assert splits[name].info.dataset_name == "ptbxl"


COLUMNS = {
    "signal lost": (lambda table: table.drop_columns("signal"), "lacks the column `signal`"),
    "labels lost": (lambda table: table.drop_columns(f"labels_{TASK}"), f"lacks the column `labels_{TASK}`"),
    "rows lost": (lambda table: table.drop_columns(f"has_{TASK}"), f"lacks the column `has_{TASK}`"),
    "ids as text": (
        lambda table: cast(table, "ecg_id", pa.string()),
        "`ecg_id` has the type string; it must hold integ",
    ),
    "signal in mV": (
        lambda table: cast(with_cell(table, "signal", 0, [0] * 12000), "signal", pa.list_(pa.float32())),
        "`signal` has the type list.*float.*; it must hold lists of int16",
    ),
    "rate as text": (lambda table: cast(table, "sampling_rate", pa.string()), "`sampling_rate` has the type string"),
}


@pytest.mark.parametrize("fault", COLUMNS)
def test_a_column_that_is_missing_or_of_another_type_is_named_with_its_file(spoiled, tmp_path, fault):
    change, message = COLUMNS[fault]
    with pytest.raises(ValueError, match=rf"train-00000-of-00001.parquet`.*{message}"):
        load_ptbxl_parquet(str(spoiled(change)), TASK, 100, cache_dir=tmp_path / "cache")


CELLS = {
    "no signal": ("signal", None, "the column `signal` is empty"),
    "short signal": ("signal", [0] * 11999, "the column `signal` has 11999 values.*where 12000 are expected"),
    "a hole in the signal": ("signal", [None] + [0] * 11999, "`signal` has 12000 values, of which 1 are null"),
    "few labels": (f"labels_{TASK}", [1.0], f"the column `labels_{TASK}` has 1 values.*where 5 are expected"),
    "no labels": (f"labels_{TASK}", None, f"the column `labels_{TASK}` is empty"),
    "few leads": ("lead_names", ["I"], "the column `lead_names` has 1 values.*where 12 are expected"),
    "no rate": ("sampling_rate", None, "the column `sampling_rate` is empty"),
}


@pytest.mark.parametrize("fault", CELLS)
def test_a_faulty_cell_is_named_with_its_record(spoiled, simulated_splits, tmp_path, fault):
    name, value, message = CELLS[fault]
    rows = {}

    def change(table):
        rows["row"] = table[f"has_{TASK}"].to_pylist().index(True, 3)
        rows["id"] = table["ecg_id"][rows["row"]].as_py()
        return with_cell(table, name, rows["row"], value)

    folder = spoiled(change)
    with pytest.raises(ValueError, match=rf"split train: .*{message}.* for ecg_id {rows['id']}\."):
        load_ptbxl_parquet(str(folder), TASK, 100, cache_dir=tmp_path / "cache")


def test_a_file_that_was_cut_is_named(parquet, tmp_path):
    folder = shutil.copytree(parquet, tmp_path / "ptb-xl")
    (file,) = folder.glob("data/100hz/test-*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="test-00000-of-00001.parquet` is not a whole Parquet file"):
        load_ptbxl_parquet(str(folder), TASK, 100, cache_dir=tmp_path / "cache")


# ---- Caches that may only be read ----


def read(folder, parquet, caches, home=None):
    """Print what is read from each cache, or why not; with `home` as a user who has no rights but there."""
    loads = {
        "folder": lambda cache: load_ptbxl(folder, TASK, 100, cache_dir=cache),
        "parquet": lambda cache: load_ptbxl_parquet(str(parquet), TASK, 100, cache_dir=cache),
        "records": lambda cache: {
            "train": load_training_records(RecordArguments(data_dir=folder, cache_dir=cache), 2.5)
        },
    }
    if home is not None:
        datasets.config.HF_DATASETS_CACHE = home / "datasets"
        for load in loads.values():  # imports what the other user may not read
            load(home / "first")
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for cache in caches:
        for name, load in loads.items():
            try:
                train = load(cache)["train"].with_format("numpy")
                print(name, len(train), int(np.abs(train[0]["signal"].astype(int)).sum()))
            except OSError as error:
                print(name, type(error).__name__, error)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="takes the rights of a user who may not write")
def test_a_cache_that_may_be_read_but_not_written_is_read(simulated_folder, parquet, tmp_path_factory):
    # Not below pytest's own folder, which nobody else may enter.
    base = pathlib.Path("/tmp") / f"read-only-{os.getpid()}"
    base.mkdir()
    try:
        folder, files, cache, home = base / "ptbxl", base / "parquet", base / "cache", base / "home"
        shutil.copytree(simulated_folder, folder)
        shutil.copytree(parquet, files)
        home.mkdir()

        def printed(caches, *home) -> list[str]:
            process = Forked(base / "read", read, str(folder), files, caches, *home)
            assert process.wait() == 0, process.stderr[-3000:]
            return process.stdout.splitlines()

        written = printed([cache])
        assert [line.split()[0] for line in written] == ["folder", "parquet", "records"]
        for lock in cache.rglob("*.lock"):
            lock.unlink()
        (base / "empty").mkdir()
        subprocess.run(["chmod", "-R", "a+rX,go-w", str(base)], check=True)
        home.chmod(0o777)
        before = sorted(cache.rglob("*"))
        *again, first, second, _ = printed([cache, base / "empty"], home)
        assert again == written and sorted(cache.rglob("*")) == before
        assert "PermissionError" in first and "PermissionError" in second and "another `cache_dir`" in first
    finally:
        shutil.rmtree(base)


# ---- Processes side by side ----


@pytest.fixture(scope="module")
def zipped(simulated_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "ptb-xl.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(simulated_folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"ptb-xl/{file.relative_to(simulated_folder)}")
    return path


def test_processes_that_unpack_one_zip_at_once_all_succeed(zipped, tmp_path):
    start = CONTEXT.Barrier(2)

    def unpack():
        start.wait(60)
        print(download.unpack_ptbxl(zipped, 100, tmp_path / "cache"))

    processes = [Forked(tmp_path / str(number), unpack) for number in range(2)]
    assert [process.wait() for process in processes] == [0, 0], [process.stderr for process in processes]
    (folder,) = {process.stdout.strip() for process in processes}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [pathlib.Path(folder).name]
    assert len(load_ptbxl(folder, TASK, 100, cache_dir=tmp_path / "arrow")["train"]) > 0


def test_a_zip_that_another_process_unpacked_meanwhile_is_taken(zipped, tmp_path, monkeypatch):
    first = download.unpack_ptbxl(zipped, 100, tmp_path / "first")

    def slow(path):
        shutil.copytree(first, path)  # the other process is done before this one
        return whole_folder(path)

    monkeypatch.setattr(download, "whole_folder", slow)
    folder = download.unpack_ptbxl(zipped, 100, tmp_path / "second")
    assert np.array_equal(*(sorted(path.name for path in place.rglob("*")) for place in (first, folder)))
    assert not list((tmp_path / "second").glob(".*"))
