"""What the guards know of each stored record: measured once, and kept beside its Arrow file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from scipy import fft
from scipy.signal import find_peaks

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.lead_checks_ecg_transformer import is_flat, limb_lead_faults, offsets_from_zero
from ..files import whole_file

_BATCH = 64
# Of a file of a thousand records so many are looked at more closely: medians need no more.
_CLOSER_LOOKS = 100
_CLOSER_SECONDS = 20.0

PRECORDIAL = LEAD_NAMES[6:]
_BEAT_LEADS = ("II", "I", "V5", "V4", "V6", "aVF", "V3", "V2", "V1", "aVR", "III", "aVL")

# To be raised whenever the same record gives other facts than before.
_VERSION = "4"


class Facts(NamedTuple):
    """Of each record:

    Attributes:
        digest: uint64, equal for equal signals.
        extent: float32, mV from peak to peak, the median over the leads that are not flat; 0 where all are.
        offset: float32, mV by which a lead stays above or below 0, of the one that stays farthest; 0 where none does.
        flat: bool (records, 12), the leads of `LEAD_NAMES` that are constant.
        rate: float32, the stated sampling rate in Hz.
        seconds: float32, the length.

    Of some of them alone:

    Attributes:
        faulty: int64, the records whose limb leads contradict each other.
        miss: float32, of these by how many µV.
        mends: text, of these what would mend that; empty where nothing does.
        closer: int64, the records that were looked at more closely.
        beats: float32, of these the beats a minute under the stated sampling rate; NaN where they were not found.
        progression: float32 (closer, 6), of these of V1 to V6 the share of R less that of S, -1 to 1; NaN as above.
    """

    digest: np.ndarray
    extent: np.ndarray
    offset: np.ndarray
    flat: np.ndarray
    rate: np.ndarray
    seconds: np.ndarray
    faulty: np.ndarray
    miss: np.ndarray
    mends: np.ndarray
    closer: np.ndarray
    beats: np.ndarray
    progression: np.ndarray


def join_facts(parts: Iterable[Facts]) -> Facts:
    """The facts of several sets of records, one after the other."""
    moved, start = [], 0
    for part in parts:
        moved.append(part._replace(faulty=part.faulty + start, closer=part.closer + start))
        start += len(part.digest)
    if len(moved) == 1:
        return moved[0]
    columns = list(zip(*moved, strict=True))[::-1]
    moved.clear()  # so that of each column the parts are gone before the next one is joined
    return Facts(*(np.concatenate(columns.pop()) for _ in Facts._fields))


def facts_of(files: Sequence[Path]) -> Facts:
    """The facts of the records in Arrow files of [`store_records`], in order; those known are taken from beside it."""
    return join_facts(_facts_of_file(Path(path)) for path in files)


def _facts_of_file(path: Path) -> Facts:
    # The name of the Arrow file tells its content.
    kept = path.with_suffix(f".facts{_VERSION}.npz")
    if kept.is_file():
        with np.load(kept) as arrays:
            return Facts(**arrays)
    facts = _measure(path)
    with whole_file(kept) as unfinished:
        np.savez(unfinished, **facts._asdict())
    return facts


def _measure(path: Path) -> Facts:
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
        step = max(1, len(table) // _CLOSER_LOOKS)
        rows = [
            _facts_of_rows(values, names, rate, np.arange(-start % step, len(values), step))
            for start, values, names, rate in _equal_records(table)
        ]
    facts = join_facts([_no_facts(0), *rows])
    return facts._replace(mends=facts.mends.astype(str))


def _equal_records(table: pa.Table) -> Iterator[tuple[int, np.ndarray, tuple[str, ...], float]]:
    """Neighbouring records of one form: the first row, (records, leads, samples) in µV, leads and rate."""
    for start in range(0, len(table), _BATCH):
        batch = table.slice(start, _BATCH)
        signals = batch["signal"].combine_chunks()
        values = signals.flatten().to_numpy(zero_copy_only=False)
        lengths = signals.value_lengths().to_numpy(zero_copy_only=False).tolist()
        names_of_rows = map(tuple, batch["lead_names"].to_pylist())
        forms = zip(names_of_rows, batch["sampling_rate"].to_pylist(), lengths, strict=True)
        first = 0
        for (names, rate, length), equal in groupby(forms):
            count = len(list(equal))
            yield start, values[first : first + count * length].reshape(count, len(names), -1), names, rate
            start, first = start + count, first + count * length


def _no_facts(count: int, num_faulty: int = 0, num_closer: int = 0) -> Facts:
    return Facts(
        digest=np.zeros(count, np.uint64),
        extent=np.zeros(count, np.float32),
        offset=np.zeros(count, np.float32),
        flat=np.zeros((count, len(LEAD_NAMES)), bool),
        rate=np.zeros(count, np.float32),
        seconds=np.zeros(count, np.float32),
        faulty=np.zeros(num_faulty, np.int64),
        miss=np.zeros(num_faulty, np.float32),
        mends=np.full(num_faulty, "", object),
        closer=np.zeros(num_closer, np.int64),
        beats=np.full(num_closer, np.nan, np.float32),
        progression=np.full((num_closer, len(PRECORDIAL)), np.nan, np.float32),
    )


def _facts_of_rows(values: np.ndarray, names: tuple[str, ...], rate: float, closer: np.ndarray) -> Facts:
    """The facts of equal records (records, leads, samples) in µV; those of the rows `closer` are looked at closely."""
    lowest, highest = values.min(axis=-1).astype(np.float64), values.max(axis=-1).astype(np.float64)
    flat = is_flat(lowest, highest, np.maximum(-lowest, highest).max(axis=-1))
    faults = limb_lead_faults(values, names, flat, microvolts=1.0)
    facts = _no_facts(len(values), len(faults), len(closer))
    facts.extent[:] = _median_extent(highest - lowest, flat) / 1000
    facts.offset[:] = offsets_from_zero(lowest, highest, flat) / 1000
    facts.flat[:, [LEAD_NAMES.index(name) for name in names]] = flat
    facts.digest[:] = [digest_of(signal) for signal in values]
    for row, fault in enumerate(faults):
        facts.faulty[row], facts.miss[row], facts.mends[row] = fault.record, fault.miss, fault.mends
    facts.rate[:], facts.seconds[:] = rate, values.shape[-1] / rate
    if len(closer):
        seen = _middle(values, rate)[closer]
        lead = min(names, key=_BEAT_LEADS.index)
        facts.closer[:] = closer
        facts.beats[:] = beat_rates(seen[:, names.index(lead)], rate)
        _progression(seen, names, facts.progression)
    return facts


def _median_extent(extents: np.ndarray, flat: np.ndarray) -> np.ndarray:
    if not flat.any():  # masks cost much, and are rarely needed
        return np.median(extents, axis=1)
    return np.ma.median(np.ma.array(extents, mask=flat), axis=1).filled(0)


def digest_of(signal: np.ndarray) -> int:
    """64 bits of XXH3, which is thirty times as fast as SHA-256: among a million recordings two others would agree by
    chance once in 37 million times."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(signal))


