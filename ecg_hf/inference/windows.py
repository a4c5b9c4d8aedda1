"""The windows that a model sees of one record, those of a silent record, and the way back to the record's samples."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.inputs_ecg_transformer import group_records
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..ecg_transformer.pipeline_ecg_classification import ECGClassificationPipeline
from ..ecg_transformer.signal_steps_ecg_transformer import resample
from ..plotting import MAX_PAPER_SECONDS


@dataclass(frozen=True, eq=False)
class RecordWindows:
    """A record as a model sees it."""

    name: str
    """What messages call the record."""
    values: torch.Tensor
    """(windows, rows, samples of a window) float32, on the model's device."""
    baseline: torch.Tensor
    """The same for a record of 0 mV in all leads."""
    others: dict[str, torch.Tensor]
    """The model's other inputs, each with a row for each window."""
    starts: np.ndarray
    """(windows,): samples of `signal` before each window."""
    rows: np.ndarray
    """(leads,): the rows of `values` that hold a lead of the record."""
    signal: np.ndarray
    """(leads, samples) float32 mV, in the model's rate and order of leads, before filters and normalisation."""
    lead_names: tuple[str, ...]

    def on_record(self, of_windows: np.ndarray, rule: str) -> np.ndarray:
        """(windows, rows, samples of a window) -> (leads, samples), by the `rule` ``"sum"`` or ``"mean"``; 0 where no
        window is."""
        length = self.signal.shape[1]
        total, seen = np.zeros(self.signal.shape), np.zeros(length)
        for start, part in zip(self.starts, of_windows[:, self.rows], strict=True):
            end = min(start + part.shape[1], length)
            total[:, start:end] += part[:, : end - start]
            seen[start:end] += 1
        return total / np.maximum(seen, 1) if rule == "mean" else total

    def on_windows(self, of_record: np.ndarray) -> np.ndarray:
        """(leads, samples) -> (windows, rows, samples of a window), with zeros where the record is not."""
        size = self.values.shape[-1]
        padded = np.pad(of_record, ((0, 0), (0, size)))
        parts = np.zeros(self.values.shape, dtype=of_record.dtype)
        for part, start in zip(parts, self.starts, strict=True):
            part[self.rows] = padded[:, start : start + size]
        return parts


@contextlib.contextmanager
def classifier_of(
    model: ECGTransformerForMultiLabel, feature_extractor: ECGTransformerFeatureExtractor
) -> Iterator[ECGClassificationPipeline]:
    """The pipeline of both, in a block in which the model is in evaluation mode. Raises what the pipeline does."""
    training = model.training
    try:
        yield ECGClassificationPipeline(model=model, feature_extractor=feature_extractor, device=model.device)
    finally:
        model.train(training)


def window_outputs(model: ECGTransformerForMultiLabel, windows: RecordWindows, values: torch.Tensor) -> torch.Tensor:
    """Values (variants, windows, rows, samples) in place of a record's -> outputs (variants, windows, labels)."""
    variants = len(values)
    others = {name: tensor.repeat(variants, *[1] * (tensor.ndim - 1)) for name, tensor in windows.others.items()}
    return model(input_values=values.flatten(0, 1), **others).logits.unflatten(0, (variants, -1))


@torch.no_grad()
def record_outputs(model: ECGTransformerForMultiLabel, windows: RecordWindows, values: torch.Tensor) -> torch.Tensor:
    """Values (variants, windows, rows, samples) in place of a record's -> its outputs (variants, labels), float32."""
    return model.aggregate_windows(window_outputs(model, windows, values))


def cut_windows(pipe: ECGClassificationPipeline, record) -> RecordWindows:
    """A record of any kind that the pipeline takes, of at most 60 s.

    Raises `ValueError` for a longer one, and what the pipeline does for one that it refuses.
    """
    recording = pipe.recording_of(record)
    features = pipe.windows_of(record, recording, return_window_starts=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of missing leads, which were just named
        silent = {**recording, "signal": np.zeros_like(recording["signal"])}
        baseline = pipe.feature_extractor(**silent, check_leads=False)["input_values"]
        signal, lead_names, absent = _trace(pipe.feature_extractor, recording)
    starts = features.pop("window_starts").numpy()
    values = features.pop("input_values")
    rows = np.array([row for row, name in enumerate(lead_names) if name not in absent])
    return RecordWindows(
        name=str(record) if isinstance(record, (str, os.PathLike)) else "the record",
        values=values.to(pipe.device),
        baseline=baseline.to(pipe.device),
        others={name: tensor.to(pipe.device) for name, tensor in features.items()},
        starts=starts,
        rows=rows,
        signal=signal[rows],
        lead_names=tuple(lead_names[row] for row in rows),
    )


def _trace(extractor, recording: dict) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """(rows, samples) mV in the model's rate, its leads, and those of them that are absent."""
    (batch,) = group_records(**{"units": None, **recording}, crop_positions=None)
    seconds = batch.values.shape[-1] / batch.sampling_rate
    if seconds > MAX_PAPER_SECONDS:
        raise ValueError(f"the record has {seconds:g} s, the maximum is {MAX_PAPER_SECONDS} s: explain a part of it.")
    for step in ("leads", "resample"):
        extractor.take_step(step, batch)
    signal = batch.in_millivolts()
    if batch.sampling_rate != extractor.sampling_rate:  # before the step `decimate`
        signal = resample(signal, batch.sampling_rate, extractor.sampling_rate, "polyphase")
    return signal[0].astype(np.float32), batch.lead_names, batch.absent_leads


__all__ = ["RecordWindows", "classifier_of", "cut_windows", "record_outputs", "window_outputs"]
