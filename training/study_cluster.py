"""A study on a cluster: each run of the grid of `training/study.py` is a job of Slurm, or a process of this machine.

Needs `pip install ecg-hf[cluster]` (submitit). At most `--num_workers` jobs are there at a time, each with one run.
The lines of finished runs go to the same `runs.jsonl`, whose report `training/study.py` writes; a job that was killed
begins again, and its run goes on from its last checkpoint. A stopped command goes on with the missing runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Sequence
from typing import Any

import yaml
from study import RUNS_FILE, Run, read_runs, read_study, run_study

logger = logging.getLogger(__name__)


def grid_of(run: Run) -> dict[str, Any]:
    """The grid of a study that has this run alone."""
    own = {name: value for name, value in run.arguments.items() if name not in run.searched}
    flags = {name: value for name, value in own.items() if name not in ("task", "train_fraction", "seed")}
    return {
        "tasks": [run.task],
        "train_fractions": [run.train_fraction],
        "seeds": [run.seed],
        "methods": {run.method: flags},
        "search": {name: [value] for name, value in run.searched.items()},
    }


def work(grid: dict[str, Any], folder: str, machine_args: dict[str, Any]) -> None:
    """What a job does: a study of one run, in a folder of its own."""
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / "study.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    run_study(place / "study.yaml", place, place / "work", **machine_args)


def run_on_cluster(
    executor: Any,
    config: str | os.PathLike,
    output_dir: str | os.PathLike,
    work_dir: str | os.PathLike,
    *,
    num_workers: int = 2,
    max_restarts: int = 3,
    seconds: float = 5.0,
    **machine_args: Any,
) -> pathlib.Path:
    """Carry out the missing runs of a study as jobs -> the report.

    Args:
        executor: of submitit.
        config, output_dir, machine_args: as for `run_study`.
        work_dir: where jobs keep their runs; a folder that all machines of the cluster see.
        num_workers: jobs at a time.
        max_restarts: how many times a run begins again after its job was killed.
        seconds: between two looks at the jobs.

    Raises:
        RuntimeError: runs failed, or were killed too often; they are named with the reason, after all others.
    """
    if num_workers < 1 or max_restarts < 0:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}; `max_restarts` at least 0.")
    output_dir, work_dir = pathlib.Path(output_dir), pathlib.Path(work_dir).absolute()
    run_study(config, output_dir, work_dir, tasks=[])  # finished runs must have the settings of this grid
    known = {line["name"] for line in read_runs(output_dir)}
    waiting = [(run, 0) for run in read_study(config) if run.name not in known]
    going: dict[str, tuple[Any, Run, int]] = {}
    failed: dict[str, str] = {}
    while waiting or going:
        while waiting and len(going) < num_workers:
            run, restarts = waiting.pop(0)
            job = executor.submit(work, grid_of(run), str(work_dir / run.name), machine_args)
            going[run.name] = (job, run, restarts)
            logger.warning(f"{run.name}: job {job.job_id}, {len(waiting)} runs wait")
        for name, (job, run, restarts) in list(going.items()):
            if not job.done():
                continue
            del going[name]
            if (error := job.exception()) is None:
                _take_over(output_dir, work_dir / name)
            elif _was_killed(error) and restarts < max_restarts:
                logger.warning(f"{name}: its job was killed, and begins again ({restarts + 1} of {max_restarts})")
                waiting.insert(0, (run, restarts + 1))
            else:
                failed[name] = _reason(error)
        if going:
            time.sleep(seconds)
    report = run_study(config, output_dir, work_dir, tasks=[])
    if failed:
        named = "\n".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RuntimeError(f"{len(failed)} runs have no result; the logs of their jobs tell more:\n{named}")
    return report


def _was_killed(error: Exception) -> bool:
    """Whether a job ended without a word, and not by an exception of the run."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    return isinstance(error, UncompletedJobError) and not isinstance(error, FailedJobError)


def _reason(error: Exception) -> str:
    """The last line of the traceback that submitit hands on among others, or all there is."""
    text = str(error).strip()
    raised = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return raised[-1] if raised else text


def _take_over(output_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """The line of a finished run, from the folder of its job."""
    (line,) = read_runs(folder)
    with open(output_dir / RUNS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    shutil.rmtree(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file of the grid, see `training/configs/study_*.yaml`")
    parser.add_argument("--data_dir", required=True, help="PTB-XL folder in PhysioNet's layout")
    parser.add_argument("--output_dir", required=True, help="where `runs.jsonl` and `report.md` go")
    parser.add_argument("--work_dir", required=True, help="where jobs keep their runs and logs, seen by all machines")
    parser.add_argument("--cache_dir", help="where `datasets` keeps the Arrow copy")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="by default Slurm where it is, else local")
    parser.add_argument("--num_workers", type=int, default=2, help="jobs at a time")
    parser.add_argument("--max_restarts", type=int, default=3, help="of a run whose job was killed")
    parser.add_argument("--minutes", type=int, default=24 * 60, help="limit of a job")
    parser.add_argument("--gpus", type=int, default=0, help="of a job")
    parser.add_argument("--cpus", type=int, default=2, help="of a job")
    parser.add_argument("--slurm_partition", help="of Slurm")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the device has it")
    arguments = vars(parser.parse_args(argv))
    import submitit

    # Jobs inherit the environment, and load `study` from it.
    scripts = [str(pathlib.Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(scripts)
    work_dir = pathlib.Path(arguments["work_dir"]).absolute()
    executor = submitit.AutoExecutor(work_dir / "logs", cluster=arguments.pop("cluster"))
    parameters = {
        "timeout_min": arguments.pop("minutes"),
        "gpus_per_node": arguments.pop("gpus"),
        "cpus_per_task": arguments.pop("cpus"),
    }
    partition = arguments.pop("slurm_partition")
    executor.update_parameters(**parameters, **({} if partition is None else {"slurm_partition": partition}))
    report = run_on_cluster(executor, disable_tqdm=True, **arguments)
    print(report.read_text(encoding="utf-8"))
    print(f"The runs and this report are in {report.parent}")


if __name__ == "__main__":
    main()
