"""Checks of whole records: voltages of another unit or with an offset, constant leads, contradictory limb leads."""

from collections import Counter
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .common_ecg_transformer import LEAD_NAMES

# Each limb lead as a sum of I and II: the equations of Einthoven and Goldberger.
_OF_I_AND_II = dict(zip(LEAD_NAMES[:6], ((1, 0), (0, 1), (-1, 1), (-0.5, -0.5), (1, -0.5), (-0.5, 1)), strict=True))

# By the measure below 3 of 7,267 records of PTB-XL (every third) are beyond the limit, all of them by 250 µV; and of
# 2,500 records with any two limb leads exchanged, or any one reversed, all are, and the right change is named.
MAX_MISS_MICROVOLTS = 50.0
_FRACTION = 0.98
_FEW_SAMPLES, _SAMPLES = 50, 500

# Rounding of the values of a filter, a resampler or a unit leaves less than this of a record's largest value.
FLAT_FRACTION = 1e-6

# mV from peak to peak. Of 20,000 records of PTB-XL the median over the leads lies from 0.38 to 9.5.
LEAST_EXTENT = 0.02

# mV. In none of 3,000 records of PTB-XL a lead stays above or below 0: all cross it by 0.05 and more.
LARGEST_OFFSET = 0.25


class LimbFault(NamedTuple):
    """A record whose limb leads contradict each other."""

    record: int
    miss: float
    """98th percentile of the samples' deviations from the equations, in µV."""
    mends: str
    """The exchanges or reversals that would mend it; empty if none does."""


