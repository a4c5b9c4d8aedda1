"""What a run prints on its way, on stderr: bars with names, and one line for each evaluation."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as library_logging

logger = logging.getLogger(__name__)

METRIC_NAMES = {
    **{"macro_auroc": "macro AUROC", "macro_auprc": "macro AUPRC", "f_max": "F max", "accuracy": "accuracy"},
    **{"mae": "mean absolute error", "rmse": "root mean squared error", "r2": "R²", "loss": "loss"},
}
STAGE_TITLES = {"probe": "Linear probe", "finetune": "Fine-tuning", "lora": "LoRA", "pretrain": "Pre-training"}

_SHOWN_MINUTES = 1
"""A time that is left is said from here on: what is shorter, the bar shows."""


class _BesideBars(logging.Handler):
    """Prints on stderr, above the bars that are there."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except OSError:  # the rule of logging: a line that finds no room ends no run
            self.handleError(record)


logger.addHandler(_BesideBars())
logger.setLevel(logging.INFO)
logger.propagate = False  # the lines are no warnings, which others collect


def say(text: str) -> None:
    """Print a text for people; `logging.getLogger("ecg_hf.runs.progress")` can be told to keep quiet."""
    logger.info(text)


def show_messages(args: TrainingArguments) -> None:
    """Show the messages of this package and of the library from `args.log_level` on; in processes beside the first one
    of a machine, which would repeat them, from `args.log_level_replica` on, and no bars."""
    if not args.should_log:
        repeat_nothing(args.get_process_log_level())
    elif args.log_level != "passive":
        _show_from(args.get_process_log_level())


def repeat_nothing(level: int = logging.ERROR) -> None:
    """Let a process that does what another one does show no bar of the library, and messages from this level on."""
    library_logging.disable_progress_bar()
    _show_from(level)


def _show_from(level: int) -> None:
    logging.getLogger(__name__.partition(".")[0]).setLevel(level)
    library_logging.set_verbosity(level)


@contextlib.contextmanager
def warned_once(trainer: Trainer) -> Iterator[None]:
    """A block that all processes run alike, and whose warnings the first one gives."""
    with warnings.catch_warnings():
        if not trainer.is_world_process_zero():
            warnings.simplefilter("ignore")
        yield


def title_of(stage: str) -> str:
    """What a stage is called; a `train()` of its own has no stage."""
    return STAGE_TITLES.get(stage, "Training")


def evaluation_line(trainer: Trainer, logs: dict[str, float]) -> str | None:
    """What an entry of the log says of an evaluation or a probe; None for another entry."""
    for prefix, title in (("eval_", "validation"), ("probe_", "linear probe")):
        figures = [
            f"{name} {logs[prefix + key]:.4g}" for key, name in METRIC_NAMES.items() if f"{prefix}{key}" in logs
        ]
        if figures:
            return f"{_place(trainer)}: {title} {', '.join(figures)}{_time_left(trainer)}"
    return None


def _place(trainer: Trainer) -> str:
    state = trainer.state
    epoch = f", epoch {state.epoch:.4g}" if state.epoch is not None else ""
    return f"{title_of(trainer.stage)}, step {state.global_step} of {state.max_steps}{epoch}"


def _time_left(trainer: Trainer) -> str:
    state = trainer.state
    if not 0 < state.global_step < state.max_steps:
        return ""
    minutes = trainer.stage_seconds() / state.global_step * (state.max_steps - state.global_step) / 60
    return f"; about {minutes:.0f} min left" if minutes >= _SHOWN_MINUTES else ""


def _loss_line(trainer: Trainer, logs: dict[str, float]) -> str:
    rate = f", learning rate {logs['learning_rate']:.2g}" if "learning_rate" in logs else ""
    return f"{_place(trainer)}: loss {logs['loss']:.4g}{rate}"


class Lines(TrainerCallback):
    """A line for each evaluation, and for each training loss that is logged; for runs without bars."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not self.trainer.is_in_train:
            return
        line = evaluation_line(self.trainer, logs)
        if line is None and "loss" in logs:
            line = _loss_line(self.trainer, logs)
        if line is not None:
            say(line)


class NamedBars(ProgressCallback):
    """The library's bars, with names, and the training loss in them; a line for each evaluation."""

    def __init__(self, trainer: Trainer):
        super().__init__()
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(title_of(self.trainer.stage))

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        is_new = self.prediction_bar is None
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)
        if is_new and self.prediction_bar is not None:
            self.prediction_bar.set_description("Evaluation")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        if (line := evaluation_line(self.trainer, logs)) is not None:
            say(line)
        elif "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4g}")


class LogLastStep(TrainerCallback):
    """Logs the last step, whatever `logging_steps`: the curve of a run ends where its training does."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step >= state.max_steps


def report_progress(trainer: Trainer) -> None:
    """Put these in place of what the library prints; a notebook keeps the library's table."""
    trainer.add_callback(LogLastStep())
    if trainer.pop_callback(PrinterCallback) is not None:
        trainer.add_callback(Lines(trainer))
    elif trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(NamedBars(trainer))


__all__ = [
    "METRIC_NAMES",
    "STAGE_TITLES",
    "evaluation_line",
    "repeat_nothing",
    "report_progress",
    "say",
    "show_messages",
    "title_of",
    "warned_once",
]
