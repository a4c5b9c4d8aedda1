"""Figures of a study: the map of the gain, the label efficiency, and validation during training. Written as PNG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from study_verdicts import FINETUNE, METRIC_NAMES, POST_TRAIN, RANGES, Best, Grid, Setting, relative_gain

from ecg_hf.files import whole_file

OWN_BEST = "own best"
# Okabe and Ito's colours, which are safe for colour-blind readers, in the order of the methods.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"


def column_name(setting: Setting) -> str:
    """`10 %`, or with the steps where they are not those of the grid."""
    steps = "" if setting.budget == 1 else f"\n{setting.budget:g} x steps"
    return f"{setting.share * 100:g} %{steps}"


def gains(grid: Grid, settings: Sequence[Setting], metric: str) -> tuple[list[float | str], np.ndarray]:
    """Rows (rates that both methods have in the grid, and `own best`) and the gains in percent (rows, settings).

    NaN where a run is missing, or not in the grid. A gain at the own best rates needs all runs of both.
    """
    rates = {cell.rate for setting in settings for cell in grid.cells(setting, FINETUNE) if cell.rate == cell.rate}
    rows: list[float | str] = [*sorted(rates), OWN_BEST]
    values = np.full((len(rows), len(settings)), np.nan)
    for column, setting in enumerate(settings):
        sides = [grid.by_rate(setting, method) for method in (POST_TRAIN, FINETUNE)]
        for row, rate in enumerate(rows[:-1]):
            if all(rate in side for side in sides):
                values[row, column] = relative_gain(*(Best(rate, side[rate]) for side in sides), metric)
        if not grid.missing(setting, POST_TRAIN, FINETUNE):
            values[-1, column] = relative_gain(grid.best(setting, POST_TRAIN), grid.best(setting, FINETUNE), metric)
    return rows, values


def draw_gains(grid: Grid, task: str) -> Figure | None:
    """Heat map over learning rate and share with steps; None where no gain is known."""
    settings = [setting for setting in grid.settings(FINETUNE, POST_TRAIN) if setting.task == task]
    if not settings or all(np.isnan(gains(grid, settings, metric)[1]).all() for metric in RANGES):
        return None
    figure = Figure(figsize=(2.4 + 2.1 * len(settings), 3.4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), RANGES, strict=True):
        _draw_map(axes, *gains(grid, settings, metric), settings, metric)
    figure.suptitle(f"{task}: gain of post-training over plain fine-tuning, validation, %", fontsize=10)
    figure.supxlabel(
        "share of the labels; outlined: within the paper's range; dashed: above it; -: no run", fontsize=8
    )
    return figure


def _draw_map(axes: Axes, rows: Sequence, values: np.ndarray, settings: Sequence[Setting], metric: str) -> None:
    limit = np.nanmax(np.abs(values), initial=1.0)
    axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    low, high = RANGES[metric]
    for (row, column), value in np.ndenumerate(values):
        color = "white" if abs(value) > 0.6 * limit else "black"
        text = "-" if np.isnan(value) else f"{value:+.1f}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
        if value >= low:
            style = "-" if value <= high else "--"
            box = {"fill": False, "edgecolor": "black", "linewidth": 1.6, "linestyle": style}
            axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, **box))
    axes.axhline(len(rows) - 1.5, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row if isinstance(row, str) else f"{row:g}" for row in rows], fontsize=8)
    axes.set_xticks(range(len(settings)), [column_name(setting) for setting in settings], fontsize=8)
    axes.set_ylabel("learning rate of both", fontsize=8)
    axes.set_title(f"{METRIC_NAMES[metric]} (paper: {low:g} to {high:g})", fontsize=9)


def draw_efficiency(
    grid: Grid, task: str, methods: Sequence[str], published: Mapping[str, float] | None = None
) -> Figure | None:
    """Metrics of each method at its own best rate over the share of the labels; None with fewer than two shares.

    Settings that lack runs are left out; bars are the standard deviation over seeds. `published` is a test result for
    a dotted line.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    drawn: set[float] = set()
    for axes, metric in zip(figure.subplots(1, 2), RANGES, strict=True):
        for place, method in enumerate(methods):
            style = {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
            drawn |= _draw_curve(axes, grid, task, method, metric, style)
        if published is not None:
            axes.axhline(published[metric], color="#555555", linestyle=":", linewidth=1, label="xresnet1d101 (test)")
        axes.set_xscale("log")
        axes.set_xticks(sorted(drawn), [f"{100 * share:g} %" for share in sorted(drawn)])
        axes.minorticks_off()
        axes.set_xlabel("share of the labels")
        axes.set_ylabel(f"{METRIC_NAMES[metric]}, validation")
        axes.grid(alpha=0.3)
    if len(drawn) < 2:
        return None
    axes.legend(fontsize=7)
    figure.suptitle(f"{task}: each method at its own best learning rate", fontsize=10)
    return figure


def _draw_curve(axes: Axes, grid: Grid, task: str, method: str, metric: str, style: dict) -> set[float]:
    """Returns the shares that it drew."""
    points = []
    for setting in grid.settings(method):
        if setting.task == task and setting.budget == 1:
            values = [np.nan]  # breaks the line, which would else run on through what nobody has measured
            if not grid.missing(setting, method):
                values = [getattr(scores, metric) for scores in grid.best(setting, method).scores.values()]
            points.append((setting.share, np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0))
    drawn = {share for share, mean, _ in points if mean == mean}
    if drawn:
        shares, means, deviations = zip(*points, strict=True)
        axes.errorbar(shares, means, yerr=deviations, label=method, capsize=2, linewidth=1.2, **style)
    return drawn


def draw_dynamics(curves: Mapping[Setting, Mapping[str, list[list[list[float]]]]], task: str) -> Figure | None:
    """Validation macro AUROC over steps of both methods, a line for each seed; None without curves.

    `curves` has for each setting and method the curves of its seeds, of [step, AUROC, AUPRC].
    """
    settings = [setting for setting in curves if setting.task == task]
    if not settings:
        return None
    figure = Figure(figsize=(3.4 * len(settings), 3.2), layout="constrained")
    for axes, setting in zip(np.atleast_1d(figure.subplots(1, len(settings))), settings, strict=True):
        for color, method in zip(COLORS, (FINETUNE, POST_TRAIN), strict=False):
            for place, curve in enumerate(curves[setting].get(method, [])):
                steps, auroc, _ = zip(*curve, strict=True)
                # With marks, since a curve may have one point alone.
                label = method if place == 0 else None
                axes.plot(steps, auroc, color=color, linewidth=1, marker="o", markersize=2.5, label=label)
        axes.set_title(column_name(setting).replace("\n", ", "), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.supylabel("macro AUROC, validation", fontsize=8)
    figure.suptitle(f"{task}: validation during training,\nown best rates, a line for each seed", fontsize=10)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, metadata={"Software": None})
