"""Figures: an ECG on ECG paper, the learning curves of a training run and the metrics of each label.

matplotlib is imported by the first figure, and only its object-oriented interface is used: pyplot's global state and
the user's backend are not changed.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .ecg_transformer.common_ecg_transformer import MAX_MICROVOLTS
from .ecg_transformer.inputs_ecg_transformer import as_array
from .files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MM_PER_INCH = 25.4
DOTS_PER_INCH = 150
_PALETTE = 64  # colours
_TALLEST = 2000  # dots

# The usual paper speed and gain, IEC 60601-2-25.
MM_PER_SECOND = 25
MM_PER_MILLIVOLT = 10

# Rows and columns of a printed 12-lead ECG: 2.5 s of each lead, then 10 s of the rhythm lead.
STANDARD_LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
RHYTHM_LEAD = "II"
STANDARD_SECONDS = 10

MAX_PAPER_SECONDS = 60

# mm on the paper
LINE_SPACING, STRONG_LINE_SPACING = 1, 5
SIDE_MARGIN = 5
MIN_PAPER_WIDTH = 70  # space for the line with the scale
HEADER, FOOTER = 10, 10
PULSE_FOOT, PULSE_WIDTH = 1, 5  # a calibration pulse of 0.2 s
TRACE_START = 20
LABEL_HEIGHT = 5
MIN_EXTENT, MAX_EXTENT = 6, 50  # of a trace above and below its baseline

# To the right of the paper: verdict, score with threshold, name
FINDING_HEIGHT, LETTER_WIDTH = 5, 1.8  # of bold letters
FINDING_COLUMNS = (5, 20, 47)
MAX_FINDINGS, MAX_FINDING_LETTERS = 20, 46

PAPER_COLOR, LINE_COLOR, STRONG_LINE_COLOR = "#fffafa", "#f9dcdc", "#eeb0b0"
TRACE_COLOR, SEPARATOR_COLOR = "#101010", "#909090"

# Okabe and Ito's colours, which are safe for colour-blind readers.
TRAIN_COLOR, VALIDATION_COLOR = "#E69F00", "#0072B2"
MARK_COLORS = ("#0072B2", "#D55E00")  # below and above 0

# Of marks: mm of their scale and of the lines for it and for a note; letters of a note in a mm; the part of all values
# that the scale covers, which a single peak does not stretch.
SCALE_WIDTH, SCALE_HEIGHT, FOOTER_LINE = 40, 3, 6
NOTE_LETTER_WIDTH, TITLE_LETTER_WIDTH = 1.35, 1.75
TITLE_LINE = 5  # of a title of several lines, each after the first
SCALE_COVERS = 0.995
PROBE_COLOR = "#009E73"
BEST_EPOCH_COLOR, AXES_GRID_COLOR = "#555555", "#e5e5e5"
MAX_MARKERS = 60  # of one curve; more would hide it

STAGE_TITLES = {"pretrain": "Pre-training", "probe": "Linear probe", "finetune": "Fine-tuning", "lora": "LoRA"}
# Rows of the learning curves and their curves: (key of the log entry, name in the legend, colour).
LEARNING_CURVES = {
    "loss": (("loss", "training", TRAIN_COLOR), ("eval_loss", "validation", VALIDATION_COLOR)),
    "accuracy": (("accuracy", "training", TRAIN_COLOR), ("eval_accuracy", "validation", VALIDATION_COLOR)),
    "words' loss": (("word_loss", "training", TRAIN_COLOR),),
    "mean absolute error": (("eval_mae", "validation", VALIDATION_COLOR),),
    "R²": (("eval_r2", "validation", VALIDATION_COLOR),),
    "feature deviation": (("feature_std", "training", TRAIN_COLOR),),
    "macro AUROC": (
        ("eval_macro_auroc", "validation", VALIDATION_COLOR),
        ("probe_macro_auroc", "linear probe", PROBE_COLOR),
    ),
    "macro AUPRC": (("eval_macro_auprc", "validation", VALIDATION_COLOR),),
}
# Of the metrics that choose an epoch, as the arguments of post-training, which are above this module, have them.
LOWER_IS_BETTER = ("eval_loss", "eval_mae")
METRIC_NAMES = {"eval_macro_auprc": "AUPRC", "eval_f_max": "F max", "eval_mae": "MAE", "eval_r2": "R²"}


def plot_ecg(
    signal,
    *,
    sampling_rate: float,
    lead_names: Sequence[str],
    path: str | os.PathLike | None = None,
    title: str | None = None,
    findings: Sequence[Mapping] | None = None,
    marks=None,
    marks_unit: str = "",
    note: str | None = None,
) -> Figure:
    """Draw an ECG to scale on ECG paper: 25 mm/s, 10 mm/mV, fine lines every 1 mm and strong lines every 5 mm.

    The 12 standard leads over 10 s are drawn in the standard 3x4 layout (2.5 s of each lead, and all of lead II as
    rhythm strip); any other record gets one row for each lead, in the given order. Each row begins with a
    calibration pulse of 1 mV and 0.2 s. NaN is drawn as a gap in the trace.

    Args:
        signal: (leads, samples), mV.
        sampling_rate: Hz.
        lead_names: one name for each row of `signal`.
        path: file of the figure (the suffix selects the format); not saved if None.
        title: printed above the ECG.
        findings: of a pipeline, printed to the right of the ECG in their order, with `MAX_FINDINGS` at most.
        marks: (leads, samples), a number for each sample: colour behind the traces, blue below 0 and orange above,
            with a scale below the ECG. Each lead then gets a row, so that all of its marks are shown.
        marks_unit: of the scale.
        note: a line below the ECG.

    Raises:
        ValueError: invalid shape, another unit or more than 60 s.
    """
    from matplotlib.figure import Figure

    if marks is None and marks_unit:
        raise ValueError(f"`marks_unit` is {marks_unit!r}, but there are no `marks`: leave it out.")
    signal = _check_signal(signal, sampling_rate, lead_names)
    rows = _arrange_leads(signal, sampling_rate, lead_names) if marks is None else _one_row_each(signal, lead_names)
    seconds = signal.shape[1] / sampling_rate
    lines = _finding_lines(findings or ())
    footer = FOOTER + FOOTER_LINE * ((marks is not None) + (note is not None))
    header = HEADER if marks is None else HEADER + TITLE_LINE * (title or "").count("\n")
    baselines, heights, height = _place_rows(rows, header, footer, header + footer + len(lines) * FINDING_HEIGHT)
    paper_width = max(TRACE_START + seconds * MM_PER_SECOND + SIDE_MARGIN, _min_width(title, note))
    width = paper_width + _findings_width(lines)

    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    _draw_paper(axes, paper_width, height)
    _draw_findings(axes, lines, paper_width, height)
    for row, baseline, row_height in zip(rows, baselines, heights, strict=True):
        _draw_calibration_pulse(axes, baseline)
        for lead in row:
            _draw_lead(axes, lead, sampling_rate, baseline, label_y=baseline + row_height)
    if marks is not None:
        _draw_marks(axes, _check_marks(marks, signal), seconds, baselines, heights)
        _draw_scale_of_marks(axes, np.asarray(marks), marks_unit, footer - FOOTER_LINE)
    _draw_texts(axes, title, note, sampling_rate, height)
    if path is not None:
        save_figure(figure, path, all_colors=True)
    return figure


def plot_learning_curves(log_history: Sequence[dict], path: str | os.PathLike, metric: str | None = None) -> Figure:
    """Draw and save loss and metrics over the epochs of each stage, with the stages side by side.

    The best epoch of a stage (the first one with the best validation `metric`) is marked and given in its title.

    Args:
        log_history: the entries of `PostTrainer.state.log_history`: `stage`, `epoch`, and `loss` or `eval_loss`,
            `eval_macro_auroc`, `eval_macro_auprc`, `eval_accuracy`, `eval_mae`, `eval_r2`; or those of `PreTrainer`:
            `accuracy`, `feature_std`, `probe_macro_auroc`. Entries with none of them are skipped.
        path: file of the figure; its suffix selects the format.
        metric: by which epochs were chosen, as `metric_for_best_model` of [`PostTrainingArguments`]; by default macro
            AUROC, or, of a regression, the mean absolute error.

    Raises:
        ValueError: there is nothing to draw, or an entry lacks its stage or epoch.
    """
    from matplotlib.figure import Figure

    stages = _entries_by_stage(log_history)
    if metric is None:
        metric = "mae" if any("eval_mae" in entry for entry in log_history) else "macro_auroc"
    chosen_by = f"eval_{metric.removeprefix('eval_')}"
    rows = {
        name: curves
        for name, curves in LEARNING_CURVES.items()
        if any(key in entry for key, _, _ in curves for entries in stages.values() for entry in entries)
    }
    figure = Figure(figsize=(1 + 4.5 * len(stages), 1.2 + 2.2 * len(rows)), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(len(rows), len(stages), sharex="col", sharey="row", squeeze=False)
    for column, (stage, entries) in zip(grid.T, stages.items(), strict=True):
        best = _best_entry(entries, chosen_by)
        column[0].set_title(_stage_title(stage, best, chosen_by), fontsize=10)
        column[-1].set_xlabel("epoch")
        for axes, curves in zip(column, rows.values(), strict=True):
            _draw_curves(axes, entries, curves, best)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name)
    handles = {handle.get_label(): handle for axes in grid.flat for handle in axes.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    save_figure(figure, path)
    return figure


def plot_label_metrics(per_label: Mapping[str, Mapping], path: str | os.PathLike, split: str | None = None) -> Figure:
    """Draw and save AUROC and AUPRC of each label with their intervals, from top to bottom in label order.

    The number of positive records is given next to the label; their fraction is the chance level of AUPRC, which is
    drawn as a tick.

    Args:
        per_label: for each label `auroc`, `auprc`, `auroc_interval`, `auprc_interval` ([low, high]), `num_positive`
            and `num_known`, as in `metrics.json`; undefined values and missing intervals are None.
        path: file of the figure; its suffix selects the format.
        split: name of the split, for the title.
    """
    from matplotlib.figure import Figure

    height = 1.4 + 0.26 * len(per_label)
    figure = Figure(figsize=(9, height), dpi=min(DOTS_PER_INCH, _TALLEST / height), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(grid, ("auroc", "auprc"), strict=True):
        for row, values in enumerate(per_label.values()):
            if values[metric] is None:
                continue
            axes.plot(values[metric], row, "o", color=VALIDATION_COLOR, markersize=5)
            if values[f"{metric}_interval"] is not None:
                axes.hlines(row, *values[f"{metric}_interval"], color=VALIDATION_COLOR, linewidth=1.5)
            chance = 0.5 if metric == "auroc" else values["num_positive"] / values["num_known"]
            axes.plot(chance, row, "|", color=BEST_EPOCH_COLOR, markersize=9)
            axes.text(1.03, row, f"{values[metric]:.3f}", va="center", fontsize=9)
        axes.set_xlabel(f"{metric.upper()}, 95 % interval (tick: chance)")
        axes.set_xlim(0, 1.02)
        axes.grid(color=AXES_GRID_COLOR, linewidth=0.8, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    names = [f"{label}  ({values['num_positive']})" for label, values in per_label.items()]
    grid[0].set_yticks(range(len(names)), names, parse_math=False)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    num_known = max(values["num_known"] for values in per_label.values())
    figure.suptitle(f"Labels{f' on the {split} records' if split else ''} (positives of {num_known})", fontsize=11)
    save_figure(figure, path)
    return figure


def _min_width(title: str | None, note: str | None) -> float:
    """Of the paper. Without a note a long title may leave it."""
    if note is None:
        return MIN_PAPER_WIDTH
    longest = max(len(line) for line in (title or "").split("\n"))
    texts = max(len(note) * NOTE_LETTER_WIDTH, longest * TITLE_LETTER_WIDTH)
    return max(MIN_PAPER_WIDTH, 2 * SIDE_MARGIN + texts)


def _draw_texts(axes: Axes, title: str | None, note: str | None, sampling_rate: float, height: float) -> None:
    if note is not None:
        axes.text(SIDE_MARGIN, FOOTER - 1, note, va="bottom", fontsize=8, color=TRACE_COLOR, parse_math=False)
    axes.text(SIDE_MARGIN, height - 3, title or "", va="top", fontsize=10, color=TRACE_COLOR, parse_math=False)
    scale = f"{MM_PER_SECOND} mm/s    {MM_PER_MILLIVOLT} mm/mV    {sampling_rate:g} Hz"
    axes.text(SIDE_MARGIN, 3, scale, va="bottom", fontsize=8, color=TRACE_COLOR)


def _check_signal(signal, sampling_rate: float, lead_names: Sequence[str]) -> np.ndarray:
    signal = as_array(signal)
    if signal.ndim != 2 or signal.shape[0] != len(lead_names) or not signal.size:
        swapped = signal.ndim == 2 and signal.shape[1] == len(lead_names)
        raise ValueError(
            f"`signal` must have shape ({len(lead_names)} leads, samples) for {len(lead_names)} `lead_names`, got "
            f"{signal.shape}{': are the axes swapped?' if swapped else '.'}"
        )
    if not np.issubdtype(signal.dtype, np.floating):
        raise ValueError(f"`signal` must be floats in mV, got {signal.dtype}: divide integers by their gain per mV.")
    if sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` must be positive, got {sampling_rate} Hz.")
    if (seconds := signal.shape[1] / sampling_rate) > MAX_PAPER_SECONDS:
        raise ValueError(f"`signal` is {seconds:g} s long, the maximum is {MAX_PAPER_SECONDS} s: draw a part of it.")
    largest = np.abs(signal[np.isfinite(signal)]).max(initial=0)
    if largest > MAX_MICROVOLTS / 1000:
        raise ValueError(f"`signal` must be in mV, but reaches {largest:g}: divide it by 1000 if it is in µV.")
    return signal


class _Lead(NamedTuple):
    name: str
    start: float  # s on the paper
    trace: np.ndarray  # (samples,) mV


def _arrange_leads(signal: np.ndarray, sampling_rate: float, lead_names: Sequence[str]) -> list[list[_Lead]]:
    """The rows of the print, each with its leads from left to right."""
    leads = {name.casefold(): trace for name, trace in zip(lead_names, signal, strict=True)}
    standard = {name.casefold() for row in STANDARD_LAYOUT for name in row}
    num_samples = signal.shape[1]
    is_standard = len(lead_names) == len(standard) and leads.keys() == standard
    if not is_standard or abs(num_samples - STANDARD_SECONDS * sampling_rate) > 1:
        return _one_row_each(signal, lead_names)
    bounds = np.linspace(0, num_samples, len(STANDARD_LAYOUT[0]) + 1).round().astype(int)
    rows = [
        [
            _Lead(name, start / sampling_rate, leads[name.casefold()][start:stop])
            for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True)
        ]
        for names in STANDARD_LAYOUT
    ]
    return [*rows, [_Lead(RHYTHM_LEAD, 0.0, leads[RHYTHM_LEAD.casefold()])]]


def _one_row_each(signal: np.ndarray, lead_names: Sequence[str]) -> list[list[_Lead]]:
    return [[_Lead(name, 0.0, trace)] for name, trace in zip(lead_names, signal, strict=True)]


def _place_rows(
    rows: list[list[_Lead]], header: float, footer: float, min_height: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Baseline of each row (mm from the bottom), space above it for the traces, and the height of the paper.

    Baselines lie on strong lines. Each row has space for its traces; only a trace beyond 5 mV can overlap others.
    """
    baselines, heights, end = [], [], header
    for row in rows:
        above, below = np.clip(_extent(row), MIN_EXTENT, MAX_EXTENT)
        above = max(above, MM_PER_MILLIVOLT)  # the calibration pulse
        baseline = _up_to_strong_line(end + LABEL_HEIGHT + above)
        baselines.append(baseline)
        heights.append(above)
        end = baseline + below
    height = _up_to_strong_line(max(end + footer, min_height))
    # Up to here measured from the top.
    return height - np.array(baselines), np.array(heights), height


