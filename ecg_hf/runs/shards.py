"""Records in Parquet shards, read while training from a folder, a Hub or a store, so that no disk holds them all.

`ecg-hf prepare` writes the shards and `manifest.json`, which says how many records each has. So the order of an epoch
is known before anything is read: a run is resumed at any (shard, offset) by skipping numbers, where the buffer of
`datasets` forgets the examples that it held (5.2 leaves 80 of 100 after one was taken from a buffer of 20).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..memory import release_unused
from .windows import EpochSampler

MANIFEST = "manifest.json"
VERSION = 1
"""Of the layout of the folder."""

LABELLED = "labelled"
"""Of a manifest: what is said of the labels, where there are some."""

_OTHER_KIND = {
    False: "`{}` holds records with labels, for `ecg-hf train`: for pre-training write shards without, by `ecg-hf "
    "prepare` without `--task`, `--label_columns`, `--label_column` and `--labels`.",
    True: "`{}` holds records without labels, for `ecg-hf pretrain`: write shards with labels by `ecg-hf prepare` "
    "with `--task` (PTB-XL), `--label_columns`, `--label_column` or `--labels`.",
}

SCHEMA = pa.schema(
    {
        **{"ecg_id": pa.int64(), "patient_id": pa.int64(), "sampling_rate": pa.float64()},
        **{"lead_names": pa.list_(pa.string()), "signal": pa.list_(pa.int16())},
    }
)
"""Of a shard: `sampling_rate` in Hz, `signal` in µV, flat and lead-major; `patient_id` is null where unknown."""


class ShardedRecords:
    """The records of one split of a folder of shards, with as much of the interface of `datasets.Dataset` as
    [`RecordWindows`] needs.

    Rows are read by whole shards, of which the last `num_held` stay in memory: read them in the order of
    [`ShardSampler`] with a buffer of as many.

    Args:
        path: the folder that `ecg-hf prepare` has written: a plain path, `hf://datasets/owner/name`, `s3://...` or
            another address that an installed package of `fsspec` reads.
        split: `train`, `validation` or `test`.
        num_held: shards in memory.
        max_records: only the first so many records.

    Raises:
        FileNotFoundError: there is no manifest; the folder is none of `ecg-hf prepare`, or unfinished.
        ImportError: the package that reads such addresses is not installed.
        ValueError: a manifest of another version, of records with labels, or without records of this split; on
            reading, a shard that is not as the manifest says.
    """

    schema = SCHEMA
    has_labels = False

    def __init__(
        self, path: str | os.PathLike, split: str = "train", num_held: int = 2, max_records: int | None = None
    ):
        self.path, self.split, self.num_held = str(path), split, num_held
        self._stores: dict[int, tuple[fsspec.AbstractFileSystem, str]] = {}
        self.manifest = read_manifest(*self._store, self.path)
        if (LABELLED in self.manifest) != self.has_labels:
            raise ValueError(_OTHER_KIND[self.has_labels].format(path))
        if split not in self.manifest["splits"]:
            raise ValueError(
                f"`{path}` has no records of the split {split}, but of {', '.join(self.manifest['splits'])}."
            )
        self.shards = _first_shards(self.manifest["splits"][split]["shards"], max_records)
        self.sizes = [shard["num_records"] for shard in self.shards]
        self._starts = np.cumsum([0, *self.sizes])
        # Where in its shard each record is.
        self._offsets = np.concatenate([np.empty(0, np.int64), *map(np.arange, self.sizes)])
        self._held: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def _store(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system, opened by this process, and the folder in it.

        That of a store has a thread and connections, which work in no fork. A worker keeps its parent's as well: to
        close them would end them for the parent.
        """
        process = os.getpid()
        if process not in self._stores:
            self._stores[process] = fsspec.core.url_to_fs(os.path.expanduser(self.path), skip_instance_cache=True)
        return self._stores[process]

    @property
    def column_names(self) -> list[str]:
        return self.schema.names

    @property
    def features(self) -> datasets.Features:
        return datasets.Features.from_arrow_schema(self.schema)

    @property
    def data(self) -> pa.Table:
        """The rows of the first shard, by which columns are checked before training."""
        return self._shard(0)

    @property
    def num_patients(self) -> int | None:
        """How many patients the split has; None where that of a record is unknown."""
        return self.manifest["splits"][self.split]["num_patients"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the records in their order, from the manifest."""
        facts = [[shard["sha256"], shard["num_records"]] for shard in self.shards]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def with_format(self, kind: str) -> ShardedRecords:
        if kind != "arrow":
            raise ValueError(f"Records in shards are read as `arrow`, got `{kind}`.")
        return self

    def __getitem__(self, rows: slice | Sequence[int]) -> pa.Table:
        """Some rows, in the order asked for. Shards are read in the order in which the rows come to them."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        places = [np.flatnonzero(shards == shard) for shard in dict.fromkeys(shards.tolist())]
        parts = [self._shard(shards[some[0]]).take(pa.array(self._offsets[rows[some]])) for some in places]
        order = np.argsort(np.concatenate([np.empty(0, np.int64), *places]), kind="stable")
        return pa.concat_tables(parts or [self.schema.empty_table()]).take(pa.array(order))

    def _shard(self, number: int) -> pa.Table:
        number = int(number)
        if number not in self._held:
            while len(self._held) >= self.num_held:
                self._held.popitem(last=False)
                release_unused()
            self._held[number] = self._read(self.shards[number])
        self._held.move_to_end(number)
        return self._held[number]

    def _read(self, shard: dict) -> pa.Table:
        """Download a shard in one piece."""
        table = self._table(shard)
        if not table.schema.equals(self.schema):
            raise ValueError(
                f"The shard {shard['file']} of `{self.path}` has other columns than `ecg-hf prepare` writes: "
                f"{table.schema.to_string()}."
            )
        return table.slice(0, shard["num_records"])

    def _table(self, file: dict) -> pa.Table:
        where = f"The shard {file['file']} of `{self.path}`"
        filesystem, root = self._store
        try:
            content = filesystem.cat_file(f"{root}/{file['file']}")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where} is missing: copy the folder again.") from error
        if len(content) != file["num_bytes"]:
            raise ValueError(
                f"{where} has {len(content)} bytes, the manifest says {file['num_bytes']}: copy the folder again."
            )
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise ValueError(f"{where} has other bytes than the manifest says: copy the folder again.")
        return pq.read_table(pa.BufferReader(content), use_threads=False)

    def __getstate__(self) -> dict:
        """Workers begin with nothing in memory, and with a file system of their own."""
        return {**self.__dict__, "_held": OrderedDict(), "_stores": {}}


