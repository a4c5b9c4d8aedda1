"""`load_code15`: CODE-15 %, whose exams lie in a few HDF5 files and whose labels in `exams.csv`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION, check_choice
from ..ecg_transformer.wfdb_ecg_transformer import MAX_FILE_BYTES, Record, RecordError
from ..readers.channels import Channel, Said, canonical_leads, record_of
from ..readers.formats import need
from ..readers.hdf5 import data_set, without_padding
from .labels import table_labels
from .load import DEFAULT_MAX_SKIPPED, Own, build_splits
from .published import CODE15, note_source
from .split import DEFAULT_FRACTIONS
from .table import Table, is_empty, names_of_patients, number_of_cell, open_table

logger = logging.getLogger(__name__)

TABLE_NAME = "exams.csv"
DATA_NAME = "CODE-15 %"

LABELS = {
    "1dAVb": "first-degree AV block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "ST": "sinus tachycardia",
    "AF": "atrial fibrillation",
}
"""The six labels of CODE-15 % with their full names."""

# Zenodo 4916206: rate, order of the leads (there DI DII DIII AVR AVL AVF V1-V6) and number of exams. Its README gives
# another unit; that the values are mV is seen in their size.
_SAMPLING_RATE = 400.0
_UNITS = "mV"
_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_NUM_EXAMS = 345_779

_PART_NAME = re.compile(r"exams_part(\d+)\.hdf5")
_SEXES = {"true": 0, "false": 1}
_BYTES_PER_BLOCK = 2**24


def load_code15(
    folder: str | os.PathLike,
    labels: Sequence[str] | None = None,
    *,
    problem_type: str = MULTI_LABEL,
    lead_names: Sequence[str] | None = None,
    split_fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    max_skipped: float = DEFAULT_MAX_SKIPPED,
    num_proc: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """A folder with ``exams.csv`` and some or all of ``exams_part0.hdf5`` to ``exams_part17.hdf5``, as the splits of
    [`load_ecg_dataset`]; ``ecg_id`` is the `exam_id`, ``patient_id`` the patient, of whom all exams stay together.

    Signals and labels are joined by `exam_id`. The zeros that fill an exam up at both ends are cut off, and the row of
    zeros behind the last exam of each part is left out. Exams of parts that are not there are left out with a warning,
    as are second copies of an exam. Further columns are ``age`` (years) and ``sex`` (0 male, 1 female, as in PTB-XL).

    Args:
        folder: where the files are.
        labels: columns of ``exams.csv``; by default the six labels, or ``age`` for a regression.
        problem_type: ``multi_label_classification`` or ``regression``.
        lead_names: the leads to read; by default all of the twelve.
        split_fractions, seed, max_skipped, num_proc, cache_dir: as for [`load_ecg_dataset`].

    Raises:
        FileNotFoundError: there is no ``exams.csv`` or no part.
        ValueError: a file has another form, or an argument cannot be used; or as [`load_ecg_dataset`].
        MissingPackageError: the package h5py is not installed.
    """
    check_choice("problem_type", problem_type, (MULTI_LABEL, REGRESSION))
    default = ["age"] if problem_type == REGRESSION else list(LABELS)
    columns = default if labels is None else list(labels)
    folder = Path(folder).expanduser()
    table = _exams(folder)
    names, matrix = table_labels(table, columns, None, problem_type)
    patients = names_of_patients(table.column("patient_id", "patient_id"))
    exams = _join(_exam_ids(table), _parts(folder), Said(lead_names=canonical_leads(lead_names)))
    _report_absent(table, exams)
    rows = exams.rows
    own = Own(
        exams.source,
        pa.array(exams.source.ids),
        patients.take(pa.array(rows)),
        names,
        matrix[rows],
        None,
        {name: column.take(pa.array(rows)) for name, column in _columns(table).items()},
    )
    splits = build_splits(
        {"train": own},
        data_name=DATA_NAME,
        problem_type=problem_type,
        split_fractions=split_fractions,
        seed=seed,
        max_skipped=max_skipped,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )
    if len(table) == _NUM_EXAMS:
        note_source(splits, CODE15)
    return splits


def is_code15_folder(path: str | os.PathLike) -> bool:
    """Whether a folder has CODE-15 %'s table."""
    return (Path(path).expanduser() / TABLE_NAME).is_file()


# ---- The table ----


