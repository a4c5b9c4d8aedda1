"""Metrics of multi-label ECG classification: AUROC, AUPRC, F-max, decision thresholds, intervals and calibration.

In all functions `labels` is (records, labels) with 1 = present, 0 = absent, -100 = unknown, and `scores` has the same
shape. An unknown cell is excluded from its label's metrics; the other cells of its record are not. A label whose known
cells are all equal has neither AUROC nor AUPRC: it is undefined and excluded from the macro means, never counted as 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from .ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .ecg_transformer.inputs_ecg_transformer import as_array
from .intervals import (
    MIN_PATIENTS,
    MIN_PATIENTS_OF_LABEL,
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

CALIBRATION_BINS = 10


def multilabel_metrics(labels, scores, label_names: Sequence[str] | None = None) -> dict:
    """Macro and per-label metrics of a multi-label classifier.

    F-max is the sample-centric F-max of CAFA (Radivojac et al. 2013, doi 10.1038/nmeth.2340), as in the PTB-XL
    benchmark (Strodthoff et al. 2021, arXiv 2004.13701). At a threshold common to all labels, precision is averaged
    over the records with a score at or above it and recall over the records with a positive label; F-max is the
    maximum over all thresholds of their harmonic mean. Only F-max requires comparable scores across labels.

    Args:
        labels: (records, labels) of 0, 1 and -100.
        scores: (records, labels), logits or probabilities.
        label_names: names for `per_label`; "0", "1", ... if absent.

    Returns:
        `macro_auroc`, `macro_auprc`, `f_max`; `num_undefined`, the number of labels without AUROC and AUPRC;
        `per_label`, for each name `auroc` and `auprc` (None where undefined), `num_positive` and `num_known`.

    Raises:
        ValueError: invalid shapes or values, or all labels are undefined.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    names = check_label_names(label_names, labels.shape[1])
    auroc, auprc = _unweighted_auroc_and_auprc(labels, scores)
    per_label = {
        name: {
            "auroc": None if np.isnan(auroc[index]) else float(auroc[index]),
            "auprc": None if np.isnan(auprc[index]) else float(auprc[index]),
            "num_positive": int(np.sum(labels[:, index] == 1)),
            "num_known": int(np.sum(labels[:, index] != UNKNOWN_LABEL)),
        }
        for index, name in enumerate(names)
    }
    return {
        "macro_auroc": _macro_mean(auroc, labels),
        "macro_auprc": _macro_mean(auprc, labels),
        "f_max": _f_max(labels, scores),
        "num_undefined": int(np.isnan(auroc).sum()),
        "per_label": per_label,
    }


def macro_auroc(labels, scores) -> float:
    """Area under the ROC curve, mean over the defined labels; raises `ValueError` if all are undefined."""
    labels, scores = _check_labels_and_scores(labels, scores)
    return _macro_mean(_unweighted_auroc_and_auprc(labels, scores)[0], labels)


def macro_auprc(labels, scores) -> float:
    """Average precision, mean over the defined labels; raises `ValueError` if all are undefined.

    Average precision is the step-wise area under the precision-recall curve, without interpolation.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    return _macro_mean(_unweighted_auroc_and_auprc(labels, scores)[1], labels)


def weighted_auroc_and_auprc(labels, scores, weights) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of each label under each weighting of the records.

    Tied scores form a single step of both curves, so that results are bit-identical for any order of the records.

    Args:
        labels: (records, labels) of 0, 1 and -100.
        scores: (records, labels).
        weights: (weightings, records), non-negative; for example how often each record is in a resample.

    Returns:
        Two arrays (weightings, labels), NaN where a label has no positive or no negative weight.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    weights = as_array(weights).astype(np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(labels):
        raise ValueError(f"`weights` must have shape (weightings, {len(labels)}), got {weights.shape}.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("`weights` must be finite and non-negative.")
    if (weights != np.rint(weights)).any():
        # Their sums are rounded, and would depend on the order of records with equal scores.
        order = np.lexsort(weights)
        labels, scores, weights = labels[order], scores[order], weights[:, order]
    return _auroc_and_auprc(_rank_labels(labels, scores), weights)


def choose_thresholds(labels, scores, label_names: Sequence[str] | None = None) -> list[float]:
    """For each label the threshold with the highest F1; a label is predicted as present where `score >= threshold`.

    Use validation records only. The threshold is the midpoint between two adjacent scores (0 below the lowest score),
    so that rounding of a score does not change a decision. Ties in F1 are resolved to the highest threshold. A label
    without known positives or known negatives gets 0.5 and is reported in a warning.

    Args:
        labels: (records, labels) of 0, 1 and -100.
        scores: (records, labels), probabilities.
        label_names: names for the warning; "0", "1", ... if absent.

    Returns:
        One threshold for each label, in label order.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    names = check_label_names(label_names, labels.shape[1])
    _check_probabilities(scores)
    thresholds = [_best_f1_threshold(labels[:, index], scores[:, index]) for index in range(len(names))]
    if undecided := [name for name, threshold in zip(names, thresholds, strict=True) if threshold is None]:
        warnings.warn(
            f"{len(undecided)} of {len(names)} labels lack positive or negative records and get the threshold 0.5: "
            f"{', '.join(undecided)}.",
            stacklevel=2,
        )
    return [0.5 if threshold is None else threshold for threshold in thresholds]


