"""The kinds of targets: what a model's outputs mean, their loss, and what those of a record's windows make together.

`config.problem_type` is one of

- `multi_label_classification`: each logit is that of one label, present or absent; binary cross-entropy;
- `single_label_classification`: a record has one of the classes, over which the softmax is taken; cross-entropy;
- `regression`: each logit is a value in the unit of its target; mean squared error of the values that are standardised
  by `config.target_mean` and `config.target_std`, so that targets of different units count alike.
"""

import torch
from torch import nn

from .common_ecg_transformer import REGRESSION, SINGLE_LABEL, UNKNOWN_LABEL
from .configuration_ecg_transformer import ECGTransformerConfig


def multilabel_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each logit, shape (batch, labels), in float32; 0 where the label is unknown (-100)."""
    known = labels != UNKNOWN_LABEL
    targets = torch.where(known, labels, 0).float()
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none") * known


def single_label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row, shape (batch, 1), in float32; 0 where the class is unknown.

    `labels` are one-hot or probabilities (batch, classes), all -100 where unknown, or indices (batch,), -100 where
    unknown.
    """
    known = class_is_known(labels)
    targets = (
        torch.where(known, labels, 0).long() if labels.ndim == 1 else torch.where(known[:, None], labels, 0).float()
    )
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * known).unsqueeze(1)


def regression_loss(config: ECGTransformerConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error of each standardised value, shape (batch, labels), in float32; 0 where it is unknown (NaN)."""
    differences = torch.where(labels.isnan(), 0.0, logits.float() - labels.float())
    if config.target_std is not None:
        differences = differences / differences.new_tensor(config.target_std)
    return differences.square()


def class_is_known(labels: torch.Tensor) -> torch.Tensor:
    """Labels of `single_label_loss` -> whether the class is known, bool (batch,)."""
    return labels != UNKNOWN_LABEL if labels.ndim == 1 else (labels != UNKNOWN_LABEL).all(dim=1)


def target_losses(
    config: ECGTransformerConfig, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (batch, labels), or (batch, 1) for one of several classes, and which of them are known (same shape)."""
    if config.problem_type == REGRESSION:
        return regression_loss(config, logits, labels), ~labels.isnan()
    if config.problem_type == SINGLE_LABEL:
        return single_label_loss(logits, labels), class_is_known(labels).unsqueeze(1)
    return multilabel_loss(logits, labels), labels != UNKNOWN_LABEL


def mean_loss(
    config: ECGTransformerConfig,
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """The mean over what is known, or the sum divided by a number of items that a Trainer has counted.

    Raises `ValueError` for labels of another shape than `forward` takes, and for others than these mean: what else
    marks an unknown label, such as -1 or NaN, would be learned.
    """
    as_classes = config.problem_type == SINGLE_LABEL and labels.ndim == 1 and not labels.is_floating_point()
    if labels.shape != (logits.shape[:1] if as_classes else logits.shape):
        indices = f", or the integer indices {tuple(logits.shape[:1])}" if config.problem_type == SINGLE_LABEL else ""
        lists = " Give each record a list of its values, also of a single one." if labels.ndim == 1 else ""
        raise ValueError(
            f"`labels` must have shape {tuple(logits.shape)}{indices}, got {tuple(labels.shape)} of {labels.dtype}."
            f"{lists}"
        )
    if config.problem_type != REGRESSION and not torch.compiler.is_compiling():
        _check_labels(labels, logits.shape[1] - 1 if as_classes else 1)
    losses, known = target_losses(config, logits, labels)
    if num_items_in_batch is None:
        num_items_in_batch = known.sum()
    elif config.problem_type == SINGLE_LABEL and not as_classes:
        num_items_in_batch = num_items_in_batch / logits.shape[1]  # a Trainer counts cells, not rows
    # Of a batch of which nothing is known the loss is 0.
    return losses.sum() / torch.as_tensor(num_items_in_batch).clamp(min=1)


def _check_labels(labels: torch.Tensor, largest: int) -> None:
    tolerance = 1e-3 if labels.is_floating_point() else 0  # of means, such as those of mixed records
    is_known = (labels >= -tolerance) & (labels <= largest + tolerance)
    wrong = labels[~(is_known | (labels == UNKNOWN_LABEL))]
    if len(wrong):
        raise ValueError(
            f"`labels` must be from 0 to {largest}, or {UNKNOWN_LABEL} for unknown; {len(wrong)} of {labels.numel()} "
            f"are not, the first {wrong[0].item():g}."
        )


def in_target_units(config: ECGTransformerConfig, outputs: torch.Tensor) -> torch.Tensor:
    """The outputs of a head as logits: standardised values become float32 in the units of the targets."""
    if config.target_std is None:
        return outputs
    # 16 bits would resolve an age of 70 by half a year.
    outputs = outputs.float()
    return outputs * outputs.new_tensor(config.target_std) + outputs.new_tensor(config.target_mean)


def aggregated_windows(
    config: ECGTransformerConfig, logits: torch.Tensor, window_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Window logits (records, windows, labels) to those of records (records, labels); see `aggregate_windows`."""
    logits = logits.float() / config.temperature
    if window_mask is None:
        window_mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    absent, count = ~window_mask.bool().unsqueeze(-1), window_mask.sum(dim=1, keepdim=True)
    if config.problem_type == SINGLE_LABEL:
        return _mean_class_probabilities(config, logits.log_softmax(dim=-1), absent, count)

    def mean_logit():
        return logits.masked_fill(absent, 0.0).sum(dim=1) / count

    def mean_probability():
        positive = nn.functional.logsigmoid(logits).masked_fill(absent, -torch.inf).logsumexp(dim=1)
        negative = nn.functional.logsigmoid(-logits).masked_fill(absent, -torch.inf).logsumexp(dim=1)
        return positive - negative

    def max_probability():
        return logits.masked_fill(absent, -torch.inf).amax(dim=1)

    rules = {rule.__name__: rule for rule in (mean_logit, mean_probability, max_probability)}
    chosen = config.window_aggregation
    if isinstance(chosen, str):
        return rules[chosen]()
    columns = {name: rules[name]() for name in set(chosen)}
    return torch.stack([columns[name][:, label] for label, name in enumerate(chosen)], dim=1)


def _mean_class_probabilities(config, log_probabilities, absent, count) -> torch.Tensor:
    """Log-probabilities of the windows to those of the records, whose exponentials sum to 1."""
    if config.window_aggregation == "mean_logit":
        mean = log_probabilities.masked_fill(absent, 0.0).sum(dim=1) / count
    else:
        mean = log_probabilities.masked_fill(absent, -torch.inf).logsumexp(dim=1)
    return mean.log_softmax(dim=-1)


def scores_of(problem_type: str, record_logits: torch.Tensor) -> torch.Tensor:
    """Aggregated logits (records, labels) as probabilities, or, of a regression, as they are."""
    if problem_type == REGRESSION:
        return record_logits
    return record_logits.softmax(dim=-1) if problem_type == SINGLE_LABEL else record_logits.sigmoid()


__all__ = [
    "aggregated_windows",
    "class_is_known",
    "in_target_units",
    "mean_loss",
    "multilabel_loss",
    "regression_loss",
    "scores_of",
    "single_label_loss",
    "target_losses",
]