def read_manifest(filesystem, root: str, path: str) -> dict:
    """What `ecg-hf prepare` has written last; errors as in [`ShardedRecords`]."""
    try:
        manifest = json.loads(filesystem.cat_file(f"{root}/{MANIFEST}"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`{path}` has no `{MANIFEST}`: give a folder that `ecg-hf prepare` has finished; called again, it goes "
            "on with one that was interrupted."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}/{MANIFEST}` is not JSON ({error}): copy the folder again.") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise ValueError(
            f"`{path}/{MANIFEST}` must be of version {VERSION}: write the shards by this version of `ecg-hf prepare`."
        )
    return manifest


def _first_shards(shards: Sequence[dict], max_records: int | None) -> list[dict]:
    """The shards of the first records, of the last of them a part."""
    kept, left = [], sum(shard["num_records"] for shard in shards) if max_records is None else max_records
    for shard in shards:
        if left > 0:
            kept.append({**shard, "num_records": min(left, shard["num_records"])})
            left -= kept[-1]["num_records"]
    return kept


class ShardSampler(EpochSampler):
    """Keys (epoch, index) of records in shards, in an order for which few shards are held at a time.

    The shards of an epoch come in random order. They are dealt out in equal parts to `num_streams`, one for each
    worker of each process, which so reads its own shards; within a stream records are drawn at random from `buffer`
    shards at a time. Batches are taken from the streams in turn, as processes and workers take them from the order. It
    depends on nothing but the arguments and the epoch.

    Args:
        sizes: records of each shard.
        batch_size: of one process.
    """

    def __init__(self, sizes: Sequence[int], seed: int, batch_size: int, num_streams: int = 1, buffer: int = 2):
        super().__init__(sum(sizes), seed)
        self.sizes, self.batch_size, self.num_streams, self.buffer = list(sizes), batch_size, num_streams, buffer

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(index)) for index in self.order())

    def order(self) -> np.ndarray:
        """(records,): the indices of the epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        starts = np.cumsum([0, *self.sizes])
        shards = [np.arange(starts[shard], starts[shard + 1]) for shard in generator.permutation(len(self.sizes))]
        streams = [self._stream(part, generator) for part in _dealt_out(shards, self.num_streams)]
        # What does not fill a batch of each stream comes last.
        filled = min(map(len, streams)) // self.batch_size * self.batch_size
        turns = np.stack([stream[:filled].reshape(-1, self.batch_size) for stream in streams], axis=1)
        return np.concatenate([turns.reshape(-1), *(stream[filled:] for stream in streams)])

    def _stream(self, pieces: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
        groups = [np.concatenate(pieces[at : at + self.buffer]) for at in range(0, len(pieces), self.buffer)]
        return np.concatenate([np.empty(0, np.int64), *(generator.permutation(group) for group in groups)])


def _dealt_out(shards: Sequence[np.ndarray], num_streams: int) -> list[list[np.ndarray]]:
    """The shards in parts of equal numbers of records; a shard on the border of two goes to both in pieces."""
    ends = np.cumsum([len(shard) for shard in shards])
    borders = [ends[-1] * part // num_streams for part in range(num_streams + 1)]
    parts = []
    for first, last in zip(borders, borders[1:], strict=False):
        cut = (
            shard[max(0, first - end + len(shard)) : max(0, last - end + len(shard))]
            for shard, end in zip(shards, ends, strict=True)
        )
        parts.append([piece for piece in cut if len(piece)])
    return parts


__all__ = ["LABELLED", "MANIFEST", "SCHEMA", "VERSION", "ShardSampler", "ShardedRecords", "read_manifest"]
