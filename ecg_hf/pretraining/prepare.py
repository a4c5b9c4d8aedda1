"""`ecg-hf prepare`: records of any kind as Parquet shards, which training reads from wherever they lie.

Shards are written straight from the files of the records; how, see `ecg_hf.runs.shard_writing`. Shards with labels are
made by `ecg_hf.post_training.shards`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from ..files import whole_file, write_atomic
from ..memory import release_unused
from ..ptbxl.table import FOLDS, read_table
from ..readers.folders import RECORDS_IN_FOLDERS
from ..runs.shard_writing import (
    ENCODING,
    RECORDS_PER_ROW_GROUP,
    SHARD_SIZE,
    Shard,
    finish,
    finished_manifest,
    joint_key,
    shard_file,
    splits_of_shards,
    write_shards,
)
from ..runs.shards import SCHEMA, VERSION
from ..tables.store import NAMED_IN_A_MESSAGE, batch_of, check_skipped, usable_record
from ..tables.table import SPLITS, open_table, splits_of
from .overlap import refuse_test_folds
from .records import RecordFiles, ptbxl_files
from .run import RecordArguments, data_facts, seen_folds, training_files

logger = logging.getLogger(__name__)


def prepare(
    record_args: RecordArguments,
    output_dir: str | os.PathLike,
    *,
    shard_size: int = SHARD_SIZE,
    min_seconds: float = 1.0,
    split_column: str | None = None,
) -> dict[str, Any]:
    """Write the records that the arguments name as shards of at most `shard_size` records -> the manifest.

    The shards are `<output_dir>/data/<split>-<number>-of-<count>.parquet`, with the columns of [`SCHEMA`]. PTB-XL has
    its three splits; of a table `split_column` says them; all other records are for training.

    Raises:
        FileExistsError: the folder holds finished shards of other records or settings.
        ValueError: there is no record, a setting is impossible, records are PTB-XL's and not known to be of its
            training folds, or more than `record_args.max_skipped` of the records cannot be used or are shorter than
            `min_seconds`; ten are named.
    """
    if shard_size < 1:
        raise ValueError(f"`shard_size` must be at least 1, got {shard_size}.")
    if not min_seconds > 0:
        raise ValueError(f"`min_seconds` must be above 0, got {min_seconds}.")
    output_dir = Path(output_dir)
    splits = _files_of_splits(record_args, split_column)
    folds = _checked_folds(record_args, splits["train"])
    shards = [shard for split, files in splits.items() for shard in _shards(split, files, shard_size, min_seconds)]
    del splits  # the shards have copies of their parts
    release_unused()
    if finished := finished_manifest(output_dir, shards):
        return finished
    num_records = sum(shard.num_records for shard in shards)

    def check(skipped: list[str]) -> None:
        check_skipped(skipped, len(skipped), num_records, record_args.max_skipped)

    write = functools.partial(_write, min_seconds=min_seconds)
    notes = write_shards(shards, write, output_dir, record_args.num_proc, check)
    facts = {"data": data_facts(record_args), "ptbxl_records": {str(fold): count for fold, count in folds.items()}}
    manifest = _manifest(shards, notes, facts)
    finish(output_dir, manifest)
    _report(notes, output_dir)
    return manifest


# ---- What is written ----


def _files_of_splits(record_args: RecordArguments, split_column: str | None) -> dict[str, RecordFiles]:
    files = training_files(record_args)
    if split_column is not None:
        if record_args.table is None:
            raise ValueError("`--split_column` is a column of `--table`: give that.")
        table = open_table(record_args.table, record_args.record_column, record_args.data_dir)
        split_of = splits_of(table, split_column)
        found = {split: files.take(np.flatnonzero(split_of == split)) for split in SPLITS}
    elif record_args.reads_ptbxl and not record_args.allow_test_folds:
        others = {split: folds for split, folds in FOLDS.items() if split != "train"}
        rate = record_args.sampling_rate
        found = {"train": files} | {name: ptbxl_files(record_args.data_dir, rate, others[name]) for name in others}
    else:
        found = {"train": files}
    if not len(found["train"]):
        raise ValueError(
            f"There is no record to prepare for training: no ECG file ({RECORDS_IN_FOLDERS}) was found. Other files "
            "need a table with a column of their paths (`--table`)."
        )
    return {split: files for split, files in found.items() if len(files)}


def _checked_folds(record_args: RecordArguments, files: RecordFiles) -> Counter[int | str]:
    """How many records of PTB-XL's folds are for training, where others than its training folds may be among them."""
    folds = seen_folds(record_args, files)
    if record_args.reads_ptbxl and record_args.allow_test_folds:
        table = read_table(record_args.data_dir, record_args.sampling_rate, ("strat_fold",))
        folds = Counter(table["strat_fold"].to_pylist())
    if not record_args.allow_test_folds:
        refuse_test_folds(folds, len(files))
    return folds