def bootstrap_metrics(
    labels,
    scores,
    n_resamples: int = 1000,
    *,
    groups=None,
    seed: int = 0,
    confidence: float = 0.95,
    label_names: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Confidence intervals of macro AUROC and macro AUPRC, and optionally of each label.

    An interval is for the mean value that test sets of this size would give (patients drawn anew, same model), and
    always contains the value of the given records. It is not for the value in an infinite population: there the AUPRC
    of rare labels is lower than in samples.

    Macro intervals come from random halves of the patients, drawn without replacement (the delete-half jackknife; Shao
    and Wu 1989, Annals of Statistics 17), on the logit scale round the value; a label that is undefined in a half is
    excluded from its mean. Labels have the wider ends of that and of Wilson's interval (1927, doi
    10.1080/01621459.1927.10502953), with the patients that have the label as trials for AUPRC, and those that give
    Newcombe's variance for AUROC (2006, method 5, doi 10.1002/sim.2324). In simulations 95 % intervals cover 92 to
    97 % (macro) and at least 92 % (each label); percentiles of a bootstrap do not, see `ecg_hf.intervals`.

    Args:
        labels, scores: (records, labels), labels of 0, 1 and -100.
        n_resamples: number of halves, at least 2.
        groups: (records,) ids, for example of patients; each record without an id is a separate group. Groups of
            which no label is known do not count.
        seed: of `numpy.random.default_rng`, which draws one permutation of the groups for each half.
        confidence: confidence level of the interval.
        label_names: names for `per_label`, which is omitted without them.

    Returns:
        `{"macro_auroc": {"value", "low", "high"}, "macro_auprc": {...}}`, `value` from all records; with
        `label_names` also `"per_label": {name: {"auroc": {"value", "low", "high"}, "auprc": {...}}}`, with None for a
        label that is undefined in the records. `low` and `high` are None where there is no interval: of labels with
        fewer than 3 groups; of the macro metrics with fewer than 20, at a value of 0 or 1, or where all halves agree.
        If only one label is defined, its interval is that of the macro metric. `ValueError` if none is.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    names = None if label_names is None else check_label_names(label_names, labels.shape[1])
    check_resampling(n_resamples, confidence)
    values = _unweighted_auroc_and_auprc(labels, scores)
    macro_values = [_macro_mean(of_metric, labels) for of_metric in values]

    known = (labels != UNKNOWN_LABEL).any(axis=1)
    labels, patients = labels[known], number_known_groups(groups, known, sort=True)
    rankings = _rank_labels(labels, scores[known])
    halves = _areas_of_halves(rankings, patients, n_resamples, seed)
    _warn_of_missing_intervals(halves[0], patients.max() + 1)
    per_label = [
        _label_intervals(*of_metric, labels, patients, confidence)
        for of_metric in zip(values, halves, (_auroc_trials, _auprc_trials), strict=True)
    ]
    intervals = {
        name: _macro_interval(*of_metric, patients.max() + 1, confidence)
        for name, *of_metric in zip(("macro_auroc", "macro_auprc"), macro_values, halves, per_label, strict=True)
    }
    if names is not None:
        of_names = [{"auroc": auroc, "auprc": auprc} for auroc, auprc in zip(*per_label, strict=True)]
        intervals["per_label"] = dict(zip(names, of_names, strict=True))
    return intervals


