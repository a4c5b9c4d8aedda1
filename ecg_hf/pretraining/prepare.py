"""`ecg-hf prepare`: records of any kind as Parquet shards, which training reads from wherever they lie.

Each shard is written whole or not at all, by one of several processes, straight from the files of the records; the
manifest comes last. A command that was stopped goes on with the shards that are missing, or whose records have
changed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from ..files import whole_file, write_atomic
from ..ptbxl.table import FOLDS, read_table
from ..runs.shards import MANIFEST, SCHEMA, VERSION
from ..tables.store import NAMED_IN_A_MESSAGE, Files, batch_of, check_skipped, end_with_parent, usable_record
from ..tables.table import SPLITS, open_table, splits_of
from .overlap import refuse_test_folds
from .records import RecordFile, ptbxl_files
from .run import RecordArguments, data_facts, seen_folds, training_files

logger = logging.getLogger(__name__)

SHARD_SIZE = 1000
"""Records of a shard: 16 MB of PTB-XL's at 100 Hz, 50 MB at 500 Hz."""

_PROGRESS = "unfinished"
_RECORDS_PER_ROW_GROUP = 100
# Of neighbouring samples the differences have few bits: of PTB-XL .65 (100 Hz) and .41 (500 Hz) of the int16 are left.
_ENCODING = {
    "use_dictionary": ["lead_names.list.element"],
    "column_encoding": {"signal.list.element": "DELTA_BINARY_PACKED"},
    "compression": "none",
}


