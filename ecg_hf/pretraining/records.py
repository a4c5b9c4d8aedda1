"""Records to pre-train on: from PTB-XL's training folds, any folder of records, or a table of paths.

They are read once, checked, and kept in the Arrow files that tables of labelled records share. Records that cannot be
used are reported and skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import texts_of
from ..ecg_transformer.wfdb_ecg_transformer import RecordError, record_files
from ..ptbxl.table import TABLE_NAME, read_table
from ..readers.channels import Said
from ..readers.folders import RECORDS_IN_FOLDERS, records_below
from ..tables.store import Files, PathsBelow, Same, Stored, check_skipped, report, store_columns, store_records
from ..tables.table import Table, is_empty, names_of_patients, open_table, source_of

MAX_SKIPPED = 0.01
"""Fraction of the records that may be skipped; beyond it something else is wrong."""


NOTHING_SAID = Said()
REPORT = "report"
"""The column of the reports: in PTB-XL's table, and in what `load_records` gives."""


class RecordFile(NamedTuple):
    """A file of a record: its number, its path, the number of its patient (None if unknown), and what is said of it
    beside the file; its report, where reports are asked for."""

    ecg_id: int
    path: Path
    patient_id: int | None
    said: Said = NOTHING_SAID
    report: str | None = None


@dataclass(frozen=True)
class RecordFiles(Sequence[RecordFile]):
    """Files of records, in columns as of [`RecordFile`], which take a fiftieth of the memory of a list."""

    ecg_id: pa.Int64Array
    paths: PathsBelow
    patient_id: pa.Int64Array
    said: Sequence[Said]
    report: pa.StringArray | None = None

    def __len__(self) -> int:
        return len(self.ecg_id)

    def __getitem__(self, row: int) -> RecordFile:
        report = None if self.report is None else self.report[row].as_py()
        path, patient = Path(self.paths[row]), self.patient_id[row].as_py()
        return RecordFile(self.ecg_id[row].as_py(), path, patient, self.said[row], report)

    def take(self, rows: Sequence[int] | np.ndarray) -> RecordFiles:
        places = pa.array(rows, pa.int64())
        said = Same(self.said.value, len(rows)) if isinstance(self.said, Same) else [self.said[row] for row in rows]
        report = None if self.report is None else self.report.take(places)
        return RecordFiles(self.ecg_id.take(places), self.paths.take(rows), self.patient_id.take(places), said, report)

    @property
    def source(self) -> Files:
        return Files(self.paths, self.said)


def ptbxl_files(
    data_dir: str | os.PathLike, sampling_rate: int, folds: Sequence[int], report_column: str | None = None
) -> RecordFiles:
    """The records of some folds of a PTB-XL folder, at 100 or 500 Hz. No signal is read.

    Raises `ValueError` for another `report_column` than PTB-XL's `report`.
    """
    if report_column not in (None, REPORT):
        raise ValueError(f"`report_column`: PTB-XL has its reports in the column `{REPORT}`, not `{report_column}`.")
    columns = ("strat_fold", "filename", "patient_id", *([] if report_column is None else [REPORT]))
    table = read_table(data_dir, sampling_rate, columns)
    table = table.filter(np.isin(table["strat_fold"], list(folds)))
    ids, names, patients = (table[name].combine_chunks() for name in ("ecg_id", "filename", "patient_id"))
    reports = None if report_column is None else table[report_column].combine_chunks().cast(pa.string())
    ids, patients = (column.cast(pa.int64()) for column in (ids, patients))
    return RecordFiles(ids, PathsBelow(_base(data_dir), names), patients, Same(NOTHING_SAID, len(table)), reports)


def _base(folder: str | os.PathLike) -> str:
    """Paths below it are written as `Path` writes them."""
    return "" if (text := str(Path(folder))) == "." else text


