"""What every run does between the steps of the library's loop: crops of the epoch, the best one's checkpoint."""

from __future__ import annotations

import logging

import torch
from transformers import Trainer, TrainerCallback

from .folder import best_checkpoint

logger = logging.getLogger(__name__)


class SetEpoch(TrainerCallback):
    """Tells the sampler the epoch; the library does not reach it when several processes resume within an epoch."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.epoch_sampler.set_epoch(int(state.epoch))
        if self.trainer.workers_wait:
            # torch draws a number for the workers of each epoch, but none for those that wait.
            torch.empty((), dtype=torch.int64).random_()


class KeepBest(TrainerCallback):
    """Saves the checkpoint of each best evaluation, and finds it again, whatever path was stored, in a resumed run."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if args.load_best_model_at_end and state.best_global_step:
            state.best_model_checkpoint = best_checkpoint(self.trainer.checkpoints_folder, state.best_global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not args.load_best_model_at_end:
            return
        value = metrics.get(f"eval_{args.metric_for_best_model.removeprefix('eval_')}")
        if value is not None and _is_better(value, state.best_metric, args.greater_is_better):
            control.should_save = True

    def on_train_end(self, args, state, control, **kwargs):
        if args.load_best_model_at_end and state.best_metric is None:
            logger.warning(
                f"No evaluation in the {state.global_step} steps gave {args.metric_for_best_model}: the weights of "
                "the last step are kept, the best are not known. Evaluate earlier (`eval_steps`, `eval_delay`)."
            )


def _is_better(value: float, best: float | None, greater_is_better: bool) -> bool:
    return best is None or (value > best if greater_is_better else value < best)


__all__ = ["KeepBest", "SetEpoch"]
