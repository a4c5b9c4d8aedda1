"""Records as they are before windows are cut: resampled and filtered once, kept in files that all runs share.

What is kept is named by what it was made from: a folder by the feature extractor's numbers, a row by the record. So
tasks, splits and runs share the rows, a changed record is prepared again, and a build that was interrupted goes on
where it was. Not kept, and prepared in each batch as ever, are

- records at the model's rate, where there is no filter: there is nothing to do for them;
- records of more than `LONG_SECONDS` of which crops alone are resampled: nobody needs all of a half-hour record;
- where windows or records are scaled by themselves, records with a lead that stays within `QUIET_MICROVOLTS` for half
  a window, or throughout: scaling would enlarge the rounding to 1 µV, and what is flat is told by the samples before
  any filter;
- records that a filter takes out of the range of int16 µV.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from filelock import FileLock
from tqdm.auto import tqdm

from ..ecg_transformer.inputs_ecg_transformer import Batch, group_records
from ..ecg_transformer.signal_steps_ecg_transformer import resample_in_blocks
from ..files import whole_file
from .columns import each_signal, sampling_rates, signals_of
from .folder import room_for

LONG_SECONDS = 120
QUIET_MICROVOLTS = 50
RECORDS_PER_FILE = 1000
_ROWS = 16  # read at once: half an hour of twelve leads at 500 Hz is 22 MB a record

_ONCE = ("leads", "resample", "bandpass", "decimate")
_READ_BY_STEPS = (
    *("sampling_rate", "lead_names", "bandpass", "bandpass_order", "bandpass_fir_seconds", "resample_method"),
    *("decimation", "round_to_float16", "lead_tokens"),
)
_RANGE = np.iinfo(np.int16).max

# To be raised whenever the same records and steps give other rows than before.
_VERSION = 1


class Steps:
    """The steps of a feature extractor that are taken once for a record, and the extractor of what is left.

    `once` are the names of the former; empty where nothing is to be kept: what rounds to float16 is kept only where no
    filter follows, since int16 would be rounded twice.
    """

    def __init__(self, extractor):
        self.extractor = extractor
        before = extractor.steps[: extractor.steps.index("windows")]
        self.once = list(itertools.takewhile(lambda step: step in _ONCE, before))
        self.filters = "bandpass" in self.once and any(extractor.bandpass or ())
        decimates = "decimate" in self.once and extractor.decimation > 1
        self._full_rate = extractor.sampling_rate * extractor.decimation
        self.rate = extractor.sampling_rate if decimates else self._full_rate
        self.always = self.filters or decimates
        if extractor.round_to_float16 and self.always:
            self.once = []
        self.scales = extractor.flat_windows_matter or not {"zscore", "minmax"}.isdisjoint(extractor.steps)
        self.kind = pa.float16() if extractor.round_to_float16 else pa.int16()
        fields = extractor.to_dict()
        fields["steps"] = [step for step in extractor.steps if step not in self.once or step in ("leads", "resample")]
        fields |= {"bandpass": None} if "bandpass" in self.once else {}
        fields |= {"decimation": 1} if decimates else {}
        self.rest = type(extractor).from_dict(fields)

    def key(self) -> str:
        """Hexadecimal name of all on which the kept rows depend but the records."""
        fields = json.loads(self.extractor.to_json_string())
        facts = {name: fields[name] for name in _READ_BY_STEPS} | {"once": self.once, "version": _VERSION}
        if self.extractor.flat_windows_matter:
            facts["num_samples"] = self.extractor.num_samples
        facts["scales"] = self.scales
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def are_for(self, length: int, rate: float) -> bool:
        """Whether records of `length` samples at `rate` Hz are kept."""
        if not self.once or not (self.always or rate != self.rate):
            return False
        return length <= LONG_SECONDS * rate or not self.extractor.can_resample_crops

    def take(self, batch: Batch) -> tuple[np.ndarray, list[bool]]:
        """The signals (records, leads, samples) of equal records after the steps, and which of them may be kept."""
        may_be_kept = ~self._has_quiet_leads(batch.given, batch.microvolts, batch.sampling_rate, batch.flat)
        for step in self.once:
            if step == "resample" and self._resamples_fast(batch):
                signals = [
                    resample_in_blocks(row, batch.sampling_rate, self._full_rate) for row in batch.in_millivolts()
                ]
                batch.values, batch.sampling_rate = np.stack(signals), self._full_rate
            else:
                self.extractor.take_step(step, batch)
        values = batch.in_millivolts()
        if self.kind == pa.float16():
            values = values.astype(np.float16)
        else:
            rounded = np.rint(values * 1000)
            may_be_kept &= np.abs(rounded).max(axis=(1, 2)) <= _RANGE
            values = np.clip(rounded, -_RANGE, _RANGE).astype(np.int16)
        if self.scales:
            stays_flat = (values.min(axis=-1) == values.max(axis=-1)) | ~batch.flat
            may_be_kept &= stays_flat.all(axis=1)
        microvolts = 1000 if self.kind == pa.float16() else 1
        may_be_kept &= ~self._has_quiet_leads(values, microvolts, self.rate, batch.flat)
        return values, may_be_kept.tolist()

    def _resamples_fast(self, batch: Batch) -> bool:
        is_exact = self.extractor.resample_method != "polyphase" or self.kind == pa.float16()
        return batch.sampling_rate != self._full_rate and not is_exact

    def _has_quiet_leads(self, values: np.ndarray, microvolts: float, rate: float, flat: np.ndarray) -> np.ndarray:
        """(records,): whether a lead that is not `flat` throughout stays within `QUIET_MICROVOLTS` where that matters:
        for half a window, one of whose blocks lies in each window, or, if only records are scaled, throughout."""
        num_records, num_leads, length = values.shape
        if not self.scales:
            return np.zeros(num_records, dtype=bool)
        size = length
        if self.extractor.flat_windows_matter:
            window = max(1, int(self.extractor.num_samples / self.extractor.sampling_rate * rate))
            size = (min(length, window) + 1) // 2
        blocks = values[..., : length // size * size].reshape(num_records, num_leads, -1, size).astype(np.float32)
        extent = microvolts * (blocks.max(axis=-1) - blocks.min(axis=-1)).min(axis=-1)
        return ((extent <= QUIET_MICROVOLTS) & ~flat).any(axis=1)


@dataclass
class Prepared:
    """Kept records of a data set.

    records: `sampling_rate` (Hz), `lead_names` and `signal` (flat, lead-major, in `units`) of the kept ones.
    rows: int64 (records of the data set,), the row of each in `records`; -1 for one that is prepared in each batch.
    extractor: takes the steps that are left.
    """

    records: datasets.Dataset
    rows: np.ndarray
    extractor: object
    units: str

    def table(self, rows: np.ndarray, ids: pa.ChunkedArray) -> pa.Table:
        """Some of `records`, with the column `ecg_id`."""
        return self.records[rows.tolist()].append_column("ecg_id", ids)


def prepare(
    dataset: datasets.Dataset, extractor, units: str | None, cache_dir: str | os.PathLike, silent: bool = False
) -> Prepared | None:
    """The records of a data set after those steps of an extractor that do not depend on windows; None where there are
    none to take, or no record needs them.

    Those that `cache_dir` does not hold are prepared now, by one process while others wait. Values are within 0.5 µV
    (and rounding of float32) of what the extractor makes of the record itself, and the same where it rounds to
    float16.

    Raises `ValueError` for a record that the extractor refuses, and `OSError` where the cache cannot be written.
    """
    steps = Steps(extractor)
    rates = sampling_rates(dataset)
    if not steps.once or not (steps.always or (rates != steps.rate).any()):
        return None
    rows = dataset.with_format("arrow")
    digests = _digests(rows, steps, units)
    folder = pathlib.Path(cache_dir).expanduser() / "ecg_prepared" / steps.key()
    records, places = _find(folder, digests)
    if (places == _MISSING).any():
        with _writable(folder), FileLock(folder / "lock"):
            _, places = _find(folder, digests)  # another process may have been faster
            missing = [index for index, place in enumerate(places) if place == _MISSING]
            _write_all(folder, rows, missing, digests, steps, units, silent)
        records, places = _find(folder, digests)
    if (places < 0).all():
        return None
    kept_units = "mV" if steps.kind == pa.float16() else "uV"
    return Prepared(records.select_columns(_READ).with_format("arrow"), places, steps.rest, kept_units)


_MISSING, _NOT_KEPT = -2, -1
_READ = ["sampling_rate", "lead_names", "signal"]
_NO_DIGEST = b""


def _digests(rows: datasets.Dataset, steps: Steps, units: str | None) -> np.ndarray:
    """For each record 16 bytes that change with its samples, unit, rate and leads; none for what is not to be kept."""
    digests = []
    for indices in _batched(range(len(rows)), _ROWS):
        table = rows[indices]
        columns = (*each_signal(table, units), table["sampling_rate"].to_pylist(), table["lead_names"].to_pylist())
        for signal, unit, rate, names in zip(*columns, strict=True):
            if not steps.are_for(signal.shape[1], rate):
                digests.append(_NO_DIGEST)
                continue
            digest = xxhash.xxh3_128(np.ascontiguousarray(signal))
            digest.update(json.dumps([str(signal.dtype), unit, rate, names]).encode())
            digests.append(digest.digest())
    return np.array(digests, dtype="S16")


def _batched(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])


def _find(folder: pathlib.Path, digests: np.ndarray) -> tuple[datasets.Dataset | None, np.ndarray]:
    """All rows of a folder, and for each digest its row, `_NOT_KEPT`, or `_MISSING`."""
    places = np.where(digests == _NO_DIGEST, _NOT_KEPT, _MISSING)
    paths = sorted(path for path in folder.glob("*.arrow") if not path.name.startswith("."))
    if not paths:
        return None, places
    records = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths])
    names = np.concatenate([_names(chunk) for chunk in records.data.column("digest").chunks])
    is_kept = records.data.column("is_kept").to_numpy()
    order = np.argsort(names)
    found = order[np.minimum(np.searchsorted(names, digests, sorter=order), len(names) - 1)]
    known = (names[found] == digests) & (places == _MISSING)
    return records, np.where(known, np.where(is_kept[found], found, _NOT_KEPT), places)


def _names(chunk: pa.Array) -> np.ndarray:
    """A column of 16 bytes as an array that can be sorted and compared."""
    return np.frombuffer(chunk.buffers()[1], dtype="S16", count=len(chunk), offset=16 * chunk.offset)


@contextlib.contextmanager
def _writable(folder: pathlib.Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with room_for("the prepared records", folder):
            yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(
            f"The prepared records cannot be written to `{folder}` ({error.strerror}): give another `--cache_dir`, or "
            "`--prepare_records false`, which prepares them in every epoch."
        ) from error


def _write_all(folder, rows, missing: Sequence[int], digests: np.ndarray, steps: Steps, units, silent: bool) -> None:
    schema = pa.schema(
        {
            **{"digest": pa.binary(16), "is_kept": pa.bool_(), "sampling_rate": pa.float64()},
            **{"lead_names": pa.list_(pa.string()), "signal": pa.list_(steps.kind)},
        }
    )
    with tqdm(total=len(missing), desc="Preparing records", unit="record", disable=silent) as bar:
        for indices in _batched(missing, RECORDS_PER_FILE):
            name = hashlib.sha256(digests[indices].tobytes()).hexdigest()[:32]
            with whole_file(folder / f"{name}.arrow") as unfinished:
                with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                    for some in _batched(indices, _ROWS):
                        columns = _prepared(rows[some], steps, units)
                        # Of bytes, from which the type would strip zeros at the end.
                        names = [digests[index : index + 1].tobytes() for index in some]
                        writer.write_batch(pa.record_batch([pa.array(names, pa.binary(16)), *columns], schema=schema))
                        bar.update(len(some))


def _prepared(table: pa.Table, steps: Steps, units: str | None) -> list[pa.Array]:
    """The columns of the rows after the steps, but for their digests; the signal is empty where it is not kept."""
    signals, unit = signals_of(table, units)
    with named_records(table):
        rates, names = table["sampling_rate"].to_pylist(), table["lead_names"].to_pylist()
        rows = [None] * len(table)
        for batch in group_records(signals, rates, names, unit, None):
            values, may_be_kept = steps.take(batch)
            present = [name not in batch.absent_leads for name in batch.lead_names]
            leads = [name for name in batch.lead_names if name not in batch.absent_leads]
            for row, signal, is_kept in zip(batch.records, values, may_be_kept, strict=True):
                rows[row] = (is_kept, leads, signal[present].reshape(-1) if is_kept else signal[:0, 0])
    is_kept, leads, flat = zip(*rows, strict=True)
    ends = np.cumsum([0, *map(len, flat)], dtype=np.int32)
    return [
        pa.array(is_kept, pa.bool_()),
        pa.array([float(steps.rate)] * len(table), pa.float64()),
        pa.array(leads, pa.list_(pa.string())),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(flat))),
    ]


@contextlib.contextmanager
def named_records(table: pa.Table) -> Iterator[None]:
    """A block whose `ValueError` names the records of the rows, which it knows by their number alone."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Among the records {table['ecg_id'].to_pylist()}, in this order: {error}") from error


__all__ = ["LONG_SECONDS", "Prepared", "Steps", "named_records", "prepare"]
