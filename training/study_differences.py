"""Paired differences between post-training and plain fine-tuning on the same records, by patient.

Each pair is kept as a line of `differences.jsonl` in the output folder, so that it outlives the predictions.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from study_grid import BUDGET, Run, best_run, groups_of
from study_runs import PREDICTIONS, append_line, drop_cut_line, kept_folder, read_lines
from study_verdicts import FINETUNE, POST_TRAIN

from ecg_hf.evaluation.measures import Areas, difference_intervals, halves_of
from ecg_hf.intervals import number_groups

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
    halves = [halves_of(Areas(), labels[0], side.astype(np.float64), patients, n_halves) for side in logits]
    found = difference_intervals(Areas(), *halves[::-1], num_patients)
    return {"auroc": found["macro_auroc"], "auprc": found["macro_auprc"], "num_patients": num_patients}
