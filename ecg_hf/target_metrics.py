"""Metrics of classification into one of several classes, and of regression, with intervals over patients.

Those of labels that may be present together, which also serve each class against the rest, are in `ecg_hf.metrics`.
A record whose class is unknown, and a value that is NaN, take no part.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from .ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .ecg_transformer.inputs_ecg_transformer import as_array
from .intervals import (
    MIN_PATIENTS,
    check_resampling,
    draw_counts,
    draw_halves,
    halves_interval,
    interval,
    number_known_groups,
    percentile_interval,
    wider,
    wilson_interval,
)
from .metrics import bootstrap_metrics, check_label_names, multilabel_metrics

REGRESSION_METRICS = ("mae", "rmse", "r2")


# ---- One of several classes ----


def single_label_metrics(labels, scores, label_names: Sequence[str] | None = None) -> dict:
    """Metrics of a classifier whose probabilities sum to 1 over the classes.

    The predicted class is the one with the highest probability, the first of equal ones. AUROC and AUPRC are those of
    each class against the rest, and their means over the classes that some records have and others do not.

    Args:
        labels: one-hot (records, classes), all -100 where the class is unknown.
        scores: probabilities (records, classes), each row with the sum 1.
        label_names: names for `per_label`; "0", "1", ... if absent.

    Returns:
        `accuracy`, `macro_auroc`, `macro_auprc`, `num_undefined` (classes without AUROC and AUPRC), `per_label` with,
        for each class, `auroc`, `auprc`, `precision`, `recall` (None where undefined), `num_positive` and `num_known`,
        and `confusion_matrix` (classes, classes): records of each true class (rows) by predicted class (columns).

    Raises:
        ValueError: invalid shapes or values, no known class, or all known records are of one class.
    """
    labels, scores = _check_classes(labels, scores)
    metrics = multilabel_metrics(labels, scores, label_names)
    confusion = _confusion(labels, scores)
    correct, predicted, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    for values, hits, of_predicted, of_true in zip(
        metrics["per_label"].values(), correct.tolist(), predicted.tolist(), true.tolist(), strict=True
    ):
        values["precision"] = hits / of_predicted if of_predicted else None
        values["recall"] = hits / of_true if of_true else None
    names = ("macro_auroc", "macro_auprc", "num_undefined", "per_label")
    return {
        "accuracy": float(correct.sum() / confusion.sum()),
        **{name: metrics[name] for name in names},
        "confusion_matrix": confusion.tolist(),
    }


def single_label_intervals(
    labels,
    scores,
    n_resamples: int = 1000,
    *,
    groups=None,
    seed: int = 0,
    confidence: float = 0.95,
    label_names: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Intervals of accuracy, macro AUROC and macro AUPRC, and with `label_names` of each class against the rest.

    Those of the areas are as in `bootstrap_metrics`, whose arguments these are. That of the accuracy has the wider
    ends of the interval from random halves of the patients and of Wilson's (1927, doi 10.1080/01621459.1927.10502953)
    with the patients as trials, which has a width also where all records are right; none with fewer than 20 patients.

    Returns `{"accuracy": {"value", "low", "high"}, "macro_auroc": ..., "macro_auprc": ..., "per_label": ...}`.
    """
    labels, scores = _check_classes(labels, scores)
    areas = bootstrap_metrics(
        labels, scores, n_resamples, groups=groups, seed=seed, confidence=confidence, label_names=label_names
    )
    known = labels[:, 0] != UNKNOWN_LABEL
    correct = (scores.argmax(axis=1) == labels.argmax(axis=1))[known].astype(np.float64)
    patients = number_known_groups(groups, known, sort=True)
    return {"accuracy": _share_interval(correct, patients, n_resamples, seed, confidence), **areas}


def _share_interval(hits: np.ndarray, patients: np.ndarray, n_resamples: int, seed: int, confidence: float) -> dict:
    """Of the mean of `hits` (records,), 0 or 1."""
    value, num_patients = float(hits.mean()), patients.max() + 1
    if num_patients < MIN_PATIENTS:
        return interval(value)
    halves = [weights @ hits / weights.sum(axis=1) for weights in draw_halves(patients, n_resamples, seed)]
    from_halves = halves_interval(value, np.concatenate(halves), num_patients, confidence)
    return wider(wilson_interval(value, num_patients, confidence), from_halves)


