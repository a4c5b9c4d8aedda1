"""`ecg-hf prepare` with labels, and what `ecg-hf train --streaming` takes of it.

The records are loaded as for `ecg-hf train`, with the same splits, guards and skipping, and are then copied from the
Arrow files of the cache: the machine that prepares needs room for both, those that train for neither.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL
from ..files import whole_file
from ..ptbxl.label_order import label_names_of
from ..runs.arguments import check_at_least
from ..runs.columns import num_patients, rows_of
from ..runs.labelled_shards import DIGEST, NOT_IN_FACTS, OF_SOURCE
from ..runs.records import fingerprint_of_records
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
from ..runs.shards import LABELLED, VERSION
from ..tables.facts import digest_of
from ..tables.guards import were_guarded
from .data import TaskArguments, has_table, label_names_in_words, load_splits


def prepare_labelled(
    data_args: TaskArguments, output_dir: str | os.PathLike, *, shard_size: int = SHARD_SIZE
) -> dict[str, Any]:
    """Write the splits that the arguments ask for as shards of at most `shard_size` records -> the manifest.

    The shards have all columns of the splits as [`load_splits`] gives them; beside them are the facts of
    [`LabelledShards`].

    Raises:
        FileExistsError: the folder holds finished shards of other records or settings.
        ValueError: there is no record, or an argument that cannot be honoured; and as [`load_splits`] does.
    """
    check_at_least("shard_size", shard_size, 1)
    if data_args.data_dir is None and not has_table(data_args):
        raise ValueError("Give `--data_dir`, a folder of records, or `--table`, a table of their paths.")
    output_dir = Path(output_dir)
    splits = {
        name: dataset for name, dataset in load_splits(data_args.data_dir, data_args, seed=0).items() if len(dataset)
    }
    if "train" not in splits:
        raise ValueError("There is no record for training: give a table or folder with some.")
    kind = data_args.problem_type or MULTI_LABEL
    shards = [shard for split, dataset in splits.items() for shard in _shards(split, dataset, shard_size, kind)]
    if finished := finished_manifest(output_dir, shards):
        return finished
    notes = write_shards(shards, _Writer(splits), output_dir, data_args.num_proc)
    manifest = _manifest(data_args, splits, shards, notes)
    for name, entry in manifest["splits"].items():
        its = [number for number, shard in enumerate(shards) if shard.split == name]
        digests = [digest for number in its for digest in notes[number]["digests"]]
        entry["num_patients"] = num_patients(splits[name])
        entry["facts"] = _write_facts(output_dir, name, splits[name], digests)
    finish(output_dir, manifest)
    return manifest


def _shards(split: str, dataset: datasets.Dataset, shard_size: int, kind: str) -> list[Shard]:
    starts = range(0, len(dataset), shard_size)
    # The names of the cache's files tell the signals: they change with the records that they were made from.
    cache = ["/".join(Path(file["filename"]).parts[-2:]) for file in dataset.cache_files]
    facts = dataset.remove_columns(NOT_IN_FACTS)
    shards = []
    for number, start in enumerate(starts):
        rows = range(start, min(start + shard_size, len(dataset)))
        its = fingerprint_of_records(facts.select(rows), facts.column_names)
        key = hashlib.sha256(json.dumps([VERSION, kind, cache, label_names_of(dataset), its]).encode()).hexdigest()
        shards.append(Shard(split, shard_file(split, number, len(starts)), len(rows), key, rows))
    return shards


class _Writer:
    """Copies the rows of a shard from the splits."""

    def __init__(self, splits: Mapping[str, datasets.Dataset]):
        self.splits = dict(splits)

    def __call__(self, shard: Shard, path: Path) -> dict:
        dataset = self.splits[shard.split].with_format("arrow")
        schema, rows, digests = dataset.features.arrow_schema, shard.content, []
        with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, schema, **ENCODING) as writer:
            for start in range(rows.start, rows.stop, RECORDS_PER_ROW_GROUP):
                table = dataset[start : min(start + RECORDS_PER_ROW_GROUP, rows.stop)].cast(schema)
                digests += [digest_of(signal) for signal in rows_of(table["signal"])]
                writer.write_table(table)
        return {"num_records": len(rows), "skipped": [], "digests": digests}


def _write_facts(output_dir: Path, split: str, dataset: datasets.Dataset, digests: Sequence[int]) -> dict:
    """What the manifest says of the file."""
    path = output_dir / "facts" / f"{split}.parquet"
    path.parent.mkdir(exist_ok=True)
    table = dataset.remove_columns(NOT_IN_FACTS).with_format("arrow")[:]
    with whole_file(path) as unfinished:
        pq.write_table(table.append_column(DIGEST, pa.array(digests, pa.uint64())), unfinished, compression="zstd")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": f"facts/{path.name}", "num_bytes": path.stat().st_size, "sha256": sha256}


def _manifest(
    data_args: TaskArguments, splits: Mapping[str, datasets.Dataset], shards: Sequence[Shard], notes: Sequence[dict]
) -> dict[str, Any]:
    train = splits["train"]
    labels, entries = label_names_of(train), splits_of_shards(shards, notes)
    return {
        "version": VERSION,
        "key": joint_key(shards),
        "num_records": sum(entry["num_records"] for entry in entries.values()),
        LABELLED: {
            **{name: getattr(train.info, name) or "" for name in OF_SOURCE},
            "label_names": labels,
            "titles": label_names_in_words(data_args, labels),
            "problem_type": data_args.problem_type or MULTI_LABEL,
            "task": data_args.task,
            "guarded": were_guarded(list(splits.values())),
        },
        "features": train.features.to_dict(),
        "splits": entries,
    }


__all__ = ["prepare_labelled"]
