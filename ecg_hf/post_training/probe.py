"""The linear probe of post-training: a head fitted on cached features of the frozen backbone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from .arguments import PostTrainingArguments
from .evaluation import DivergenceError, choosing_metric
from .features import CachedFeatures
from .targets import MultiLabel

PROBE_EPOCHS, PROBE_STEPS = 20, 1000  # passes by default, and the fewest steps that these make
PROBE_EVALUATIONS = 50  # the most in one probe: one costs more than a pass over few records


def fit_linear_probe(
    train: CachedFeatures,
    validation: CachedFeatures,
    aggregate_windows: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    args: PostTrainingArguments,
    target: MultiLabel,
) -> tuple[dict[str, torch.Tensor], list[dict], dict[str, float]]:
    """Fit a linear head on frozen features, starting from zeros -> (state of the head, logs, metrics of its epoch).

    AdamW on single windows with a cosine schedule; the epoch is chosen by `args.metric_for_best_model` of the
    aggregated validation records. `target` is the kind of targets, which has the loss. The features are standardised
    for conditioning, and the scaling is folded into the head. A label that the training records do not have in both
    classes keeps zero weights: the order of the batches would give them a direction, the same for all such labels, and
    a macro metric would choose the epoch by it.
    """
    scale, shift = _standardisation(train)
    weight = torch.zeros(train.labels.shape[1], len(shift), requires_grad=True)
    bias = torch.zeros(train.labels.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=args.probe_learning_rate, weight_decay=args.probe_weight_decay)
    num_windows, batch_size = len(train.features), args.probe_train_batch_size
    epochs = num_epochs(args, num_windows)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, -(-num_windows // batch_size) * epochs)
    generator = torch.Generator().manual_seed(args.seed)
    record_of_window = torch.from_numpy(np.repeat(np.arange(len(train.counts)), train.counts))
    labels = torch.from_numpy(train.labels)
    learnable = torch.from_numpy(target.learnable(train.labels)).float()[:, None]

    metric, sign = args.metric_for_best_model.removeprefix("eval_"), 1.0 if args.greater_is_better else -1.0
    logs, losses, best, state = [], [], None, None
    progress = tqdm(range(1, epochs + 1), desc="Linear probe", disable=args.disable_tqdm)
    for epoch in progress:
        for rows in torch.randperm(num_windows, generator=generator).split(batch_size):
            rows = rows.sort().values  # reads the file forwards; the order within a batch does not matter
            batch = (torch.from_numpy(train.features[rows.numpy()]) - shift) * scale
            logits = target.logits(nn.functional.linear(batch, weight * learnable, bias))
            loss = target.loss(logits, labels[record_of_window[rows]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise DivergenceError(
                f"The probe has diverged: in its epoch {epoch} the loss is {losses[-1]:.3g}. Use a lower "
                f"`probe_learning_rate` than {args.probe_learning_rate:g}."
            )
        if epoch % -(-epochs // PROBE_EVALUATIONS) and epoch < epochs:
            continue
        folded = {"weight": weight.detach() * learnable * scale}
        folded["bias"] = bias.detach() - folded["weight"] @ shift
        metrics = _evaluate_head(folded, validation, aggregate_windows, target)
        logs.append({"stage": "probe", "epoch": epoch, "loss": float(np.mean(losses))})
        logs.append({"stage": "probe", "epoch": epoch, **{f"eval_{name}": value for name, value in metrics.items()}})
        losses = []
        if best is None or sign * choosing_metric(metrics, metric, target.undefined.format("")) > sign * best[metric]:
            best, state = metrics, folded
        shown = target.choosing[0]
        progress.set_postfix({"loss": f"{logs[-2]['loss']:.4f}", shown: f"{metrics[shown]:.4f}"})
    return state, logs, best


def num_epochs(args: PostTrainingArguments, num_windows: int) -> int:
    """Passes of the probe over its windows."""
    steps_of_epoch = -(-num_windows // args.probe_train_batch_size)
    return args.probe_num_train_epochs or max(PROBE_EPOCHS, -(-PROBE_STEPS // steps_of_epoch))


def _standardisation(train: CachedFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor (hidden,) and mean (hidden,) of the features."""
    mean, deviation = train.moments()
    if not np.isfinite(mean).all():
        raise ValueError("The encoder gives features that are not finite: its weights are damaged, or have diverged.")
    scale = torch.from_numpy(1.0 / np.where(deviation > 1e-8, deviation, 1.0)).float()
    return scale, torch.from_numpy(mean).float()


def _evaluate_head(head, validation: CachedFeatures, aggregate_windows, target: MultiLabel) -> dict[str, float]:
    logits, losses = head_outputs(head, validation, aggregate_windows, target)
    return target.evaluation_metrics(validation.labels, logits, losses)


def head_outputs(
    head: dict[str, torch.Tensor], split: CachedFeatures, aggregate_windows: Callable, target: MultiLabel
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (records, labels) and losses (records,) of a linear head on the CPU; other arguments as above."""
    logits, losses = [], []
    starts = np.concatenate([[0], np.cumsum(split.counts)])
    for first in range(0, len(split.counts), 1024):
        counts = torch.from_numpy(split.counts[first : first + 1024])
        window_mask = torch.arange(int(counts.max())) < counts[:, None]
        rows = torch.from_numpy(np.array(split.features[starts[first] : starts[first + len(counts)]]))
        window_logits = rows.new_zeros((*window_mask.shape, len(head["bias"])))
        window_logits[window_mask] = target.logits(nn.functional.linear(rows, head["weight"], head["bias"]))
        labels = torch.from_numpy(split.labels[first : first + 1024])
        logits.append(aggregate_windows(window_logits, window_mask))
        losses.append(target.record_losses(window_logits, window_mask, labels))
    return torch.cat(logits).numpy(), torch.cat(losses).numpy()


__all__ = ["fit_linear_probe", "head_outputs", "num_epochs"]
