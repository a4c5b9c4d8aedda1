"""Crops of records: some of each, cut and augmented by what seed, epoch and record say, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from scipy.ndimage import uniform_filter1d

from ..post_training.windows import RecordWindows

WANDER_HERTZ = (0.05, 0.7)
"""Of a wandering baseline: from slow drifts to fast breathing."""


@dataclass(frozen=True)
class Augmentation:
    """How a crop is changed: the fields of [`PreTrainingArguments`] of the same names."""

    lead_mask_probability: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    wander: float = 0.0
    smoothing_seconds: float = 0.0


class Crops(RecordWindows):
    """Batches for [`ECGTransformerForPreTraining`]: for each key (epoch, index) the crops of a record."""

    columns = ("ecg_id", "patient_id", "signal", "sampling_rate", "lead_names")

    def __init__(
        self,
        dataset: datasets.Dataset,
        feature_extractor,
        augmentation: Augmentation,
        seed: int,
        crops_per_record: int = 2,
    ):
        super().__init__(dataset, feature_extractor)
        self.augmentation = augmentation
        self.crops_per_record = crops_per_record
        self.seed = seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        count = self.crops_per_record
        table = self.dataset[np.repeat([index for _, index in keys], count)]
        record_ids = table["ecg_id"].to_numpy()
        generators = [
            np.random.default_rng([self.seed, epoch, record_id])
            for (epoch, _), record_id in zip(keys, record_ids[::count], strict=True)
        ]
        positions = np.concatenate([generator.random(count) for generator in generators])
        batch = self._extract(table, crop_positions=positions, return_tensors="np")
        augment(batch, generators, self.augmentation, self.feature_extractor.sampling_rate)
        # A record without a patient stands for one of its own, with a number that no patient has.
        patients = table["patient_id"].to_numpy(zero_copy_only=False).astype(np.float64)
        patients = np.where(np.isnan(patients), -1 - record_ids, patients).astype(np.int64)
        batch.update(record_ids=record_ids, patient_ids=patients)
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
    num_kept = max(1, round(num_leads * (1 - settings.lead_mask_probability)))
    # Leads that a record lacks are zero and stay so.
    present = values.any(axis=2, keepdims=True)
    order = np.empty((num_crops, num_leads))
    seconds = np.arange(num_samples, dtype=np.float32) / sampling_rate
    widest = round(settings.smoothing_seconds * sampling_rate) // 2
    for crops, chances, generator in zip(
        _by_record(values, generators), _by_record(order, generators), generators, strict=True
    ):
        size = len(crops)
        crops *= generator.uniform(1 - settings.gain, 1 + settings.gain, (size, 1, 1)).astype(np.float32)
        chances[:] = generator.random(chances.shape)
        if settings.noise:
            crops += _draw(generator, settings.noise, size, 1) * generator.standard_normal(crops.shape, np.float32)
        if settings.wander:
            phases = _draw(generator, 1.0, size, num_leads) + generator.uniform(*WANDER_HERTZ, (size, 1, 1)) * seconds
            crops += _draw(generator, settings.wander, size, num_leads) * np.sin(2 * np.pi * phases.astype(np.float32))
        for crop, half_width in zip(crops, generator.integers(0, widest + 1, size), strict=True):
            if half_width:
                uniform_filter1d(crop, 2 * half_width + 1, axis=1, output=crop, mode="nearest")
    values *= present
    if "lead_ids" in batch:
        kept = np.sort(np.argsort(order, axis=1)[:, :num_kept], axis=1)
        batch["input_values"] = np.take_along_axis(values, kept[:, :, None], axis=1)
        batch["lead_ids"] = np.take_along_axis(batch["lead_ids"], kept, axis=1)
        return
    hidden = order < settings.lead_mask_probability
    # Of the leads that a crop has, the one with the best chance stays.
    last = np.where(present[:, :, 0], order, -1.0).argmax(axis=1)
    hidden[np.arange(len(hidden)), last] = False
    values[hidden] = 0


def _draw(generator: np.random.Generator, largest: float, crops: int, leads: int) -> np.ndarray:
    return largest * generator.random((crops, leads, 1), np.float32)


def _by_record(rows: np.ndarray, generators: Sequence) -> np.ndarray:
    return rows.reshape(len(generators), -1, *rows.shape[1:])


def crop_statistics(dataset: datasets.Dataset, feature_extractor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in mV of each lead of the extractor, over one crop of each record.

    Leads that records lack, or that are zero throughout, do not count in them; a lead that none has gets 0 and 1.
    """
    plain = type(feature_extractor).from_dict({**feature_extractor.to_dict(), "mean": 0.0, "std": 1.0, "clip": None})
    records = Crops(dataset, plain, Augmentation(), seed=0)
    count, total, squares = (np.zeros(len(plain.lead_names)) for _ in range(3))
    for start in range(0, len(records), 256):
        keys = [(0, index) for index in range(start, min(start + 256, len(records)))]
        values = records.__getitems__(keys)["input_values"].double().numpy()
        count += values.any(axis=2).sum(axis=0) * values.shape[2]
        total += values.sum(axis=(0, 2))
        squares += (values**2).sum(axis=(0, 2))
    mean = total / np.maximum(count, 1)
    variance = squares / np.maximum(count, 1) - mean**2
    return mean.tolist(), np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0).tolist()


__all__ = ["Augmentation", "Crops", "augment", "crop_statistics"]