def _shards(split: str, files: RecordFiles, shard_size: int, min_seconds: float) -> list[Shard]:
    starts = range(0, len(files), shard_size)
    parts = [files.take(np.arange(start, min(start + shard_size, len(files)))) for start in starts]
    return [
        Shard(split, shard_file(split, number, len(parts)), len(part), _key(part, min_seconds), part)
        for number, part in enumerate(parts)
    ]


def _key(files: RecordFiles, min_seconds: float) -> str:
    ids = list(zip(files.ecg_id.to_pylist(), files.patient_id.to_pylist(), strict=True))
    facts = json.dumps([VERSION, min_seconds, ids, files.source.key(0, len(files))])
    return hashlib.sha256(facts.encode()).hexdigest()


# ---- Writing ----


def _write(shard: Shard, path: Path, min_seconds: float) -> dict:
    """One shard -> the records that were skipped, and what the manifest says of it."""
    files, skipped, shortest = shard.content, [], np.inf
    num_records = 0
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, SCHEMA, **ENCODING) as writer:
        for start in range(0, len(files), RECORDS_PER_ROW_GROUP):
            rows = range(start, min(start + RECORDS_PER_ROW_GROUP, len(files)))
            usable = dict(_usable(files, rows, min_seconds, skipped))
            if usable:
                writer.write_table(_table(files.take(list(usable)), list(usable.values())))
                shortest = min(shortest, *map(_seconds, usable.values()))
                num_records += len(usable)
    return {"num_records": num_records, "skipped": skipped, "shortest_seconds": float(shortest)}


def _usable(files: RecordFiles, rows: range, min_seconds: float, skipped: list[str]) -> Iterator[tuple[int, Record]]:
    """The records that can be used; the reasons against the others are added to `skipped`."""
    source = files.source
    for row in rows:
        try:
            record = usable_record(source, row)
            if _seconds(record) < min_seconds:
                raise RecordError(f"{source.name(row)}: it has {_seconds(record):g} s, wanted are {min_seconds:g} s.")
        except (RecordError, OSError) as error:
            skipped.append(str(error))
        else:
            yield row, record


def _seconds(record: Record) -> float:
    return record.signal.shape[1] / record.sampling_rate


def _table(files: RecordFiles, records: Sequence[Record]) -> pa.Table:
    return pa.table([files.ecg_id, files.patient_id, *batch_of(records).columns], schema=SCHEMA)


# ---- The manifest ----


def _manifest(shards: list[Shard], notes: list[dict], facts: dict) -> dict[str, Any]:
    splits = splits_of_shards(shards, notes)
    for split, entry in splits.items():
        patients = pa.chunked_array([shard.content.patient_id for shard in shards if shard.split == split])
        entry["num_patients"] = None if patients.null_count else len(patients.unique())
    return {
        "version": VERSION,
        "key": joint_key(shards),
        "num_records": sum(entry["num_records"] for entry in splits.values()),
        "num_skipped": sum(len(its["skipped"]) for its in notes),
        "shortest_seconds": min(its["shortest_seconds"] for its in notes),
        **facts,
        "splits": splits,
    }


def _report(notes: Sequence[dict], output_dir: Path) -> None:
    """A warning of skipped records, which a file beside the folder names."""
    skipped = [reason for its in notes for reason in its["skipped"]]
    if not skipped:
        return
    path = output_dir.with_name(f"{output_dir.name}-skipped.txt")
    write_atomic(path, "\n".join(skipped) + "\n")
    named = "\n".join(skipped[:NAMED_IN_A_MESSAGE])
    logger.warning(f"{len(skipped)} records are skipped, since they cannot be used; {path} names all:\n{named}")


__all__ = ["SHARD_SIZE", "prepare"]