def folder_files(
    data_dir: str | os.PathLike, allow_test_folds: bool = False, said: Said = NOTHING_SAID
) -> RecordFiles:
    """All ECG files in a folder and the folders in it, in the order of their paths; their patients are unknown.

    WFDB records are found by their headers, others by their endings ([`records_below`]). Links to folders are
    followed, and each folder is read once, however many lead to it.

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
    base = _base(data_dir)
    names = texts_of(records_below(data_dir))
    # By folders first, as `Path` orders.
    names = names.take(pc.sort_indices(pc.replace_substring(names, os.sep, "\0")))
    paths = PathsBelow(base, names)
    # The segments of a record have headers, but are no records by themselves.
    segments = {path for path in paths if _has_segments(path) for path in _segment_headers(path)}
    if segments:
        paths = paths.take(np.flatnonzero([path not in segments for path in paths]))
    names = pc.replace_substring_regex(paths.names, r"\.hea$", "")
    count = len(names)
    ids, unknown = pa.array(np.arange(count, dtype=np.int64)), pa.nulls(count, pa.int64())
    return RecordFiles(ids, PathsBelow(base, names), unknown, Same(said, count))


def _has_segments(header: str) -> bool:
    """Whether the name in the first line of a header is followed by a number of segments."""
    if not header.endswith(".hea") or not os.path.isfile(header):
        return False  # of another format, or a pipe, say, which is refused when the record is read
    with open(header, "rb") as file:
        first = next((line for line in file if line.strip() and not line.startswith(b"#")), b"")
    return b"/" in b"".join(first.split()[:1])


def _segment_headers(header: str) -> list[str]:
    try:
        return [path for path in record_files(header)[1:] if path.endswith(".hea")]
    except (RecordError, FileNotFoundError):
        return []  # reported when the record is read


def table_files(
    table: str | os.PathLike,
    record_column: str,
    patient_column: str | None,
    data_dir: str | os.PathLike | None,
    sampling_rate: float | None = None,
    units: str | None = None,
    lead_names: Sequence[str] | None = None,
    report_column: str | None = None,
) -> RecordFiles:
    """The records that a table names, relative to `data_dir` or to the table's folder; see [`load_ecg_dataset`].

    Patients are the same where their cells are, but for blanks around and a `.0` behind; an empty cell is a patient of
    its own. Raises `ValueError` for an absent column, an empty path, or a report that is no text.
    """
    opened = open_table(table, record_column, data_dir)
    if not isinstance(opened, Table):
        raise ValueError(f"`{table}` has several splits: give the table of the one to pre-train on.")
    source, _ = source_of(opened, record_column, sampling_rate, units, lead_names, once=False)
    if not isinstance(source, Files):
        raise ValueError(f"`record_column`: `{record_column}` holds signals; pre-training reads records from files.")
    count = len(opened)
    patients = pa.nulls(count, pa.int64())
    if patient_column is not None:
        names = names_of_patients(opened.classes("patient_column", patient_column))
        patients = names.dictionary_encode().indices.cast(pa.int64())
    reports = None if report_column is None else _reports(opened, report_column)
    ids = pa.array(np.arange(count, dtype=np.int64))
    return RecordFiles(ids, source.paths, patients, source.said, reports)


def _reports(table: Table, name: str) -> pa.StringArray:
    """The text of each row, null where the cell is empty."""
    column = table.column("report_column", name)
    if wrong := [row for row, cell in enumerate(column) if not (isinstance(cell, str) or is_empty(cell))]:
        raise ValueError(
            f"`report_column`: `{name}` of {table.name} must hold texts, or nothing; it holds something else in "
            f"{table.rows_in_words(wrong, column)}."
        )
    return texts_of(None if is_empty(cell) else cell for cell in column)


def load_records(
    files: RecordFiles,
    min_seconds: float,
    cache_dir: str | os.PathLike | None = None,
    *,
    max_skipped: float = MAX_SKIPPED,
    num_proc: int = 1,
    with_reports: bool = False,
) -> datasets.Dataset:
    """Read records, or take them from the cache if no file has changed.

    Returns:
        Columns `ecg_id`, `patient_id` (null where unknown), `sampling_rate` (Hz), `lead_names`, and `signal`, int16 in
        µV, flat and lead-major; `with_reports` also `report` (null where there is none).

    Raises:
        ValueError: there is no record, or more than `max_skipped` of them cannot be used: they cannot be read, have
            missing samples (NaN), are flat in all leads, or are shorter than `min_seconds`. Fewer are skipped, with a
            warning that names them. Another one counts the channels that are none of the twelve leads.
    """
    if not len(files):
        raise ValueError(
            f"There is no record to pre-train on: no ECG file ({RECORDS_IN_FOLDERS}) was found. Other files need a "
            "table with a column of their paths (`--table`)."
        )
    stored = store_records(files.source, cache_dir, max_skipped=max_skipped, num_proc=num_proc)
    seconds = _seconds(stored.records)
    is_long = seconds >= min_seconds
    for row, length in zip(stored.rows[~is_long].tolist(), seconds[~is_long], strict=True):
        stored.skipped[row] = f"Record {files[row].path}: it has {length:g} s, a crop {min_seconds:g} s."
    check_skipped(list(stored.skipped.values()), len(stored.skipped), len(files), max_skipped)
    report(stored, len(files), cache_dir)
    records = _with_ids(files, stored, with_reports, cache_dir)
    return records if is_long.all() else records.select(np.flatnonzero(is_long))


def _with_ids(
    files: RecordFiles, stored: Stored, with_reports: bool, cache_dir: str | os.PathLike | None
) -> datasets.Dataset:
    chosen = files if len(stored.rows) == len(files) else files.take(stored.rows)
    columns = {"ecg_id": chosen.ecg_id, "patient_id": chosen.patient_id}
    if with_reports:
        columns[REPORT] = chosen.report
    return datasets.concatenate_datasets([store_columns(columns, {}, cache_dir), stored.records], axis=1)


def _seconds(dataset: datasets.Dataset) -> np.ndarray:
    """Length of each record in s."""
    table = dataset.data
    values, leads = (
        np.concatenate([chunk.value_lengths() for chunk in table.column(name).chunks] or [np.zeros(0)])
        for name in ("signal", "lead_names")
    )
    return values / leads / table.column("sampling_rate").to_numpy()


__all__ = ["RecordFile", "RecordFiles", "folder_files", "load_records", "ptbxl_files", "table_files"]
