"""Groups of records by columns of their table, and what the model is worth in each."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pandas as pd

from ..post_training.data import TaskArguments, has_table
from ..ptbxl.builder import ptbxl_folder
from ..ptbxl.table import TABLE_NAME
from ..tables.table import Table, is_empty, number_of_cell, open_table, source_of
from .measures import Areas, Errors

AGE = "age"
AGE_BANDS = {"under 40": 40, "40-59": 60, "60-74": 75, "75 and over": np.inf}
"""Each ends below this age in years. Beyond 0 to 120, but for PTB-XL's 300, which is all over 89, there is no age: -1,
or 999, is how some write that it is unknown."""
SEX_NAMES = {0: "male", 1: "female"}
"""In PTB-XL, and as the loaders of Challenges and CODE-15 % have it."""
QUALITY_COLUMNS = ("baseline_drift", "static_noise", "burst_noise", "electrodes_problems")
"""Of PTB-XL's table: any text says that the record is affected, mostly in which leads."""
DEFAULT_COLUMNS = ("sex", AGE, "device", "site", *QUALITY_COLUMNS)
UNKNOWN = "unknown"
MAX_GROUPS = 200

_OLDEST, _OVER_89 = 120, 300
_AGE_OVER = re.compile(r"(?:>|>=|\u2265)\s*([0-9]+)|([0-9]+)\s*\+")
_NO_GROUPS = ("signal", "labels", "ecg_id")


def groups_of_records(
    dataset: datasets.Dataset, data_args: TaskArguments, split: str, columns: Sequence[str] | None
) -> dict[str, list[str]]:
    """For each column the group of each record: bands of age, other cells as they are, `unknown` for an empty one.

    By default the `DEFAULT_COLUMNS` that the records have, of own tables none. Raises `ValueError` for a column that
    the records do not have, or one with more than 200 different cells.
    """
    if has_table(data_args):
        cells = _cells_of_table(dataset, data_args, split, columns or ())
    else:
        cells = _cells_of_dataset(dataset, columns or DEFAULT_COLUMNS)
        if data_args.reads_ptbxl and data_args.data_dir is not None:
            cells |= _cells_of_ptbxl(dataset, data_args, columns or QUALITY_COLUMNS)
    if lacking := [name for name in columns or () if name not in cells]:
        known = [name for name in dataset.column_names if name not in _NO_GROUPS]
        table = f", and the others of {TABLE_NAME}" if data_args.reads_ptbxl and data_args.data_dir else ""
        raise ValueError(
            f"`--subgroup_columns`: the records have no column `{lacking[0]}`; they have {', '.join(known)}{table}."
        )
    return {name: _grouped(name, cells[name]) for name in columns or DEFAULT_COLUMNS if name in cells}


def _cells_of_dataset(dataset: datasets.Dataset, columns: Sequence[str]) -> dict[str, list]:
    present = [name for name in columns if name in dataset.column_names and name not in _NO_GROUPS]
    cells = {name: list(dataset[name]) for name in present}
    if "sex" in cells:
        cells["sex"] = [SEX_NAMES.get(cell, cell) for cell in cells["sex"]]
    return cells


def _cells_of_ptbxl(dataset: datasets.Dataset, data_args: TaskArguments, columns: Sequence[str]) -> dict[str, list]:
    """Those of the columns that PTB-XL's table has and the data set does not."""
    folder = ptbxl_folder(data_args.data_dir, data_args.sampling_rate, data_args.cache_dir)
    wanted = set(columns) - set(dataset.column_names)
    table = pd.read_csv(
        pathlib.Path(folder).expanduser() / TABLE_NAME,
        usecols=lambda name: name == "ecg_id" or name in wanted,
        dtype=str,
        keep_default_na=False,
    )
    rows = table.set_index(table["ecg_id"].astype(float).astype(int)).loc[list(dataset["ecg_id"])]
    return {
        name: ["not affected" if is_empty(cell) else "affected" for cell in rows[name]]
        if name in QUALITY_COLUMNS
        else rows[name].tolist()
        for name in columns
        if name in rows
    }


def _cells_of_table(
    dataset: datasets.Dataset, data_args: TaskArguments, split: str, columns: Sequence[str]
) -> dict[str, list]:
    """Cells of the own table of a split, by the records' ids."""
    of_split = {"train": data_args.table, "validation": data_args.validation_table, "test": data_args.test_table}
    opened = open_table(of_split[split] or data_args.table, data_args.record_column, data_args.data_dir)
    table = opened[split] if isinstance(opened, Mapping) else opened
    row_of = _rows_of_ids(table, data_args)
    rows = [row_of[ecg_id] for ecg_id in dataset["ecg_id"]]
    cells = {name: table.classes("subgroup_columns", name).iloc[rows].tolist() for name in columns}
    if table.has_decimal_commas:
        cells = {name: [_with_point(cell) for cell in column] for name, column in cells.items()}
    return cells


