"""Means and standard deviations of data that are too large to hold."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from ..ecg_transformer.inputs_ecg_transformer import UNITS_PER_MILLIVOLT
from .columns import check_columns, signals_of


class RunningMoments:
    """Mean and standard deviation of each column of data that come in pieces, in one pass and in float64."""

    def __init__(self, num_columns: int):
        self.count = np.zeros(num_columns)
        self.total = np.zeros(num_columns)
        self.squares = np.zeros(num_columns)

    def add(self, values: np.ndarray, axis: int, count: np.ndarray | None = None) -> None:
        """Add values whose columns are `axis`; `count` is how many of each column there are, if not all."""
        values = values.astype(np.float64, copy=False)
        others = tuple(other for other in range(values.ndim) if other != axis % values.ndim)
        self.count += values.size // values.shape[axis] if count is None else count
        self.total += values.sum(axis=others)
        self.squares += (values**2).sum(axis=others)

    def mean(self) -> np.ndarray:
        """(columns,); 0 where a column has no values."""
        return self.total / np.maximum(self.count, 1)

    def std(self) -> np.ndarray:
        """(columns,); 0 where a column has no values, or only equal ones."""
        return np.sqrt(np.maximum(self.squares / np.maximum(self.count, 1) - self.mean() ** 2, 0.0))


def lead_statistics(
    dataset: datasets.Dataset, lead_names: Sequence[str], units: str | None = None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in mV of each lead over all samples of a data set, to normalise with.

    `units` of the signals is as in [`RecordWindows`]. Raises `ValueError` where a record lacks one of `lead_names`,
    and for columns that cannot be read.
    """
    check_columns(dataset, ("ecg_id", "signal", "lead_names"))
    moments = RunningMoments(len(lead_names))
    rows = dataset.with_format("arrow")
    for start in range(0, len(rows), 256):
        table = rows[start : start + 256]
        signals, unit = signals_of(table, units)
        columns = (signals, table["lead_names"].to_pylist(), table["ecg_id"].to_pylist())
        for signal, names, ecg_id in zip(*columns, strict=True):
            if lacking := [name for name in lead_names if name not in names]:
                raise ValueError(f"Record {ecg_id} lacks the leads {', '.join(lacking)}: it has {', '.join(names)}.")
            moments.add(signal[[names.index(name) for name in lead_names]] / UNITS_PER_MILLIVOLT[unit], axis=0)
    return moments.mean().tolist(), moments.std().tolist()


def without_normalisation(feature_extractor):
    """A copy of a feature extractor whose windows are in mV."""
    return type(feature_extractor).from_dict({**feature_extractor.to_dict(), "mean": 0.0, "std": 1.0, "clip": None})


def window_statistics(windows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each lead over one random window of each record, of [`RecordWindows`] in mV.

    Leads that records lack, or that are zero throughout, do not count in them; a lead that none has gets 0 and 1.
    """
    moments = RunningMoments(len(windows.feature_extractor.lead_names))
    for start in range(0, len(windows), 256):
        keys = [(0, index) for index in range(start, min(start + 256, len(windows)))]
        values = windows.__getitems__(keys)["input_values"].numpy()
        moments.add(values, axis=1, count=values.any(axis=2).sum(axis=0) * values.shape[2])
    std = moments.std()
    return moments.mean().tolist(), np.where(std > 0, std, 1.0).tolist()


__all__ = ["RunningMoments", "lead_statistics", "window_statistics", "without_normalisation"]
