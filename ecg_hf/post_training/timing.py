"""How long post-training takes, part by part, measured before it begins."""

from __future__ import annotations

import contextlib
import copy
import time
import warnings

import datasets
import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import PredictionOutput

from ..runs.progress import STAGE_TITLES
from ..runs.reports import num_steps
from ..runs.timing import can_measure, evaluation_seconds, num_evaluations, passing_cache, step_seconds, total_line
from .checks import labels_of
from .features import CachedFeatures
from .lora import adapted
from .probe import PROBE_EVALUATIONS, fit_linear_probe, num_epochs

_FEW = 20  # resamples of the intervals that are measured


def stage_evaluations(trainer: Trainer, steps_left: int, max_steps: int) -> float:
    """Seconds of the evaluations within the last steps of a stage."""
    count = num_evaluations(trainer, steps_left, max_steps)
    if count == 0:
        return 0.0
    windows = trainer.evaluation_windows(trainer.eval_dataset, trainer.epoch_extractor)
    return count * evaluation_seconds(trainer, windows)


def time_lines(trainer: Trainer) -> list[str]:
    """The lines of a plan; what is trained is a copy of the model, and nothing is left behind."""
    if not can_measure(trainer):
        return ["not measured by a dry run of several processes: the run says it after its first steps"]
    parts, preparing = {}, 0.0
    # Of the records as they are: so the test records are read in any case.
    passes = {
        name: evaluation_seconds(trainer, trainer.evaluation_windows(dataset, trainer.processing_class))
        for name, dataset in trainer.splits().items()
    }
    for stage in trainer.args.stages:
        if stage == "probe":
            parts[STAGE_TITLES[stage]] = passes["train"] + passes["validation"] + _fit_seconds(trainer)
        else:
            parts[STAGE_TITLES[stage]], preparing = _gradient_seconds(trainer, stage)
    passes.pop("train")
    parts["evaluation"] = sum(passes.values()) + _interval_seconds(trainer)
    return total_line(parts, preparing)


def _gradient_seconds(trainer: Trainer, stage: str) -> tuple[float, float]:
    """Seconds of a stage of gradient descent, and of the preparation of the records that it trains on."""
    trainer.enter_stage(stage)
    steps = num_steps(trainer)
    with adapted(trainer.model, trainer.args) if stage == "lora" else contextlib.nullcontext(), passing_cache(trainer):
        step, preparing = step_seconds(trainer)
        evaluations = stage_evaluations(trainer, steps, steps)
    return steps * step + evaluations, preparing * len(trainer.train_dataset)


def _fit_seconds(trainer: Trainer) -> float:
    """Of the probe, on random features: from one epoch and one evaluation."""
    rng, hidden_size = np.random.default_rng(0), trainer.model.config.hidden_size
    splits = []
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        labels = labels_of(dataset, trainer.target.config.labels)
        counts = np.full(len(labels), _windows_of_a_record(trainer, dataset))
        splits.append(CachedFeatures(rng.random((counts.sum(), hidden_size), np.float32), counts, labels))
    args = copy.copy(trainer.args)
    args.probe_num_train_epochs, args.disable_tqdm = 1, True
    epoch = _seconds_of(fit_linear_probe, *splits, trainer.model.aggregate_windows, args, trainer.target)
    train, validation = splits
    logits, losses = _random_outputs(trainer, validation.labels), np.zeros(len(validation.labels))
    evaluation = _seconds_of(trainer.target.evaluation_metrics, validation.labels, logits, losses)
    epochs = num_epochs(trainer.args, len(train.features))
    return epochs * max(0.0, epoch - evaluation) + min(epochs, PROBE_EVALUATIONS) * evaluation


def _windows_of_a_record(trainer: Trainer, dataset: datasets.Dataset) -> int:
    batch = trainer.evaluation_windows(dataset, trainer.processing_class).__getitems__([0])
    return int(batch["window_mask"].sum())


def _interval_seconds(trainer: Trainer) -> float:
    """Of the metrics of validation and test records with their intervals: from few resamples of the former."""
    dataset, few, resamples = trainer.eval_dataset, 2 + _FEW, trainer.args.num_bootstrap_resamples
    labels = labels_of(dataset, trainer.target.config.labels)
    output = PredictionOutput(_random_outputs(trainer, labels), labels, {})
    least, more = (_seconds_of(trainer.target.split_metrics, dataset, output, count) for count in (2, few))
    num_records = sum(len(split) for name, split in trainer.splits().items() if name != "train")
    return (least + max(0.0, more - least) * resamples / _FEW) * num_records / len(dataset)


def _random_outputs(trainer: Trainer, labels: np.ndarray) -> np.ndarray:
    """(records, labels): what the model could answer, one window a record."""
    outputs = torch.from_numpy(np.random.default_rng(1).standard_normal((len(labels), 1, labels.shape[1]), np.float32))
    return trainer.model.aggregate_windows(outputs, torch.ones(outputs.shape[:2], dtype=torch.bool)).numpy()


def _seconds_of(function, *args) -> float:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run says it, of real figures
        function(*args)
    return time.perf_counter() - started


__all__ = ["stage_evaluations", "time_lines"]
