"""How long pre-training takes, measured before it begins."""

from __future__ import annotations

import math

from transformers import Trainer

from ..runs.progress import STAGE_TITLES
from ..runs.reports import num_steps
from ..runs.timing import can_measure, evaluation_seconds, passing_cache, step_seconds, steps_of_epoch, total_line


def probe_seconds(trainer: Trainer, steps_left: int, max_steps: int) -> float:
    """Seconds in which the probe reads the encoder within the last steps; its regression is not counted."""
    probe, every = trainer.probe, trainer.args.probe_every
    if probe is None or not every:
        return 0.0
    readings = math.ceil(steps_left / (steps_of_epoch(trainer) * every))
    return readings * sum(evaluation_seconds(trainer, windows) for windows in (probe.train, probe.evaluation))


def time_lines(trainer: Trainer) -> list[str]:
    """The lines of a plan; what is trained is a copy of the model, and nothing is left behind."""
    if not can_measure(trainer):
        return ["not measured by a dry run of several processes: the run says it after its first steps"]
    trainer.enter_stage("pretrain")
    steps = num_steps(trainer)
    with passing_cache(trainer):
        step, preparing = step_seconds(trainer)
    parts = {STAGE_TITLES["pretrain"]: steps * step}
    if trainer.probe is not None and trainer.args.probe_every:
        before_and_within = probe_seconds(trainer, steps, steps) + probe_seconds(trainer, 1, steps)
        parts["its linear probe"] = before_and_within
    return total_line(parts, preparing * len(trainer.train_dataset))


__all__ = ["probe_seconds", "time_lines"]
