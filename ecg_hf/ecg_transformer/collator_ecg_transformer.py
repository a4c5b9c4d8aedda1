"""Rows of a data set to batches of the model, for a plain `transformers.Trainer` or a torch `DataLoader`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .common_ecg_transformer import check_choice
from .feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from .inputs_ecg_transformer import as_array, canonical_units, in_millivolts

CROPS = ("first", "centre", "random")


class ECGCollator:
    """
    Makes batches for `ECGTransformerForMultiLabel` from rows such as those of `load_ptbxl`: one window of each record.

    ```python
    args = TrainingArguments("run", remove_unused_columns=False)
    Trainer(model, args, train_dataset=splits["train"], data_collator=ECGCollator(feature_extractor)).train()
    ```

    A row is a dict with `signal`, `sampling_rate` and `lead_names`, and, for training, `labels`. The signal has the
    shape (leads, samples), or is flat with one lead after another; integers are in µV and floats in mV, unless the row
    has `units`. `labels` must be in the order of `model.config.labels`: rows do not name them. All windows of a record
    are scored by the pipeline and by `PostTrainer`, not by this class.

    Args:
        feature_extractor ([`ECGTransformerFeatureExtractor`]): The model's.
        crop (`str`, defaults to `"centre"`):
            The window of a record that is longer than one: `"first"`, `"centre"`, or `"random"`, which follows torch's
            generator (of the worker) and is for training only.
        units (`str`, *optional*): `"mV"` or `"uV"`, if the signals are in other units than their types say.
    """

    def __init__(
        self, feature_extractor: ECGTransformerFeatureExtractor, crop: str = "centre", units: str | None = None
    ):
        check_choice("crop", crop, CROPS)
        self.feature_extractor = feature_extractor
        self.crop = crop
        self.units = units

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """
        Rows to `input_values` (rows, leads, samples); where the feature extractor gives them `attention_mask` (rows,
        samples) and `lead_ids` (rows, leads); and, where the rows have them, `labels`: float32 (rows, labels), or
        int64 (rows,) where each is a single integer, the index of its class.

        Raises:
            ValueError: a row without a column that is needed, or with labels that are masked, no numbers or not as
                many as others have, or a record that the feature extractor refuses.
        """
        for name in ("signal", "sampling_rate", "lead_names"):
            if lacking := [place for place, row in enumerate(rows) if name not in row]:
                raise ValueError(
                    f"Row {lacking[0]} of the batch lacks `{name}`, it has {', '.join(map(str, rows[lacking[0]]))}. A "
                    "Trainer drops the columns unless it has `TrainingArguments(remove_unused_columns=False)`."
                )
        signals, units = self._signals(rows)
        try:
            batch = self.feature_extractor(
                signals,
                sampling_rate=[float(row["sampling_rate"]) for row in rows],
                lead_names=[list(row["lead_names"]) for row in rows],
                units=units,
                crop_positions=self._positions(len(rows)),
            )
        except ValueError as error:
            ids = [row.get("ecg_id", place) for place, row in enumerate(rows)]
            raise ValueError(f"Among the records {ids}, in this order: {error}") from error
        batch = dict(batch)
        unlabelled = [place for place, row in enumerate(rows) if row.get("labels") is None]
        if unlabelled and len(unlabelled) < len(rows):
            raise ValueError(f"Row {unlabelled[0]} of the batch lacks `labels`, which other rows have.")
        if masked := [place for place, row in enumerate(rows) if np.ma.is_masked(row.get("labels"))]:
            raise ValueError(
                f"Row {masked[0]} of the batch has masked `labels`: fill them with what the model takes for unknown, "
                "-100 of labels and classes, NaN of a regression."
            )
        if not unlabelled:
            batch["labels"] = _stacked([_label_tensor(row["labels"], place) for place, row in enumerate(rows)])
        return batch

    def _signals(self, rows: Sequence[Mapping]) -> tuple[list[np.ndarray], str]:
        """The signals and their unit; brought to mV where the rows have different ones."""
        signals = [as_array(row["signal"]) for row in rows]
        units = [
            canonical_units(self.units or row.get("units") or ("mV" if signal.dtype.kind == "f" else "uV"))
            for row, signal in zip(rows, signals, strict=True)
        ]
        if len(set(units)) == 1:
            return signals, units[0]
        return [in_millivolts(signal, unit) for signal, unit in zip(signals, units, strict=True)], "mV"

    def _positions(self, count: int) -> np.ndarray:
        if self.crop == "random":
            return torch.rand(count, dtype=torch.float64).numpy()
        return np.full(count, 0.5 if self.crop == "centre" else 0.0)


def _label_tensor(labels, place: int) -> torch.Tensor:
    try:
        return torch.as_tensor(labels)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"Row {place} of the batch has `labels` that are no numbers ({labels!r:.60}): fill empty ones with what "
            "the model takes for unknown, -100 of labels and classes, NaN of a regression."
        ) from error


def _stacked(labels: list[torch.Tensor]) -> torch.Tensor:
    if differing := [place for place, row in enumerate(labels) if row.shape != labels[0].shape]:
        raise ValueError(
            f"Row {differing[0]} of the batch has `labels` of the shape {tuple(labels[differing[0]].shape)}, row 0 of "
            f"{tuple(labels[0].shape)}: give each record a value for each label."
        )
    are_classes = all(row.ndim == 0 and not (row.is_floating_point() or row.dtype == torch.bool) for row in labels)
    return torch.stack([row.to(torch.int64 if are_classes else torch.float32) for row in labels])


__all__ = ["ECGCollator"]