def _confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    known = labels[:, 0] != UNKNOWN_LABEL
    confusion = np.zeros((labels.shape[1],) * 2, dtype=np.int64)
    np.add.at(confusion, (labels[known].argmax(axis=1), scores[known].argmax(axis=1)), 1)
    return confusion


def _check_classes(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = _matrices(labels, scores, "scores", "classes", UNKNOWN_LABEL)
    unknown = (labels == UNKNOWN_LABEL).all(axis=1)
    one_hot = np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)
    if wrong := np.flatnonzero(~(unknown | one_hot)).tolist():
        raise ValueError(
            f"`labels` must have exactly one 1 beside zeros in each row, or only {UNKNOWN_LABEL} where the class is "
            f"unknown, but {len(wrong)} of {len(labels)} rows do not, the first is row {wrong[0]}."
        )
    if unknown.all():
        raise ValueError(f"`labels` has no record of a known class among {len(labels)}: evaluate others.")
    if (scores < 0).any() or (np.abs(scores.sum(axis=1) - 1) > 1e-4).any():
        raise ValueError(
            "`scores` must be probabilities that sum to 1 in each row: apply the softmax to the logits first, and in "
            "float32."
        )
    return labels, scores


# ---- Regression ----


def regression_metrics(labels, values, label_names: Sequence[str] | None = None) -> dict:
    """Errors of predicted numbers, in the units of the targets.

    Args:
        labels: true values (records, targets), NaN where unknown.
        values: predicted values (records, targets).
        label_names: names for `per_label`; "0", "1", ... if absent.

    Returns:
        `mae` (mean absolute error), `rmse` (root mean squared error) and `r2` (coefficient of determination: 1 minus
        the sum of squared errors by that about the mean of the true values; NaN where these are all equal), each the
        mean over the targets, which mixes units where the targets have different ones; `per_label` with the same for
        each target (None where undefined), and `num_known`.

    Raises:
        ValueError: invalid shapes, predictions that are not finite, or no known value.
    """
    labels, values = _check_values(labels, values)
    names = check_label_names(label_names, labels.shape[1])
    of_targets = _regression(_regression_sums(labels, values).sum(axis=0))
    counts = (~np.isnan(labels)).sum(axis=0).tolist()
    per_label = {
        name: {metric: _or_none(of_targets[metric][index]) for metric in REGRESSION_METRICS} | {"num_known": count}
        for index, (name, count) in enumerate(zip(names, counts, strict=True))
    }
    return {**{metric: float(_mean(of_targets[metric])) for metric in REGRESSION_METRICS}, "per_label": per_label}


