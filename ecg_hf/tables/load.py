"""`load_ecg_dataset`: anybody's records with anybody's labels, as the splits that `load_ptbxl` gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION
from ..memory import release_unused
from ..ptbxl.label_order import label_names_of, name_labels
from .facts import facts_of
from .guards import Guarded, guard, join_guarded, remember
from .labels import matching_columns, table_labels, warn_of_spellings
from .shortcuts import Folders
from .split import DEFAULT_FRACTIONS, checked_shares, split_by_patient
from .store import Files, Rows, Source, Stored, report, store_columns, store_records
from .table import SPLITS, Table, TableLike, names_of_patients, open_table, source_of, splits_of

OWN_RECORDS = "own records"
DEFAULT_MAX_SKIPPED = 0.01


class Own(NamedTuple):
    """Records with their labels, before they are read and split.

    Attributes:
        source: where the records are.
        ids: one for each record, a number or text.
        patients: as text; null where unknown.
        label_names, labels: as from [`table_labels`], or in a smaller type of numbers.
        split: of each record, or None.
        columns: further columns of the data set by name, such as `age`.
    """

    source: Source
    ids: pa.Array
    patients: pa.Array
    label_names: Sequence[str]
    labels: np.ndarray
    split: np.ndarray | None
    columns: Mapping[str, pa.Array]


def load_ecg_dataset(
    table: TableLike,
    *,
    record_column: str = "path",
    label_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    validation_table: TableLike | None = None,
    test_table: TableLike | None = None,
    problem_type: str = MULTI_LABEL,
    labels: Sequence[str] | None = None,
    sampling_rate: float | None = None,
    units: str | None = None,
    lead_names: Sequence[str] | None = None,
    data_dir: str | os.PathLike | None = None,
    split_fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    max_skipped: float = DEFAULT_MAX_SKIPPED,
    num_proc: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """Your own ECGs and labels: the splits ``train``, ``validation`` and ``test``.

    The columns are ``ecg_id``, ``patient_id`` (text, null where unknown), ``sampling_rate`` (Hz), ``lead_names``,
    ``signal`` (int16 in µV, flat and lead-major) and ``labels`` (float32).

    ```python
    splits = load_ecg_dataset("ecgs.csv", label_columns=["AF", "LBBB"], patient_column="patient")
    ```

    What looks wrong is warned of, with counts and records: leads that are exchanged or flat, voltages and heart rates
    that no heart has, patients in several splits, recordings that are there twice, labels that are the same in a whole
    split, and labels that follow the folder, the length or the sampling rate.

    Args:
        table: a CSV file (comma, semicolon or tab; UTF-8, decimal commas but in a comma-separated one), a Parquet
            file, a folder of `datasets`, a frame or a data set, with one row for each record.
        record_column: its column of paths of files that `read_ecg` reads, or, of a data set, of signals (leads,
            samples). Paths begin at the table's folder, or at `data_dir`, and do not leave it.
        label_columns: columns by name or pattern (``"dx_*"``) of 0, 1 or nothing (unknown); of a regression, numbers.
        label_column: or one column: of lists or of codes separated by ``;``, ``|`` or ``,``; of dictionaries of codes
            and likelihoods, all of which count; of classes; of numbers.
        patient_column: its column of patients. Without one each record counts as a patient of its own.
        split_column: its column of ``train``, ``validation`` and ``test``.
        validation_table, test_table: tables of these splits, with the same columns.
        problem_type: ``multi_label_classification``, ``single_label_classification`` or ``regression``.
        labels: of one column of codes or classes the names and their order; by default all that occur, sorted.
        sampling_rate, units, lead_names: of files that do not state them, as for `read_ecg`; else from columns of
            these names, which must agree. Beside a column of leads, which names channels, those to take of them.
        data_dir: where paths begin.
        split_fractions, seed: without `split_column` or tables, a split by patient, stratified over the labels.
        max_skipped: the share of records that may be skipped since they cannot be read or are flat in all leads. Those
            that are, are written to a file that the warning names.
        num_proc: processes that read.
        cache_dir: where the Arrow files go; by default the cache of `datasets`.

    Raises:
        TypeError: a table of another kind.
        ValueError: a table or an argument that cannot be used, a cell that is no label, or too many records that
            cannot be read; the message names them, ten at most. Records whose typical amplitude is that of another
            unit.
        FileNotFoundError: a table does not exist.
    """
    tables = _tables(table, validation_table, test_table, record_column, data_dir)
    if split_column is not None and len(tables) > 1:
        raise ValueError("Give either `split_column` or tables of the splits, not both.")
    if split_column is not None or "validation" in tables:
        _refuse_to_draw(split_fractions, seed, "a table" if split_column is None else "`split_column`")
    if labels is None and label_column is not None and problem_type != REGRESSION:
        labels = _all_labels(tables, label_column, problem_type)
        warn_of_spellings(label_column, labels)
    if label_columns is not None:
        label_columns = _same_columns(tables, label_columns)
    _refuse_label_columns_twice(label_columns or [label_column], record_column, patient_column, split_column)
    parts = {}
    for name, part in tables.items():
        source, ids = source_of(part, record_column, sampling_rate, units, lead_names)
        names, matrix = table_labels(part, label_columns, label_column, problem_type, labels)
        patients = pa.nulls(len(part), pa.string())
        if patient_column is not None:
            patients = names_of_patients(part.classes("patient_column", patient_column))
        split = None if split_column is None else splits_of(part, split_column)
        parts[name] = Own(source, ids, patients, names, matrix, split, {})
    del tables, part, ids  # of many records they take more memory than all that is read of them
    return build_splits(
        parts,
        data_name=_data_name(table),
        problem_type=problem_type,
        split_fractions=split_fractions,
        seed=seed,
        max_skipped=max_skipped,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _tables(table, validation_table, test_table, record_column, data_dir) -> dict[str, Table]:
    """The tables by the split that they are for; a single one to be split is `train`."""
    tables = {}
    for name, given in zip(SPLITS, (table, validation_table, test_table), strict=True):
        if given is None:
            continue
        opened = open_table(given, record_column, data_dir)
        if isinstance(opened, Table):
            tables[name] = opened
        elif name == "train" and validation_table is test_table is None and opened.keys() <= set(SPLITS):
            tables |= opened
        else:
            raise ValueError(f"The splits {', '.join(opened)} of a saved data set must be {', '.join(SPLITS)}.")
    return tables


def _refuse_to_draw(split_fractions: Sequence[float], seed: int, said_by: str) -> None:
    for name, is_given in (
        ("`split_fractions`", tuple(split_fractions) != DEFAULT_FRACTIONS),
        ("The seed of the split (`seed`, `--split_seed`)", seed != 0),
    ):
        if is_given:
            raise ValueError(f"{name} is for a split that is drawn, and {said_by} says which it is: leave it out.")


def _data_name(table: TableLike) -> str:
    """How cards call the records: a path's last part tells more than nothing, and nothing of this machine."""
    return f"{OWN_RECORDS} ({Path(table).name})" if isinstance(table, str | os.PathLike) else OWN_RECORDS


