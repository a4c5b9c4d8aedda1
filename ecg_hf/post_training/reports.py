"""What post-training prints for people: a header, what it would do, and the table of its metrics at the end."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from transformers import Trainer

from ..cards import describe_data
from ..ecg_transformer.common_ecg_transformer import REGRESSION, SINGLE_LABEL
from ..runs.progress import METRIC_NAMES, STAGE_TITLES
from ..runs.reports import device_lines, gradient_line, group_lines, memory_lines, model_lines, section, table
from .checks import labels_of
from .lora import adapted
from .probe import PROBE_EPOCHS, PROBE_STEPS
from .timing import time_lines

SHOWN_IN_HEADER = 10
SHOWN_IN_TABLE = 20


def header(trainer: Trainer) -> str:
    """Model, data with the positives of each split, device, stages, and where the files go."""
    return "\n".join(
        [
            *section("Model", model_lines(trainer)),
            *section("Data", _data_lines(trainer)),
            *section("Device", device_lines(trainer)),
            *section("Stages", [_stage_line(trainer, stage) for stage in trainer.args.stages]),
            *section("Output", [str(trainer.run_folder.path)]),
        ]
    )


def plan(trainer: Trainer) -> str:
    """The header of a dry run, with the parameter groups and the memory of its last stage, and the time of all."""
    lines = [header(trainer)]
    last = trainer.args.stages[-1]
    if last != "probe":
        trainer.enter_stage(last)
        with adapted(trainer.model, trainer.args) if last == "lora" else nullcontext():
            lines += section("Groups", group_lines(trainer))
            lines += section("Memory", memory_lines(trainer))
    else:
        lines += section("Memory", memory_lines(trainer))
    lines += section("Time", time_lines(trainer))
    return "\n".join([*lines, "This was a dry run: nothing was trained or written. Leave `--dry_run` out to begin."])


def _data_lines(trainer: Trainer) -> list[str]:
    splits, labels = trainer.splits(), trainer.target.config.labels
    kinds = {REGRESSION: "targets", SINGLE_LABEL: "classes"}
    what = "known values" if trainer.target.config.problem_type == REGRESSION else "positives"
    matrices = {name: labels_of(dataset, labels) for name, dataset in splits.items()}
    counts = {
        name: (~np.isnan(values) if what == "known values" else values == 1).sum(axis=0)
        for name, values in matrices.items()
    }
    # The most frequent ones in the order of the model.
    shown = sorted(np.argsort(-counts["train"], kind="stable")[:SHOWN_IN_HEADER])
    rows = [["", "records", *(labels[index] for index in shown)]]
    rows += [[name, len(dataset), *(counts[name][index] for index in shown)] for name, dataset in splits.items()]
    more = f", of which the {len(shown)} most frequent" if len(shown) < len(labels) else ""
    kind = kinds.get(trainer.target.config.problem_type, "labels")
    return [f"{describe_data(splits)['name']}: {len(labels)} {kind}; records and {what}{more}", *table(rows)]


def _stage_line(trainer: Trainer, stage: str) -> str:
    args = trainer.args
    if stage != "probe":
        trainer.enter_stage(stage)
        return f"{STAGE_TITLES[stage]}: {gradient_line(trainer)}"
    epochs = f"{args.probe_num_train_epochs} epochs"
    if args.probe_num_train_epochs is None:
        epochs = f"{PROBE_EPOCHS} epochs, and at least {PROBE_STEPS:,} steps,"
    return (
        f"{STAGE_TITLES[stage]} of the frozen encoder: {epochs} of {args.probe_train_batch_size} windows, learning "
        f"rate {args.probe_learning_rate:g}"
    )


# ---- At the end ----


def results_text(folder: str | os.PathLike) -> str:
    """The table of a finished run, from the files in its folder: test metrics, or, without a test, validation."""
    folder = pathlib.Path(folder)
    metrics, config = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "config.json")
    )
    for split in ("test", "validation"):
        if split in metrics:
            return results_table(split, metrics[split], config["problem_type"])
    return "No label has both a positive and a negative among test and validation records: there are no metrics."


def results_table(split: str, metrics: Mapping[str, Any], problem_type: str) -> str:
    """The mean of the labels and each of them, at most twenty, with 95 % intervals; `metrics` of `metrics.json`."""
    if problem_type == REGRESSION:
        names, count, title = ("mae", "rmse", "r2"), "num_known", "mean"
    else:
        names, count, title = ("auroc", "auprc"), "num_positive", "macro"
    counts = {label: values[count] for label, values in metrics["per_label"].items()}
    shown = sorted(counts, key=lambda label: -counts[label])[:SHOWN_IN_TABLE]
    rows = [["", count.removeprefix("num_").replace("positive", "positives"), *map(_title, names)]]
    prefix = "" if problem_type == REGRESSION else "macro_"
    rows.append([title, None, *(_of_macro(metrics["intervals"][f"{prefix}{name}"]) for name in names)])
    for label in (label for label in counts if label in shown):
        values = metrics["per_label"][label]
        rows.append([label, counts[label], *(_figure(values[name], values.get(f"{name}_interval")) for name in names)])
    lines = [f"{split.capitalize()}: {metrics['num_records']:,} records; in brackets 95 % intervals", *table(rows)]
    if problem_type == SINGLE_LABEL:
        lines.insert(1, f"accuracy {_of_macro(metrics['intervals']['accuracy'])}")
    if hidden := len(counts) - len(shown):
        lines.append(f"{hidden} labels with fewer positives are in metrics.json.")
    return "\n".join(lines)


def _title(name: str) -> str:
    return METRIC_NAMES.get(name, name.upper())


def _of_macro(interval: Mapping[str, float | None]) -> str:
    ends = None if interval["low"] is None else (interval["low"], interval["high"])
    return _figure(interval["value"], ends)


def _figure(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" + ("" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]")


__all__ = ["header", "plan", "results_table", "results_text"]