def regression_intervals(
    labels,
    values,
    n_resamples: int = 1000,
    *,
    groups=None,
    seed: int = 0,
    confidence: float = 0.95,
    label_names: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Percentile bootstrap intervals of `regression_metrics`, over patients that are drawn with replacement.

    Args:
        labels, values: as in `regression_metrics`.
        n_resamples, groups, seed, confidence: as in `calibration_metrics`.
        label_names: names for `per_label`, which is omitted without them.

    Returns:
        `{"mae": {"value", "low", "high"}, "rmse": ..., "r2": ...}`, with `label_names` also `"per_label": {name: the
        same}`. `low` and `high` are None with fewer than 20 patients of whom a value is known, of a target one of its
        own; `value` too where the metric is undefined; of a target None then stands for all three.
    """
    labels, values = _check_values(labels, values)
    check_resampling(n_resamples, confidence)
    label_names = None if label_names is None else check_label_names(label_names, labels.shape[1])
    known = ~np.isnan(labels).all(axis=1)
    sums = _regression_sums(labels[known], values[known])
    patients = number_known_groups(groups, known)
    num_patients = int(patients.max()) + 1
    if num_patients < MIN_PATIENTS:
        warnings.warn(
            f"Too few patients for intervals: {num_patients}, and at least {MIN_PATIENTS} are needed.", stacklevel=2
        )
    chunks = [_regression(np.tensordot(counts, sums, axes=1)) for counts in draw_counts(patients, n_resamples, seed)]
    value = _regression(sums.sum(axis=0))
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in value}

    def of(value: float, values: np.ndarray, num_patients: int) -> dict[str, float | None]:
        values = values[~np.isnan(values)]
        if np.isnan(value):
            return {"value": None, "low": None, "high": None}
        if num_patients < MIN_PATIENTS or len(values) < 2:
            return interval(value)
        return percentile_interval(value, values, num_patients, confidence)

    intervals = {name: of(_mean(value[name]), _mean(resampled[name]), num_patients) for name in REGRESSION_METRICS}
    if label_names is not None:
        of_target = [len(np.unique(patients[~np.isnan(target)])) for target in labels[known].T]
        intervals["per_label"] = {
            label: {
                name: None
                if np.isnan(value[name][index])
                else of(value[name][index], resampled[name][:, index], of_target[index])
                for name in REGRESSION_METRICS
            }
            for index, label in enumerate(label_names)
        }
    return intervals


def _regression_sums(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(records, 5, targets): of what is known 1, absolute and squared error, and the centred truth and its square."""
    known = ~np.isnan(labels)
    errors = np.where(known, values - labels, 0.0)
    count = known.sum(axis=0)
    # About their mean, so that the squares of large values do not swallow their differences.
    centred = np.where(known, labels - np.where(known, labels, 0).sum(axis=0) / np.maximum(count, 1), 0.0)
    return np.stack([known.astype(np.float64), np.abs(errors), errors**2, centred, centred**2], axis=1)


def _regression(sums: np.ndarray) -> dict[str, np.ndarray]:
    """From `_regression_sums`, summed over records to (..., 5, targets), each metric (..., targets); else NaN."""
    count, absolute, squared, truth, truth_squared = np.moveaxis(sums, -2, 0)
    undefined = np.full_like(count, np.nan)
    mae = np.divide(absolute, count, out=undefined.copy(), where=count > 0)
    rmse = np.sqrt(np.divide(squared, count, out=undefined.copy(), where=count > 0))
    total = truth_squared - np.divide(truth**2, count, out=np.zeros_like(count), where=count > 0)
    # What rounding leaves of equal values is no spread.
    varies = (count > 1) & (total > 1e-12 * truth_squared)
    share = np.divide(squared, total, out=undefined, where=varies)
    return {"mae": mae, "rmse": rmse, "r2": 1 - share}


def _mean(of_targets: np.ndarray) -> np.ndarray:
    """(..., targets) -> mean over the targets that are defined, NaN where none is."""
    defined = ~np.isnan(of_targets)
    total, count = np.where(defined, of_targets, 0.0).sum(axis=-1), defined.sum(axis=-1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _check_values(labels, values) -> tuple[np.ndarray, np.ndarray]:
    labels, values = _matrices(labels, values, "values", "targets", np.nan)
    if np.isinf(labels).any():
        raise ValueError("`labels` must be numbers, or NaN where unknown, but some are infinite.")
    if np.isnan(labels).all():
        raise ValueError(f"`labels` has no known value among {len(labels)} records: evaluate others.")
    return labels, values


def _matrices(labels, predictions, name: str, columns: str, unknown: float) -> tuple[np.ndarray, np.ndarray]:
    labels = as_array(labels, unknown).astype(np.float64)
    predictions = as_array(predictions).astype(np.float64)
    if labels.ndim != 2 or labels.shape != predictions.shape or not labels.size:
        raise ValueError(
            f"`labels` and `{name}` must have one shape (records, {columns}), got {labels.shape} and "
            f"{predictions.shape}."
        )
    if not np.isfinite(predictions).all():
        rows = int(np.sum(~np.isfinite(predictions).all(axis=1)))
        raise ValueError(f"`{name}` must be finite, but those of {rows} of {len(labels)} records are not.")
    return labels, predictions


__all__ = [
    "REGRESSION_METRICS",
    "regression_intervals",
    "regression_metrics",
    "single_label_intervals",
    "single_label_metrics",
]
