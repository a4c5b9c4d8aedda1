"""Paired differences between post-training and plain fine-tuning on the same records, by patient.

Each pair is kept as a line of `differences.jsonl` in the output folder, so that it outlives the predictions.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtri
from study_grid import BUDGET, Run, best_run, groups_of
from study_runs import PREDICTIONS, append_line, drop_cut_line, kept_folder, read_lines
from study_verdicts import FINETUNE, POST_TRAIN

from ecg_hf.intervals import MIN_PATIENTS, draw_halves, interval, number_groups
from ecg_hf.metrics import weighted_auroc_and_auprc

DIFFERENCES_FILE = "differences.jsonl"
NUM_HALVES = 1000
VALIDATION = "validation"


def write_differences(
    output_dir: str | os.PathLike,
    work_dir: pathlib.Path,
    runs: Sequence[Run],
    lines: Mapping[str, dict],
    split: str = VALIDATION,
) -> None:
    """Add the pairs at each method's own best rate whose predictions are kept and that have no line of `split` yet."""
    path = pathlib.Path(output_dir) / DIFFERENCES_FILE
    drop_cut_line(path)
    done = {(line["first"], line["second"]) for line in read_lines(path) if line.get("split", VALIDATION) == split}
    for first, second in _pairs(runs, lines):
        files = [kept_folder(work_dir, run) / PREDICTIONS.format(split=split) for run in (first, second)]
        if (first.name, second.name) in done or not all(file.is_file() for file in files):
            continue
        facts = {"task": first.task, "train_fraction": first.train_fraction, "seed": first.seed, "split": split}
        facts |= {BUDGET: first.setting.budget, "first": first.name, "second": second.name}
        append_line(path, {**facts, **compare(*map(load_predictions, files))})


def _pairs(runs: Sequence[Run], lines: Mapping[str, dict]) -> Iterator[tuple[Run, Run]]:
    groups = groups_of(runs)
    for (setting, method), group in groups.items():
        plain = groups.get((setting, FINETUNE))
        if method != POST_TRAIN or plain is None:
            continue
        best = best_run(group, lines), best_run(plain, lines)
        if None not in best:
            for seed in dict.fromkeys([run.seed for run in group] + list(group[0].seeds_at_best)):
                yield best[0].with_seed(seed), best[1].with_seed(seed)


def load_predictions(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """What `study_runs.save_predictions` wrote."""
    with np.load(path) as arrays:
        return dict(arrays)


def compare(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], n_halves: int = NUM_HALVES) -> dict:
    """`first` - `second` in macro AUROC and AUPRC, each `{"value", "low", "high"}`, and `num_patients`.

    The standard error is that of `ecg_hf.metrics.bootstrap_metrics`: random halves of the patients without
    replacement, the same for both. The 95 % interval is symmetrical round the difference, which may have either sign;
    it is for other patients and the same two models, and says nothing of other seeds. Without ends below 20 patients.

    Raises `ValueError` where the two are not of the same records and labels.
    """
    order = [np.argsort(side["ecg_ids"]) for side in (first, second)]
    labels = [side["labels"][rows] for side, rows in zip((first, second), order, strict=True)]
    ids = [side["ecg_ids"][rows] for side, rows in zip((first, second), order, strict=True)]
    if not np.array_equal(*ids) or not np.array_equal(*labels):
        raise ValueError("The two predictions must be of the same records with the same labels: make both runs again.")
    patients = number_groups(first["patients"][order[0]], len(labels[0]))
    logits = [side["logits"][rows] for side, rows in zip((first, second), order, strict=True)]
    num_patients = int(patients.max()) + 1
    values = _differences(labels[0], *logits, np.ones((1, len(patients))))[:, 0]
    halves = np.concatenate(
        [_differences(labels[0], *logits, drawn) for drawn in draw_halves(patients, n_halves, seed=0)], axis=1
    )
    half = num_patients // 2
    errors = np.nanstd(halves, axis=1, ddof=1) * math.sqrt(half / (num_patients - half))
    margins = ndtri(0.975) * errors if num_patients >= MIN_PATIENTS else [None, None]
    return {
        **{name: _around(*pair) for name, *pair in zip(("auroc", "auprc"), values, margins, strict=True)},
        "num_patients": num_patients,
    }


def _differences(labels: np.ndarray, first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(2, weightings): macro AUROC and AUPRC of `first` - `second`, over the labels with both classes."""
    sides = [weighted_auroc_and_auprc(labels, logits.astype(np.float64), weights) for logits in (first, second)]
    return np.array([np.nanmean(ours - theirs, axis=1) for ours, theirs in zip(*sides, strict=True)])


def _around(value: float, margin: float | None) -> dict[str, float | None]:
    return interval(value) if margin is None else interval(value, value - margin, value + margin)