def calibration_metrics(
    labels, scores, n_resamples: int = 1000, *, groups=None, seed: int = 0, confidence: float = 0.95
) -> dict[str, dict[str, float]]:
    """Calibration of the probabilities over all known cells of all labels, with percentile bootstrap intervals.

    The expected calibration error (Naeini et al. 2015, doi 10.1609/aaai.v29i1.9602) is the mean absolute difference,
    over ten bins of equal width, between the mean probability and the fraction of positives; the Brier score is the
    mean squared difference between probability and label.

    Args:
        labels: (records, labels) of 0, 1 and -100.
        scores: (records, labels), probabilities.
        n_resamples: number of resamples, at least 2: as many groups as there are, drawn with replacement.
        groups, confidence: as in `bootstrap_metrics`.
        seed: of `numpy.random.default_rng`, whose `multinomial` draws the resamples in sequence.

    Returns:
        `{"calibration_error": {"value", "low", "high"}, "brier_score": {...}}`; `low` and `high` are None with one
        group. Records of which no label is known take no part. `ValueError` if none is known.
    """
    labels, scores = _check_labels_and_scores(labels, scores)
    _check_probabilities(scores)
    check_resampling(n_resamples, confidence)
    known = (labels != UNKNOWN_LABEL).any(axis=1)
    if not known.any():
        raise ValueError(f"`labels` has no known cell among {len(labels)} records: evaluate others.")
    sums = _calibration_sums(labels[known], scores[known])
    value = _calibration(sums.sum(axis=0))
    patients = number_known_groups(groups, known)
    chunks = [_calibration(np.tensordot(counts, sums, axes=1)) for counts in draw_counts(patients, n_resamples, seed)]
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in value}
    return {name: percentile_interval(value[name], resampled[name], patients.max() + 1, confidence) for name in value}


class ECGMultiLabelMetric(evaluate.Metric):
    """`multilabel_metrics` (without `per_label`) as an `evaluate` metric; works offline.

    References are (records, labels) of 0, 1 and -100, predictions (records, labels) of logits or probabilities. With
    `keep_in_memory=True` nothing is written to the cache folder.
    """

    def _info(self) -> evaluate.MetricInfo:
        # float64 for the references too: an integer feature would silently turn a label of 0.5 into 0.
        cells = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Macro AUROC, macro AUPRC and sample-centric F-max of multi-label classification.",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({"predictions": cells, "references": cells}),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """As in the library, which would take what lies under the mask of a masked array."""
        if np.ma.is_masked(predictions):
            predictions = as_array(predictions)
        if np.ma.is_masked(references):
            references = as_array(references, UNKNOWN_LABEL)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references) -> dict[str, float | int]:
        metrics = multilabel_metrics(references, predictions)
        del metrics["per_label"]
        return metrics


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`ECGMultiLabelMetric` for a plain `transformers.Trainer`: `Trainer(..., compute_metrics=compute_metrics)`.

    Each row counts as one record: the windows of a record are not aggregated. It is for several labels: of classes or
    numbers use `single_label_metrics` or `regression_metrics`.

    Raises:
        ValueError: labels that are numbers of classes, or are not 0, 1 or -100.
    """
    if np.ndim(prediction.label_ids) == 1:
        raise ValueError(
            "`compute_metrics` is for several labels, (records, labels) of 0 and 1, and the labels are the numbers of "
            "classes: give the Trainer a function that calls `ecg_hf.single_label_metrics` on one-hot labels and the "
            "softmax of the logits."
        )
    # With further outputs of the model the logits come first.
    predictions = prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return ECGMultiLabelMetric(keep_in_memory=True).compute(predictions=logits, references=prediction.label_ids)


