"""The figures of a report, each as PNG and SVG."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..curves import (
    COLORS,
    ReliabilityCurve,
    plot_precision_recall,
    plot_reliability,
    precision_recall_curves,
)
from ..plotting import AXES_GRID_COLOR, BEST_EPOCH_COLOR, DOTS_PER_INCH, plot_label_metrics, save_figure
from .measures import Areas, Errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
FORMATS = ("png", "svg")
LABELS, PRECISION_RECALL, RELIABILITY, SUBGROUPS, ROBUSTNESS = FIGURES = (
    *("labels", "precision_recall", "reliability", "subgroups", "robustness"),
)


def draw_figures(
    folder: pathlib.Path, report: Mapping, measure: Areas | Errors, labels: np.ndarray, scores: np.ndarray
) -> list[str]:
    """Draw what a report has figures for -> the names of these; those of an earlier report are removed.

    `labels` and `scores` are (records, labels) of the judged records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for suffix in FORMATS:
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    drawn = []

    def keep(name: str, figure: Figure) -> None:
        save_figure(figure, *(folder / f"{name}.{suffix}" for suffix in FORMATS))
        drawn.append(name)

    split, metrics = report["split"], report["metrics"]
    if isinstance(measure, Areas):
        keep(LABELS, plot_label_metrics(metrics["per_label"], folder / f"{LABELS}.png", split))
        title = f"Precision and recall on the {split} records; average precision"
        keep(
            PRECISION_RECALL,
            plot_precision_recall(precision_recall_curves(labels, scores, report["labels"]), title=title),
        )
    if report["calibration"] is not None:
        curves = {name: _curve(found) for name, found in report["calibration"]["curves"].items()}
        keep(RELIABILITY, plot_reliability(curves, title=f"Reliability on the {split} records, all labels"))
    if any(found["groups"] for found in report["subgroups"].values()):
        keep(SUBGROUPS, plot_subgroups(report["subgroups"], measure))
    if report["robustness"] is not None and report["robustness"]["changes"]:
        keep(ROBUSTNESS, plot_robustness(report["robustness"], measure))
    return drawn


def _curve(found: Mapping) -> ReliabilityCurve:
    curve = {name: np.array(values, dtype=np.float64) for name, values in found["curve"].items()}
    return ReliabilityCurve(**{**curve, "count": curve["count"].astype(int)})


def plot_subgroups(subgroups: Mapping[str, Mapping], measure: Areas | Errors) -> Figure:
    """Each group's measures with intervals; a tick shows all records over the same labels.

    `subgroups` is what `judge_groups` returns, with at least one group.
    """
    rows = [
        (f"{column}: {group}  ({found['num_records']:,})", found)
        for column, groups in subgroups.items()
        for group, found in groups["groups"].items()
    ]
    figure, grid = _forest([name for name, _ in rows], measure)
    for axes, (name, title) in zip(grid, measure.names.items(), strict=True):
        for row, (_, found) in enumerate(rows):
            _draw_interval(axes, row, found[name])
            axes.plot(found["all_records"][name], row, "|", color=BEST_EPOCH_COLOR, markersize=11)
        axes.set_xlabel(f"{title}, 95 % interval")
    figure.suptitle("Groups of records, and their number (tick: all records, same labels)", fontsize=11)
    return figure


def plot_robustness(robustness: Mapping, measure: Areas | Errors) -> Figure:
    """How each change alters the measures, with intervals; `robustness` is what [`robustness`] returns."""
    changes = robustness["changes"]
    figure, grid = _forest([found["title"] for found in changes.values()], measure)
    for axes, (name, title) in zip(grid, measure.names.items(), strict=True):
        for row, found in enumerate(changes.values()):
            _draw_interval(axes, row, found[name])
        axes.axvline(0, color=BEST_EPOCH_COLOR, linewidth=0.8)
        axes.set_xlabel(f"difference in {title} to {robustness['unchanged'][name]:.3f}, 95 % interval")
    figure.suptitle(f"{robustness['num_records']:,} records with faults and noise", fontsize=11, parse_math=False)
    return figure


def _forest(names: Sequence[str], measure: Areas | Errors) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3 + 3.6 * len(measure.names), 1.3 + 0.25 * len(names)), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(1, len(measure.names), sharey=True, squeeze=False)[0]
    for axes in grid:
        axes.grid(color=AXES_GRID_COLOR, linewidth=0.8, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(range(len(names)), names, parse_math=False, fontsize=9)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    return figure, grid


def _draw_interval(axes: Axes, row: int, interval: Mapping[str, float | None]) -> None:
    axes.plot(interval["value"], row, "o", color=COLORS[0], markersize=4.5)
    if interval["low"] is not None:
        axes.hlines(row, interval["low"], interval["high"], color=COLORS[0], linewidth=1.5)


__all__ = ["FIGURES", "FOLDER", "draw_figures", "plot_robustness", "plot_subgroups"]
