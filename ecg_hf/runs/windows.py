"""From the rows of a data set to windows: one random crop of a record in training, all its windows in evaluation."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import warnings
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers.feature_extraction_utils import BatchFeature

from .columns import check_columns, label_matrix, number_of, signals_of, units_of
from .prepared import named_records, prepare

_FIRST = re.compile(r"\(first: (\d+)\)")
_NUMBERS = re.compile(r"\d[\d.]*")


def _windows_of(table: pa.Table, feature_extractor, units: str | None, **kwargs) -> BatchFeature:
    signals, units = signals_of(table, units)
    with named_records(table), _warnings_of(table):
        return feature_extractor(
            signals,
            sampling_rate=table["sampling_rate"].to_pylist(),
            lead_names=table["lead_names"].to_pylist(),
            units=units,
            **kwargs,
        )


@contextlib.contextmanager
def _warnings_of(table: pa.Table) -> Iterator[None]:
    """A block whose warnings name the first of their records, which it knows by its place among the rows alone."""
    with _caught_warnings() as caught:
        yield
    for warning in caught:
        _warn(warning, _FIRST.sub(lambda found: f"(first: {table['ecg_id'][int(found[1])]})", str(warning.message)))


@contextlib.contextmanager
def _caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _warn(warning: warnings.WarningMessage, message: str) -> None:
    warnings.warn_explicit(message, warning.category, warning.filename, warning.lineno)


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

    `units` is `"mV"` or `"uV"`, of all signals; by default [`units_of`] decides. With `cache_dir` records that must be
    resampled or filtered are so once, and kept there: see [`prepare`], whose values are within 1e-3 mV. The leads of a
    record are checked when it is read for the first time, and a warning is given once, for the first batch that has
    reason to; with `check_leads` False, of records that were checked before, not at all.
    """

    columns = ("ecg_id", "signal", "sampling_rate", "lead_names", "labels")

    def __init__(
        self,
        dataset: datasets.Dataset,
        feature_extractor,
        units: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        silent: bool = False,
        check_leads: bool = True,
    ):
        check_columns(dataset, self.columns)
        if len(dataset) == 0:
            raise ValueError("The data set has no records.")
        self.dataset = dataset.with_format("arrow")
        self.feature_extractor = feature_extractor
        self.units = units
        # Extractors of older checkpoints do not know the argument.
        knows_checks = "check_leads" in inspect.signature(feature_extractor.__call__).parameters
        self._unchecked = {"check_leads": False} if knows_checks else {}
        self._is_checked = np.full(len(dataset), not check_leads)
        self._said: set[str] = set()
        units_of(self.dataset[:1], units)  # a unit that is missing is found before training
        self.prepared = None if cache_dir is None else prepare(dataset, feature_extractor, units, cache_dir, silent)
        # What batches need beside a prepared record.
        beside = [name for name in self.columns if name not in ("signal", "sampling_rate", "lead_names")]
        self._facts = self.dataset if self.prepared is None else self.dataset.select_columns(beside)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        return self.__getitems__([key])

    def _kept(self, indices: Sequence[int]) -> np.ndarray:
        """(records,): the row of each record among the prepared ones, or -1."""
        return np.full(len(indices), -1) if self.prepared is None else self.prepared.rows[list(indices)]

    def _table(self, indices: Sequence[int]) -> pa.Table:
        """The rows, with their signals if `_extract` needs these."""
        return (self.dataset if (self._kept(indices) < 0).any() else self._facts)[list(indices)]

    def _extract(self, table: pa.Table, indices: Sequence[int], **kwargs) -> BatchFeature:
        indices = np.asarray(indices)
        if self._is_checked[indices].all():
            return self._extract_all(table, indices, **self._unchecked, **kwargs)
        with _caught_warnings() as caught:
            features = self._extract_all(table, indices, **kwargs)
        self._is_checked[indices] = True
        for warning in caught:
            message = str(warning.message)
            if (kind := _NUMBERS.sub("", message)) not in self._said:
                self._said.add(kind)
                _warn(warning, message)
        return features

    def _extract_all(self, table: pa.Table, indices: np.ndarray, **kwargs) -> BatchFeature:
        kept = self._kept(indices)
        if (kept < 0).all():
            return _windows_of(table, self.feature_extractor, self.units, **kwargs)
        if (kept >= 0).all():
            prepared = self.prepared.table(kept, table["ecg_id"])
            return _windows_of(prepared, self.prepared.extractor, self.prepared.units, **kwargs)
        return self._extract_both(table, indices, kept, **kwargs)

    def _extract_both(self, table, indices, kept, crop_positions=None, return_record_index=False, **kwargs):
        """The windows of a batch with prepared and other records, in their order."""
        parts, of_records = [], []
        for places in (np.flatnonzero(kept >= 0), np.flatnonzero(kept < 0)):
            crops = None if crop_positions is None else [crop_positions[place] for place in places]
            part = self._extract_all(
                table.take(pa.array(places)),
                indices[places],
                crop_positions=crops,
                return_record_index=True,
                **{**kwargs, "return_tensors": "np"},
            )
            of_records.append(places[part.pop("record_index")])
            parts.append(part)
        if any("attention_mask" in part for part in parts):  # none: no window is padded
            for part in parts:
                shape = (len(part["input_values"]), part["input_values"].shape[-1])
                part.setdefault("attention_mask", np.ones(shape, dtype=np.int64))
        record_index = np.concatenate(of_records)
        order = np.argsort(record_index, kind="stable")
        merged = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        if return_record_index:
            merged["record_index"] = record_index[order]
        return BatchFeature(merged, tensor_type=kwargs.get("return_tensors", "pt"))