def _extent(row: list[_Lead]) -> tuple[float, float]:
    """Extent in mm of the traces of a row above and below the baseline."""
    trace = np.concatenate([lead.trace for lead in row]) * MM_PER_MILLIVOLT
    trace = trace[np.isfinite(trace)]
    return trace.max(initial=0), -trace.min(initial=0)


def _up_to_strong_line(position: float) -> float:
    return np.ceil(position / STRONG_LINE_SPACING) * STRONG_LINE_SPACING


def _draw_paper(axes: Axes, width: float, height: float) -> None:
    axes.set_axis_off()
    axes.figure.set_facecolor(PAPER_COLOR)
    for spacing, color, thickness in ((LINE_SPACING, LINE_COLOR, 0.4), (STRONG_LINE_SPACING, STRONG_LINE_COLOR, 0.6)):
        axes.vlines(np.arange(0, width, spacing), 0, height, color=color, linewidth=thickness, zorder=0)
        axes.hlines(np.arange(0, height, spacing), 0, width, color=color, linewidth=thickness, zorder=0)


def _finding_lines(findings: Sequence[Mapping]) -> list[tuple[tuple[str, str, str], bool]]:
    """For each finding its verdict, its score and what it is called; and whether it is present."""
    lines = [(_cells_of(finding), bool(finding.get("positive"))) for finding in findings[:MAX_FINDINGS]]
    if (more := len(findings) - MAX_FINDINGS) > 0:
        lines.append((("", "", f"and {more} more with lower scores"), False))
    return lines


