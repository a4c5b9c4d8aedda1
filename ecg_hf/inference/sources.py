"""From the arguments FILE, FOLDER and TABLE to the records behind them."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from ..pipelines import read_for_model
from ..readers.channels import whole_microvolts
from ..readers.folders import RECORDS_IN_FOLDERS
from ..readers.reading import said_of_all

RECORD_COLUMN = "path"
TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
_OF_SAVED_DATASETS = ("dataset_info.json", "dataset_dict.json")


class Item(NamedTuple):
    """A record to answer: its name in the answers, and what reads those of its leads that are asked for."""

    name: str
    read: Callable[[Sequence[str]], Record]


@dataclass(frozen=True)
class Facts:
    """What the caller says of all records, where their files do not: as the arguments of `read_ecg`.

    Raises `ValueError` for what is not valid for any file.
    """

    sampling_rate: float | None = None
    units: str | None = None
    lead_names: tuple[str, ...] | None = None

    def __post_init__(self):
        said_of_all(self.sampling_rate, self.units, self.lead_names)

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def find_records(
    arguments: Sequence[str],
    facts: Facts,
    record_column: str = RECORD_COLUMN,
    data_dir: str | None = None,
    table: str | None = None,
) -> list[Item]:
    """The records of files, of folders and of tables, in the order of the arguments; those of `table` are the last.

    A folder stands for all ECG files in it and below: WFDB by its headers, others by their ending. A Parquet file is a
    table, a folder that `datasets` saved, and a text file whose header has the column `record_column`; the paths in it
    begin at its folder, or at `data_dir`. What is given as `table` is nothing else.

    Raises `ValueError` for a table that cannot be used: it names the rows, ten at most, with the count; and for a
    `record_column` or `data_dir` without a table.
    """
    items, num_tables = [], 0
    for argument in arguments:
        if _is_table(argument, record_column):
            items += _of_table(argument, facts, record_column, data_dir)
            num_tables += 1
        elif os.path.isdir(argument):
            items += _of_folder(argument, facts)
        else:
            item = _of_file(argument, facts.as_dict())
            items.append(item._replace(read=functools.partial(_read_text, item)) if _may_be_table(argument) else item)
    if table is not None:
        items += _of_table(table, facts, record_column, data_dir)
    elif not num_tables and (data_dir is not None or record_column != RECORD_COLUMN):
        given = "data_dir" if data_dir is not None else "record_column"
        raise ValueError(
            f"`--{given}` is for tables, and none of the records is one with the column `{record_column}`: leave it "
            "out, or give the table by `--table`."
        )
    return items


def record_of_file(path: str, facts: Facts) -> Item:
    """The record of one file, whatever its ending."""
    return _of_file(path, facts.as_dict())


def _of_file(path: str, said: dict[str, Any]) -> Item:
    return Item(path, functools.partial(_read_file, path, said))


def _read_file(path: str, said: dict[str, Any], wanted: Sequence[str]) -> Record:
    return read_for_model(path, wanted, said)


def _of_folder(folder: str, facts: Facts) -> list[Item]:
    # With data frames and `datasets`, which a record by itself does not need.
    from ..pretraining.records import folder_files

    paths = sorted(folder_files(folder, allow_test_folds=True).paths)
    if not paths:
        return [Item(folder, functools.partial(_refuse_folder, folder))]
    return [_of_file(path, facts.as_dict()) for path in paths]


def _refuse_folder(folder: str, wanted: Sequence[str]) -> Record:
    raise RecordError(
        f"The folder {folder} has no ECG file ({RECORDS_IN_FOLDERS}) in it or below: name the files, or give a table "
        "with a column of their paths."
    )


def _may_be_table(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in TABLE_ENDINGS and os.path.isfile(path)


def _is_table(path: str, record_column: str) -> bool:
    if any(os.path.isfile(os.path.join(path, name)) for name in _OF_SAVED_DATASETS):
        return True
    return _may_be_table(path) and (path.lower().endswith(".parquet") or record_column in _column_names(path))


def _read_text(item: Item, wanted: Sequence[str]) -> Record:
    try:
        return item.read(wanted)
    except RecordError as error:
        raise RecordError(
            f"{error} If it is a table of records, name its column of paths by `--record_column`."
        ) from None


def _column_names(path: str) -> list[str]:
    from ..tables.table import head_of

    head = head_of(path)
    return [name.strip() for name in next(csv.reader([head.line], delimiter=head.separator), [])]


def _of_table(path: str, facts: Facts, record_column: str, data_dir: str | None) -> Iterator[Item]:
    from ..tables.store import Files
    from ..tables.table import open_table, source_of

    opened = open_table(path, record_column, data_dir)
    for table in opened.values() if isinstance(opened, dict) else [opened]:
        source, ids = source_of(table, record_column, **asdict(facts))
        for index, name in enumerate(map(str, ids)):
            if isinstance(source, Files):
                said = source.said[index]
                of_row = Facts(said.sampling_rate, said.units, said.lead_names)
                named = of_row.as_dict() | ({} if said.channels is None else {"channels": said.channels})
                yield _of_file(source.paths[index], named)._replace(name=name)
            else:
                yield Item(name, functools.partial(_read_row, source, index))


def _read_row(source, index: int, wanted: Sequence[str]) -> Record:
    record = source.read(index)
    return replace(record, signal=whole_microvolts(record))


__all__ = ["Facts", "Item", "find_records", "record_of_file"]
