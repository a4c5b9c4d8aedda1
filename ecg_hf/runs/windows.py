"""From the rows of a data set to windows: one random crop of a record in training, all its windows in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa
import torch

from .columns import check_columns, label_matrix, number_of, signals_of, units_of


class EpochSampler(torch.utils.data.Sampler):
    """Keys (epoch, index) of all records, in an order that depends on nothing but seed and epoch.

    The epoch travels with the index, so that a crop is the same in whichever worker or process it is made.
    """

    def __init__(self, num_records: int, seed: int):
        self.num_records = num_records
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_records

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_records)
        return ((self.epoch, int(index)) for index in order)


class RecordWindows(torch.utils.data.Dataset):
    """Base: reads rows as Arrow, without Python lists, and hands a whole batch at once to the extractor.

    `units` is `"mV"` or `"uV"`, of all signals; by default [`units_of`] decides. Of records whose leads were checked
    before, `check_leads` False keeps the extractor from warning of each batch again.
    """

    columns = ("ecg_id", "signal", "sampling_rate", "lead_names", "labels")

    def __init__(
        self, dataset: datasets.Dataset, feature_extractor, units: str | None = None, check_leads: bool = True
    ):
        check_columns(dataset, self.columns)
        if len(dataset) == 0:
            raise ValueError("The data set has no records.")
        self.dataset = dataset.with_format("arrow")
        self.feature_extractor = feature_extractor
        self.units = units
        # Extractors of older checkpoints do not know the argument.
        self.keywords = {} if check_leads else {"check_leads": False}
        units_of(self.dataset[:1], units)  # a unit that is missing is found before training

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        return self.__getitems__([key])

    def _extract(self, table: pa.Table, **kwargs):
        signals, units = signals_of(table, self.units)
        try:
            return self.feature_extractor(
                signals,
                sampling_rate=table["sampling_rate"].to_pylist(),
                lead_names=table["lead_names"].to_pylist(),
                units=units,
                **self.keywords,
                **kwargs,
            )
        except ValueError as error:
            raise ValueError(f"Among the records {table['ecg_id'].to_pylist()}, in this order: {error}") from error


class TrainingWindows(RecordWindows):
    """Batches for `forward`: for each key (epoch, index) one window, its start fixed by (seed, epoch, ecg_id)."""

    def __init__(
        self,
        dataset: datasets.Dataset,
        feature_extractor,
        seed: int,
        units: str | None = None,
        check_leads: bool = True,
    ):
        super().__init__(dataset, feature_extractor, units, check_leads)
        self.seed = seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        table = self.dataset[[index for _, index in keys]]
        positions = [
            np.random.default_rng([self.seed, epoch, number_of(ecg_id)]).random()
            for (epoch, _), ecg_id in zip(keys, table["ecg_id"].to_pylist(), strict=True)
        ]
        batch = dict(self._extract(table, crop_positions=positions))
        batch["labels"] = label_matrix(table)
        return batch


class EvaluationWindows(RecordWindows):
    """Batches of whole records: every input (records, windows, ...), `window_mask` (records, windows), `labels`."""

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        table = self.dataset[list(indices)]
        features = dict(self._extract(table, return_record_index=True))
        record_index = features.pop("record_index")
        counts = torch.bincount(record_index, minlength=len(table))
        window_index = torch.arange(len(record_index)) - (counts.cumsum(0) - counts)[record_index]
        batch = {"labels": label_matrix(table)}
        batch["window_mask"] = torch.arange(int(counts.max())) < counts[:, None]
        for name, rows in features.items():
            batch[name] = rows.new_zeros((len(table), int(counts.max()), *rows.shape[1:]))
            batch[name][record_index, window_index] = rows
        return batch


def identity_collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The window data sets return a batch, not a list of items: nothing is left to collate."""
    return batch


__all__ = ["EpochSampler", "EvaluationWindows", "RecordWindows", "TrainingWindows", "identity_collate"]
