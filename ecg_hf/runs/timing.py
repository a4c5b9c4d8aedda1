"""How long a run takes: from its first steps, or, of a dry run, from a few steps of a copy of the model."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from .progress import say, title_of
from .windows import RecordWindows

MEASURED_STEPS = 3
"""Of a dry run, after one that is not counted, in which memory is found and threads are started."""

FIRST_SECONDS, FIRST_STEPS = 5.0, 3
"""Of a run: its time is said after so many seconds of steps, and so many steps. A stage that is done by then needs no
such line."""

_EVALUATED = 16  # records of which one evaluation is measured


def duration(seconds: float) -> str:
    """Seconds in words of two digits at most: 45 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{max(1, seconds):.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.2g} h" if seconds < 99.5 * 3600 else f"{seconds / 3600:.0f} h"


def num_evaluations(trainer: Trainer, steps_left: int, max_steps: int) -> int:
    """Evaluations in the last steps of a stage of gradient descent, as the library plans them."""
    args = trainer.args
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return math.ceil(steps_left / steps_of_epoch(trainer))
    if args.eval_strategy == IntervalStrategy.STEPS:
        every = args.eval_steps if args.eval_steps >= 1 else math.ceil(args.eval_steps * max_steps)
        return math.ceil(steps_left / every)
    return 0


def steps_of_epoch(trainer: Trainer) -> int:
    """Optimizer steps of one pass over the records, as the library counts them."""
    args = trainer.args
    batches = len(trainer.train_dataset) / (args.train_batch_size * args.world_size)
    batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return max(1, math.ceil(batches / args.gradient_accumulation_steps))


# ---- A dry run ----


def can_measure(trainer: Trainer) -> bool:
    """Whether a dry run can say how long the run takes: one process alone holds the model as it is trained."""
    return trainer.args.world_size == 1 and not trainer.is_fsdp_enabled


@contextlib.contextmanager
def passing_cache(trainer: Trainer) -> Iterator[None]:
    """A block in which records are prepared in a folder that is removed afterwards."""
    args = trainer.args
    before = args.prepared_cache
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        args.prepared_cache = folder
        try:
            yield
        finally:
            args.prepared_cache = before


def step_seconds(trainer: Trainer) -> tuple[float, float]:
    """(seconds of an optimizer step, seconds in which one record is prepared), on real batches and a copy of the
    model."""
    args = trainer.args
    size = args.train_batch_size
    started = time.perf_counter()
    records = _some(trainer.train_dataset, size * (1 + MEASURED_STEPS))
    windows = trainer.training_windows(records)
    preparing = (time.perf_counter() - started) / len(records) if getattr(windows, "prepared", None) else 0.0
    keys = itertools.cycle(trainer.training_sampler(len(windows), size))
    model = _copy_in_training(trainer)
    optimizer, trainer.optimizer = trainer.create_optimizer(model), None
    trainer.current_gradient_accumulation_steps = 1  # by which the library divides a loss
    making, computing = [], []
    title = f"Measuring a step of {title_of(trainer.stage)}"
    for _ in tqdm(range(1 + MEASURED_STEPS), desc=title, disable=args.disable_tqdm, leave=False):
        started = time.perf_counter()
        batch = windows.__getitems__(list(itertools.islice(keys, min(size, len(windows)))))
        making.append(time.perf_counter() - started)
        trainer.training_step(model, batch)
        optimizer.step()
        optimizer.zero_grad()
        _wait_for(args.device)
        computing.append(time.perf_counter() - started - making[-1])
    make, compute = (float(np.mean(seconds[1:])) for seconds in (making, computing))
    workers = args.dataloader_num_workers
    seconds = max(compute, make / workers) if workers else make + compute
    return seconds * args.gradient_accumulation_steps, preparing


def _copy_in_training(trainer: Trainer) -> torch.nn.Module:
    args = trainer.args
    model = copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model)).to(args.device).train()
    if getattr(args, "drop_path_rate", None) is not None:
        model.set_drop_path_rate(args.drop_path_rate)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    return model


