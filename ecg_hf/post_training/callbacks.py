"""What happens beside the steps of fine-tuning: stochastic depth is set, and weights are averaged."""

from __future__ import annotations

import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import whole_file

TRAINED_FILE = "trained.safetensors"
"""In a checkpoint: the weights that the optimizer moves, where `model.safetensors` has their average."""


class SetDropPath(TrainerCallback):
    """Stochastic depth of fine-tuning, also of the models and arguments of a search."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if args.drop_path_rate is not None:
            self.trainer.accelerator.unwrap_model(self.trainer.model).set_drop_path_rate(args.drop_path_rate)


class AverageWeights(TrainerCallback):
    """An exponential moving average of the weights, which is what is evaluated, saved and kept at the end.

    After step t it is `d * average + (1 - d) * weights` with `d = min(ema_decay, (1 + t) / (10 + t))`, as in
    TensorFlow's `ExponentialMovingAverage`: at first the average follows closely. The model holds the average from an
    evaluation or a checkpoint to the next step.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._average: list[torch.Tensor] | None = None
        self._trained: list[torch.Tensor] | None = None  # set aside while the model holds the average

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.trainer.accelerator.unwrap_model(self.trainer.model).named_parameters())

    def on_train_begin(self, args, state, control, **kwargs):
        self._average = self._trained = None
        if args.ema_decay is None:
            return
        parameters = self._parameters()
        self._average = [value.detach().clone() for value in parameters.values()]
        if state.global_step:  # resumed: the checkpoint's weights are the average
            folder = self.trainer.checkpoints_folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            trained = load_file(folder / TRAINED_FILE)
            _copy([trained[name].to(args.device) for name in parameters], parameters.values())

    def on_step_begin(self, args, state, control, **kwargs):
        if self._trained is not None:
            _copy(self._trained, self._parameters().values())
            self._trained = None

    def on_step_end(self, args, state, control, **kwargs):
        if self._average is not None:
            decay = min(args.ema_decay, (1 + state.global_step) / (10 + state.global_step))
            weights = [value.detach() for value in self._parameters().values()]
            torch._foreach_lerp_(self._average, weights, 1 - decay)

    def on_train_end(self, args, state, control, **kwargs):
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self.show()
        self._average = self._trained = None

    def show(self) -> None:
        """Let the model hold the average, if there is one, until the next step."""
        if self._average is not None and self._trained is None:
            parameters = self._parameters()
            self._trained = [value.detach().clone() for value in parameters.values()]
            _copy(self._average, parameters.values())

    def save(self, folder: pathlib.Path) -> None:
        """Write the weights that the optimizer moves beside their average, which the model holds."""
        if self._trained is not None:
            with whole_file(folder / TRAINED_FILE) as unfinished:
                save_file(dict(zip(self._parameters(), self._trained, strict=True)), unfinished)


@torch.no_grad()
def _copy(values, parameters) -> None:
    for value, parameter in zip(values, parameters, strict=True):
        parameter.copy_(value)


__all__ = ["TRAINED_FILE", "AverageWeights", "SetDropPath"]
