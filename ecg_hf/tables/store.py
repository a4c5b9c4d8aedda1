"""Records of any kind, read once and kept as Arrow files of int16 µV.

The files hold a thousand records each and are named by what they were made from, so that a build that was interrupted
goes on where it was, a changed record costs the reading of its neighbours only, and tables that share records share
files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError, record_files
from ..files import whole_file, write_atomic
from ..memory import release_unused
from ..processes import in_processes
from ..readers.channels import Channel, Said, record_of, whole_microvolts
from ..readers.reading import read_leads
from ..readers.sidecar import sidecar_path

logger = logging.getLogger(__name__)

RECORDS_PER_FILE = 1000
_RECORDS_PER_BATCH = 256
_VALUES_PER_BATCH = 2**24

# More than those of any header of a record with one signal file.
_HEADER_BYTES = 2**16

NAMED_IN_A_MESSAGE = 10
"""So many records a message names; the count says how many there are."""

_SCHEMA = pa.schema(
    {"sampling_rate": pa.float64(), "lead_names": pa.list_(pa.string()), "signal": pa.list_(pa.int16())}
)

_ALL_FLAT = "it is flat in all leads."

# To be raised whenever the same source gives other rows than before.
_VERSION = "2"


class Source(Protocol):
    """Where records come from: a list of files, or the rows of a data set."""

    def __len__(self) -> int: ...

    def key(self, start: int, stop: int) -> str:
        """Text that changes whenever the records from `start` to `stop` may be others."""

    def name(self, index: int) -> str:
        """What messages call a record."""

    def read(self, index: int) -> Record:
        """Raises `RecordError` or `OSError` for a record that cannot be read."""


@dataclass(frozen=True)
class PathsBelow(Sequence[str]):
    """The paths of names (text) below the folder `base`, made when they are asked for."""

    base: str
    names: pa.Array

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [os.path.join(self.base, name) for name in self.names[place].to_pylist()]
        return os.path.join(self.base, self.names[int(place)].as_py())

    def take(self, rows: np.ndarray) -> PathsBelow:
        return PathsBelow(self.base, self.names.take(pa.array(rows)))


@dataclass(frozen=True)
class Same(Sequence):
    """`count` times one value."""

    value: object
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place):
        places = range(self.count)[place]  # raises `IndexError` as a list does
        return [self.value] * len(places) if isinstance(place, slice) else self.value


@dataclass(frozen=True)
class Files:
    """Records in files; `said` has for each what is said of it beside the file."""

    paths: Sequence[str]
    said: Sequence[Said]

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, start: int, stop: int) -> str:
        return "\n".join(
            f"{os.path.abspath(path)} {said.text()} {_stamps(path)}"
            for path, said in zip(self.paths[start:stop], self.said[start:stop], strict=True)
        )

    def name(self, index: int) -> str:
        return f"Record {self.paths[index]}"

    def read(self, index: int) -> Record:
        return read_leads(self.paths[index], self.said[index])


@dataclass(frozen=True)
class Rows:
    """Records in the column `column` of a data set: lists (leads, samples), or flat with one lead after another.

    Floats are mV and integers need a unit, unless `said` states another.
    """

    dataset: datasets.Dataset
    column: str
    names: Sequence[object]
    said: Sequence[Said]

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, start: int, stop: int) -> str:
        said = " ".join(said.text() for said in self.said[start:stop])
        return f"{self.dataset._fingerprint} {self.column} {start} {stop} {said}"

    def name(self, index: int) -> str:
        return f"Record {self.names[index]}"

    def read(self, index: int) -> Record:
        signal = self.dataset.with_format("numpy", columns=[self.column])[index][self.column]
        try:
            return _record_of_array(np.asarray(signal), self.said[index])
        except RecordError as error:
            raise RecordError(f"{self.name(index)}: {error}") from None


def _record_of_array(signal: np.ndarray, said: Said) -> Record:
    names = said.channel_names
    if names is None:
        raise RecordError("nothing names its leads: give `lead_names`, or a column of this name.")
    if signal.ndim == 1 and len(signal) and len(signal) % len(names) == 0:
        signal = signal.reshape(len(names), -1)
    if signal.dtype.kind not in "iuf" or signal.ndim != 2 or len(signal) != len(names):
        raise RecordError(
            f"its signal has the shape {signal.shape} and the type {signal.dtype}; expected numbers (leads, samples) "
            f"of the {len(names)} leads, or all samples of the first lead, then those of the next."
        )
    unit = said.units or ("mV" if signal.dtype.kind == "f" else None)
    return record_of([Channel(name, row, unit) for name, row in zip(names, signal, strict=True)], None, said)


class Stored(NamedTuple):
    """Attributes:
    records: `sampling_rate` (Hz), `lead_names`, and `signal`, int16 in µV, flat and lead-major.
    rows: of the source, for each record.
    skipped: for each row of the source that gave no record the reason, which names it.
    other_channels: how many records have each channel that is none of the twelve leads and was left out.
    files: the Arrow files that hold the records.
    """

    records: datasets.Dataset
    rows: np.ndarray
    skipped: dict[int, str]
    other_channels: Counter[str]
    files: list[Path]


def store_records(
    source: Source,
    cache_dir: str | os.PathLike | None = None,
    *,
    max_skipped: float = 0.0,
    num_proc: int = 1,
) -> Stored:
    """Read the records of a source, or take them from the cache where nothing has changed.

    Args:
        source: the records.
        cache_dir: where the Arrow files go; by default the cache of `datasets`.
        max_skipped: the share of records that may be skipped since they cannot be read or are flat in all leads.
        num_proc: processes that read.

    Raises:
        ValueError: more than `max_skipped` of the records cannot be used; ten are named, with the count. What was read
            stays in the cache.
    """
    if not 0 <= max_skipped < 1:
        raise ValueError(f"`max_skipped` must lie in [0, 1), got {max_skipped}.")
    if num_proc < 1:
        raise ValueError(f"`num_proc` must be at least 1, got {num_proc}.")
    folder = cache_folder(cache_dir)
    parts = [
        _Part(start, min(start + RECORDS_PER_FILE, len(source))) for start in range(0, len(source), RECORDS_PER_FILE)
    ]
    paths = [folder / f"{_digest(source.key(*part))}.arrow" for part in parts]
    todo = [(part, path) for part, path in zip(parts, paths, strict=True) if not _is_done(source, part, path)]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        _write_all(source, todo, max_skipped, num_proc)
    return _open(source, parts, paths, max_skipped)


def cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir).expanduser() / "ecg_records"


class _Part(NamedTuple):
    start: int
    stop: int


def _is_done(source: Source, part: _Part, path: Path) -> bool:
    """Whether a part is in the cache. Not where a record that was skipped can be read by now, since a package has been
    installed, or a right been given."""
    if not path.with_suffix(".json").is_file():
        return False
    return not any(_can_be_used(source, part.start + int(row)) for row in _notes(path)["skipped"])


def _can_be_used(source: Source, index: int) -> bool:
    try:
        usable_record(source, index)
    except (RecordError, OSError):
        return False
    return True


def _notes(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def _digest(key: str) -> str:
    return hashlib.sha256(f"{_VERSION}\n{key}".encode()).hexdigest()[:32]


def _write_all(source: Source, todo: list[tuple[_Part, Path]], max_skipped: float, num_proc: int) -> None:
    num_skipped = 0
    reasons: list[str] = []
    total = sum(part.stop - part.start for part, _ in todo)
    with tqdm(total=total, desc="Reading records", unit="record") as bar:
        for notes, count in _written(source, todo, num_proc, bar):
            num_skipped += len(notes["skipped"])
            reasons += list(notes["skipped"].values())[: NAMED_IN_A_MESSAGE - len(reasons)]
            check_skipped(reasons, num_skipped, len(source), max_skipped)
            bar.update(count)


def _written(source: Source, todo, num_proc: int, bar) -> Iterator[tuple[dict, int]]:
    """Of each part, once it is written, its notes and how far the progress bar is to move."""
    if num_proc == 1 or len(todo) == 1:
        for part, path in todo:
            yield _write(source, part, path, bar.update), 0
        return
    written = in_processes(functools.partial(_write_part, source), todo, num_proc)
    yield from ((notes, part.stop - part.start) for notes, (part, _) in zip(written, todo, strict=True))


def _write_part(source: Source, item: tuple[_Part, Path]) -> dict:
    return _write(source, *item, progress=lambda count: None)


def _write(source: Source, part: _Part, path: Path, progress) -> dict:
    """The usable records of a part to `path`, notes on the others to a JSON file beside it, which ends the writing."""
    skipped: dict[int, str] = {}
    other_channels: Counter[str] = Counter()
    with whole_file(path) as unfinished:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            batch = _Batch()
            for index in range(part.start, part.stop):
                try:
                    record = usable_record(source, index)
                except (RecordError, OSError) as error:
                    skipped[index - part.start] = str(error)
                else:
                    batch.add(record)
                    other_channels.update(record.other_channels)
                progress(1)
                if len(batch) == _RECORDS_PER_BATCH or batch.num_values > _VALUES_PER_BATCH:
                    writer.write_batch(batch.rows())
                    batch.clear()
            writer.write_batch(batch.rows())
    notes = {"skipped": skipped, "other_channels": other_channels}
    write_atomic(path.with_suffix(".json"), json.dumps(notes))
    return notes


def usable_record(source: Source, index: int) -> Record:
    """A record of a source; `RecordError` or `OSError` where it cannot be read, or is flat in all leads."""
    record = source.read(index)
    if _is_flat(record.signal):
        raise RecordError(f"{source.name(index)}: {_ALL_FLAT}")
    return record


def _is_flat(signal: np.ndarray) -> bool:
    """Whether all leads are constant; a few samples acquit nearly every record."""
    first = signal[:, :1]
    return bool((signal[:, ::97] == first).all() and (signal == first).all())


class _Batch:
    """Records that are written at once, in memory that is used again: to touch new memory costs more than to copy."""

    def __init__(self):
        self._values = np.empty(0, np.int16)
        self.clear()

    def clear(self) -> None:
        self._rates: list[float] = []
        self._lead_names: list[tuple[str, ...]] = []
        self._ends = [0]

    def __len__(self) -> int:
        return len(self._rates)

    @property
    def num_values(self) -> int:
        return self._ends[-1]

    def add(self, record: Record) -> None:
        start, end = self.num_values, self.num_values + record.signal.size
        if end > len(self._values):
            # Room for a batch of such records; what is never used of it costs nothing.
            room = min(_RECORDS_PER_BATCH * record.signal.size, _VALUES_PER_BATCH)
            grown = np.empty(max(start + room, end), np.int16)
            grown[:start] = self._values[:start]
            self._values = grown
        self._values[start:end].reshape(record.signal.shape)[:] = whole_microvolts(record)
        self._rates.append(float(record.sampling_rate))
        self._lead_names.append(record.lead_names)
        self._ends.append(end)

    def rows(self) -> pa.RecordBatch:
        """As they are stored. The samples are not copied, so the rows hold until the next record is added."""
        # From one array, since Arrow would take a list of arrays apart value by value.
        ends = pa.array(np.array(self._ends, np.int32))
        columns = [
            pa.array(self._rates, pa.float64()),
            pa.array(self._lead_names, pa.list_(pa.string())),
            pa.ListArray.from_arrays(ends, pa.array(self._values[: self.num_values])),
        ]
        return pa.record_batch(columns, schema=_SCHEMA)


def batch_of(records: Iterable[Record]) -> pa.RecordBatch:
    """The rows of records as they are stored: `sampling_rate`, `lead_names` and `signal`, flat and in µV."""
    batch = _Batch()
    for record in records:
        batch.add(record)
    return batch.rows()


# ---- What is known of the records beside their signals ----


def store_columns(
    columns: Mapping[str, pa.Array], matrices: Mapping[str, np.ndarray], cache_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """Columns, and matrices (rows, columns) of float32 numbers, as a data set in a file of the cache: of many records
    they take more memory than all else. Texts that are numbered (of a dictionary) are written out."""
    batches = functools.partial(_batches_of_columns, columns, matrices)
    digest = _Digest()
    _write_batches(batches(), pa.PythonFile(digest, mode="w"))
    # Named by its content: the same columns are one file, and one fingerprint.
    path = cache_folder(cache_dir) / "columns" / f"{digest.sha256.hexdigest()[:32]}.arrow"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            _write_batches(batches(), pa.OSFile(str(unfinished), "wb"))
    return datasets.Dataset.from_file(str(path))


class _Digest:
    """A file of which nothing is kept but the SHA-256."""

    closed = False

    def __init__(self):
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return len(content)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _write_batches(batches: Iterator[pa.RecordBatch], file: pa.NativeFile) -> None:
    first = next(batches)
    with file, pa.ipc.new_stream(file, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)
            release_unused()


def _batches_of_columns(columns, matrices) -> Iterator[pa.RecordBatch]:
    num_rows = len(next(iter(columns.values())))
    for start in range(0, num_rows, RECORDS_PER_FILE):
        part = slice(start, start + RECORDS_PER_FILE)
        arrays = {name: column[part].cast(_written_out(column.type)) for name, column in columns.items()}
        for name, matrix in matrices.items():
            numbers = pa.array(matrix[part].astype(np.float32).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(numbers, matrix.shape[1])
        yield pa.record_batch(arrays)


def _written_out(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_written_out(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _open(source: Source, parts: list[_Part], paths: list[Path], max_skipped: float) -> Stored:
    skipped: dict[int, str] = {}
    other_channels: Counter[str] = Counter()
    for part, path in zip(parts, paths, strict=True):
        notes = _notes(path)
        skipped |= {part.start + int(row): reason for row, reason in notes["skipped"].items()}
        other_channels.update(notes["other_channels"])
    check_skipped(list(skipped.values()), len(skipped), len(source), max_skipped)
    records = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
    rows = np.setdiff1d(np.arange(len(source)), list(skipped), assume_unique=True)
    return Stored(records, rows, skipped, other_channels, paths)


def check_skipped(reasons: Sequence[str], num_skipped: int, num_records: int, max_skipped: float) -> None:
    """`ValueError` where more than the share `max_skipped` of the records is skipped, or all are."""
    if num_skipped and (num_skipped / num_records > max_skipped or num_skipped == num_records):
        more = num_skipped - len(reasons[:NAMED_IN_A_MESSAGE])
        named = "\n".join([*reasons[:NAMED_IN_A_MESSAGE], *([f"and {more} more"] if more else [])])
        raise ValueError(
            f"More than {max_skipped:.0%} of the {num_records} records cannot be used (`max_skipped`): {num_skipped}. "
            f"Repair them, or remove them from the folder or table:\n{named}"
        )


def report(stored: Stored, num_records: int, cache_dir: str | os.PathLike | None) -> None:
    """Warnings of skipped records, named in a file, and of channels that were left out."""
    if stored.other_channels:
        counts = ", ".join(f"{name} of {count} records" for name, count in stored.other_channels.most_common())
        logger.warning(f"Channels that are none of the twelve leads are not read: {counts}.")
    if not stored.skipped:
        return
    text = "\n".join(stored.skipped.values()) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_folder(cache_dir) / f"skipped-{digest}.txt"
    write_atomic(path, text)
    named = "\n".join(list(stored.skipped.values())[:NAMED_IN_A_MESSAGE])
    num_flat = sum(reason.endswith(_ALL_FLAT) for reason in stored.skipped.values())
    flat = f" ({num_flat} of them flat in all leads)" if num_flat else ""
    logger.warning(
        f"{len(stored.skipped)} of {num_records} records are skipped, since they cannot be used{flat}; all are named "
        f"in {path}:\n{named}"
    )


# ---- Files, by which a changed record is known ----


def _stamps(path: str) -> str:
    """Names, sizes and times of the files of a record."""
    file, mark, _ = path.partition("#")
    if mark and os.path.isfile(file):
        return f"{_stamp(file)} {_stamp(sidecar_path(file))}"
    return " ".join(f"{os.path.basename(part)} {_stamp(part)}" for part in parts_of(path))


def parts_of(path: str) -> list[str]:
    """The files of a record. Most WFDB records have one signal file of their own name; only the headers of others are
    read by all the rules, which takes five times as long."""
    stem, ending = os.path.splitext(path)
    if ending not in (".hea", ".dat", ".mat") or not os.path.isfile(f"{stem}.hea"):
        if os.path.isfile(path):
            return [path, sidecar_path(path)]
        stem = path
    if not os.path.isfile(f"{stem}.hea"):
        return [path]
    signal = next((f"{stem}{suffix}" for suffix in (".dat", ".mat") if os.path.isfile(f"{stem}{suffix}")), None)
    try:
        if signal is not None and _names_alone(f"{stem}.hea", os.path.basename(signal)):
            return [f"{stem}.hea", signal]
        return record_files(stem)
    except (RecordError, OSError):  # said when the record is read
        return [f"{stem}.hea"] if signal is None else [f"{stem}.hea", signal]


def _names_alone(header: str, name: str) -> bool:
    """Whether all lines of a header but the record's begin with this name."""
    with open(header, "rb") as file:
        lines = file.read(_HEADER_BYTES).replace(b"\r", b"\n").split(b"\n")
    _, *names = [line.split(maxsplit=1)[0] for line in lines if line.strip() and line[:1] != b"#"] or [b""]
    return set(names) == {os.fsencode(name)}


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # as of `os.path.isfile`: what cannot be looked at has no stamp
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else "-"


__all__ = [
    "NAMED_IN_A_MESSAGE",
    "Files",
    "PathsBelow",
    "Same",
    "Source",
    "Stored",
    "batch_of",
    "cache_folder",
    "check_skipped",
    "parts_of",
    "store_columns",
    "store_records",
    "usable_record",
]
