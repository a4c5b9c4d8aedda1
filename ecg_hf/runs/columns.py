"""The columns of a data set of records: checked, and read as arrays without Python lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..arrow import is_list_of
from ..ecg_transformer.inputs_ecg_transformer import UNITS_PER_MILLIVOLT, canonical_units, unit_named


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


_KINDS = {
    "ecg_id": ("a number or text", lambda kind: _is_number(kind) or _is_text(kind)),
    "patient_id": (
        "a number or text",
        lambda kind: _is_number(kind) or _is_text(kind) or pa.types.is_null(kind),
    ),
    "signal": ("a list of numbers, one lead after the other", is_list_of(_is_number)),
    "sampling_rate": ("a number in Hz", _is_number),
    "lead_names": ("a list of names", is_list_of(_is_text)),
    "labels": ("a list of numbers", is_list_of(lambda kind: _is_number(kind) or pa.types.is_boolean(kind))),
    "units": ("the text mV or uV", _is_text),
}
"""For each column what its cells must be, in words and as a test of the Arrow type."""

_MAY_BE_NULL = ("patient_id", "units")


def sampling_rates(dataset: datasets.Dataset) -> np.ndarray:
    """Of each record, in Hz, as it is stored: the format of `datasets` would round to float32, and 257.3 Hz would be
    another rate than that of the file."""
    return dataset.with_format("arrow")["sampling_rate"].to_numpy().astype(np.float64)


def check_is_dataset(name: str, dataset: object) -> None:
    """`ValueError` unless records can be read by their numbers, as they are stored."""
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"`{name}` must be one data set, got a dictionary of {', '.join(map(str, dataset)) or 'none'}: give one "
            "of them."
        )
    if not (hasattr(dataset, "features") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"`{name}` must be a `datasets.Dataset`, or shards of `ecg-hf prepare`, got {type(dataset).__name__}: "
            "make one by `datasets.Dataset.from_list(rows)`, or of a stream by `datasets.Dataset.from_generator`."
        )
    if getattr(dataset, "format", {}).get("type") == "custom":
        raise ValueError(
            f"`{name}` has a transform (`set_transform`), which is not applied, since records are read as they are "
            "stored: apply it by `map`, or take it off by `with_format(None)`."
        )


def unformatted(dataset: datasets.Dataset) -> datasets.Dataset:
    """The same rows as Python values in all columns: a format (`set_format`) makes other cells, and hides columns."""
    is_formatted = isinstance(dataset, datasets.Dataset) and (
        dataset.format["type"] is not None or set(dataset.format["columns"]) != set(dataset.column_names)
    )
    return dataset.with_format(None) if is_formatted else dataset


def check_columns(dataset: datasets.Dataset, columns: Sequence[str]) -> None:
    """`ValueError` where a data set lacks a column, or one has another type or empty cells; no signal is read."""
    check_is_dataset("dataset", dataset)
    if missing := set(columns) - set(dataset.column_names):
        raise ValueError(
            f"The data set lacks the columns {', '.join(sorted(missing))}: add them, as `load_ecg_dataset` has them."
        )
    present = [*columns, *({"units"} & set(dataset.column_names))]
    schema = dataset.data.schema  # that of `features`, of which each look makes a copy
    for name in present:
        words, is_right = _KINDS[name]
        if not is_right(schema.field(name).type):
            raise ValueError(f"The column `{name}` has the type {schema.field(name).type}; it must be {words}.")
        # Counted over all rows of the file, of which the data set may be a selection.
        if name not in _MAY_BE_NULL and dataset.data.column(name).null_count:
            _check_nulls(dataset, name)


def _check_nulls(dataset: datasets.Dataset, name: str) -> None:
    rows = dataset.select_columns(list({"ecg_id", name})).with_format("arrow")
    for start in range(0, len(rows), 256):
        table = rows[start : start + 256]
        if table[name].null_count:
            index = table[name].is_null().to_pylist().index(True)
            where = f"row {start + index}" if name == "ecg_id" else _name_of(table, index)
            raise ValueError(f"The column `{name}` is empty (null) for {where}: complete it, or leave the record out.")


def _name_of(table: pa.Table, index: int) -> str:
    return f"record {table['ecg_id'][index]}" if "ecg_id" in table.column_names else f"row {index}"


def _filled_rows(table: pa.Table, name: str) -> list[np.ndarray]:
    """The rows of a column of lists, as in [`rows_of`]; `ValueError` where one is null, or holds a null."""
    array = _in_one_piece(table[name])
    if array.null_count or array.flatten().null_count:
        index = next(index for index, cell in enumerate(array) if not cell.is_valid or cell.values.null_count)
        raise ValueError(f"The column `{name}` of {_name_of(table, index)} is empty (null), or has such values.")
    return rows_of(array)


def units_of(table: pa.Table, units: str | None = None) -> list[str]:
    """The unit of each row of the column `signal`, `"mV"` or `"uV"`.

    `units` says it, or else the column `units`. Without one, floats are mV, and the int16 of [`load_ptbxl`] and
    [`load_records`] is µV, also where a row of [`load_ptbxl`] was stored again as integers of another width.

    Raises `ValueError` for another unit, and for other integers without one.
    """
    if units is not None:
        units = canonical_units(units)
    given = table["units"].to_pylist() if units is None and "units" in table.column_names else [units] * len(table)
    kind = table.schema.field("signal").type.value_type
    default = "mV" if pa.types.is_floating(kind) else None
    if pa.types.is_int16(kind) or (default is None and "scp_codes" in table.column_names):
        default = "uV"
    found = [unit or default for unit in given]
    for ecg_id, unit in zip(table["ecg_id"].to_pylist(), found, strict=True):
        if unit is None:
            raise ValueError(
                f"The column `signal` holds integers ({kind}), and nothing tells their unit for record {ecg_id}: add "
                'a column `units` with "mV" or "uV".'
            )
        if unit_named(unit) is None:
            raise ValueError(f'The column `units` is {unit!r} for record {ecg_id}; it must be "mV" or "uV".')
    return [unit_named(unit) for unit in found]


def each_signal(table: pa.Table, units: str | None = None) -> tuple[list[np.ndarray], list[str]]:
    """The signals of the rows as arrays (leads, samples), and the unit of each.

    Raises `ValueError` for a record whose number of values is no multiple of its number of leads, or with empty ones.
    """
    found = units_of(table, units)
    signals = []
    columns = (_filled_rows(table, "signal"), table["lead_names"].to_pylist(), table["ecg_id"].to_pylist())
    for signal, names, ecg_id in zip(*columns, strict=True):
        if not names or not len(signal) or len(signal) % len(names):
            raise ValueError(
                f"The column `signal` has {len(signal)} values for record {ecg_id}, which must be a multiple of its "
                f"{len(names)} leads (`lead_names`): all samples of the first lead, then those of the next."
            )
        signals.append(signal.reshape(len(names), -1))
    return signals, found


def signals_of(table: pa.Table, units: str | None = None) -> tuple[list[np.ndarray], str]:
    """As `each_signal`, with one unit for all: the signals are brought to mV where it differs by row."""
    signals, found = each_signal(table, units)
    if len(set(found)) == 1:
        return signals, found[0]
    return [
        signal.astype(np.float32) / np.float32(UNITS_PER_MILLIVOLT[unit])
        for signal, unit in zip(signals, found, strict=True)
    ], "mV"


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    # Rows that were selected are a piece each.
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def rows_of(column: pa.Array | pa.ChunkedArray) -> list[np.ndarray]:
    """The rows of an Arrow column of lists, as arrays, without copying where the lists have one length."""
    array = _in_one_piece(column) if isinstance(column, pa.ChunkedArray) else column
    values = array.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(array.type):
        return list(values.reshape(len(array), -1))
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(values, np.cumsum(lengths)[:-1])


def label_matrix(table: pa.Table) -> torch.Tensor:
    """The column `labels` as float32 (records, labels)."""
    rows = _filled_rows(table, "labels")
    if odd := [row for row in rows if len(row) != len(rows[0])]:
        index = next(index for index, row in enumerate(rows) if row is odd[0])
        raise ValueError(
            f"The column `labels` has {len(odd[0])} values for {_name_of(table, index)}, {len(rows[0])} for others."
        )
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def number_of(name: object) -> int:
    """The id of a record or patient as a number from 0 to 2^63 - 1, the same in every process.

    A whole number of this range is itself; any other id becomes a hash of its text.
    """
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    if isinstance(name, int) and 0 <= name < 2**63:
        return name
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8]) >> 1


def is_unknown(patient: object) -> bool:
    """Whether the cell of a patient tells none: it is null, NaN or blank."""
    return patient is None or patient != patient or not str(patient).strip()


def num_patients(dataset: datasets.Dataset) -> int | None:
    """How many patients the records have; None where that of a record is unknown."""
    if "patient_id" not in dataset.column_names:
        return None
    patients = set(dataset.with_format("arrow")["patient_id"].to_pylist())
    return None if any(map(is_unknown, patients)) else len(patients)


__all__ = [
    "check_columns",
    "check_is_dataset",
    "each_signal",
    "is_unknown",
    "label_matrix",
    "num_patients",
    "number_of",
    "rows_of",
    "sampling_rates",
    "signals_of",
    "unformatted",
    "units_of",
]
