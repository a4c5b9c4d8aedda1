"""Crops of records: some of each, cut and augmented by what seed, epoch and record say, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter1d

from ..runs.columns import is_unknown, number_of
from ..runs.statistics import window_statistics, without_normalisation
from ..runs.windows import RecordWindows
from .words import ReportWords

WANDER_HERTZ = (0.05, 0.7)
"""Of a wandering baseline: from slow drifts to fast breathing."""
NOISE_PLACES = 2**20
"""At how many samples a crop's noise can begin in the stretch that all noise is taken from, as drawing it is slow."""


@dataclass(frozen=True)
class Augmentation:
    """How a crop is changed: the fields of [`PreTrainingArguments`] of the same names."""

    lead_mask_probability: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    wander: float = 0.0
    smoothing_seconds: float = 0.0


class Crops(RecordWindows):
    """Batches for [`ECGTransformerForPreTraining`]: for each key (epoch, index) the crops of a record.

    With the words of the records' reports a batch has `report_words` (crops, words), as `ReportWords.targets`.
    """

    columns = ("ecg_id", "patient_id", "signal", "sampling_rate", "lead_names")

    def __init__(
        self,
        dataset: datasets.Dataset,
        feature_extractor,
        augmentation: Augmentation,
        seed: int,
        crops_per_record: int = 2,
        units: str | None = None,
        reports: ReportWords | None = None,
        **kwargs,
    ):
        super().__init__(dataset, feature_extractor, units, **kwargs)
        self.reports = reports
        self.augmentation = augmentation
        self.crops_per_record = crops_per_record
        self.seed = seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        indices = [index for _, index in keys]
        table = self._table(indices)
        record_ids = np.array([number_of(ecg_id) for ecg_id in table["ecg_id"].to_pylist()])
        generators = [
            np.random.default_rng([self.seed, epoch, record_id])
            for (epoch, _), record_id in zip(keys, record_ids, strict=True)
        ]
        positions = [generator.random(self.crops_per_record) for generator in generators]
        batch = self._extract(table, indices, crop_positions=positions, return_tensors="np")
        augment(batch, generators, self.augmentation, self.feature_extractor.sampling_rate)
        # A record without a patient gets a number that no patient has.
        patients = [
            -1 - record_id if is_unknown(patient) else number_of(patient)
            for record_id, patient in zip(record_ids.tolist(), table["patient_id"].to_pylist(), strict=True)
        ]
        patients = np.array(patients, dtype=np.int64)
        beside = {"record_ids": record_ids, "patient_ids": patients}
        if self.reports is not None:
            beside["report_words"] = self.reports.targets(indices)
        batch.update({name: np.repeat(values, self.crops_per_record, axis=0) for name, values in beside.items()})
        return {name: torch.from_numpy(np.array(values)) for name, values in batch.items()}


def augment(
    batch: dict[str, np.ndarray],
    generators: Sequence[np.random.Generator],
    settings: Augmentation,
    sampling_rate: float,
) -> None:
    """Change `input_values` (crops, leads, samples) in place, each record by its generator.

    A factor, then noise and a wandering baseline, then a moving average over all of it, and leads are hidden. Crops of
    one record thus differ in what tells devices and moments apart. A hidden lead is zero; where leads have tokens of
    their own (`lead_ids`) it is absent, and as many are hidden in every crop. At least one lead is left.
    """
    values = batch["input_values"]
    num_crops, num_leads, num_samples = values.shape
    # Leads that a record lacks are zero and stay so.
    present = values.any(axis=2, keepdims=True)
    # All numbers of a record are drawn at once, and then used for all records at once: this runs for every step.
    numbers = np.empty((num_crops, 5 + 3 * num_leads))
    for rows, generator in zip(np.split(numbers, len(generators)), generators, strict=True):
        generator.random(out=rows)
    gain, noise, place, frequency, half_width = numbers[:, :5].T
    order, *wander = np.split(numbers[:, 5:], 3, axis=1)

    values *= _column(1 + settings.gain * (2 * gain - 1))
    if settings.noise:
        drawn = _noise(num_leads * num_samples, place).reshape(values.shape)
        drawn *= _column(settings.noise * noise)
        values += drawn
    if settings.wander:
        values += _wander(frequency, *wander, num_samples / sampling_rate, num_samples) * np.float32(settings.wander)
    widest = round(settings.smoothing_seconds * sampling_rate) // 2
    half_width = np.floor(half_width * (widest + 1))
    for width in range(1, widest + 1):
        chosen = half_width == width
        values[chosen] = uniform_filter1d(values[chosen], 2 * width + 1, axis=2, mode="nearest")
    values *= present
    if "lead_ids" in batch:
        num_kept = max(1, round(num_leads * (1 - settings.lead_mask_probability)))
        kept = np.sort(np.argsort(order, axis=1)[:, :num_kept], axis=1)
        batch["input_values"] = np.take_along_axis(values, kept[:, :, None], axis=1)
        batch["lead_ids"] = np.take_along_axis(batch["lead_ids"], kept, axis=1)
        return
    hidden = order < settings.lead_mask_probability
    # Of the leads that a crop has, the one with the best chance stays.
    last = np.where(present[:, :, 0], order, -1.0).argmax(axis=1)
    hidden[np.arange(len(hidden)), last] = False
    values[hidden] = 0


def _column(numbers: np.ndarray) -> np.ndarray:
    """(crops,) -> (crops, 1, 1), float32"""
    return numbers.astype(np.float32)[:, None, None]


def _noise(size: int, places: np.ndarray) -> np.ndarray:
    """Standard normal (crops, size): pieces of a long stretch that begin at `places` in [0, 1)."""
    pieces = sliding_window_view(_stretch_of_noise(NOISE_PLACES + size), size)
    return pieces[(places * NOISE_PLACES).astype(np.int64)]


@functools.lru_cache(maxsize=1)
def _stretch_of_noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size, np.float32)


def _wander(frequency, phase, amplitude, seconds: float, num_samples: int) -> np.ndarray:
    """(crops, leads, samples): a sine of one frequency in all leads of a crop, each with its phase and amplitude.

    All but `seconds` in [0, 1); `frequency` (crops,) from the lower to the higher of `WANDER_HERTZ`.
    """
    lowest, highest = WANDER_HERTZ
    times = np.linspace(0, 2 * np.pi * seconds, num_samples, endpoint=False, dtype=np.float32)
    angles = (lowest + (highest - lowest) * frequency).astype(np.float32)[:, None] * times
    # sin(phase + angle), so that sines are taken of each crop and not of each lead.
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    phase = 2 * np.pi * phase
    weights = np.stack([amplitude * np.sin(phase), amplitude * np.cos(phase)], axis=2).astype(np.float32)
    return weights @ waves


def crop_statistics(
    dataset: datasets.Dataset, feature_extractor, units: str | None = None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in mV of each lead of the extractor, over one crop of each record.

    `units` of the signals is as in [`RecordWindows`]. Leads that records lack, or that are zero throughout, do not
    count in them; a lead that none has gets 0 and 1.
    """
    plain = without_normalisation(feature_extractor)
    crops = Crops(dataset, plain, Augmentation(), seed=0, units=units, check_leads=False)  # training checks them
    return window_statistics(crops)


__all__ = ["Augmentation", "Crops", "augment", "crop_statistics"]