def _some(dataset, count: int):
    """At most `count` records, from everywhere in a data set; shards that are read while training, as they are."""
    if not isinstance(dataset, datasets.Dataset) or len(dataset) <= count:
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, count).astype(int))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- Evaluations ----


def evaluation_seconds(trainer: Trainer, windows: RecordWindows) -> float:
    """Seconds in which the encoder sees all windows of the records of an [`EvaluationWindows`], from those of some.

    The model is left as it is, and no random number is drawn.
    """
    encoder = trainer.accelerator.unwrap_model(trainer.model).base_model.to(trainer.args.device)
    was_training = [module for module in encoder.modules() if module.training]
    rows = np.unique(np.linspace(0, len(windows) - 1, _EVALUATED).astype(int))
    encoder.eval()
    try:
        _encode(trainer, encoder, windows, rows[:1])
        started = time.perf_counter()
        _encode(trainer, encoder, windows, rows)
        return (time.perf_counter() - started) * len(windows) / len(rows)
    finally:
        for module in was_training:
            module.training = True


@torch.no_grad()
def _encode(trainer: Trainer, encoder: torch.nn.Module, windows: RecordWindows, rows: np.ndarray) -> None:
    batch = windows.__getitems__(rows.tolist())
    mask = batch.pop("window_mask")
    inputs = {name: values[mask].to(encoder.device) for name, values in batch.items() if name != "labels"}
    with trainer.compute_loss_context_manager():
        encoder(**inputs)
    _wait_for(encoder.device)


# ---- A run ----


class FirstSteps(TrainerCallback):
    """Says once in each stage how long its steps take, after `FIRST_SECONDS` and `FIRST_STEPS` of them.

    The first is not counted, nor are those after an evaluation or a checkpoint, which begin before them.
    `evaluations(trainer, steps_left, max_steps)` gives the seconds of the evaluations that lie among these steps.
    """

    def __init__(self, trainer: Trainer, evaluations: Callable[[Trainer, int, int], float]):
        self.trainer = trainer
        self.evaluations = evaluations

    def on_train_begin(self, args, state, control, **kwargs):
        self._seconds, self._steps, self._last, self._is_over = 0.0, 0, None, False

    def _restart(self, args, state, control, **kwargs):
        self._last = None  # what lies between these two steps is no step

    on_epoch_begin = on_evaluate = on_save = _restart

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_over:
            return
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
            self._steps += 1
        self._last = now
        if self._seconds >= FIRST_SECONDS and self._steps >= FIRST_STEPS:
            self._is_over = True
            if state.is_world_process_zero and state.global_step < state.max_steps:
                self._say(state.max_steps - state.global_step, state.max_steps)

    def _say(self, steps_left: int, max_steps: int) -> None:
        seconds, without = self._seconds / self._steps * steps_left, ""
        if can_measure(self.trainer):
            seconds += self.evaluations(self.trainer, steps_left, max_steps)
        else:
            without = ", without evaluations"
        say(
            f"{title_of(self.trainer.stage)}: about {duration(seconds)} left{without}, for {steps_left:,} of "
            f"{max_steps:,} steps, measured on {self._steps}"
        )


def total_line(parts: dict[str, float], preparing: float) -> list[str]:
    """The lines of a plan: the seconds of its parts, and of what is done unless it is kept from an earlier run."""
    shown = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
    lines = [f"about {duration(sum(parts.values()))} on this machine, measured on {MEASURED_STEPS} steps: {shown}"]
    if preparing >= 1:
        lines.append(f"and {duration(preparing)} to prepare records that no earlier run has prepared")
    return lines


__all__ = [
    "FIRST_SECONDS",
    "FIRST_STEPS",
    "MEASURED_STEPS",
    "FirstSteps",
    "can_measure",
    "duration",
    "evaluation_seconds",
    "num_evaluations",
    "passing_cache",
    "step_seconds",
    "steps_of_epoch",
    "total_line",
]
