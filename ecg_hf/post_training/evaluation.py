"""From window logits to what an evaluation reports: losses of records and the metrics that choose an epoch."""

from __future__ import annotations

import numpy as np
import torch

from ..ecg_transformer.modeling_ecg_transformer import UNKNOWN_LABEL, multilabel_loss
from ..metrics import multilabel_metrics


def record_losses(window_logits: torch.Tensor, window_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each record: mean over its known labels, then over its windows.

    window_logits (records, windows, labels), window_mask (records, windows), labels (records, labels) -> (records,);
    NaN for a record without a known label.
    """
    records, windows, num_labels = window_logits.shape
    repeated = labels[:, None].expand(-1, windows, -1)
    losses = multilabel_loss(window_logits.reshape(-1, num_labels), repeated.reshape(-1, num_labels))
    losses = losses.view(records, windows, num_labels).sum(dim=2) * window_mask
    num_known = (labels != UNKNOWN_LABEL).sum(dim=1)
    return losses.sum(dim=1) / (window_mask.sum(dim=1) * num_known)


def evaluation_metrics(labels: np.ndarray, logits: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """`loss` (mean of the records' losses), `macro_auroc`, `macro_auprc`, `f_max` and `num_undefined`.

    All but the loss are NaN where no label has both a positive and a negative, as for a single record.
    """
    loss = float(np.nanmean(losses.astype(np.float64)))
    names = ("macro_auroc", "macro_auprc", "f_max", "num_undefined")
    if not ((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any():
        return {"loss": loss, **dict.fromkeys(names, float("nan"))}
    metrics = multilabel_metrics(labels, logits)
    return {"loss": loss, **{name: metrics[name] for name in names}}


def choosing_metric(metrics: dict[str, float], name: str) -> float:
    """The metric `name` that chooses the epoch; `ValueError` if it is NaN, which would never be the best."""
    value = metrics[name]
    if np.isnan(value):
        raise ValueError(
            f"`{name}` cannot choose an epoch: it is undefined on the validation records, where no label has both a "
            "positive and a negative, or the training has diverged. Give more records, or a lower learning rate."
        )
    return value


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64."""
    return torch.from_numpy(logits).double().sigmoid().numpy()


__all__ = ["choosing_metric", "evaluation_metrics", "probabilities", "record_losses"]
