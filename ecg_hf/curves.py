"""Reliability and precision-recall curves of labels, and figures of them.

As in `ecg_hf.metrics`, labels are 1 = present, 0 = absent, -100 = unknown; an unknown cell takes no part. Labels and
probabilities are (records, labels), or (records,) of a single label.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .ecg_transformer.inputs_ecg_transformer import as_array
from .plotting import AXES_GRID_COLOR, BEST_EPOCH_COLOR, DOTS_PER_INCH, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are safe for colour-blind readers; beyond them curves are told apart by their dashes.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MAX_CURVES = 12
"""Of one figure of precision and recall: more hide each other."""
_LEVELS = 125
"""Of recall and precision that are drawn."""


class ReliabilityCurve(NamedTuple):
    """Each (bins,), from the lowest bin of probabilities to the highest."""

    mean_probability: np.ndarray
    """NaN in an empty bin."""
    share_positive: np.ndarray
    """NaN in an empty bin."""
    count: np.ndarray
    """Known cells in the bin."""

    @property
    def calibration_error(self) -> float:
        """The mean absolute difference of probability and share, weighted by count (Naeini et al. 2015)."""
        filled = self.count > 0
        difference = np.abs(self.mean_probability - self.share_positive)[filled]
        return float(np.average(difference, weights=self.count[filled]))


class PrecisionRecallCurve(NamedTuple):
    """Each array (points,), from no record called to all of them; tied scores make one point."""

    recall: np.ndarray
    precision: np.ndarray
    """At the first point, where no record is called, that of the second."""
    average_precision: float
    num_positive: int
    num_known: int


def reliability_curve(labels, probabilities, num_bins: int = 10) -> ReliabilityCurve:
    """How often what is given a probability is present, in bins of equal width, over the known cells of all labels.

    `ValueError` for invalid shapes or values, or no known cell.
    """
    labels, probabilities = _check(labels, probabilities)
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    if outside := int(np.sum((probabilities < 0) | (probabilities > 1))):
        raise ValueError(f"`probabilities` must lie in [0, 1], but {outside} of {probabilities.size} do not.")
    known = labels != UNKNOWN_LABEL
    bins = np.minimum((probabilities[known] * num_bins).astype(int), num_bins - 1)
    count, total, positive = (
        np.bincount(bins, weights=weights, minlength=num_bins)
        for weights in (np.ones(len(bins)), probabilities[known], labels[known])
    )
    empty = np.full(num_bins, np.nan)
    mean, share = (np.divide(sums, count, out=empty.copy(), where=count > 0) for sums in (total, positive))
    return ReliabilityCurve(mean, share, count.astype(int))


def reliability_bins(labels, probabilities, label_names: Sequence[str], num_bins: int = 10) -> dict[str, dict]:
    """For each label by name `count` and `num_positive` of the known records in bins of equal width over [0, 1].

    As JSON holds them; arguments and errors are those of [`reliability_curve`].
    """
    labels, probabilities = _check(labels, probabilities)
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    found = {}
    for name, of_label, places in zip(label_names, labels.T, bins.T, strict=True):
        members = {"count": of_label != UNKNOWN_LABEL, "num_positive": of_label == 1}
        found[name] = {
            quantity: np.bincount(places[chosen], minlength=num_bins).tolist() for quantity, chosen in members.items()
        }
    return found


def precision_recall_curves(
    labels, scores, label_names: Sequence[str] | None = None
) -> dict[str, PrecisionRecallCurve | None]:
    """The curve of each label by name ("0", "1", ... without names), None of one without positives or negatives.

    Average precision is that of scikit-learn and `ecg_hf.metrics`. `ValueError` for invalid shapes or values.
    """
    labels, scores = _check(labels, scores)
    names = [str(index) for index in range(labels.shape[1])] if label_names is None else list(label_names)
    if len(names) != labels.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"`label_names` must be {labels.shape[1]} different names, got {names}.")
    return {name: _precision_recall(*columns) for name, *columns in zip(names, labels.T, scores.T, strict=True)}


def _precision_recall(labels: np.ndarray, scores: np.ndarray) -> PrecisionRecallCurve | None:
    known = labels != UNKNOWN_LABEL
    labels, scores = labels[known], scores[known]
    if not (labels == 1).any() or not (labels == 0).any():
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    hits = np.cumsum(labels[order])[last_of_score]
    precision, recall = hits / (last_of_score + 1), hits / hits[-1]
    area = float(np.sum(np.diff(recall, prepend=0) * precision))
    ends = np.r_[0, recall], np.r_[precision[0], precision]
    return PrecisionRecallCurve(*ends, area, int(hits[-1]), len(labels))


def plot_reliability(
    curves: Mapping[str, ReliabilityCurve], path: str | os.PathLike | None = None, title: str | None = None
) -> Figure:
    """Draw reliability curves by name, such as "before" and "after", and below them how many cells each bin holds.

    Args:
        curves: from [`reliability_curve`], at most seven.
        path: file of the figure, whose suffix selects the format; not saved if None.
    """
    from matplotlib.figure import Figure

    _check_number(curves, len(COLORS))
    figure = Figure(figsize=(5, 5.6), dpi=DOTS_PER_INCH, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1.2))
    top.plot((0, 1), (0, 1), ":", color=BEST_EPOCH_COLOR, label="perfect")
    for place, ((name, curve), color) in enumerate(zip(curves.items(), COLORS, strict=False)):
        filled = curve.count > 0
        points = curve.mean_probability[filled], curve.share_positive[filled]
        label = f"{name}: calibration error {curve.calibration_error:.3f}"
        top.plot(*points, "o-", color=color, markersize=4, linewidth=1.4, label=label)
        edges = np.linspace(0, 1, len(curve.count) + 1)
        width = np.diff(edges) * 0.9 / len(curves)
        bottom.bar(edges[:-1] + width * (place + 0.5) + np.diff(edges) * 0.05, curve.count, width, color=color)
    top.set(ylabel="share that is present", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    bottom.set(xlabel="probability given, in bins", ylabel="known cells", yscale="log")
    bottom.set_ylim(bottom=0.5)  # below a count of one: the library begins at the lowest bar, which then seems empty
    _few_ticks(bottom)
    return _finished(figure, (top, bottom), top, path, title)


def _few_ticks(axes: Axes) -> None:
    """Few numbers at a low logarithmic axis, where the library writes up to twelve over one another."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    of_decades = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axes.yaxis.set_major_locator(of_decades if high > 10 * low else MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def plot_precision_recall(
    curves: Mapping[str, PrecisionRecallCurve | None],
    path: str | os.PathLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw precision over recall of each label; of more than twelve those with the most positives.

    The legend has average precision and positives; a tick at the right shows the share of positives, which is the
    precision of chance. Labels without a curve are left out.

    Args:
        curves: from [`precision_recall_curves`].
        path: file of the figure, whose suffix selects the format; not saved if None.

    Raises:
        ValueError: no label has a curve.
    """
    from matplotlib.figure import Figure

    defined = {name: curve for name, curve in curves.items() if curve is not None}
    _check_number(defined, len(curves))
    shown = sorted(defined, key=lambda name: -defined[name].num_positive)[:MAX_CURVES]
    figure = Figure(figsize=(7.5, 4.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(name for name in defined if name in shown):
        curve, color = _thinned(defined[name]), COLORS[place % len(COLORS)]
        label = f"{name}: {curve.average_precision:.3f}  ({curve.num_positive} of {curve.num_known})"
        axes.step(
            *(curve.recall, curve.precision, DASHES[place // len(COLORS)]),
            **{"where": "pre", "color": color, "linewidth": 1.4, "label": label},
        )
        axes.plot(1.015, curve.num_positive / curve.num_known, "_", color=color, markersize=8, clip_on=False)
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", xlim=(0, 1.03), ylim=(0, 1.02))
    if hidden := len(curves) - len(shown):
        axes.plot([], [], " ", label=f"and {hidden} more labels, not drawn")
    return _finished(figure, (axes,), axes, path, title)


def _thinned(curve: PrecisionRecallCurve) -> PrecisionRecallCurve:
    """The points that a picture can tell apart: among a thousand records most lie on others."""
    places = np.rint(np.stack([curve.recall, curve.precision]) * _LEVELS)
    kept = np.r_[True, (np.diff(places) != 0).any(axis=0)]
    kept[-1] = True
    return curve._replace(recall=curve.recall[kept], precision=curve.precision[kept])


def _finished(figure: Figure, grids: Sequence[Axes], legend_of: Axes, path, title: str | None) -> Figure:
    for axes in grids:
        axes.grid(color=AXES_GRID_COLOR, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    place = {"loc": "upper left"} if len(grids) > 1 else {"loc": "upper left", "bbox_to_anchor": (1.04, 1)}
    legend = legend_of.legend(frameon=False, fontsize=9, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if title is not None:
        figure.suptitle(title, fontsize=11, parse_math=False)
    if path is not None:
        save_figure(figure, path)
    return figure


def _check(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (records, labels)."""
    labels, scores = as_array(labels, UNKNOWN_LABEL).astype(np.float64), as_array(scores).astype(np.float64)
    if labels.shape != scores.shape or labels.ndim not in (1, 2) or not labels.size:
        raise ValueError(
            "Labels and probabilities must have one shape, (records, labels) or (records,), got "
            f"{labels.shape} and {scores.shape}."
        )
    if (labels == UNKNOWN_LABEL).all():
        raise ValueError(f"None of the labels of {len(labels)} records is known: give others.")
    if not np.isin(labels, (0, 1, UNKNOWN_LABEL)).all():
        raise ValueError(f"Labels must be 0, 1 or {UNKNOWN_LABEL} (unknown), but some are not.")
    if not np.isfinite(scores).all():
        raise ValueError(f"Probabilities must be finite, but {np.sum(~np.isfinite(scores))} of {scores.size} are not.")
    return labels.reshape(len(labels), -1), scores.reshape(len(labels), -1)


def _check_number(curves: Mapping, most: int) -> None:
    if not 1 <= len(curves) <= most:
        raise ValueError(f"There are {len(curves)} curves to draw; give 1 to {most}.")


__all__ = [
    "PrecisionRecallCurve",
    "ReliabilityCurve",
    "plot_precision_recall",
    "plot_reliability",
    "precision_recall_curves",
    "reliability_bins",
    "reliability_curve",
]