def _cells_of(finding: Mapping) -> tuple[str, str, str]:
    label, name = finding["label"], finding["name"]
    text = textwrap.shorten(label if name == label else f"{label}  {name}", MAX_FINDING_LETTERS, placeholder=" …")
    if "value" in finding:
        return "", f"{finding['value']:.4g}", text
    threshold = f" ({finding['threshold']:.3f})" if "threshold" in finding else ""
    return "present" if finding["positive"] else "absent", f"{finding['score']:.3f}{threshold}", text


def _findings_width(lines: Sequence[tuple[tuple[str, str, str], bool]]) -> float:
    if not lines:
        return 0
    return FINDING_COLUMNS[-1] + LETTER_WIDTH * max(len(cells[-1]) for cells, _ in lines) + SIDE_MARGIN


def _draw_findings(axes: Axes, lines: Sequence[tuple[tuple[str, str, str], bool]], left: float, height: float) -> None:
    for row, (cells, is_present) in enumerate(lines):
        y = height - HEADER - (row + 0.5) * FINDING_HEIGHT
        weight, color = ("bold", TRACE_COLOR) if is_present else ("normal", BEST_EPOCH_COLOR)
        for x, cell in zip(FINDING_COLUMNS, cells, strict=True):
            axes.text(left + x, y, cell, va="center", fontsize=8, fontweight=weight, color=color, parse_math=False)