class TrainingWindows(RecordWindows):
    """Batches for `forward`: for each key (epoch, index) one window, its start fixed by (seed, epoch, ecg_id)."""

    def __init__(self, dataset: datasets.Dataset, feature_extractor, seed: int, units: str | None = None, **kwargs):
        super().__init__(dataset, feature_extractor, units, **kwargs)
        self.seed = seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        indices = [index for _, index in keys]
        table = self._table(indices)
        positions = [
            np.random.default_rng([self.seed, epoch, number_of(ecg_id)]).random()
            for (epoch, _), ecg_id in zip(keys, table["ecg_id"].to_pylist(), strict=True)
        ]
        batch = dict(self._extract(table, indices, crop_positions=positions))
        batch["labels"] = label_matrix(table)
        return batch


class EvaluationWindows(RecordWindows):
    """Batches of whole records: every input (records, windows, ...), `window_mask` (records, windows), `labels`."""

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        table = self._table(indices)
        features = dict(self._extract(table, indices, return_record_index=True))
        record_index = features.pop("record_index")
        counts = torch.bincount(record_index, minlength=len(table))
        window_index = torch.arange(len(record_index)) - (counts.cumsum(0) - counts)[record_index]
        batch = {"labels": label_matrix(table)}
        batch["window_mask"] = torch.arange(int(counts.max())) < counts[:, None]
        for name, rows in features.items():
            batch[name] = rows.new_zeros((len(table), int(counts.max()), *rows.shape[1:]))
            batch[name][record_index, window_index] = rows
        return batch


class WrappedWindows(torch.utils.data.Dataset):
    """Base: the batches of other windows, which `__getitems__` changes."""

    def __init__(self, windows: RecordWindows | WrappedWindows):
        self.windows = windows
        self.prepared = windows.prepared

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key):
        return self.__getitems__([key])


def identity_collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The window data sets return a batch, not a list of items: nothing is left to collate."""
    return batch


__all__ = [
    "EpochSampler",
    "EvaluationWindows",
    "RecordWindows",
    "TrainingWindows",
    "WrappedWindows",
    "identity_collate",
]
