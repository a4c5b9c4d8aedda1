"""PTB-XL's table `ptbxl_database.csv`: its folds and columns, read and validated in blocks."""

from __future__ import annotations

import ast
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from datasets import Features, List, Value

from .labels import find_statement

TABLE_NAME = "ptbxl_database.csv"

FOLDS = {"train": range(1, 9), "validation": range(9, 10), "test": range(10, 11)}
"""The official folds of each split."""

FILENAME_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
"""The column of the table with the file names of a sampling rate in Hz."""

SAMPLING_RATES = tuple(FILENAME_COLUMNS)
"""The sampling rates of PTB-XL's records in Hz."""

NOTHING = {"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null"}
"""How R, pandas and databases write into a cell that there is nothing. Not `None`, which may be a class."""

_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,18}")

_PLAIN_PATH = re.compile(r"[\w-]+(/[\w-]+)*")
"""Inside the data folder, as all of PTB-XL's are."""

_BYTES_PER_BLOCK = 2**16


def is_ptbxl_folder(path: str | os.PathLike) -> bool:
    """Whether a folder has PTB-XL's table, or a path is that of a file, as PhysioNet's zip."""
    path = Path(path).expanduser()
    return path.is_file() or (path / TABLE_NAME).exists()


def check_sampling_rate(sampling_rate: object) -> None:
    """`ValueError` unless PTB-XL has files of this rate (Hz)."""
    if sampling_rate not in SAMPLING_RATES:
        rates = " and ".join(map(str, SAMPLING_RATES))
        raise ValueError(f"PTB-XL has records at {rates} Hz, not at {sampling_rate!r} Hz.")


def _parse_integer(cell: str) -> int:
    if _WHOLE_NUMBER.fullmatch(cell.strip()):
        return int(cell)  # a float would round one of more than 53 bits
    number = float(cell)
    if not number.is_integer():
        raise ValueError("it must be an integer.")
    return int(number)


def _parse_number(cell: str) -> float:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError("it must be a finite number.")
    return number


def _parse_fold(cell: str) -> int:
    fold = _parse_integer(cell)
    if not any(fold in folds for folds in FOLDS.values()):
        raise ValueError("it must be a fold from 1 to 10.")
    return fold


@functools.lru_cache(maxsize=1024)  # half of the records share their cell with others
def _parse_codes(cell: str) -> list[dict[str, str | float]]:
    try:
        likelihoods = {str(code): float(likelihood) for code, likelihood in ast.literal_eval(cell.strip()).items()}
    except (ValueError, SyntaxError, TypeError, AttributeError):
        raise ValueError("it must be a dictionary of likelihoods, as numbers, by SCP code.") from None
    parsed = [{"code": find_statement(code).code, "likelihood": number} for code, number in likelihoods.items()]
    if len({item["code"] for item in parsed}) < len(parsed):
        raise ValueError("it names a statement twice.")
    return parsed


def _parse_filename(cell: str) -> str:
    if _PLAIN_PATH.fullmatch(cell):
        return cell
    path = PureWindowsPath(cell)  # handles the separators and anchors of all systems
    if path.anchor or ".." in path.parts:
        raise ValueError("it must lie inside the data folder.")
    return cell


class _Column(NamedTuple):
    """A column of the table: its type in the data set, and how its cells are parsed."""

    feature: Value | List
    parse: Callable[[str], Any]
    is_required: bool = False


_COLUMNS = {
    "ecg_id": _Column(Value("int64"), _parse_integer, is_required=True),
    "patient_id": _Column(Value("int64"), _parse_integer),
    "age": _Column(Value("float32"), _parse_number),
    "sex": _Column(Value("int64"), _parse_integer),
    "height": _Column(Value("float32"), _parse_number),
    "weight": _Column(Value("float32"), _parse_number),
    "nurse": _Column(Value("int64"), _parse_integer),
    "site": _Column(Value("int64"), _parse_integer),
    "device": _Column(Value("string"), str),
    "recording_date": _Column(Value("string"), str),
    "report": _Column(Value("string"), str),
    "scp_codes": _Column(
        List({"code": Value("string"), "likelihood": Value("float32")}), _parse_codes, is_required=True
    ),
    "strat_fold": _Column(Value("int64"), _parse_fold, is_required=True),
    "filename": _Column(Value("string"), _parse_filename, is_required=True),
}


def table_features() -> Features:
    return Features({name: column.feature for name, column in _COLUMNS.items()})


def read_table(folder: str | os.PathLike, sampling_rate: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in PTB-XL's folder, validated and typed, with the file names of one sampling rate (100 or 500 Hz).

    With `columns` only these and `ecg_id` are read and checked.

    Raises:
        FileNotFoundError: the folder has no such table.
        ValueError: another rate, or a table that cannot be read; the message names row and column.
    """
    return pa.concat_tables(read_blocks(folder, sampling_rate, columns))


def read_blocks(
    folder: str | os.PathLike, sampling_rate: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of `read_table` in blocks of some hundreds, to bound the memory."""
    check_sampling_rate(sampling_rate)
    path = Path(folder, TABLE_NAME)
    schema = table_features().arrow_schema
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in ("ecg_id", *columns)])
    ecg_ids = [np.empty(0, dtype=np.int64)]
    try:
        for cells in _read_cells(path, FILENAME_COLUMNS[sampling_rate]):
            parsed = [pa.array(_parse_column(cells, field.name), field.type) for field in schema]
            table = pa.table(parsed, schema=schema)
            ecg_ids.append(table["ecg_id"].to_numpy())
            yield table
        _check_ecg_ids(np.concatenate(ecg_ids))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_cells(path: Path, filename_column: str) -> Iterator[pa.RecordBatch]:
    """The unparsed cells of the table, under the column names of the data set."""
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {problem}; `data_dir` must be PTB-XL's folder, with this table.")
    names = {filename_column if name == "filename" else name: name for name in _COLUMNS}
    try:
        with pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BYTES_PER_BLOCK),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(names), column_types=dict.fromkeys(names, pa.string())
            ),
        ) as blocks:
            for cells in blocks:
                yield cells.rename_columns(list(names.values()))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(f"it is not PTB-XL's table, comma-separated in UTF-8: {error}") from error


def _check_ecg_ids(ecg_ids: np.ndarray) -> None:
    if not len(ecg_ids):
        raise ValueError("it has no rows.")
    values, counts = np.unique(ecg_ids, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"ecg_id {values[counts.argmax()]} is in {counts.max()} rows.")


def _parse_column(cells: pa.RecordBatch, name: str) -> list[Any]:
    _, parse, is_required = _COLUMNS[name]
    values = []
    for ecg_id, cell in zip(cells["ecg_id"].to_pylist(), cells[name].to_pylist(), strict=True):
        is_empty = cell.strip() in NOTHING
        try:
            if is_required and is_empty:
                raise ValueError("it must not be empty.")
            values.append(None if is_empty else parse(cell))
        except (SyntaxError, TypeError, ValueError) as error:
            raise ValueError(f"`{name}` of ecg_id {ecg_id or '?'} is {cell!r}: {error}") from error
    return values


__all__ = [
    "FILENAME_COLUMNS",
    "FOLDS",
    "NOTHING",
    "SAMPLING_RATES",
    "TABLE_NAME",
    "check_sampling_rate",
    "is_ptbxl_folder",
    "read_blocks",
    "read_table",
    "table_features",
]