def _check_labels_and_scores(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Both as validated float64 arrays of equal shape (records, labels)."""
    labels, scores = _as_matrix(labels, "labels", UNKNOWN_LABEL), _as_matrix(scores, "scores")
    if labels.shape != scores.shape:
        raise ValueError(f"`labels` and `scores` must have the same shape, got {labels.shape} and {scores.shape}.")
    finite = np.isfinite(scores)
    if not finite.all():
        raise ValueError(
            f"`scores` must be finite, but {np.sum(~finite)} of {scores.size} values, in "
            f"{np.sum(~finite.all(axis=1))} of {len(scores)} records, are NaN or infinite."
        )
    wrong = labels[~np.isin(labels, (0, 1, UNKNOWN_LABEL))]
    if wrong.size:
        raise ValueError(
            f"`labels` must be 0, 1 or {UNKNOWN_LABEL} (unknown), but {wrong.size} of {labels.size} values are "
            f"not, the first {wrong[0]:g}."
        )
    return labels, scores


def _check_probabilities(scores: np.ndarray) -> None:
    if outside := int(np.sum((scores < 0) | (scores > 1))):
        raise ValueError(
            f"`scores` must be probabilities, but {outside} of {scores.size} scores lie outside [0, 1]: apply the "
            "sigmoid to the logits first."
        )


def _as_matrix(values, name: str, masked: float = np.nan) -> np.ndarray:
    try:
        matrix = as_array(values, masked).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers (records, labels): {error}") from error
    if matrix.ndim != 2:
        raise ValueError(f"`{name}` must have shape (records, labels), got {matrix.shape}.")
    return matrix


def check_label_names(label_names: Sequence[str] | None, num_labels: int) -> list[str]:
    names = [str(index) for index in range(num_labels)] if label_names is None else list(label_names)
    if len(names) != num_labels or len(set(names)) != num_labels:
        raise ValueError(f"`label_names` must be {num_labels} different names, got {names}.")
    return names


class _Ranking(NamedTuple):
    """One label's known records by descending score, divided into the steps of its ROC and precision-recall curves.

    Within a step the positives come first, so that a step is one run of positives, one of negatives, or both.
    """

    records: np.ndarray  # (known records,) indices
    run_starts: np.ndarray  # (runs,) positions in `records`
    run_is_positive: np.ndarray  # (runs,) bool
    run_step: np.ndarray  # (runs,) the step of each run


def _rank_labels(labels: np.ndarray, scores: np.ndarray) -> list[_Ranking | None]:
    return [_rank_label(labels[:, index], scores[:, index]) for index in range(labels.shape[1])]


def _rank_label(labels: np.ndarray, scores: np.ndarray) -> _Ranking | None:
    """Rank one label's records, or None if it lacks known positives or known negatives."""
    known = np.flatnonzero(labels != UNKNOWN_LABEL)
    records = known[np.lexsort((-labels[known], -scores[known]))]
    positive = labels[records] == 1
    if positive.all() or not positive.any():
        return None
    step_starts = _change_points(scores[records])
    # Merging adjacent steps without positives changes neither area and makes rare labels cheap.
    without_positive = ~positive[step_starts]
    step_starts = step_starts[~(without_positive & np.r_[False, without_positive[:-1]])]
    run_starts = np.union1d(step_starts, _change_points(positive))
    run_step = np.searchsorted(step_starts, run_starts, side="right") - 1
    return _Ranking(records, run_starts, positive[run_starts], run_step)


def _change_points(values: np.ndarray) -> np.ndarray:
    """The indices at which runs of equal values begin."""
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]])


