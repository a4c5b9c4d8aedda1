"""From the rows of a data set to windows: one random crop of a record in training, all its windows in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa
import torch


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
    """Base: reads rows as Arrow, without Python lists, and hands a whole batch at once to the extractor."""

    columns = ("ecg_id", "signal", "sampling_rate", "lead_names", "labels")

    def __init__(self, dataset: datasets.Dataset, feature_extractor):
        missing = set(self.columns) - set(dataset.column_names)
        if missing:
            raise ValueError(f"The data set lacks the columns {', '.join(sorted(missing))}: load it by `load_ptbxl`.")
        if len(dataset) == 0:
            raise ValueError("The data set has no records.")
        self.dataset = dataset.with_format("arrow")
        self.feature_extractor = feature_extractor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        return self.__getitems__([key])

    def _extract(self, table: pa.Table, **kwargs):
        lead_names = table["lead_names"].to_pylist()
        signals = [
            signal.reshape(len(names), -1) for signal, names in zip(rows_of(table["signal"]), lead_names, strict=True)
        ]
        try:
            return self.feature_extractor(
                signals,
                sampling_rate=table["sampling_rate"].to_pylist(),
                lead_names=lead_names,
                units="uV",
                **kwargs,
            )
        except ValueError as error:
            raise ValueError(f"Among the records {table['ecg_id'].to_pylist()}, in this order: {error}") from error


class TrainingWindows(RecordWindows):
    """Batches for `forward`: for each key (epoch, index) one window, its start fixed by (seed, epoch, ecg_id)."""

    def __init__(self, dataset: datasets.Dataset, feature_extractor, seed: int):
        super().__init__(dataset, feature_extractor)
        self.seed = seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        table = self.dataset[[index for _, index in keys]]
        positions = [
            np.random.default_rng([self.seed, epoch, ecg_id]).random()
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


def label_matrix(table: pa.Table) -> torch.Tensor:
    """The column `labels` as float32 (records, labels)."""
    return torch.from_numpy(np.stack(rows_of(table["labels"])).astype(np.float32))


def rows_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The rows of an Arrow column of lists, as arrays, without copying where the lists have one length."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    values = array.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(array.type):
        return list(values.reshape(len(array), -1))
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(values, np.cumsum(lengths)[:-1])


__all__ = [
    "EpochSampler",
    "EvaluationWindows",
    "RecordWindows",
    "TrainingWindows",
    "identity_collate",
    "label_matrix",
    "rows_of",
]
