"""The curves of a classifier's card: reliability, and precision over recall, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .curves import plot_precision_recall, plot_reliability, precision_recall_curves, reliability_curve
from .ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .plotting import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("reliability", "precision_recall")
FORMATS = (".png", ".svg")
CURVE_PICTURES = tuple(f"{name}{ending}" for name in CURVES for ending in FORMATS)


def draw_curves(folder: Path, split: str, labels: Sequence[str]) -> list[str]:
    """Draw the curves of a run's predictions for a split into its folder -> the stems of the pictures that are there.

    A folder without predictions, as a released one, keeps the pictures that came with it.
    """
    predictions = folder / f"{split}_predictions.csv"
    if predictions.is_file():
        # Of the names of classes only an empty cell is unknown: `None`, `NA` and `01` are names.
        table = pd.read_csv(predictions, dtype={"true_class": str}, keep_default_na=False, na_values=[""])
        save_curves(curve_figures(table, split, labels), folder)
    return [name for name in CURVES if all((folder / f"{name}{ending}").is_file() for ending in FORMATS)]


def curve_figures(predictions: pd.DataFrame, split: str, labels: Sequence[str]) -> dict[str, Figure]:
    """Of a table of predictions of a split, as runs write them, the figures by their stems: `reliability`, and
    `precision_recall` where a label has positives and negatives."""
    truth, scores = _columns(predictions, labels)
    curves = {f"all {len(labels)} labels": reliability_curve(truth, scores)}
    figures = {"reliability": plot_reliability(curves, title=f"Reliability on the {split} records")}
    recall = precision_recall_curves(truth, scores, labels)
    if any(curve is not None for curve in recall.values()):
        title = f"Precision and recall on the {split} records"
        figures["precision_recall"] = plot_precision_recall(recall, title=title)
    return figures


def save_curves(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write figures by their stems into a folder, as PNG and SVG."""
    for name, figure in figures.items():
        save_figure(figure, *(folder / f"{name}{ending}" for ending in FORMATS))


def _columns(table: pd.DataFrame, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What is true, and the probabilities, each (records, labels)."""
    scores = table[[f"prob_{label}" for label in labels]].to_numpy()
    if "true_class" not in table:
        return table[[f"true_{label}" for label in labels]].to_numpy(), scores
    # As text: a class may be named 1, which a table would hold as a number.
    true = table["true_class"].astype(str).to_numpy()
    truth = (true[:, None] == np.array(labels)).astype(float)
    truth[table["true_class"].isna()] = UNKNOWN_LABEL
    return truth, scores


__all__ = ["CURVES", "CURVE_PICTURES", "curve_figures", "draw_curves", "save_curves"]