def is_flat(lowest: np.ndarray, highest: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """(rows, leads): whether a lead from `lowest` to `highest` is constant, for rows whose record reaches `largest`.

    `lowest` and `highest` are (rows, leads), `largest` is (rows,), all in the same unit.
    """
    # In floats: the difference of two int16 may be no int16.
    return highest.astype(np.float64) - lowest <= FLAT_FRACTION * largest[:, None]


def small_voltages_in_words(extents_of_batches: list[dict[int, float]]) -> str | None:
    """One sentence on the records whose voltages are too small for an ECG; None if there are none.

    Of each record it takes the largest extent of a lead from peak to peak, in mV. Flat records are left out.
    """
    extents = {record: extent for batch in extents_of_batches for record, extent in batch.items()}
    small = sorted(record for record, extent in extents.items() if 0 < extent < LEAST_EXTENT)
    if not small:
        return None
    which = "The record extends"
    if len(extents) > 1:
        which = f"{len(small)} of {len(extents)} records (first: {small[0]}) extend"
    largest = max(extents[record] for record in small)
    return (
        f"{which} over {largest:.2g} mV from peak to peak at most, an ECG over 0.4 to 10 mV: the values seem to be in "
        "another unit, such as V. Bring them to mV or µV (`units`)."
    )


def offsets_from_zero(lowest: np.ndarray, highest: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """(rows,): how far the lead that stays farthest above or below 0 is from it; 0 where all that are not flat cross
    it. The arguments are (rows, leads), the first two in one unit, which is that of the answer."""
    nearest = np.maximum(lowest.astype(np.float64), -highest.astype(np.float64))
    return np.where(flat, 0, nearest).max(axis=1, initial=0)


def offsets_in_words(offsets_of_batches: list[dict[int, float]]) -> str | None:
    """One sentence on the records with leads that do not cross 0, by [`offsets_from_zero`] in mV; None without any."""
    offsets = {record: offset for batch in offsets_of_batches for record, offset in batch.items()}
    found = sorted(record for record, offset in offsets.items() if offset > LARGEST_OFFSET)
    if not found:
        return None
    return describe_offsets(max(offsets.values()), len(found), len(offsets), found[0])


def describe_offsets(largest: float, count: int, num_records: int, first: object) -> str:
    which = "The record stays"
    if num_records > 1:
        which = f"{count} of {num_records} records (first: {first}) stay"
    return (
        f"{which} above or below 0 mV in some lead, by up to {largest:.2g} mV. An ECG crosses 0: this seems to be an "
        "offset of the amplifier, which a model takes for voltage. Subtract the median of each lead, or filter it out."
    )


def limb_lead_faults(
    values: np.ndarray, lead_names: tuple[str, ...], flat: np.ndarray, microvolts: float
) -> list[LimbFault]:
    """The faults among records (records, leads, samples), of which a unit is `microvolts`; `flat` is (records, leads).

    Any two limb leads determine the others, up to constant offsets: three are needed to see a fault. Flat leads, which
    often stand for absent ones, are left out. A look at every n-th sample is enough, since waves last longer.
    """
    rows = [row for row, name in enumerate(lead_names) if name in _OF_I_AND_II]
    if len(rows) < 3:
        return []
    names = tuple(lead_names[row] for row in rows)
    # First a few samples of the middle fifth, which holds a beat or two: nearly all records are acquitted by them.
    first, last = rows[0], rows[-1] + 1
    middle = 2 * values.shape[-1] // 5
    few = values[:, first:last, middle : max(middle + 1, 3 * values.shape[-1] // 5)]
    # (limb leads, samples, records): one product, and long rows for the extremes.
    few = few[..., :: _step(few, _FEW_SAMPLES)].transpose(1, 2, 0).astype(np.float32, order="C")
    few = few[[row - first for row in rows]] if last - first > len(rows) else few
    deviations = _deviations(few.reshape(len(rows), -1), names).reshape(len(rows) - 2, *few.shape[1:])
    extent = (deviations.max(axis=1) - deviations.min(axis=1)).max(axis=0)
    faults = []
    for record in np.flatnonzero(extent * microvolts > MAX_MISS_MICROVOLTS):
        kept = [row for row in rows if not flat[record, row]]
        if len(kept) >= 3:
            sampled = values[record, kept, :: _step(values, _SAMPLES)].astype(np.float32) * microvolts
            faults += _fault(int(record), sampled, tuple(lead_names[row] for row in kept))
    return faults


def describe_limb_faults(faults: list[LimbFault], num_records: int) -> str:
    """One sentence on all of them, with what would mend them."""
    worst = max(fault.miss for fault in faults)
    mends = Counter(fault.mends or "no single exchange or reversal" for fault in faults)
    which = "The limb leads of the record contradict"
    if num_records > 1:
        which = f"The limb leads of {len(faults)} of {num_records} records (first: {faults[0].record}) contradict"
    remedy = "; ".join(mend if num_records == 1 else f"{mend} ({count})" for mend, count in mends.most_common())
    return (
        f"{which} the equations of Einthoven and Goldberger, by up to {worst:.0f} µV: `lead_names` may be exchanged. "
        f"What would mend it: {remedy}."
    )


def _step(values: np.ndarray, num_samples: int) -> int:
    return max(1, values.shape[-1] // num_samples)


def _deviations(values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """(..., limb leads, samples) -> (..., limb leads - 2, samples): what each lead lacks of what the first two say."""
    axes = np.array([_OF_I_AND_II[name] for name in names])
    weights = np.linalg.solve(axes[:2].T, axes[2:].T).T
    return np.hstack([-weights, np.eye(len(weights))]).astype(np.float32) @ values


def _miss(values: np.ndarray, names: tuple[str, ...]) -> float:
    deviations = _deviations(values, names)
    # About the median: an amplifier's offset is no fault of the names.
    deviations = np.abs(deviations - np.median(deviations, axis=-1, keepdims=True))
    return float(np.quantile(deviations, _FRACTION, axis=-1).max())


def _fault(record: int, values: np.ndarray, names: tuple[str, ...]) -> list[LimbFault]:
    """The fault of one record, (limb leads, samples) in µV, if it is one."""
    miss = _miss(values, names)
    if miss <= MAX_MISS_MICROVOLTS:
        return []
    misses = {}
    for one, other in combinations(range(len(names)), 2):
        order = np.arange(len(names))
        order[[one, other]] = other, one
        misses[f"exchanging {names[one]} and {names[other]}"] = _miss(values[order], names)
    for lead, name in enumerate(names):
        signs = np.ones((len(names), 1), dtype=np.float32)
        signs[lead] = -1
        misses[f"reversing {name}"] = _miss(signs * values, names)
    # With three leads several changes mend a record equally well.
    best = min(misses.values())
    mends = [mend for mend, left in misses.items() if left <= min(best + 2, MAX_MISS_MICROVOLTS)]
    return [LimbFault(record, miss, " or ".join(mends))]


__all__ = [
    "LARGEST_OFFSET",
    "LEAST_EXTENT",
    "LimbFault",
    "describe_limb_faults",
    "describe_offsets",
    "is_flat",
    "limb_lead_faults",
    "offsets_from_zero",
    "offsets_in_words",
    "small_voltages_in_words",
]