def _exams(folder: Path) -> Table:
    """The table, with one row for each exam."""
    table = open_table(folder / TABLE_NAME)
    ids = table.column("exam_id", "exam_id").str.strip()
    if not ids.duplicated().any():
        return table
    rows = np.flatnonzero(table.cells.assign(exam_id=ids).duplicated())
    cells = table.cells.drop(index=rows).reset_index(drop=True)
    ids = ids.drop(index=rows).reset_index(drop=True)
    if len(others := np.flatnonzero(ids.duplicated(keep=False))):
        raise ValueError(
            f"{table.name} has {len(others)} rows with the `exam_id` of another row and other cells, such as exam "
            f"{ids[others[0]]}: keep one row for each exam."
        )
    logger.warning(f"{len(rows)} rows of {table.name} repeat another row and are left out.")
    return dataclasses.replace(table, cells=cells)


def _exam_ids(table: Table) -> np.ndarray:
    column = table.column("exam_id", "exam_id")
    if len(wrong := np.flatnonzero(~column.str.strip().str.fullmatch(r"[0-9]{1,18}"))):
        raise ValueError(
            f"The column `exam_id` of {table.name} must be whole numbers; it is not in "
            f"{table.rows_in_words(wrong, column)}."
        )
    return column.to_numpy(str).astype(np.int64)


def _columns(table: Table) -> dict[str, pa.Array]:
    ages = [None] * len(table)
    sexes = [None] * len(table)
    if "age" in table.cells:
        ages = [None if is_empty(cell) else number_of_cell(cell, table.has_decimal_commas) for cell in table.cells.age]
    if "is_male" in table.cells:
        sexes = [_SEXES.get(cell.strip().casefold()) for cell in table.cells["is_male"]]
    return {"age": pa.array(ages, pa.float32()), "sex": pa.array(sexes, pa.int64())}


def _report_absent(table: Table, exams: _Joined) -> None:
    """A warning of exams without a signal, by the parts that are said to hold them."""
    absent = np.setdiff1d(np.arange(len(table)), exams.rows)
    if not len(absent):
        return
    text = f"{len(absent)} of the {len(table)} exams in {TABLE_NAME} are left out, since their signals are not there"
    if "trace_file" in table.cells:
        counts = table.cells["trace_file"].iloc[absent].str.strip().value_counts()
        here = {os.path.basename(path) for path in exams.source.paths}
        text += ": " + ", ".join(
            f"{count} of {name}{'' if name in here else ', which is missing'}" for name, count in counts.items()
        )
    logger.warning(f"{text}.")


# ---- The signals ----


