"""Decision thresholds that are chosen on validation records, and what they do on the records that judge the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_curve

from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from ..intervals import MIN_PATIENTS_OF_LABEL, draw_halves, halves_interval, interval, wider, wilson_interval
from ..metrics import choose_thresholds

STORED = "stored"
RATES = ("sensitivity", "specificity", "ppv", "f1")
_CONFIDENCE = 0.95


def choose_points(
    labels: np.ndarray, scores: np.ndarray, sensitivity: float, specificity: float
) -> dict[str, list[float | None]]:
    """Thresholds of each label by rule; a label is called present at a score of at least its threshold.

    `max_f1` is that of [`choose_thresholds`]; `sensitivity` the highest threshold with at least this sensitivity on
    the given records, `specificity` the lowest with at least this specificity. All lie midway between two scores. None
    where a label lacks positives or negatives, or no threshold reaches the specificity.

    Args:
        labels: (records, labels) of 0, 1 and -100, of validation records.
        scores: (records, labels), probabilities.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the labels without a threshold are None here
        best = choose_thresholds(labels, scores)
    points = {"max_f1": best, "sensitivity": [], "specificity": []}
    for label, (truth, of_label) in enumerate(zip(labels.T, scores.T, strict=True)):
        known = truth != UNKNOWN_LABEL
        if not (truth == 1).any() or not (truth == 0).any():
            points["max_f1"][label] = None
            points["sensitivity"].append(None)
            points["specificity"].append(None)
            continue
        curve = roc_curve(truth[known], of_label[known], drop_intermediate=False)
        points["sensitivity"].append(_midway(curve[2], int(np.argmax(curve[1] >= sensitivity))))
        # 1 - 0.1 may be less than 0.9 by a rounding.
        points["specificity"].append(_midway(curve[2], int(np.flatnonzero(1 - curve[0] >= specificity - 1e-12)[-1])))
    return points


def _midway(scores: np.ndarray, place: int) -> float | None:
    """Between a score, above infinity for none, and the next lower one; None above a score of 1."""
    above = min(scores[place], 1.0)
    below = scores[place + 1] if place + 1 < len(scores) else 0.0
    midway = below + (above - below) / 2
    if midway > below:
        return float(midway)
    return float(above) if np.isfinite(scores[place]) else None


def judge_points(
    labels: np.ndarray,
    scores: np.ndarray,
    thresholds: Sequence[float | None],
    patients: np.ndarray,
    n_resamples: int,
    label_names: Sequence[str],
) -> dict[str, dict | None]:
    """For each label what its threshold does, with 95 % intervals over patients; None without a threshold.

    Sensitivity, specificity and positive predictive value have the wider ends of Wilson's interval (1927, doi
    10.1080/01621459.1927.10502953), with the patients who have such a record as trials, and of random halves of the
    patients; F1, which is no proportion, that of the halves. See [`bootstrap_metrics`].

    Args:
        labels, scores: (records, labels), as in [`choose_points`].
        patients: (records,), numbered from 0.

    Returns:
        For each name `threshold`, `true_positives`, `false_positives`, `false_negatives`, `true_negatives`, and for
        each of `RATES` its `interval`, or None where it is undefined.
    """
    known = labels != UNKNOWN_LABEL
    called = scores >= np.array([np.inf if threshold is None else threshold for threshold in thresholds])
    positive = labels == 1
    cells = np.stack([called & positive, called & ~positive & known, ~called & positive, ~called & ~positive & known])
    counts = cells.sum(axis=1)
    halves = _halves_of_rates(cells.astype(np.float64), patients, n_resamples)
    groups = {"sensitivity": positive, "specificity": known & ~positive, "ppv": called & known}
    found = {}
    for label, (name, threshold) in enumerate(zip(label_names, thresholds, strict=True)):
        if threshold is None:
            found[name] = None
            continue
        trials = {rate: len(np.unique(patients[rows[:, label]])) for rate, rows in groups.items()}
        values = dict(zip(RATES, _rates(counts[:, label]), strict=True))
        names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
        found[name] = {"threshold": threshold, **dict(zip(names, counts[:, label].tolist(), strict=True))}
        for place, (rate, value) in enumerate(values.items()):
            found[name][rate] = _interval(value, halves[place, :, label], trials.get(rate), patients.max() + 1)
    return found


def _rates(counts: np.ndarray) -> np.ndarray:
    """True and false positives, false and true negatives (4, ...) -> `RATES` (4, ...), NaN where undefined."""
    hits, false_alarms, missed, rejected = counts.astype(np.float64)
    parts = (hits, hits + missed), (rejected, rejected + false_alarms), (hits, hits + false_alarms)
    parts += ((2 * hits, 2 * hits + false_alarms + missed),)
    return np.stack(
        [np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0) for part, whole in parts]
    )


def _halves_of_rates(cells: np.ndarray, patients: np.ndarray, n_resamples: int) -> np.ndarray:
    """cells (4, records, labels) -> (rates, halves, labels)."""
    chunks = [_rates(weights @ cells) for weights in draw_halves(patients, n_resamples, seed=0)]
    return np.concatenate(chunks, axis=1)


def _interval(value: float, halves: np.ndarray, trials: int | None, num_patients: int) -> dict | None:
    if np.isnan(value):
        return None
    if num_patients < MIN_PATIENTS_OF_LABEL:
        return interval(value)
    of_halves = halves_interval(value, halves, num_patients, _CONFIDENCE)
    return of_halves if trials is None else wider(wilson_interval(value, trials, _CONFIDENCE), of_halves)


__all__ = ["RATES", "STORED", "choose_points", "judge_points"]
