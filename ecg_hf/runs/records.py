"""The records of a run: their order, their preparation, and what changes when they do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import datasets
import numpy as np
import pyarrow as pa

from .shards import ShardedRecords, ShardSampler
from .windows import EpochSampler


class RecordOrder:
    """A part of [`RunTrainer`]: in which order records are read. Of those in shards each worker of each process reads
    its own, and they are prepared in each batch, so that no disk holds them."""

    @property
    def data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def num_streams(self) -> int:
        """In how many parts an epoch of shards is read: one for each worker of each process."""
        return self.args.world_size * max(1, self.args.dataloader_num_workers)

    def training_sampler(self, num_records: int, batch_size: int) -> EpochSampler:
        """The order of the records in each epoch, of which every process takes each so many-th batch."""
        dataset = self.train_dataset
        if not isinstance(dataset, ShardedRecords):
            return EpochSampler(num_records, self.data_seed)
        return self._shard_sampler(dataset, batch_size)

    def _shard_sampler(self, dataset: ShardedRecords, batch_size: int) -> ShardSampler:
        return ShardSampler(dataset.sizes, self.data_seed, batch_size, self.num_streams, dataset.num_held)

    def feature_order(self, dataset: datasets.Dataset | ShardedRecords) -> list[int] | None:
        """The order in which features of records are computed; None where it is that of the records."""
        if not isinstance(dataset, ShardedRecords):
            return None
        return self._shard_sampler(dataset, self.args.eval_batch_size).order().tolist()

    @property
    def preparation(self) -> dict:
        """Arguments of [`RecordWindows`] for records that are read in several epochs, or by several runs."""
        return {"cache_dir": self.args.prepared_folder, "silent": self.args.disable_tqdm}

    def preparation_of(self, dataset: datasets.Dataset | ShardedRecords) -> dict:
        return {} if isinstance(dataset, ShardedRecords) else self.preparation

    def fingerprint_of(self, dataset: datasets.Dataset | ShardedRecords, columns: Iterable[str]) -> str:
        """Text that changes when these columns do."""
        if isinstance(dataset, ShardedRecords):
            return dataset.fingerprint
        return fingerprint_of_records(dataset, columns)

    def order_facts(self, dataset: datasets.Dataset | ShardedRecords) -> dict[str, str]:
        """What else the order of the records of an epoch depends on, where they are in shards."""
        if not isinstance(dataset, ShardedRecords):
            return {}
        return {"order": f"{dataset.num_held} shards at a time by {self.num_streams} workers"}


def fingerprint_of_records(dataset: datasets.Dataset, columns: Iterable[str]) -> str:
    """SHA-256 of some columns of a data set, and of `units` if it has that: signals and all, whatever its cache."""
    digest = hashlib.sha256()
    units = [name for name in ("units",) if name in dataset.column_names]
    rows = dataset.select_columns([*columns, *units]).with_format("arrow")
    for start in range(0, len(rows), 256):
        table = rows[start : start + 256]
        for column in table.columns:
            _update(digest, column.combine_chunks())
    return digest.hexdigest()


def _update(digest, array: pa.Array | pa.ChunkedArray) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        _update(digest, array.value_lengths())
        array = array.flatten()
    if pa.types.is_primitive(array.type) and not array.null_count:
        digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)))
    else:
        digest.update(repr(array.to_pylist()).encode())


__all__ = ["RecordOrder", "fingerprint_of_records"]