class Shard(NamedTuple):
    """A file to be written: its split, its name in the folder, and its records."""

    split: str
    file: str
    files: list[RecordFile]

    @property
    def source(self) -> Files:
        return Files([str(file.path) for file in self.files], [file.said for file in self.files])

    def key(self, min_seconds: float) -> str:
        """Hexadecimal text that changes whenever the shard may have other rows."""
        ids = [[file.ecg_id, file.patient_id] for file in self.files]
        facts = json.dumps([VERSION, min_seconds, ids, self.source.key(0, len(self.files))])
        return hashlib.sha256(facts.encode()).hexdigest()


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
    shards = [shard for split, files in splits.items() for shard in _shards(split, files, shard_size)]
    keys = [shard.key(min_seconds) for shard in shards]
    if finished := _finished(output_dir, keys):
        return finished
    notes = _write_all(shards, keys, output_dir, record_args, min_seconds)
    facts = {"data": data_facts(record_args), "ptbxl_records": {str(fold): count for fold, count in folds.items()}}
    manifest = _manifest(shards, keys, notes, facts)
    write_atomic(output_dir / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(output_dir / _PROGRESS)
    _report(notes, output_dir)
    return manifest


# ---- What is written ----


def _files_of_splits(record_args: RecordArguments, split_column: str | None) -> dict[str, list[RecordFile]]:
    files = training_files(record_args)
    if split_column is not None:
        if record_args.table is None:
            raise ValueError("`--split_column` is a column of `--table`: give that.")
        table = open_table(record_args.table, record_args.record_column, record_args.data_dir)
        split_of = splits_of(table, split_column)
        found = {split: [file for file, its in zip(files, split_of, strict=True) if its == split] for split in SPLITS}
    elif record_args.reads_ptbxl and not record_args.allow_test_folds:
        others = {split: folds for split, folds in FOLDS.items() if split != "train"}
        rate = record_args.sampling_rate
        found = {"train": files} | {name: ptbxl_files(record_args.data_dir, rate, others[name]) for name in others}
    else:
        found = {"train": files}
    if not found["train"]:
        raise ValueError(
            "There is no record to prepare for training: no ECG file (for WFDB a header, .hea) was found."
        )
    return {split: files for split, files in found.items() if files}


def _checked_folds(record_args: RecordArguments, files: list[RecordFile]) -> Counter[int | str]:
    """How many records of PTB-XL's folds are for training, where others than its training folds may be among them."""
    folds = seen_folds(record_args, files)
    if record_args.reads_ptbxl and record_args.allow_test_folds:
        folds = Counter(read_table(record_args.data_dir, record_args.sampling_rate)["strat_fold"].to_pylist())
    if not record_args.allow_test_folds:
        refuse_test_folds(folds, len(files))
    return folds


def _shards(split: str, files: list[RecordFile], shard_size: int) -> list[Shard]:
    count = -(-len(files) // shard_size)
    return [
        Shard(
            split,
            f"data/{split}-{number:05d}-of-{count:05d}.parquet",
            files[number * shard_size : (number + 1) * shard_size],
        )
        for number in range(count)
    ]


def _finished(output_dir: Path, keys: list[str]) -> dict[str, Any] | None:
    """The manifest of a folder that holds these shards already."""
    if not (output_dir / MANIFEST).is_file():
        return None
    manifest = json.loads((output_dir / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("key") != _joint(keys):
        raise FileExistsError(
            f"`{output_dir}` holds shards of other records or settings: choose another `--output_dir`, or remove it."
        )
    logger.warning("`%s` holds these shards already: nothing was read.", output_dir)
    return manifest


def _joint(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


# ---- Writing ----


def _write_all(shards: list[Shard], keys: list[str], output_dir: Path, record_args, min_seconds: float) -> list[dict]:
    """The notes of all shards, those that are missing being written."""
    for folder in ("data", _PROGRESS):
        (output_dir / folder).mkdir(parents=True, exist_ok=True)
    notes = [_old_notes(output_dir, shard, key) for shard, key in zip(shards, keys, strict=True)]
    todo = [number for number, found in enumerate(notes) if found is None]
    num_records = sum(len(shard.files) for shard in shards)
    with tqdm(total=num_records, desc="Writing shards", unit="record") as bar:
        bar.update(num_records - sum(len(shards[number].files) for number in todo))
        jobs = [(shards[number], keys[number]) for number in todo]
        for number, found in zip(todo, _written(jobs, output_dir, min_seconds, record_args.num_proc), strict=True):
            notes[number] = found
            bar.update(len(shards[number].files))
            reasons = [reason for some in notes if some is not None for reason in some["skipped"]]
            check_skipped(reasons, len(reasons), num_records, record_args.max_skipped)
    return notes


def _old_notes(output_dir: Path, shard: Shard, key: str) -> dict | None:
    """The notes of a shard that a command which was stopped has written, of the same records."""
    path = _notes_path(output_dir, shard)
    if not path.is_file() or not (output_dir / shard.file).is_file():
        return None
    notes = json.loads(path.read_text(encoding="utf-8"))
    # A record that was skipped may be readable by now.
    return notes if notes["key"] == key and not notes["skipped"] else None


def _notes_path(output_dir: Path, shard: Shard) -> Path:
    return output_dir / _PROGRESS / f"{Path(shard.file).stem}.json"


def _written(jobs: Sequence[tuple[Shard, str]], output_dir: Path, min_seconds: float, num_proc: int) -> Iterator[dict]:
    write = functools.partial(_write, output_dir=output_dir, min_seconds=min_seconds)
    if num_proc == 1 or len(jobs) < 2:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(min(num_proc, len(jobs)), multiprocessing.get_context(), end_with_parent) as pool:
        try:
            yield from pool.map(write, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


def _write(job: tuple[Shard, str], output_dir: Path, min_seconds: float) -> dict:
    """One shard, then its notes: the records that were skipped, and what the manifest says of it."""
    shard, key = job
    path, skipped, shortest = output_dir / shard.file, [], np.inf
    num_records = 0
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, SCHEMA, **_ENCODING) as writer:
        for start in range(0, len(shard.files), _RECORDS_PER_ROW_GROUP):
            rows = range(start, min(start + _RECORDS_PER_ROW_GROUP, len(shard.files)))
            usable = [(shard.files[row], record) for row, record in _usable(shard, rows, min_seconds, skipped)]
            if usable:
                writer.write_table(_table(*zip(*usable, strict=True)))
                shortest = min(shortest, *(_seconds(record) for _, record in usable))
                num_records += len(usable)
    notes = {"key": key, "num_records": num_records, "skipped": skipped, "shortest_seconds": float(shortest)}
    with open(path, "rb") as file:
        notes |= {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    write_atomic(_notes_path(output_dir, shard), json.dumps(notes))
    return notes


def _usable(shard: Shard, rows: range, min_seconds: float, skipped: list[str]) -> Iterator[tuple[int, Record]]:
    """The records that can be used; the reasons against the others are added to `skipped`."""
    source = shard.source
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


def _table(files: Sequence[RecordFile], records: Sequence[Record]) -> pa.Table:
    batch = batch_of(list(records))
    beside = [
        pa.array([file.ecg_id for file in files], pa.int64()),
        pa.array([file.patient_id for file in files], pa.int64()),
    ]
    return pa.table([*beside, *batch.columns], schema=SCHEMA)


# ---- The manifest ----


def _manifest(shards: list[Shard], keys: list[str], notes: list[dict], facts: dict) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for shard, its in zip(shards, notes, strict=True):
        entry = splits.setdefault(shard.split, {"num_records": 0, "num_patients": None, "shards": []})
        entry["num_records"] += its["num_records"]
        if its["num_records"]:
            entry["shards"].append({"file": shard.file, **{name: its[name] for name in _OF_SHARD}})
    for split, entry in splits.items():
        patients = {file.patient_id for shard in shards if shard.split == split for file in shard.files}
        entry["num_patients"] = None if None in patients else len(patients)
    return {
        "version": VERSION,
        "key": _joint(keys),
        "num_records": sum(entry["num_records"] for entry in splits.values()),
        "num_skipped": sum(len(its["skipped"]) for its in notes),
        "shortest_seconds": min(its["shortest_seconds"] for its in notes),
        **facts,
        "splits": splits,
    }


_OF_SHARD = ("num_records", "num_bytes", "sha256")


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
