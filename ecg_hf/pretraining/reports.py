"""What pre-training prints for people: a header, what it would do, and its figures at the end."""

from __future__ import annotations

import json
import os
import pathlib

from transformers import Trainer

from ..ptbxl.table import FOLDS
from ..runs.progress import METRIC_NAMES, STAGE_TITLES
from ..runs.reports import device_lines, gradient_line, group_lines, memory_lines, model_lines, section, table
from .timing import time_lines


def header(trainer: Trainer) -> str:
    """Model, records, device, steps, and where the files go."""
    args, probe = trainer.args, trainer.probe
    crops = f"{args.crops_per_record} crop{'s' if args.crops_per_record > 1 else ''} of each"
    data = [f"{trainer.data['name']}: {len(trainer.train_dataset):,} records, {crops}"]
    if trainer.reports is not None:
        data.append(
            f"{trainer.reports.in_words()}: their loss x {args.report_weight:g}, contrastive loss x "
            f"{args.contrastive_weight:g}"
        )
    if probe is not None:
        data.append(
            f"linear probe of {args.probe_task} every {args.probe_every} epochs: {len(probe.train):,} records, judged "
            f"on {len(probe.evaluation):,}{_of_learned_reports(trainer)}"
        )
    return "\n".join(
        [
            *section("Model", model_lines(trainer)),
            *section("Data", data),
            *section("Device", device_lines(trainer)),
            *section("Stages", [f"{STAGE_TITLES['pretrain']}: {gradient_line(trainer)}"]),
            *section("Output", [str(trainer.run_folder.path)]),
        ]
    )


def _of_learned_reports(trainer: Trainer) -> str:
    if trainer.reports is None or trainer.args.probe_fold not in FOLDS["train"]:
        return ""
    return f" of fold {trainer.args.probe_fold}, whose reports may be among those learned: `--probe_fold 9` is not"


def plan(trainer: Trainer) -> str:
    """The header of a dry run, with parameter groups, memory and time."""
    return "\n".join(
        [
            header(trainer),
            *section("Groups", group_lines(trainer)),
            *section("Memory", memory_lines(trainer)),
            *section("Time", time_lines(trainer)),
            "This was a dry run: nothing was trained or written. Leave `--dry_run` out to begin.",
        ]
    )


def results_text(folder: str | os.PathLike) -> str:
    """The figures of a finished run, from the files in its folder."""
    results, metrics = (
        json.loads((pathlib.Path(folder) / name).read_text(encoding="utf-8"))
        for name in ("all_results.json", "metrics.json")
    )
    figures = ", ".join(
        f"{name} {results[name]:.4g}" for name in ("loss", "word_loss", "accuracy", "feature_std") if name in results
    )
    lines = [f"{results['num_records']:,} records, {results['epochs']:.4g} epochs: {figures}"]
    if "probe" in metrics:
        probe = metrics["probe"]
        lines.append(f"Linear probe of {probe['task']} on {probe['num_records']:,} records of fold {probe['fold']}:")
        rows = [["", *(METRIC_NAMES[name] for name in probe["first"])]]
        rows += [[when, *(f"{value:.3f}" for value in probe[when].values())] for when in ("first", "last")]
        lines += table(rows)
    return "\n".join(lines)


__all__ = ["header", "plan", "results_text"]
