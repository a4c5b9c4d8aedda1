"""The runs of a study on a Ray cluster, `study.py --scheduler ray`: one run a worker, lines written by this process.

Plain tasks, not Ray Tune: which runs there are follows from finished ones (further seeds at the best rate, refits), so
that there is no search space for Tune to draw from, and checkpoints and results are the study's own.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

from study_grid import Run
from study_runs import make_run

RETRIES = 3
"""How often a run is begun again, from its last checkpoint, when its worker was killed."""


def made_on_ray(study, cpus_per_run: float = 1, gpus_per_run: float = 0) -> Iterator[tuple[Run, dict]]:
    """Make the missing runs of a [`Study`], as many at once as the cluster has room for -> each with its line.

    The cluster is the one that `RAY_ADDRESS` names, else all of this machine. Its machines must share the folders that
    the study names, and have the packages of this one. The next runs are asked for when a line was taken in.

    Raises:
        ImportError: Ray is not installed.
        ray.exceptions.RayError: a run has raised, or its worker was killed more often than `RETRIES` times.
    """
    ray = _ray()
    # A process for each run: what the last one has left in memory is none of the next.
    make = ray.remote(num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_calls=1, max_retries=RETRIES)(_make)
    under_way: dict = {}
    while True:
        names = {run.name for run in under_way.values()}
        for run in study.missing():
            if run.name not in names:
                under_way[make.remote(os.getcwd(), *study.job(run))] = run
        if not under_way:
            return
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        yield under_way.pop(done), ray.get(done)


def _ray():
    try:
        import ray
    except ImportError as error:
        raise ImportError("`--scheduler ray` needs Ray: pip install 'ecg-hf[cluster]'.") from error
    if not ray.is_initialized():
        paths = [str(pathlib.Path(__file__).parent), *filter(None, sys.path)]
        variables = {"PYTHONPATH": os.pathsep.join(paths)}
        ray.init(runtime_env={"env_vars": variables}, include_dashboard=False, log_to_driver=False)
    return ray


def _make(folder: str, *job) -> dict:
    os.chdir(folder)  # paths of the study begin there
    return make_run(*job)


__all__ = ["RETRIES", "made_on_ray"]