def _auroc_and_auprc(rankings: list[_Ranking | None], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays (weightings, labels) for `weights` of shape (weightings, records)."""
    auroc, auprc = np.full((2, len(weights), len(rankings)), np.nan)
    # With the records first, a sum over records adds contiguous rows of weightings.
    weights = np.ascontiguousarray(weights.T, dtype=np.float64)
    for index, ranking in enumerate(rankings):
        if ranking is not None:
            auroc[:, index], auprc[:, index] = _areas(ranking, weights)
    return auroc, auprc


def _areas(ranking: _Ranking, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision, each (weightings,), for `weights` of shape (records, weightings)."""
    run_weights = np.add.reduceat(weights[ranking.records], ranking.run_starts, axis=0)
    steps = np.zeros((2, ranking.run_step[-1] + 1, weights.shape[1]))
    steps[ranking.run_is_positive.astype(int), ranking.run_step] = run_weights
    new_negatives, new_positives = steps
    true_positives = np.cumsum(new_positives, axis=0)
    false_positives = np.cumsum(new_negatives, axis=0)
    num_positives, num_negatives = true_positives[-1], false_positives[-1]

    # Trapezoidal rule: a negative counts the positives above it, and half of those tied with it.
    concordant = np.sum(new_negatives * (true_positives - new_positives / 2), axis=0)
    called = true_positives + false_positives
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    recalled_precision = np.sum(new_positives * precision, axis=0)

    defined = (num_positives > 0) & (num_negatives > 0)
    undefined = np.full_like(num_positives, np.nan)
    auroc = np.divide(concordant, num_positives * num_negatives, out=undefined.copy(), where=defined)
    auprc = np.divide(recalled_precision, num_positives, out=undefined, where=defined)
    return auroc, auprc


def _unweighted_auroc_and_auprc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    auroc, auprc = _auroc_and_auprc(_rank_labels(labels, scores), np.ones((1, len(labels))))
    return auroc[0], auprc[0]


def _macro_mean(values: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the defined labels."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        raise ValueError(
            f"AUROC and AUPRC are undefined: none of the {labels.shape[1]} labels has both a known positive and a "
            f"known negative among {labels.shape[0]} records. Evaluate more records."
        )
    return float(defined.mean())


def _f_max(labels: np.ndarray, scores: np.ndarray) -> float:
    """Sample-centric F-max, with all distinct scores as thresholds."""
    scores = np.where(labels == UNKNOWN_LABEL, -np.inf, scores)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, by_score, axis=1)
    labels = np.take_along_axis(labels, by_score, axis=1)

    # As the threshold decreases, one cell after another is called and changes its record's precision and recall.
    known, positive = labels != UNKNOWN_LABEL, labels == 1
    precision = np.cumsum(positive, axis=1) / np.maximum(np.cumsum(known, axis=1), 1)
    precision_change = np.diff(precision, axis=1, prepend=0)
    recall_change = positive / np.maximum(positive.sum(axis=1, keepdims=True), 1)
    first_call = np.zeros_like(known)
    first_call[:, 0] = True

    scores, precision_change, recall_change, first_call = (
        cells[known] for cells in (scores, precision_change, recall_change, first_call)
    )
    # Cells of equal score are added in a fixed order, so that results are bit-identical for any order of the records.
    order = np.lexsort((recall_change, precision_change, -scores))
    lowest_of_score = np.r_[np.diff(scores[order]) != 0, True]
    precision_sum, recall_sum, num_called = (
        np.cumsum(cells[order])[lowest_of_score] for cells in (precision_change, recall_change, first_call)
    )
    mean_precision = precision_sum / num_called
    mean_recall = recall_sum / positive.any(axis=1).sum()
    total = mean_precision + mean_recall
    f_scores = np.divide(2 * mean_precision * mean_recall, total, out=np.zeros_like(total), where=total > 0)
    return float(f_scores.max())