def _same_columns(tables: Mapping[str, Table], label_columns: str | Sequence[str]) -> list[str]:
    """The columns that names or patterns choose, in the order of the first table; `ValueError` where others differ."""
    (first, names), *others = ((split, matching_columns(part, label_columns)) for split, part in tables.items())
    for other, found in others:
        if differing := sorted(set(names) ^ set(found)):
            raise ValueError(
                f"`label_columns` chooses {', '.join(differing)} in only one of the tables of {first} and {other}: "
                "name the columns that both have."
            )
    return names


def _refuse_label_columns_twice(label_columns: Sequence[str | None], *others: str | None) -> None:
    """`ValueError` where a model would learn to read the record's name, patient or split."""
    if both := [name for name in label_columns if name is not None and name in others]:
        raise ValueError(
            f"The column `{both[0]}` cannot be a label and also name the record, the patient or the split."
        )


def _all_labels(tables: Mapping[str, Table], label_column: str, problem_type: str) -> list[str]:
    """Those of all tables, so that each split has the same."""
    return sorted(
        {name for part in tables.values() for name in table_labels(part, None, label_column, problem_type)[0]}
    )


def build_splits(
    parts: Mapping[str, Own],
    *,
    data_name: str = OWN_RECORDS,
    problem_type: str = MULTI_LABEL,
    split_fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    max_skipped: float = DEFAULT_MAX_SKIPPED,
    num_proc: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """Split the records and read them; arguments as in [`load_ecg_dataset`].

    `parts` are the records by split. A single part is split as its own `split` says, or by drawing; where there is a
    part of the test alone, validation is drawn from the training part.
    """
    read = []
    for name, own in parts.items():
        release_unused()
        split = own.split
        if name != "train":
            split = np.full(len(own.ids), name, object)
        elif split is None:
            fractions = _fractions_of(parts.keys(), split_fractions)
            is_regression = problem_type == REGRESSION
            split = split_by_patient(own.patients, own.labels, fractions, seed, is_regression, own.ids)
        release_unused()
        # Drawn before anything is read: a record that cannot be read moves no other to another split.
        stored = store_records(own.source, cache_dir, max_skipped=max_skipped, num_proc=num_proc)
        report(stored, len(own.source), cache_dir)
        read.append((_rows_of(own._replace(split=split), stored.rows), stored))
        release_unused()
    names = next(iter(parts.values())).label_names
    guard(join_guarded([_guarded(own, stored) for own, stored in read]), names, problem_type)
    release_unused()
    rows_of: dict[str, list[datasets.Dataset]] = {}
    for own, stored in read:
        records = _with_columns(own, stored, cache_dir)
        for split_name in SPLITS:
            rows = np.flatnonzero(own.split == split_name)
            if len(rows):
                rows_of.setdefault(split_name, []).append(
                    records if len(rows) == len(records) else records.select(rows)
                )
    splits = datasets.DatasetDict(
        {name: name_labels(_joined(rows_of[name]), names) for name in SPLITS if name in rows_of}
    )
    for dataset in splits.values():
        dataset.info.dataset_name = data_name
    remember(splits)
    return splits


def _rows_of(own: Own, rows: np.ndarray) -> Own:
    """The records that were read, of which the source has others beside."""
    if len(rows) == len(own.ids):
        return own
    taken = pa.array(rows)
    return own._replace(
        ids=own.ids.take(taken),
        patients=own.patients.take(taken),
        labels=own.labels[rows],
        split=own.split[rows],
        columns={name: column.take(taken) for name, column in own.columns.items()},
    )


def _guarded(own: Own, stored: Stored) -> Guarded:
    """What the guards look at of the records that were read."""
    source, rows = own.source, stored.rows
    units, folders = pa.nulls(len(rows), pa.string()), Folders(np.zeros(len(rows), np.int32), [()])
    if isinstance(source, Files | Rows):
        # Files state it themselves; floats without a unit are mV in the rows of a data set.
        default = "mV" if isinstance(source, Rows) else None
        units = pa.array((source.said[row].units or default for row in rows), pa.string(), size=len(rows))
    if isinstance(source, Files):
        folders = Folders.of(_folder(source.paths[row]) for row in rows)
    return Guarded(own.ids, own.patients, own.split, own.labels, units, folders, facts_of(stored.files))


def _folder(path: str) -> str:
    """The folder of a path, or of a file of many records that file."""
    file, of_many, _ = path.partition("#")
    return file if of_many else os.path.dirname(file)


def _fractions_of(given: Iterable[str], fractions: Sequence[float]) -> Sequence[float]:
    """The shares of the training part in each split: those that have a part of their own take nothing of it."""
    if "validation" in given:
        return (1.0, 0.0, 0.0)
    if "test" not in given:
        return fractions
    train, validation, _ = checked_shares(fractions)
    if train + validation == 0:
        raise ValueError(
            f"`split_fractions` {fractions} leaves no share for train or validation, and the test has a table of its "
            "own: give that table alone, or other fractions."
        )
    return (train / (train + validation), validation / (train + validation), 0.0)


def _joined(parts: list[datasets.Dataset]) -> datasets.Dataset:
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _with_columns(own: Own, stored: Stored, cache_dir: str | os.PathLike | None) -> datasets.Dataset:
    """The stored records with ids, patients, labels and further columns. No signal is copied."""
    columns = {"ecg_id": own.ids, "patient_id": own.patients, **own.columns}
    beside = store_columns(columns, {"labels": own.labels}, cache_dir)
    return datasets.concatenate_datasets([beside, stored.records], axis=1)


def _count_patients(dataset: datasets.Dataset) -> str:
    patients = dataset.with_format("arrow")["patient_id"][:]
    known = set(patients.unique().to_pylist()) - {None}
    return str(len(known) + patients.null_count)


def _label_matrix(dataset: datasets.Dataset) -> np.ndarray:
    column = dataset.with_format("arrow")["labels"][:].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(dataset), -1)


def splits_in_words(splits: Mapping[str, datasets.Dataset], problem_type: str = MULTI_LABEL) -> str:
    """A table of the records, patients and positives of each split, as text; of a regression of the known values."""
    names = label_names_of(next(iter(splits.values())))
    rows = [["", *splits]]
    rows.append(["records", *(str(len(dataset)) for dataset in splits.values())])
    rows.append(["patients", *(_count_patients(dataset) for dataset in splits.values())])
    matrices = [_label_matrix(dataset) for dataset in splits.values()]
    for index, name in enumerate(names):
        columns = [matrix[:, index] for matrix in matrices]
        counted = [~np.isnan(values) if problem_type == REGRESSION else values == 1 for values in columns]
        rows.append([name, *(str(int(values.sum())) for values in counted)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


__all__ = ["DEFAULT_MAX_SKIPPED", "Own", "build_splits", "load_ecg_dataset", "splits_in_words"]
