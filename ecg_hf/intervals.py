"""Resamples of patients, and the confidence intervals that follow from them.

An interval is `{"value", "low", "high"}`; `low` and `high` are None where the data say nothing about the spread.
Patients are groups of records, numbered from 0.

Halves are drawn without replacement, because in a bootstrap a positive drawn twice is tied with itself: that raises
the AUPRC of rare labels so much that percentiles of its mean over labels may lie above the value itself.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri

# Number of resamples' weights in memory at once (2 MiB): they fit into the processor's cache, where sums are fastest.
WEIGHTS_PER_CHUNK = 2**18

# There is no interval from fewer patients. Macro: below 20 the coverage was not examined; labels: with two patients it
# is 84 %, with three 93 % (binormal scores, as in tests/coverage_simulation.py).
MIN_PATIENTS = 20
MIN_PATIENTS_OF_LABEL = 3


def check_resampling(n_resamples: int, confidence: float) -> None:
    if not isinstance(n_resamples, numbers.Integral) or n_resamples < 2:
        raise ValueError(
            f"`n_resamples` must be a whole number and at least 2, got {n_resamples}: one resample has no spread."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1, got {confidence}.")


def number_groups(groups, num_records: int, sort: bool = False) -> np.ndarray:
    """(records,) group numbers from 0; without groups each record is a separate group, and one without an id (None,
    NaN or blank).

    Numbers follow the first record of each group or, with `sort`, the ids, whatever the order of the records.
    """
    if groups is None:
        return np.arange(num_records)
    # Arrays of pandas have another mask.
    if isinstance(groups, np.ma.MaskedArray) and np.ma.is_masked(groups):
        groups = np.where(groups.mask, None, groups.data.astype(object))
    groups = np.asarray(groups)
    if groups.ndim == 1 and groups.dtype.kind in "UO":
        blank = [isinstance(name, str) and not name.strip() for name in groups]
        groups = np.where(blank, None, groups.astype(object))
    numbers, ids = pd.factorize(groups, sort=sort)
    if len(numbers) != num_records:
        raise ValueError(f"`groups` must have one id for each of the {num_records} records, got {len(numbers)}.")
    missing = numbers == -1
    numbers[missing] = len(ids) + np.arange(missing.sum())
    return numbers


def number_known_groups(groups, known: np.ndarray, sort: bool = False) -> np.ndarray:
    """As `number_groups`, of the records where `known` (records,) is true: those of which nothing is known say nothing
    about the spread, and their groups are none."""
    numbers = number_groups(groups, len(known), sort)[known]
    return np.unique(numbers, return_inverse=True)[1]


def draw_counts(group_of_record: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks (resamples, records) of how often each resample drew each record's group, with replacement."""
    generator = np.random.default_rng(seed)
    num_groups = group_of_record.max() + 1
    for size in _chunk_sizes(group_of_record, n_resamples):
        yield generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)[:, group_of_record]


def draw_halves(group_of_record: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks (halves, records) of weights: 1 for the records of a random half of the groups, rounded down."""
    generator = np.random.default_rng(seed)
    num_groups = group_of_record.max() + 1
    for size in _chunk_sizes(group_of_record, n_resamples):
        # One permutation for each half, so that the size of the chunks changes nothing.
        drawn = np.stack([generator.permutation(num_groups) < num_groups // 2 for _ in range(size)])
        yield drawn[:, group_of_record].astype(np.float64)


def _chunk_sizes(group_of_record: np.ndarray, n_resamples: int) -> Iterator[int]:
    resamples_per_chunk = max(1, WEIGHTS_PER_CHUNK // len(group_of_record))
    for first in range(0, n_resamples, resamples_per_chunk):
        yield min(resamples_per_chunk, n_resamples - first)


def percentile_interval(
    value: float, resampled: np.ndarray, num_groups: int, confidence: float
) -> dict[str, float | None]:
    """From `resampled` (resamples,), drawn with replacement; none with one group, which is always drawn."""
    if num_groups < 2:
        return interval(value)
    return interval(value, *np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2]))


def halves_interval(value: float, halves: np.ndarray, num_groups: int, confidence: float) -> dict[str, float | None]:
    """Symmetric round `value` on the logit scale, from `halves` (halves,) that `draw_halves` drew.

    There is none if fewer than two halves are defined (not NaN), if all agree, or if `value` is 0 or 1.
    """
    halves = halves[~np.isnan(halves)]
    if len(halves) < 2 or not 0 < value < 1:
        return interval(value)
    half = num_groups // 2
    # A half drawn without replacement varies as the whole set does; the smaller part of an odd number varies more.
    error = halves.std(ddof=1) * np.sqrt(half / (num_groups - half))
    if error <= 1e-12:
        return interval(value)
    return _around(value, expit(logit(value) + _both_sides(confidence) * error / (value * (1 - value))))


def wilson_interval(value: float, trials: float, confidence: float) -> dict[str, float]:
    """Wilson's interval of a proportion (1927, doi 10.1080/01621459.1927.10502953); never without width."""
    z = _both_sides(confidence)
    margin = z * np.sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2))
    return _around(value, (value + z**2 / (2 * trials) + margin) / (1 + z**2 / trials))


def wider(first: dict[str, float | None], second: dict[str, float | None]) -> dict[str, float | None]:
    """The outer ends of two intervals of one value."""
    if first["low"] is None or second["low"] is None:
        return second if first["low"] is None else first
    return interval(first["value"], min(first["low"], second["low"]), max(first["high"], second["high"]))


def interval(value: float, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {
        "value": float(value),
        "low": low if low is None else float(low),
        "high": high if high is None else float(high),
    }


def _around(value: float, ends: np.ndarray) -> dict[str, float]:
    # Rounding may have carried an end a bit beyond [0, 1] or the value.
    low, high = ends
    return interval(value, max(0.0, min(low, value)), min(1.0, max(high, value)))


def _both_sides(confidence: float) -> np.ndarray:
    """The two quantiles of the standard normal distribution."""
    return ndtri([(1 - confidence) / 2, (1 + confidence) / 2])


__all__ = [
    "MIN_PATIENTS",
    "MIN_PATIENTS_OF_LABEL",
    "check_resampling",
    "draw_counts",
    "draw_halves",
    "halves_interval",
    "interval",
    "number_groups",
    "number_known_groups",
    "percentile_interval",
    "wider",
    "wilson_interval",
]
