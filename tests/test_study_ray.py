"""A study on a Ray cluster: runs side by side, one writer, and a worker that is killed."""

import contextlib
import os
import signal
import sys
import threading
import time

import pytest
import study
from study import read_runs, read_study
from test_study import write_grid

EIGHT = {
    "train_fractions": [0.5, 1.0],
    "by_fraction": {},
    "search": {"learning_rate": [0.001, 0.003, 0.01]},
    "methods": {
        "plain": {"stages": ["finetune"], "drop_path_rate": 0.0},
        "probe": {"stages": ["probe"], "search": {"probe_learning_rate": [0.01]}},
    },
}


@pytest.fixture
def two_workers():
    ray = pytest.importorskip("ray", reason="Ray, the extra `cluster`, is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment()})
    yield
    ray.shutdown()


def environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def kill_a_worker(work, killed, end):
    """Kill one process of a run once it has begun a checkpoint."""
    import psutil

    while not killed and not end.is_set():
        time.sleep(0.2)
        if not list(work.glob("*/_stages")):
            continue
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::_make") and not killed:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)


@pytest.mark.timeout(600)
def test_two_workers_make_a_study_though_one_is_killed(simulated_folder, tmp_path, two_workers, whole_presets):
    grid = write_grid(tmp_path / "grid.yaml", **EIGHT)
    command = ["--config", str(grid), "--data_dir", str(simulated_folder), "--cache_dir", str(tmp_path / "cache")]
    command += ["--use_cpu", "--disable_tqdm"]
    places = ["--output_dir", str(tmp_path / "results"), "--work_dir", str(tmp_path / "work")]
    killed, end = [], threading.Event()
    watcher = threading.Thread(target=kill_a_worker, args=(tmp_path / "work", killed, end))
    watcher.start()
    try:
        study.main([*command, *places, "--scheduler", "ray"])
    finally:
        end.set()
        watcher.join()
    assert len(killed) == 1
    lines = read_runs(tmp_path / "results")
    assert len(lines) == 8 and {line["name"] for line in lines} == {run.name for run in read_study(grid)}
    assert not any((tmp_path / "work").iterdir())
    before = (tmp_path / "results/runs.jsonl").read_bytes()
    study.main([*command, *places, "--scheduler", "ray"])
    assert (tmp_path / "results/runs.jsonl").read_bytes() == before
    study.main([*command, "--output_dir", str(tmp_path / "alone"), "--work_dir", str(tmp_path / "work")])
    alone = {line["name"]: line["eval_macro_auroc"] for line in read_runs(tmp_path / "alone")}
    assert {line["name"]: line["eval_macro_auroc"] for line in lines} == alone


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cpus_per_run", "2"], "`--cpus_per_run` is for runs on a cluster"),
        (["--scheduler", "ray", "--list"], "`--scheduler` is for making runs"),
        (["--scheduler", "slurm"], "invalid choice: 'slurm'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, capsys, flags, message):
    grid = write_grid(tmp_path / "grid.yaml")
    places = ["--output_dir", str(tmp_path / "results"), "--work_dir", str(tmp_path / "work")]
    with pytest.raises(SystemExit):
        study.main(["--config", str(grid), "--data_dir", "x", *places, *flags])
    assert message in capsys.readouterr().err