def _draw_calibration_pulse(axes: Axes, baseline: float) -> None:
    x = SIDE_MARGIN + np.cumsum([0, PULSE_FOOT, 0, PULSE_WIDTH, 0, PULSE_FOOT]) - PULSE_FOOT
    y = baseline + np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MILLIVOLT
    axes.plot(x, y, color=TRACE_COLOR, linewidth=0.9)


def _draw_lead(axes: Axes, lead: _Lead, sampling_rate: float, baseline: float, label_y: float) -> None:
    left = TRACE_START + lead.start * MM_PER_SECOND
    x = left + np.arange(len(lead.trace)) / sampling_rate * MM_PER_SECOND
    axes.plot(x, baseline + lead.trace * MM_PER_MILLIVOLT, color=TRACE_COLOR, linewidth=0.9)
    axes.text(left + 1, label_y + 1, lead.name, fontsize=9, fontweight="bold", color=TRACE_COLOR)
    if lead.start > 0:
        ends = baseline - MIN_EXTENT, label_y + LABEL_HEIGHT - 1
        axes.plot((left, left), ends, color=SEPARATOR_COLOR, linewidth=0.8, linestyle=":")


def _check_marks(marks, signal: np.ndarray) -> np.ndarray:
    marks = as_array(marks).astype(np.float64)
    if marks.shape != signal.shape or not np.isfinite(marks).all():
        raise ValueError(f"`marks` must be finite, one for each sample {signal.shape}; got shape {marks.shape}.")
    return marks


