"""The test fold of a study: read once, for the runs that were chosen on validation."""

from __future__ import annotations

import datetime
import json
import pathlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from study_grid import POST_TRAIN, Run, best_run, groups_of
from study_runs import evaluate_kept, kept_folder, train_with_test

from ecg_hf.files import write_atomic

if TYPE_CHECKING:
    from study import Study

TEST_FILE = "test.json"
TESTED_SHARE = 1.0
FIGURES = ("macro_auroc", "macro_auprc")


def read_test_fold(study: Study) -> None:
    """Evaluate the chosen runs on fold 10 and write `test.json`.

    Chosen are, for each task and method at all labels and the whole budget, the runs at the best rate on validation,
    with all their seeds. Models that were not kept are made again before the fold is read; the network of
    `task_specific` is always made again, and read in the same go.

    Raises:
        FileExistsError: the fold was read before.
        ValueError: a run that has a part in the choice is missing, or there is none.
    """
    path = study.output_dir / TEST_FILE
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        raise FileExistsError(
            f"`{path}` is there: the test fold was read on {earlier['date']} at commit {earlier['commit']}. A second "
            "look would choose by it. For another study take another output folder."
        )
    chosen = _chosen_runs(study)
    for run in chosen:
        if run.trainer == POST_TRAIN:
            study.model_of(run)
    entries = [{"name": run.name, "task": run.task, "method": run.label, **_figures(study, run)} for run in chosen]
    content = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": _commit(), "runs": entries}
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def _chosen_runs(study: Study) -> list[Run]:
    chosen: list[Run] = []
    for (setting, _), group in groups_of(study.runs).items():
        if (setting.share, setting.budget) != (TESTED_SHARE, 1) or setting.task not in study.tasks:
            continue
        best = best_run(group, study.lines)
        seeds = dict.fromkeys([run.seed for run in group] + list(group[0].seeds_at_best))
        wanted = [] if best is None else [best.with_seed(seed) for seed in seeds]
        if best is None or any(run.name not in study.lines for run in wanted):
            raise ValueError(
                f"Runs of {group[0].label} on {setting} are missing, and the test fold is read once, after the last: "
                "finish the study, or take the method out of its grid."
            )
        chosen += wanted
    if not chosen:
        raise ValueError(f"The grid has no runs with all labels of {', '.join(study.tasks)}, which the test is for.")
    return chosen


def _figures(study: Study, run: Run) -> dict[str, Any]:
    """Macro AUROC and AUPRC with 95 % intervals by patient, and the number of records."""
    folder = study.work_dir / f"{run.name}-test"
    if run.trainer == POST_TRAIN:
        model = kept_folder(study.work_dir, run)
        metrics = evaluate_kept(run, model, folder, "test", study.machine_args, num_resamples=1000)
    else:
        metrics = train_with_test(run, folder, study.machine_args)
    shutil.rmtree(folder)
    return {"num_records": metrics["num_records"], **{name: metrics["intervals"][name] for name in FIGURES}}


def _commit() -> str:
    """Of the checkout that this file lies in."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