@dataclass(frozen=True)
class Exams:
    """Rows of HDF5 files, in the order of the files, as records.

    Attributes:
        paths: of the files.
        part_of, row_of: index of the file, and the row in it, of each record.
        ids: the `exam_id` of each record.
        said: the leads to read.
    """

    paths: Sequence[str]
    part_of: np.ndarray
    row_of: np.ndarray
    ids: np.ndarray
    said: Said
    _opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # a process that reads opens the files itself

    def key(self, start: int, stop: int) -> str:
        parts, rows, ids = (values[start:stop] for values in (self.part_of, self.row_of, self.ids))
        files = (f"{os.path.abspath(self.paths[part])} {_stamp(self.paths[part])}" for part in np.unique(parts))
        return "\n".join(["CODE-15 1", *files, self.said.text(), *(str(values.tolist()) for values in (rows, ids))])

    def name(self, index: int) -> str:
        return f"Exam {self.ids[index]} of {self.paths[self.part_of[index]]}"

    def read(self, index: int) -> Record:
        try:
            signal = without_padding(self._row(int(self.part_of[index]), int(self.row_of[index])))
            if not signal.any():
                raise RecordError("it is 0 throughout.")
            channels = [Channel(name, values, _UNITS) for name, values in zip(_LEADS, signal.T, strict=True)]
            return record_of(channels, _SAMPLING_RATE, self.said)
        except RecordError as error:
            raise RecordError(f"{self.name(index)}: {error}") from error
        except (OSError, RuntimeError) as error:
            raise RecordError(f"{self.name(index)}: its part of the file is damaged.") from error

    def _row(self, part: int, row: int) -> np.ndarray:
        """(samples, leads), from a block of rows that is read at once and kept until another one is asked for."""
        opened = self._opened
        if opened.get("part") != part:
            if "file" in opened:
                opened["file"].close()
            file = _open(self.paths[part])
            opened.update(part=part, file=file, data=_tracings(file, self.paths[part]), start=0, block=())
        if not opened["start"] <= row < opened["start"] + len(opened["block"]):
            data = opened["data"]
            count = max(1, _BYTES_PER_BLOCK // (math.prod(data.shape[1:]) * data.dtype.itemsize))
            opened.update(start=row, block=data[row : row + count])
        return opened["block"][row - opened["start"]]


class _Joined(NamedTuple):
    """The exams that have a signal, and their rows in the table."""

    source: Exams
    rows: np.ndarray


def _stamp(path: str) -> str:
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _parts(folder: Path) -> list[str]:
    """The parts that are there, by number."""
    found = {int(match[1]): name for name in os.listdir(folder) if (match := _PART_NAME.fullmatch(name))}
    if not found:
        raise FileNotFoundError(f"{folder} has {TABLE_NAME}, but none of its signals, exams_part0.hdf5 to part17.")
    return [str(folder / found[number]) for number in sorted(found)]


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """`ValueError` with the file's name for whatever h5py raises where a file is damaged."""
    try:
        yield
    except RecordError as error:
        raise ValueError(f"{path}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or truncated, or no HDF5 file: download it again.") from error


def _open(path: str) -> Any:
    h5py = need("h5py", "HDF5")
    with _naming(path):
        return h5py.File(path, "r", locking=False)


def _data_set(file: Any, path: str, name: str) -> Any:
    with _naming(path):
        return data_set(need("h5py", "HDF5"), file, name)


def _tracings(file: Any, path: str) -> Any:
    """The data set of signals, (exams, samples, 12)."""
    data = _data_set(file, path, "tracings")
    if data is None or data.ndim != 3 or data.shape[2] != len(_LEADS) or data.dtype.kind != "f":
        found = "none" if data is None else f"{data.shape} of the type {data.dtype}"
        raise ValueError(f"{path} must have a data set `tracings` of floats (exams, samples, 12), found {found}.")
    if math.prod(data.shape[1:]) * data.dtype.itemsize > MAX_FILE_BYTES:
        raise ValueError(f"{path}: an exam has {data.shape[1:]} values, above {MAX_FILE_BYTES} bytes.")
    return data


def _ids_of_part(path: str) -> np.ndarray:
    """The `exam_id` of each row, without the row of zeros behind the last exam."""
    with _open(path) as file:
        data = _tracings(file, path)
        ids = _data_set(file, path, "exam_id")
        if ids is None or ids.dtype.kind not in "iu" or ids.ndim != 1 or not 0 <= len(data) - len(ids) <= 1:
            found = "none" if ids is None else f"{ids.shape} of the type {ids.dtype}"
            raise ValueError(f"{path} must have a data set `exam_id` of {len(data)} whole numbers, found {found}.")
        with _naming(path):
            has_zeros = len(data) > 0 and not data[len(data) - 1].any()
            return ids[: len(data) - has_zeros].astype(np.int64)


def _join(exam_ids: np.ndarray, paths: list[str], said: Said) -> _Joined:
    """The rows of the parts whose exams are in the table, each exam once."""
    parts, rows, ids, num_unknown = [], [], [], 0
    for part, path in enumerate(paths):
        of_part = _ids_of_part(path)
        known = np.isin(of_part, exam_ids)
        num_unknown += np.count_nonzero(~known)
        rows.append(np.flatnonzero(known))
        ids.append(of_part[known])
        parts.append(np.full(len(ids[-1]), part, np.int32))
    part_of, row_of, found = (np.concatenate(values) for values in (parts, rows, ids))
    first = np.sort(np.unique(found, return_index=True)[1])
    if num_unknown:
        logger.warning(f"{num_unknown} exams in the parts are left out, since {TABLE_NAME} does not name them.")
    if len(first) < len(found):
        logger.warning(f"{len(found) - len(first)} rows repeat the `exam_id` of another one and are left out.")
    if not len(first):
        raise ValueError(f"No exam in {', '.join(map(os.path.basename, paths))} is in {TABLE_NAME}.")
    order = np.argsort(exam_ids)
    table_rows = order[np.searchsorted(exam_ids, found[first], sorter=order)]
    return _Joined(Exams(paths, part_of[first], row_of[first], found[first], said), table_rows)


__all__ = ["DATA_NAME", "LABELS", "Exams", "is_code15_folder", "load_code15"]