def _middle(values: np.ndarray, rate: float) -> np.ndarray:
    length = values.shape[-1]
    wanted = min(length, max(1, round(_CLOSER_SECONDS * rate)))
    return values[..., (length - wanted) // 2 :][..., :wanted]


def _progression(values: np.ndarray, names: tuple[str, ...], progression: np.ndarray) -> None:
    for column, name in enumerate(PRECORDIAL):
        if name in names:
            lead = values[:, names.index(name)].astype(np.float32)
            base = np.median(lead[:, :: max(1, lead.shape[1] // 500)], axis=1)
            lowest, highest = lead.min(axis=1), lead.max(axis=1)
            extent = np.where(highest > lowest, highest - lowest, np.nan)
            progression[:, column] = (highest + lowest - 2 * base) / extent


# ---- Beats ----

_WORKING_RATE = 125.0
_QRS_BAND = (8.0, 25.0)  # Hz
_SMOOTHING = 0.03  # s, standard deviation
_REFRACTORY = 0.15  # s
_PEAK_SHARE = 0.5
_FEWEST_BEATS = 4


def beat_rates(lead: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Beats a minute of records (records, samples) of one lead at `sampling_rate` Hz; NaN where there are fewer than
    four beats.

    A beat is a peak of the smoothed energy from 8 to 25 Hz, where the QRS complex has most of it, whose amplitude is
    half of the 98th percentile or more; the rate is that of the median interval, which premature beats do not move.
    """
    step = max(1, round(sampling_rate / _WORKING_RATE))
    rate, length = sampling_rate / step, lead.shape[-1] // step
    means = lead[:, : length * step].reshape(len(lead), length, step).mean(axis=2, dtype=np.float32)
    means -= means.mean(axis=1, keepdims=True)
    # Room for the ends not to run into each other.
    size = fft.next_fast_len(length + round(rate), real=True)
    frequencies = fft.rfftfreq(size, 1 / rate)
    is_qrs = (frequencies >= _QRS_BAND[0]) & (frequencies <= _QRS_BAND[1])
    energy = np.square(fft.irfft(fft.rfft(means, size) * is_qrs, size)[:, :length])
    smooth = np.exp(-0.5 * np.square(2 * np.pi * _SMOOTHING * frequencies))
    energy = fft.irfft(fft.rfft(energy, size) * smooth, size)[:, :length]
    distance = max(1, int(_REFRACTORY * rate))
    return np.array([_beat_rate(row, distance) * rate for row in np.sqrt(np.maximum(energy, 0))])


def _beat_rate(amplitude: np.ndarray, distance: int) -> float:
    """Beats a minute at one sample a second; `distance` is the least between beats."""
    least = _PEAK_SHARE * np.quantile(amplitude, 0.98)
    if not least > 0:
        return np.nan
    peaks, _ = find_peaks(amplitude, height=least, distance=distance, prominence=least)
    return 60 / float(np.median(np.diff(peaks))) if len(peaks) >= _FEWEST_BEATS else np.nan


__all__ = ["PRECORDIAL", "Facts", "beat_rates", "digest_of", "facts_of", "join_facts"]
