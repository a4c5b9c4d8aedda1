"""PTB-XL as Parquet files for the Hub.

All tasks share the files of a sampling rate. A task is a configuration in the data set card that selects columns and
rows: those with a statement of the task's kind (column `has_<task>`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from datasets import List, Value
from datasets.exceptions import DatasetGenerationError

from ..arrow import is_list_of
from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..files import whole_folder
from .builder import PTBXL, RECORD_SECONDS, fixed_size_lists, open_ptbxl, ptbxl_folder, statement_codes
from .cache import cause_of, open_builder
from .label_order import name_labels
from .labels import TASKS, encode_labels, task_label_names, task_labels
from .table import FOLDS, SAMPLING_RATES

# About 70 MB per file.
RECORDS_PER_FILE = {100: 4096, 500: 1024}
# What a streaming reader downloads at once.
RECORDS_PER_ROW_GROUP = 128

_ROWS_PER_CHECK = 1024

DEFAULT_TASK = "superdiagnostic"


def config_name(task: str, sampling_rate: int) -> str:
    """The configuration of a task: `superdiagnostic` at 100 Hz, `superdiagnostic_500hz` at 500 Hz."""
    return task if sampling_rate == 100 else f"{task}_{sampling_rate}hz"


def write_ptbxl_parquet(
    data_dir: str | os.PathLike,
    sampling_rate: int,
    output_dir: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    skip_missing_records: bool = False,
) -> Path:
    """Write `<output_dir>/data/<rate>hz/<split>-....parquet`, with the labels of all tasks -> that folder.

    The columns are those of `load_ptbxl`, but instead of `labels` there are `labels_<task>` (float32 multi-hot) and
    `has_<task>` (whether the record has a statement of the task's kind) for each task. The folder is created
    atomically.

    Raises:
        FileExistsError: the output folder has files of this sampling rate.
        ValueError: a split has no records. Other errors are as in `load_ptbxl`.
    """
    target = Path(output_dir) / "data" / f"{sampling_rate}hz"
    if target.exists():
        raise FileExistsError(f"`{target}` exists: choose another `output_dir`, or remove it.")
    data_dir = ptbxl_folder(data_dir, sampling_rate, cache_dir)
    builder = open_ptbxl(data_dir, sampling_rate, cache_dir, skip_missing_records)
    if empty := [split for split in FOLDS if not builder.info.splits[split].num_examples]:
        raise ValueError(f"`{data_dir}` has no records of the split {', '.join(empty)}.")
    with whole_folder(target) as unfinished:
        for split in FOLDS:
            _write_split(_with_labels(builder.as_dataset(split)), split, unfinished, RECORDS_PER_FILE[sampling_rate])
    return target


def _with_labels(records: datasets.Dataset) -> datasets.Dataset:
    codes = list(statement_codes(records))
    for task in TASKS:
        labels = encode_labels(codes, task)
        feature = List(Value("float32"), length=labels.shape[1])
        records = records.add_column(f"labels_{task}", fixed_size_lists(labels), feature=feature)
        records = records.add_column(f"has_{task}", labels.any(axis=1))
    return records


def _write_split(records: datasets.Dataset, split: str, folder: Path, records_per_file: int) -> None:
    count = -(-len(records) // records_per_file)
    for index in range(count):
        shard = records.shard(count, index, contiguous=True)
        path = folder / f"{split}-{index:05d}-of-{count:05d}.parquet"
        shard.to_parquet(path, batch_size=RECORDS_PER_ROW_GROUP)


def load_ptbxl_parquet(
    name: str,
    task: str,
    sampling_rate: int,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """The splits of `load_ptbxl`, from a data set of `write_ptbxl_parquet`: the same rows, columns and order.

    Args:
        name: the data set on the Hub, `owner/name`, or the folder.
        task, sampling_rate: as for `load_ptbxl`.
        revision: of the data set on the Hub.
        cache_dir: folder of the Arrow copy of this configuration; by default the cache of `datasets`.

    Raises:
        ValueError: a file is damaged, or a column is missing, has another type, or is empty or of another length for a
            record, which the message names. Other errors are those of `datasets.load_dataset`.
    """
    task_labels(task)  # an unknown task must fail before anything is downloaded
    _check_files(Path(name), task, sampling_rate)
    config = config_name(task, sampling_rate)

    def make(cache: str | None) -> datasets.DatasetBuilder:
        return datasets.load_dataset_builder(name, config, revision=revision, cache_dir=cache)

    builder = open_builder(make, cache_dir)
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        cause = cause_of(error, builder.cache_dir)
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from None
        raise ValueError(f"`{name}`, configuration `{config}`, cannot be read as PTB-XL: {cause}") from error
    splits = builder.as_dataset()
    for split, records in splits.items():
        _check_columns(f"`{name}`, split {split}", records.features.arrow_schema, task)
        _check_rows(f"`{name}`, split {split}", records, task, sampling_rate)
        for field, value in PTBXL.SOURCE.items():
            setattr(records.info, field, value)
        splits[split] = name_labels(records, task_labels(task))
    return splits.rename_column(f"labels_{task}", "labels")


def _check_files(folder: Path, task: str, sampling_rate: int) -> None:
    """`ValueError` for a file in a folder of this machine that is damaged or lacks what a task needs."""
    for split in FOLDS:
        for file in _files(folder, sampling_rate, split):
            if not file.is_file():
                raise ValueError(f"`{file}` is not a regular file.")
            try:
                schema = pyarrow.parquet.read_schema(file)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(
                    f"`{file}` is not a whole Parquet file ({error}): write or download it again."
                ) from error
            _check_columns(f"`{file}`", schema, task)
            if f"has_{task}" not in schema.names:
                raise ValueError(f"`{file}` lacks the column `has_{task}`: write it again by `write_ptbxl_parquet`.")


def _kinds(task: str) -> dict[str, tuple[str, Callable[[pa.DataType], bool]]]:
    """What each column that training needs must hold, in words and as a test of its Arrow type."""
    is_text = is_list_of(lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return {
        "ecg_id": ("integers", pa.types.is_integer),
        "sampling_rate": ("integers, in Hz", pa.types.is_integer),
        "lead_names": ("lists of text", is_text),
        "signal": ("lists of int16, in µV", is_list_of(pa.types.is_int16)),
        f"labels_{task}": ("lists of float32", is_list_of(pa.types.is_float32)),
    }


def _check_columns(where: str, schema: pa.Schema, task: str) -> None:
    for name, (words, is_right) in _kinds(task).items():
        if name not in schema.names:
            raise ValueError(f"{where} lacks the column `{name}`: write it again by `write_ptbxl_parquet`.")
        if not is_right(schema.field(name).type):
            raise ValueError(
                f"{where}: the column `{name}` has the type {schema.field(name).type}; it must hold {words}."
            )


def _check_rows(where: str, records: datasets.Dataset, task: str, sampling_rate: int) -> None:
    """`ValueError` for a record with an empty cell, or with more or fewer values than PTB-XL's have."""
    num_leads = len(LEAD_NAMES)
    lengths = {"signal": num_leads * RECORD_SECONDS * sampling_rate, "lead_names": num_leads}
    lengths[f"labels_{task}"] = len(task_labels(task))
    for name in _kinds(task):
        for start in range(0, len(records), _ROWS_PER_CHECK):
            column = records.data.column(name).slice(start, _ROWS_PER_CHECK)
            faulty = column.is_null()
            if name in lengths:
                faulty = pc.or_kleene(faulty, pc.not_equal(pc.list_value_length(column), lengths[name]))
                inner = pc.list_flatten(column)
                if inner.null_count and not pc.any(faulty).as_py():
                    faulty = pa.array([None in cell for cell in column.to_pylist()])
            if pc.any(faulty).as_py():
                row = start + faulty.to_pylist().index(True)
                _raise_faulty(where, name, records.data.column(name)[row], records.data.column("ecg_id")[row], lengths)


def _raise_faulty(where: str, name: str, cell: pa.Scalar, ecg_id: pa.Scalar, lengths: dict[str, int]) -> None:
    found = "is empty (null)"
    if cell.is_valid:
        found = (
            f"has {len(cell)} values, of which {cell.values.null_count} are null, where {lengths[name]} are expected"
        )
    raise ValueError(f"{where}: the column `{name}` {found} for ecg_id {ecg_id.as_py()}.")


def describe_parquet(folder: str | os.PathLike) -> dict[str, Any]:
    """The content of the card of a folder that `write_ptbxl_parquet` filled, for all its sampling rates.

    `sampling_rates`, `configs` (as in the card's metadata), `num_records` of each split, `tasks` (for each the label
    names and the number of records of each split), `megabytes` of the files of each rate, and `data` (name, licence,
    ...).
    """
    folder = Path(folder)
    rates = [rate for rate in SAMPLING_RATES if (folder / "data" / f"{rate}hz").is_dir()]
    if not rates:
        raise FileNotFoundError(f"`{folder}` has no Parquet files of PTB-XL: create them with `write_ptbxl_parquet`.")
    columns = ["device", *(f"has_{task}" for task in TASKS)]
    tables = {split: pyarrow.parquet.read_table(_files(folder, rates[0], split), columns=columns) for split in FOLDS}
    devices = {device for table in tables.values() for device in table["device"].unique().to_pylist()}
    simulated = devices == {"simulated"}
    return {
        "data": {
            "name": "simulated ECGs in the form of PTB-XL" if simulated else "PTB-XL",
            "simulated": simulated,
            **({"license": None, "citation": None, "homepage": None} if simulated else PTBXL.SOURCE),
        },
        "sampling_rates": rates,
        "configs": [_config(task, rate, rates[0]) for rate in rates for task in TASKS],
        "num_records": {split: len(table) for split, table in tables.items()},
        "tasks": {
            task: {
                "label_names": task_label_names(task),
                "num_records": {split: int(np.sum(table[f"has_{task}"])) for split, table in tables.items()},
            }
            for task in TASKS
        },
        "megabytes": {
            rate: round(sum(file.stat().st_size for file in (folder / "data" / f"{rate}hz").iterdir()) / 1e6)
            for rate in rates
        },
    }


def _files(folder: Path, sampling_rate: int, split: str) -> list[Path]:
    return sorted((folder / "data" / f"{sampling_rate}hz").glob(f"{split}-*.parquet"))


def _config(task: str, sampling_rate: int, first_rate: int) -> dict[str, Any]:
    config = {
        "config_name": config_name(task, sampling_rate),
        "data_files": [{"split": split, "path": f"data/{sampling_rate}hz/{split}-*.parquet"} for split in FOLDS],
        "columns": [*PTBXL.column_names(), f"labels_{task}"],
        "filters": [[f"has_{task}", "==", True]],
    }
    if task == DEFAULT_TASK and sampling_rate == first_rate:
        config["default"] = True
    return config


__all__ = ["config_name", "describe_parquet", "load_ptbxl_parquet", "write_ptbxl_parquet"]
