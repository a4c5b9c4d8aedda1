"""Records with labels in Parquet shards: signals are read while training, all else of a split at once.

Beside the shards `ecg-hf prepare` writes for each split `facts/<split>.parquet`: the columns of its records without
signals, some hundred bytes a record. So classes are counted, patients compared and shares drawn before any signal is
read.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..files import whole_file
from ..ptbxl.label_order import name_labels
from .shards import LABELLED, ShardedRecords

DIGEST = "signal_digest"
"""Column of the facts: uint64, equal for equal signals."""

NOT_IN_FACTS = ("signal", "lead_names")
OF_SOURCE = ("dataset_name", "license", "citation", "homepage")
"""Fields of `datasets.DatasetInfo` that cards name."""

_ROWS_AT_ONCE = 256


class LabelledShards(ShardedRecords):
    """The records of one split with their labels, with as much of `datasets.Dataset` as post-training needs.

    Slices and lists of rows are Arrow tables with signals, read from the shards; columns by name, and single rows, are
    of the facts in memory, without `signal` and `lead_names`. Arguments and errors are those of [`ShardedRecords`].

    Attributes:
        facts: the data set of all columns but these two.
    """

    has_labels = True

    def __init__(self, path: str | os.PathLike, split: str = "train", num_held: int = 2):
        super().__init__(path, split, num_held)
        self._features = datasets.Features.from_dict(self.manifest["features"])
        self.schema = self._features.arrow_schema
        entry = self.manifest["splits"][split]
        table = self._table(entry["facts"])
        if len(table) != len(self):
            raise ValueError(f"`{path}/{entry['facts']['file']}` has other records than the shards: copy it again.")
        info = datasets.DatasetInfo(**{name: self.labelled[name] for name in OF_SOURCE})
        facts = datasets.Dataset(_in_memory(table), info, fingerprint=entry["facts"]["sha256"][:16])
        self.facts = name_labels(facts, self.labelled["label_names"])

    @property
    def labelled(self) -> dict[str, Any]:
        """What the manifest says of the labels: `label_names`, `titles` (their full names, or None), `problem_type`,
        `task` (of PTB-XL, or None), `guarded` (whether the guards for own records have looked at them), and
        `OF_SOURCE`."""
        return self.manifest[LABELLED]

    @property
    def column_names(self) -> list[str]:
        return self._features.arrow_schema.names

    @property
    def features(self) -> datasets.Features:
        return self._features

    @property
    def data(self) -> pa.Table:
        """No rows: `ecg-hf prepare` has checked their columns, and no shard need be read for it."""
        return self.schema.empty_table()

    @property
    def info(self) -> datasets.DatasetInfo:
        return self.facts.info

    @property
    def _fingerprint(self) -> str:
        return self.facts._fingerprint

    @property
    def digests(self) -> list[int]:
        """Of each record a number that is equal for equal signals."""
        return list(self.facts[DIGEST])

    @property
    def is_whole(self) -> bool:
        """Whether these are all records of the split."""
        return len(self) == self.manifest["splits"][self.split]["num_records"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the records in their order, from the manifest and the selection."""
        files = [*self.shards, self.manifest["splits"][self.split]["facts"]]
        digest = hashlib.sha256("\n".join(file["sha256"] for file in files).encode())
        digest.update(np.asarray(self.sizes, np.int64))
        digest.update(np.asarray(self._offsets, np.int64))
        return digest.hexdigest()

    def __getitem__(self, key: str | int | slice | Sequence[int]) -> Any:
        return self.facts[key] if isinstance(key, str | int) else super().__getitem__(key)

    def with_format(self, kind: str | None) -> LabelledShards:
        """With the columns of the facts in another format; rows with signals stay Arrow tables."""
        return self._with(facts=self.facts.with_format(kind))

    def select_columns(self, names: str | Sequence[str]) -> datasets.Dataset:
        """Some columns of the facts, as a data set; `ValueError` for a column that is in the shards alone."""
        if given := {names} & {*NOT_IN_FACTS} if isinstance(names, str) else {*names} & {*NOT_IN_FACTS}:
            raise ValueError(f"The column `{given.pop()}` is in the shards: read rows, or use `materialised()`.")
        return self.facts.select_columns(names)

    def select(self, rows: Sequence[int]) -> LabelledShards:
        """Some of the records; `ValueError` unless `rows` ascend, since shards are read in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        if (np.diff(rows) <= 0).any():
            raise ValueError("Records in shards can be left out, not put into another order: give ascending rows.")
        kept, sizes = np.unique(np.searchsorted(self._starts, rows, side="right") - 1, return_counts=True)
        return self._with(
            facts=self.facts.select(rows),
            shards=[self.shards[shard] for shard in kept],
            sizes=sizes.tolist(),
            _starts=np.cumsum([0, *sizes]),
            _offsets=self._offsets[rows],
            _held=OrderedDict(),
        )

    def _with(self, **changes) -> LabelledShards:
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, **changes})
        return other

    def materialised(self, cache_dir: str | os.PathLike | None = None) -> datasets.Dataset:
        """The same records as a data set, from an Arrow file that is written once, into `cache_dir` or the cache of
        `datasets`."""
        folder = Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir).expanduser()
        path = folder / "ecg_shards" / f"{self.fingerprint[:32]}.arrow"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path)
        info = copy.deepcopy(self.info)
        info.features = self._features
        return datasets.Dataset.from_file(str(path), info=info)

    def _write(self, path: Path) -> None:
        with (
            tqdm(total=len(self), desc=f"Reading {self.split}", unit="record") as bar,
            whole_file(path) as unfinished,
            pa.OSFile(str(unfinished), "wb") as file,
            pa.ipc.new_stream(file, self.schema) as writer,
        ):
            for start in range(0, len(self), _ROWS_AT_ONCE):
                rows = self[start : start + _ROWS_AT_ONCE]
                writer.write_table(rows.cast(self.schema))
                bar.update(len(rows))


def _in_memory(table: pa.Table) -> datasets.table.InMemoryTable:
    # Without the features of the file, which would be compared with those of the info.
    return datasets.table.InMemoryTable(table.replace_schema_metadata(None))


__all__ = ["DIGEST", "NOT_IN_FACTS", "OF_SOURCE", "LabelledShards"]