def _with_point(cell: object) -> object:
    number = number_of_cell(cell, has_decimal_commas=True)
    return cell if number is None else number


def _rows_of_ids(table: Table, data_args: TaskArguments) -> dict[object, int]:
    """The row of each record's id, as `load_ecg_dataset` gives ids."""
    _, ids = source_of(table, data_args.record_column, data_args.sampling_rate, data_args.units, data_args.lead_names)
    return {ecg_id: row for row, ecg_id in enumerate(ids.to_pylist())}


def _grouped(name: str, cells: Sequence[object]) -> list[str]:
    filled = [None if is_empty(cell) else cell for cell in cells]
    if name.casefold() == AGE and (bands := _bands(name, filled)) is not None:
        return bands
    groups = [UNKNOWN if cell is None else _as_text(cell) for cell in filled]
    if (count := len(set(groups))) > MAX_GROUPS:
        raise ValueError(
            f"`--subgroup_columns`: `{name}` has {count} different cells, at most {MAX_GROUPS} can be groups: give a "
            "column of groups."
        )
    return groups


def _bands(name: str, cells: Sequence[object]) -> list[str] | None:
    """The band of each age in years; None where the cells are groups already (`40-49`); `ValueError` for some of both.

    `> 89` and `90+`, by which tables hide who is that old, are the number.
    """
    ages = [None if cell is None else number_of_cell(cell, False) for cell in cells]
    num_years = len(ages) - ages.count(None)
    over = [None if cell is None else _AGE_OVER.fullmatch(str(cell).strip()) for cell in cells]
    ages = [float(match[1] or match[2]) if match else age for age, match in zip(ages, over, strict=True)]
    others = [cell for age, cell in zip(ages, cells, strict=True) if age is None and cell is not None]
    if num_years > len(others) > 0:
        raise ValueError(
            f"`--subgroup_columns`: `{name}` has years, and in {len(others)} rows something else, such as "
            f"{others[0]!r}: write ages in years (over 89 also as `> 89` or `90+`), and nothing where one is unknown."
        )
    return [UNKNOWN if age is None else _band(age) for age in ages] if num_years and not others else None


def _band(age: float) -> str:
    if not (0 <= age <= _OLDEST or age == _OVER_89):
        return UNKNOWN
    return next(band for band, end in AGE_BANDS.items() if age < end)


def _as_text(cell: object) -> str:
    """The same for 3, 3.0 and "3.0", and for any blanks between words."""
    text = " ".join(str(cell).split())
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def judge_groups(
    groups: Mapping[str, Sequence[str]],
    labels: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    measure: Areas | Errors,
    n_resamples: int,
) -> dict[str, dict]:
    """The measures in each group, over the labels that have at least ten positives there.

    Args:
        groups: from [`groups_of_records`].
        labels, scores: (records, labels).
        patients: (records,), numbered from 0.

    Returns:
        For each column `groups`, with for each group `num_records`, `num_patients`, `num_labels`, `num_counted` (its
        positives, of a regression known values), the `interval` of each measure, and `all_records`, the measures of
        all records over the same labels; and `left_out`, the number of records of each group without such labels.
    """
    found = {}
    for column, names in groups.items():
        of_record = np.array(names)
        shown, left_out = {}, {}
        for group in _in_order(column, names):
            rows = of_record == group
            if not (kept := measure.columns(labels[rows])).any():
                left_out[group] = int(rows.sum())
                continue
            in_group = labels[rows][:, kept]
            everything = measure.weighted(labels[:, kept], scores[:, kept], np.ones((1, len(labels))))[:, 0]
            shown[group] = {
                "num_records": int(rows.sum()),
                "num_patients": len(np.unique(patients[rows])),
                "num_labels": int(kept.sum()),
                "num_counted": measure.count(in_group),
                **measure.intervals(in_group, scores[rows][:, kept], patients[rows], n_resamples),
                "all_records": dict(zip(measure.names, everything.tolist(), strict=True)),
            }
        found[column] = {"groups": shown, "left_out": left_out}
    return found


def _in_order(column: str, names: Sequence[str]) -> list[str]:
    """Bands by age, others with the most records first; what is unknown last."""
    found = set(names)
    if column.casefold() == AGE and found <= {*AGE_BANDS, UNKNOWN}:
        return [band for band in (*AGE_BANDS, UNKNOWN) if band in found]
    counts = pd.Series(list(names)).value_counts()
    return sorted(found, key=lambda name: (name == UNKNOWN, -counts[name], name))


__all__ = ["AGE_BANDS", "DEFAULT_COLUMNS", "QUALITY_COLUMNS", "groups_of_records", "judge_groups"]