def _draw_marks(axes: Axes, marks: np.ndarray, seconds: float, baselines: np.ndarray, heights: np.ndarray) -> None:
    """A row of `marks` behind each trace, from its lowest extent to its label."""
    limit = _limit_of(marks)
    for row, baseline, above in zip(marks, baselines, heights, strict=True):
        extent = (TRACE_START, TRACE_START + seconds * MM_PER_SECOND, baseline - MIN_EXTENT, baseline + above)
        axes.imshow(_mark_colors(row / limit)[None], extent=extent, aspect="auto", interpolation="nearest", zorder=0.5)


def _limit_of(marks: np.ndarray) -> float:
    """The absolute value of full colour."""
    return float(np.quantile(np.abs(marks), SCALE_COVERS)) or float(np.abs(marks).max()) or 1.0


def _mark_colors(marks: np.ndarray) -> np.ndarray:
    """(samples,) in units of the limit -> (samples, 4), RGBA that leaves the paper visible."""
    from matplotlib.colors import to_rgb

    colors = np.array([to_rgb(color) for color in MARK_COLORS])[(marks > 0).astype(int)]
    return np.concatenate([colors, 0.85 * np.abs(marks).clip(max=1)[:, None]], axis=1)


def _draw_scale_of_marks(axes: Axes, marks: np.ndarray, unit: str, bottom: float) -> None:
    limit, lowest = _limit_of(marks), -1 if (marks < 0).any() else 0
    left, right = SIDE_MARGIN + 12, SIDE_MARGIN + 12 + SCALE_WIDTH
    colors = _mark_colors(np.linspace(lowest, 1, 64))[None]
    axes.imshow(colors, extent=(left, right, bottom, bottom + SCALE_HEIGHT), aspect="auto", zorder=0.5)
    middle = bottom + SCALE_HEIGHT / 2
    texts = ((left - 1, "right", f"{lowest * limit:.2g}"), (right + 1, "left", f"{limit:.2g} {unit}".strip()))
    for x, side, text in texts:
        axes.text(x, middle, text, ha=side, va="center", fontsize=8, color=TRACE_COLOR, parse_math=False)


