"""Records to pre-train on: from PTB-XL's training folds, any folder of WFDB records, or a table of paths.

They are read once, checked, and kept in an Arrow file with the columns of [`load_ptbxl`] that signals need. Records
that cannot be used are reported and skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from ..ecg_transformer.wfdb_ecg_transformer import RecordError, read_record, record_files
from ..files import whole_file, write_atomic
from ..ptbxl.table import TABLE_NAME, read_table

logger = logging.getLogger(__name__)

MAX_SKIPPED_FRACTION = 0.01
"""Fraction of the records that may be skipped; beyond it something else is wrong."""

_RECORDS_PER_CHUNK = 256
_NAMED_IN_A_MESSAGE = 10

_SCHEMA = pa.schema(
    {
        "ecg_id": pa.int64(),
        "patient_id": pa.int64(),
        "sampling_rate": pa.float64(),
        "lead_names": pa.list_(pa.string()),
        "signal": pa.list_(pa.int16()),
    }
)


class RecordFile(NamedTuple):
    """A WFDB record: its number, its path without ending, and the number of its patient, None if unknown."""

    ecg_id: int
    path: Path
    patient_id: int | None


def ptbxl_files(data_dir: str | os.PathLike, sampling_rate: int, folds: Sequence[int]) -> list[RecordFile]:
    """The records of some folds of a PTB-XL folder, at 100 or 500 Hz. No signal is read."""
    table = read_table(data_dir, sampling_rate)
    table = table.filter(np.isin(table["strat_fold"], list(folds)))
    columns = (table[name].to_pylist() for name in ("ecg_id", "filename", "patient_id"))
    return [RecordFile(ecg_id, Path(data_dir, name), patient) for ecg_id, name, patient in zip(*columns, strict=True)]


def folder_files(data_dir: str | os.PathLike, allow_test_folds: bool = False) -> list[RecordFile]:
    """All WFDB records in a folder and the folders in it, in the order of their paths; their patients are unknown.

    Links to folders are followed, and each folder is read once, however many lead to it.

    Raises `ValueError` for a part of PTB-XL, unless records of its validation and test folds may be among them.
    """
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"`data_dir` {data_dir} is not a folder.")
    for parent in Path(data_dir).absolute().parents:
        if not allow_test_folds and (parent / TABLE_NAME).is_file():
            raise ValueError(
                f"`data_dir` {data_dir} is a part of PTB-XL, with records of its validation and test folds: give "
                f"{parent}, of which the training folds are read, or ask for all by `--allow_test_folds true`."
            )
    headers = _headers(data_dir)
    # The segments of a record have headers, but are no records by themselves.
    segments = {path for header in headers if _has_segments(header) for path in _segment_headers(header)}
    headers = [header for header in headers if str(header) not in segments]
    return [RecordFile(number, header.with_suffix(""), None) for number, header in enumerate(headers)]


def _headers(folder: str | os.PathLike) -> list[Path]:
    """The headers in a folder and all below, also through links to folders; of several ways to one file the first."""
    entered, found = set(), {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in entered:  # a link into what was read, or back above itself
            folders.clear()
            continue
        entered.add(real)
        for name in sorted([*names, *folders]):  # a folder of such a name is refused when the record is read
            if name.endswith(".hea"):
                found.setdefault(os.path.join(real, name), Path(place, name))
    return sorted(found.values())


def _has_segments(header: Path) -> bool:
    """Whether the name in the first line of a header is followed by a number of segments."""
    if not header.is_file():
        return False  # a pipe, say: refused when the record is read
    with open(header, "rb") as file:
        first = next((line for line in file if line.strip() and not line.startswith(b"#")), b"")
    return b"/" in b"".join(first.split()[:1])


def _segment_headers(header: Path) -> list[str]:
    try:
        return [path for path in record_files(header)[1:] if path.endswith(".hea")]
    except (RecordError, FileNotFoundError):
        return []  # reported when the record is read


def table_files(
    table: str | os.PathLike, record_column: str, patient_column: str | None, data_dir: str | os.PathLike | None
) -> list[RecordFile]:
    """The records that a table (comma, semicolon or tab) names, relative to `data_dir` or to the table's folder.

    Patients are the same where their cells are, but for blanks around and a `.0` behind; an empty cell is a patient of
    its own. Raises `ValueError` for an absent column or an empty path.
    """
    if not os.path.isfile(table):
        problem = "is not a regular file" if os.path.exists(table) else "does not exist"
        raise FileNotFoundError(f"`train_table` {table} {problem}: give a table of records (CSV).")
    with open(table, encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(",;\t", key=header.count)
    cells = pd.read_csv(table, sep=separator, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    for option, column in (("record_column", record_column), ("patient_column", patient_column)):
        if column is not None and column not in cells.columns:
            raise ValueError(f"`{option}`: {table} has no column `{column}`; it has {', '.join(cells.columns)}.")
    paths = cells[record_column].str.strip()
    if not paths.all():
        raise ValueError(f"{table}, line {int(paths.eq('').argmax()) + 2}: `{record_column}` is empty.")
    folder = Path(table).parent if data_dir is None else Path(data_dir)
    patients = [None] * len(paths) if patient_column is None else _patient_numbers(cells[patient_column])
    return [
        RecordFile(number, folder / re.sub(r"\.(hea|dat|mat)$", "", path), patient)
        for number, (path, patient) in enumerate(zip(paths, patients, strict=True))
    ]


def _patient_numbers(cells: pd.Series) -> list[int | None]:
    names = cells.str.strip().str.replace(r"^(\d+)\.0*$", r"\1", regex=True)
    numbers, _ = pd.factorize(names)
    return [None if name == "" else int(number) for name, number in zip(names, numbers, strict=True)]


def load_records(
    files: Sequence[RecordFile], min_seconds: float, cache_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """Read records, or take them from the cache if no file has changed.

    Returns:
        Columns `ecg_id`, `patient_id` (null where unknown), `sampling_rate` (Hz), `lead_names`, and `signal`, int16 in
        µV, flat and lead-major.

    Raises:
        ValueError: there is no record, or more than 1 % cannot be used: they cannot be read, have missing samples
            (NaN), are flat in all leads, or are shorter than `min_seconds`. Up to 1 % are skipped, with a warning that
            names them. Another one counts the channels that are none of the twelve leads.
    """
    if not files:
        raise ValueError("There is no record to pre-train on: no WFDB header (.hea) was found.")
    folder = Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir).expanduser() / "pretraining"
    path = folder / f"{_fingerprint(files)}.arrow"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(files, path)
    dataset = datasets.Dataset.from_file(str(path))
    notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if notes["other_channels"]:
        counts = ", ".join(f"{name} of {count} records" for name, count in notes["other_channels"].items())
        logger.warning(f"Channels that are none of the twelve leads are not read: {counts}.")
    skipped = notes["skipped"]
    seconds = _seconds(dataset)
    short = np.flatnonzero(seconds < min_seconds)
    names = {file.ecg_id: file.path for file in files}
    skipped += [
        f"Record {names[ecg_id]}: it has {seconds[row]:g} s, a crop {min_seconds:g} s."
        for row, ecg_id in zip(short, dataset.select(short)["ecg_id"], strict=True)
    ]
    _check_skipped(skipped, len(files))
    if skipped:
        logger.warning(f"{len(skipped)} of {len(files)} records are skipped.\n" + "\n".join(skipped))
    return dataset.select(np.flatnonzero(seconds >= min_seconds)) if len(short) else dataset


def _fingerprint(files: Sequence[RecordFile]) -> str:
    digest = hashlib.sha256(b"2")  # to be raised whenever the same files give other rows than before
    for file in files:
        digest.update(f"{file.ecg_id} {file.path.absolute()} {file.patient_id}".encode())
        for part in _parts(file.path):
            digest.update(f" {part} {_stamp(part)}".encode())
    return digest.hexdigest()[:32]


def _parts(path: Path) -> list[str]:
    """The files of a record. Most have one signal file of their own name; only of others the header has to be read."""
    signal = next((f"{path}{suffix}" for suffix in (".dat", ".mat") if os.path.isfile(f"{path}{suffix}")), None)
    if signal is not None:
        return [f"{path}.hea", signal]
    try:
        return record_files(path)
    except (RecordError, FileNotFoundError):
        return [f"{path}.hea"]


def _stamp(path: str) -> str:
    if not os.path.isfile(path):
        return "-"
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _write(files: Sequence[RecordFile], path: Path) -> None:
    """The readable records to `path`, notes on the others to a JSON file beside it; both complete or not at all."""
    skipped: list[str] = []
    other_channels: Counter[str] = Counter()
    with whole_file(path) as unfinished:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            for start in tqdm(range(0, len(files), _RECORDS_PER_CHUNK), desc="Reading records"):
                rows = list(_readable(files[start : start + _RECORDS_PER_CHUNK], skipped, other_channels))
                _check_skipped(skipped, len(files))
                columns = zip(*rows, strict=True) if rows else ([] for _ in _SCHEMA)
                arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        write_atomic(path.with_suffix(".json"), json.dumps({"skipped": skipped, "other_channels": other_channels}))


def _readable(files: Sequence[RecordFile], skipped: list[str], other_channels: Counter[str]) -> Iterator[tuple]:
    for file in files:
        try:
            with warnings.catch_warnings():
                # One line counts them for all records.
                warnings.filterwarnings("ignore", message=".*none of the twelve leads")
                record = read_record(file.path)
        except (RecordError, OSError) as error:
            skipped.append(str(error))
            continue
        other_channels.update(record.other_channels)
        if (record.signal == record.signal[:, :1]).all():
            skipped.append(f"Record {file.path}: it is flat in all leads.")
            continue
        signal = record.signal.reshape(-1)
        yield file.ecg_id, file.patient_id, float(record.sampling_rate), list(record.lead_names), signal


def _check_skipped(skipped: list[str], num_files: int) -> None:
    if len(skipped) > MAX_SKIPPED_FRACTION * num_files:
        named = "\n".join(skipped[:_NAMED_IN_A_MESSAGE])
        raise ValueError(
            f"More than {MAX_SKIPPED_FRACTION:.0%} of the {num_files} records cannot be used. Repair them, or remove "
            f"them from the folder or table:\n{named}"
        )


def _seconds(dataset: datasets.Dataset) -> np.ndarray:
    """Length of each record in s."""
    table = dataset.data
    values, leads = (
        np.concatenate([chunk.value_lengths() for chunk in table.column(name).chunks] or [np.zeros(0)])
        for name in ("signal", "lead_names")
    )
    return values / leads / table.column("sampling_rate").to_numpy()


__all__ = ["RecordFile", "folder_files", "load_records", "ptbxl_files", "table_files"]