def _best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The threshold of one label, or None if it lacks known positives or known negatives."""
    known = np.flatnonzero(labels != UNKNOWN_LABEL)
    records = known[np.argsort(-scores[known])]
    scores, positive = scores[records], labels[records] == 1
    if positive.all() or not positive.any():
        return None
    lowest_of_score = np.r_[scores[1:] != scores[:-1], True]
    true_positives = np.cumsum(positive)[lowest_of_score]
    num_called = np.flatnonzero(lowest_of_score) + 1
    f1 = 2 * true_positives / (num_called + positive.sum())
    best = num_called[np.argmax(f1)]
    above = scores[best - 1]
    below = scores[best] if best < len(scores) else 0.0
    midway = below + (above - below) / 2
    # Adjacent floats have no midpoint: the sum may have been rounded down to the lower one.
    return float(midway if midway > below else above)


def _areas_of_halves(
    rankings: list[_Ranking | None], patients: np.ndarray, n_resamples: int, seed: int
) -> list[np.ndarray]:
    """AUROC and AUPRC, each (halves, labels)."""
    chunks = [_auroc_and_auprc(rankings, weights) for weights in draw_halves(patients, n_resamples, seed)]
    return [np.concatenate(areas) for areas in zip(*chunks, strict=True)]


def _warn_of_missing_intervals(auroc: np.ndarray, num_patients: int) -> None:
    """auroc (halves, labels)."""
    undefined = np.isnan(auroc).all(axis=1)
    if num_patients < MIN_PATIENTS:
        warnings.warn(
            f"Too few patients for intervals of the macro metrics: {num_patients}, and at least {MIN_PATIENTS} are "
            f"needed ({MIN_PATIENTS_OF_LABEL} for intervals of single labels).",
            stacklevel=3,
        )
    elif undefined.any():
        warnings.warn(
            f"{undefined.sum()} of {len(undefined)} resamples are excluded from the intervals: no label has both "
            "positives and negatives in them.",
            stacklevel=3,
        )


def _label_intervals(
    values: np.ndarray,
    halves: np.ndarray,
    trials: Callable[[float, int, int], float],
    labels: np.ndarray,
    patients: np.ndarray,
    confidence: float,
) -> list[dict[str, float | None] | None]:
    """For each label the wider ends of Wilson's interval and that of the halves; None where the label is undefined.

    values (labels,), halves (halves, labels), labels (records, labels), patients (records,).
    """
    num_patients = patients.max() + 1
    intervals = []
    for value, of_halves, label in zip(values, halves.T, labels.T, strict=True):
        if np.isnan(value):
            intervals.append(None)
        elif len(np.unique(patients[label != UNKNOWN_LABEL])) < MIN_PATIENTS_OF_LABEL:
            intervals.append(interval(value))
        else:
            with_positive, with_negative = (len(np.unique(patients[label == known])) for known in (1, 0))
            wilson = wilson_interval(value, trials(value, with_positive, with_negative), confidence)
            intervals.append(wider(wilson, halves_interval(value, of_halves, num_patients, confidence)))
    return intervals


def _auroc_trials(value: float, with_positive: int, with_negative: int) -> float:
    """The number at which a proportion has the variance of Newcombe's method 5."""
    share = (1 - value) / (2 - value) + value / (1 + value)
    return with_positive * with_negative / (1 + ((with_positive + with_negative) / 2 - 1) * share)


def _auprc_trials(value: float, with_positive: int, with_negative: int) -> float:
    """Average precision is a mean over the positives."""
    return with_positive


def _macro_interval(
    value: float, halves: np.ndarray, per_label: list[dict | None], num_patients: int, confidence: float
) -> dict[str, float | None]:
    """halves (halves, labels); `per_label` are the labels' intervals."""
    defined = [of_label for of_label in per_label if of_label is not None]
    if num_patients < MIN_PATIENTS:
        return interval(value)
    if len(defined) == 1:
        return defined[0]
    halves = halves[~np.isnan(halves).all(axis=1)]
    return halves_interval(value, np.nanmean(halves, axis=1), num_patients, confidence)


def _calibration_sums(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(records, 4, bins): known cells of each record in each bin, and their sums of score, label, squared error."""
    known = labels != UNKNOWN_LABEL
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    sums = np.zeros((len(labels), 4, CALIBRATION_BINS))
    rows = np.broadcast_to(np.arange(len(labels))[:, None], labels.shape)[known]
    cells = (np.ones_like(scores), scores, labels, (scores - labels) ** 2)
    for quantity, values in enumerate(cells):
        np.add.at(sums, (rows, quantity, bins[known]), values[known])
    return sums


def _calibration(sums: np.ndarray) -> dict[str, np.ndarray]:
    """From `_calibration_sums`, summed over records to (..., 4, bins)."""
    count, score, positive, squared_error = np.moveaxis(sums, -2, 0)
    total = count.sum(axis=-1)
    return {
        "calibration_error": np.abs(score - positive).sum(axis=-1) / total,
        "brier_score": squared_error.sum(axis=-1) / total,
    }


__all__ = [
    "ECGMultiLabelMetric",
    "bootstrap_metrics",
    "calibration_metrics",
    "check_label_names",
    "choose_thresholds",
    "compute_metrics",
    "macro_auprc",
    "macro_auroc",
    "multilabel_metrics",
    "weighted_auroc_and_auprc",
]