def _entries_by_stage(log_history: Sequence[dict]) -> dict[str, list[dict]]:
    drawn = [key for curves in LEARNING_CURVES.values() for key, _, _ in curves]
    stages: dict[str, list[dict]] = {}
    for index, entry in enumerate(log_history):
        if not any(key in entry for key in drawn):
            continue
        if "stage" not in entry or "epoch" not in entry:
            raise ValueError(f"Entry {index} of `log_history` needs `stage` and `epoch`, has {sorted(entry)}.")
        stages.setdefault(entry["stage"], []).append(entry)
    if not stages:
        raise ValueError(f"None of the {len(log_history)} entries of `log_history` has any of {', '.join(drawn)}.")
    return stages


def _draw_curves(axes: Axes, entries: list[dict], curves: Sequence[tuple[str, str, str]], best: dict | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, label, color in curves:
        if points := [(entry["epoch"], entry[key]) for entry in entries if key in entry]:
            marker = "o" if len(points) <= MAX_MARKERS else None
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markersize=3.5)
    if best is not None:
        axes.axvline(best["epoch"], color=BEST_EPOCH_COLOR, linestyle=":", label="best epoch", zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.grid(color=AXES_GRID_COLOR, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _best_entry(entries: list[dict], chosen_by: str) -> dict | None:
    best = min if chosen_by in LOWER_IS_BETTER else max
    known = [entry for entry in entries if chosen_by in entry and not np.isnan(entry[chosen_by])]
    return best(known, key=lambda entry: entry[chosen_by], default=None)


def _stage_title(stage: str, best: dict | None, chosen_by: str) -> str:
    title = STAGE_TITLES.get(stage, stage)
    if best is None:
        return title
    title += f"\nbest epoch {round(best['epoch'], 2):g}: "
    if chosen_by != "eval_macro_auroc":
        return f"{title}{METRIC_NAMES.get(chosen_by, chosen_by.removeprefix('eval_'))} {best[chosen_by]:.4g}"
    title += f"AUROC {best['eval_macro_auroc']:.3f}"
    if "eval_macro_auprc" in best:
        title += f", AUPRC {best['eval_macro_auprc']:.3f}"
    return title


def save_figure(figure: Figure, *paths: str | os.PathLike, all_colors: bool = False) -> None:
    """Write a figure in the formats of the suffixes, each file whole or not at all; an SVG always has the same bytes.

    The figure is laid out once, which takes longer than drawing it, and keeps that layout. Pictures lie beside small
    models in repositories, so they are kept small: PNGs have a palette, unless shades mean something (`all_colors`),
    SVGs text as text and tenths of a point.
    """
    import matplotlib

    for path in paths:
        with whole_file(path) as unfinished:
            kind = unfinished.suffix[1:] or "png"
            if kind == "svg":
                with matplotlib.rc_context({"svg.hashsalt": "ecg_hf", "svg.fonttype": "none"}):
                    figure.savefig(text := io.StringIO(), format=kind, metadata={"Date": None})
                unfinished.write_text(_with_tenths(text.getvalue()), encoding="utf-8")
                continue
            figure.savefig(unfinished, format=kind)
            if kind == "png" and not all_colors:
                _give_palette(unfinished)
        figure.set_layout_engine("none")


def _with_tenths(svg: str) -> str:
    """Its paths with one digit behind the point."""
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)


def _give_palette(png: Path) -> None:
    from PIL import Image

    with Image.open(png) as picture:
        small = picture.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
        small.save(png, "png", optimize=True, dpi=picture.info.get("dpi", (DOTS_PER_INCH, DOTS_PER_INCH)))


__all__ = ["plot_ecg", "plot_label_metrics", "plot_learning_curves", "save_figure"]
