"""The test fold of a study: read once, for the runs that were chosen on validation."""

from __future__ import annotations

import datetime
import json
import logging
import pathlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pandas as pd
from study_differences import write_differences
from study_grid import POST_TRAIN, Run, best_run, groups_of
from study_runs import evaluate_kept, kept_folder, save_predictions, train_with_test

from ecg_hf.files import json_text, write_atomic

if TYPE_CHECKING:
    from study import Study

logger = logging.getLogger(__name__)

TEST_FILE = "test.json"
TESTED_SHARE = 1.0
FIGURES = ("macro_auroc", "macro_auprc")


def read_test_fold(study: Study) -> None:
    """Evaluate the chosen runs on fold 10, each once, and write `test.json` after each.

    Chosen are, for each task and method at all labels and the whole budget, the runs at the best rate on validation,
    with all their seeds. Their names are written before the first is read, so that a reading that was stopped can go
    on with the others and choose nothing by what it has seen. Models that are kept are read first; the others are made
    again, and the network of `task_specific` always is.

    Raises:
        FileExistsError: all chosen runs were read before.
        ValueError: a run that has a part in the choice is missing, or there is none; the choice is another than that
            of the reading that was begun.
    """
    path = study.output_dir / TEST_FILE
    chosen = _chosen_runs(study)
    names = [run.name for run in chosen]
    content = _begun(path) or {"date": _today(), "commit": _commit(), "chosen": names, "runs": []}
    if content["chosen"] != names:
        raise ValueError(
            f"`{path}` was begun on {content['date']} with other runs than are chosen now: go on with the grid, the "
            f"lines and the `--tasks` of that day (commit {content['commit']}), or take another output folder."
        )
    is_read = {entry["name"] for entry in content["runs"]}
    unread = [run for run in chosen if run.name not in is_read]
    unread.sort(key=lambda run: not kept_folder(study.work_dir, run).is_dir())
    write_atomic(path, json_text(content))
    for number, run in enumerate(unread, start=1):
        logger.warning(f"Test fold, run {number} of {len(unread)}: {run.name}")
        entry = {"name": run.name, "task": run.task, "method": run.label, "date": _today(), **_figures(study, run)}
        content["runs"].append(entry)
        write_atomic(path, json_text(content))
        write_differences(study.output_dir, study.work_dir, study.runs, study.lines, "test")


def _begun(path: pathlib.Path) -> dict[str, Any] | None:
    """The reading that `path` holds and that can go on; None where there is no such file."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if len(content["runs"]) == len(content["chosen"]):
        raise FileExistsError(
            f"`{path}` is there: the test fold was read on {content['date']} at commit {content['commit']}. A second "
            "look would choose by it. For another study take another output folder."
        )
    return content


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
    """Macro AUROC and AUPRC with 95 % intervals by patient, the number of records, and what the same model has on
    validation: of one that was made again it differs a little from the run's line."""
    folder = study.work_dir / f"{run.name}-test"
    if run.trainer == POST_TRAIN:
        model = study.model_of(run)
        results = json.loads((model / "all_results.json").read_text(encoding="utf-8"))
        metrics = evaluate_kept(run, model, folder, "test", study.machine_args, num_resamples=1000)
        save_predictions(model, "test", pd.read_csv(folder / "predictions.csv"), study.machine_args["data_dir"])
    else:
        results, metrics = train_with_test(run, folder, study.machine_args)
    shutil.rmtree(folder)
    figures = {name: metrics["intervals"][name] for name in FIGURES}
    validation = [results[f"eval_{name}"] for name in FIGURES]
    return {"num_records": metrics["num_records"], **figures, "validation": validation}


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _commit() -> str:
    """Of the checkout that this file lies in."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"
