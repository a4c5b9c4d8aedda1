"""What groups of records and changed records are judged by: mean areas under curves, or mean absolute errors."""

from __future__ import annotations

import warnings

import numpy as np

from ..ecg_transformer.common_ecg_transformer import REGRESSION
from ..intervals import MIN_PATIENTS, draw_halves, interval
from ..metrics import bootstrap_metrics, weighted_auroc_and_auprc
from ..target_metrics import regression_intervals

MIN_POSITIVES = 10
"""A label with fewer positives (of numbers: known values) in a group is left out of the group's means."""


class Areas:
    """AUROC and AUPRC, means over the labels, or over each class against the rest."""

    names = {"macro_auroc": "AUROC", "macro_auprc": "AUPRC"}
    counted = "positives"
    better = "higher"

    def columns(self, labels: np.ndarray) -> np.ndarray:
        """(records, labels) -> for each label whether it has ten positives, and a negative."""
        return ((labels == 1).sum(axis=0) >= MIN_POSITIVES) & (labels == 0).any(axis=0)

    def count(self, labels: np.ndarray) -> int:
        return int((labels == 1).sum())

    def weighted(self, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(measures, weightings) for weights (weightings, records); NaN where no label is defined."""
        return np.stack([_mean(areas) for areas in weighted_auroc_and_auprc(labels, scores, weights)])

    def intervals(self, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, n_resamples: int) -> dict:
        """For each measure its `interval`, as in [`bootstrap_metrics`]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is no interval, the report shows none
            found = bootstrap_metrics(labels, scores, n_resamples, groups=patients)
        return {name: found[name] for name in self.names}


class Errors:
    """Mean absolute errors of numbers, means over the targets."""

    names = {"mae": "mean absolute error"}
    counted = "known values"
    better = "lower"

    def columns(self, labels: np.ndarray) -> np.ndarray:
        return (~np.isnan(labels)).sum(axis=0) >= MIN_POSITIVES

    def count(self, labels: np.ndarray) -> int:
        return int((~np.isnan(labels)).sum())

    def weighted(self, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        known = ~np.isnan(labels)
        total = weights @ known
        errors = weights @ np.where(known, np.abs(scores - labels), 0)
        return _mean(np.divide(errors, total, out=np.full_like(errors, np.nan), where=total > 0))[None]

    def intervals(self, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, n_resamples: int) -> dict:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"mae": regression_intervals(labels, scores, n_resamples, groups=patients)["mae"]}


def measure_of(problem_type: str) -> Areas | Errors:
    return Errors() if problem_type == REGRESSION else Areas()


def halves_of(
    measure: Areas | Errors, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, n_resamples: int
) -> np.ndarray:
    """(measures, 1 + halves): of all records, then of the random halves of the patients that `draw_halves` draws."""
    chunks = [measure.weighted(labels, scores, np.ones((1, len(labels))))]
    chunks += [measure.weighted(labels, scores, weights) for weights in draw_halves(patients, n_resamples, seed=0)]
    return np.concatenate(chunks, axis=1)


def difference_intervals(measure: Areas | Errors, one: np.ndarray, other: np.ndarray, num_patients: int) -> dict:
    """95 % intervals of `other - one`, two results of [`halves_of`] for the same records and halves.

    The error of a difference is its deviation over the halves (see `intervals.halves_interval`, without the logit
    scale: a difference has no limits at 0 and 1); none with fewer than 20 patients.
    """
    half = num_patients // 2
    found = {}
    for name, difference in zip(measure.names, other - one, strict=True):
        value, halves = difference[0], difference[1:][~np.isnan(difference[1:])]
        if num_patients < MIN_PATIENTS or len(halves) < 2:
            found[name] = interval(value)
            continue
        margin = 1.96 * halves.std(ddof=1) * np.sqrt(half / (num_patients - half))
        found[name] = interval(value, value - margin, value + margin)
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """(weightings, labels) -> mean over the labels that are defined, NaN where none is."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


__all__ = ["MIN_POSITIVES", "Areas", "Errors", "difference_intervals", "halves_of", "measure_of"]
