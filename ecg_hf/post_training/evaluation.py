"""From window logits to what an evaluation reports: losses of records and the metrics that choose an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import datasets
import numpy as np
import pandas as pd
import torch
from transformers.trainer_utils import PredictionOutput

from ..curves import reliability_bins
from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from ..ecg_transformer.targets_ecg_transformer import multilabel_loss
from ..metrics import bootstrap_metrics, calibration_metrics, multilabel_metrics
from ..runs.columns import is_unknown


class DivergenceError(RuntimeError):
    """The loss or the scores of a stage are no longer finite: nothing can be learned from there on."""


def _multilabel_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return multilabel_loss(logits, labels), labels != UNKNOWN_LABEL


def record_losses(
    window_logits: torch.Tensor,
    window_mask: torch.Tensor,
    labels: torch.Tensor,
    losses_of: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = _multilabel_losses,
) -> torch.Tensor:
    """Loss of each record, by default binary cross entropy: mean over its known labels, then over its windows.

    window_logits (records, windows, labels), window_mask (records, windows), labels (records, labels) -> (records,);
    NaN for a record without a known label. `losses_of` is as [`target_losses`] for the kind of targets.
    """
    records, windows, num_labels = window_logits.shape
    repeated = labels[:, None].expand(-1, windows, -1)
    losses, known = losses_of(window_logits.reshape(-1, num_labels), repeated.reshape(-1, num_labels))
    losses = losses.view(records, windows, -1).sum(dim=2) * window_mask
    num_known = known.view(records, windows, -1)[:, 0].sum(dim=1)
    return losses.sum(dim=1) / (window_mask.sum(dim=1) * num_known)


def logits_of_windows(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], window_mask: torch.Tensor
) -> torch.Tensor:
    """Float32 logits (records, windows, labels) of a batch of [`EvaluationWindows`], with inputs (records, windows,
    ...); 0 where `window_mask` (records, windows) says that a record has no window."""
    rows = model(**{name: values[window_mask] for name, values in inputs.items()}).logits.float()
    window_logits = rows.new_zeros((*window_mask.shape, rows.shape[-1]))
    window_logits[window_mask] = rows
    return window_logits


def evaluation_metrics(labels: np.ndarray, logits: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """`loss` (mean of the records' losses), `macro_auroc`, `macro_auprc`, `f_max` and `num_undefined`.

    All but the loss are NaN where no label has both a positive and a negative, as for a single record, and the loss,
    too, where no label is known.
    """
    names = ("macro_auroc", "macro_auprc", "f_max", "num_undefined")
    if (labels == UNKNOWN_LABEL).all():
        return dict.fromkeys(("loss", *names), float("nan"))
    loss = float(np.nanmean(losses.astype(np.float64)))
    if not with_both_classes(labels).any():
        return {"loss": loss, **dict.fromkeys(names, float("nan"))}
    metrics = multilabel_metrics(labels, logits)
    return {"loss": loss, **{name: metrics[name] for name in names}}


def with_both_classes(labels: np.ndarray) -> np.ndarray:
    """(records, labels) -> for each label whether a record is known to have it and another not to.

    Without both nothing can be ranked, and nothing can be learned.
    """
    return (labels == 1).any(axis=0) & (labels == 0).any(axis=0)


def split_metrics(
    dataset: datasets.Dataset, output: PredictionOutput, label_names: Sequence[str], num_resamples: int
) -> dict | None:
    """What a split's evaluation reports, with 95 % intervals over patients; a record without one is its own group.

    `num_records`, the numbers of `multilabel_metrics`, in `per_label` also `auroc_interval` and `auprc_interval`
    ([low, high], or None), `intervals` of the macro metrics and of calibration, whose `low` and `high` are None where
    `bootstrap_metrics` and `calibration_metrics` give none, and `reliability`, the labels' `reliability_bins`. None
    where no label is defined.
    """
    labels, scores = output.label_ids, probabilities(output.predictions)
    if not with_both_classes(labels).any():
        return None
    patients = patients_of(dataset)
    metrics = multilabel_metrics(labels, scores, label_names)
    intervals = bootstrap_metrics(labels, scores, num_resamples, groups=patients, label_names=label_names)
    metrics = metrics_with_intervals(metrics, intervals)
    metrics["intervals"] |= calibration_metrics(labels, scores, num_resamples, groups=patients)
    return {"num_records": len(dataset), **metrics, "reliability": reliability_bins(labels, scores, label_names)}


def patients_of(dataset: datasets.Dataset) -> pd.api.extensions.ExtensionArray | None:
    """The patient of each record, missing where it has none; None where no record has."""
    if "patient_id" not in dataset.column_names:
        return None
    return pd.array([None if is_unknown(patient) else patient for patient in dataset["patient_id"]])


def metrics_with_intervals(metrics: dict, intervals: dict[str, dict]) -> dict:
    """`metrics` with `intervals`, of which those of single labels stand in `per_label` as `<metric>_interval`."""
    of_labels = intervals.pop("per_label")
    for name, interval_of in of_labels.items():
        for metric, interval in interval_of.items():
            ends = None if interval is None or interval["low"] is None else [interval["low"], interval["high"]]
            metrics["per_label"][name][f"{metric}_interval"] = ends
    return {**metrics, "intervals": intervals}


def predictions_table(dataset: datasets.Dataset, labels: Sequence[str], output: PredictionOutput) -> pd.DataFrame:
    """One row for each record: `ecg_id`, `prob_<code>` and `true_<code>` for each label."""
    scores = pd.DataFrame(probabilities(output.predictions), columns=[f"prob_{label}" for label in labels])
    truth = pd.DataFrame(output.label_ids.astype(int), columns=[f"true_{label}" for label in labels])
    ids = pd.DataFrame({"ecg_id": list(dataset["ecg_id"])})
    return pd.concat([ids, scores, truth], axis=1)


def splits_table(splits: Mapping[str, datasets.Dataset]) -> pd.DataFrame:
    """Which record was in which split: `ecg_id`, `patient_id` (empty where unknown) and `split`."""
    return pd.concat(
        pd.DataFrame({"ecg_id": list(dataset["ecg_id"]), "patient_id": patients_of(dataset), "split": name})
        for name, dataset in splits.items()
    )


def choosing_metric(metrics: dict[str, float], name: str, undefined: str) -> float:
    """The metric `name` that chooses the epoch; `ValueError` if it is NaN, which would never be the best.

    `undefined` says of what records that is so.
    """
    value = metrics[name]
    if np.isnan(value):
        raise ValueError(
            f"`{name}` cannot choose an epoch: it is undefined on the validation records, where {undefined}, or the "
            "training has diverged. Give more records, or a lower learning rate."
        )
    return value


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64."""
    return torch.from_numpy(logits).double().sigmoid().numpy()


__all__ = [
    "DivergenceError",
    "choosing_metric",
    "evaluation_metrics",
    "logits_of_windows",
    "metrics_with_intervals",
    "patients_of",
    "predictions_table",
    "probabilities",
    "record_losses",
    "split_metrics",
    "splits_table",
    "with_both_classes",
]
