"""A study whose runs are jobs, by an executor of the test's own: submitit's would load torch for each run."""

import json
import pathlib

import pytest
import study
import study_cluster
import yaml

GRID = {
    "tasks": ["superdiagnostic", "form"],
    "train_fractions": [0.1, 1.0],
    "seeds": [1, 2],
    "common": {"num_train_epochs": 1},
    "by_fraction": {0.1: {"per_device_train_batch_size": 8}},
    "search": {"learning_rate": [0.001]},
    "methods": {"plain": {"stages": ["finetune"]}},
}


class Killed(Exception):
    pass


class Job:
    """Is done at the second look."""

    job_id, looks = "1", 0

    def __init__(self, error):
        self.error = error

    def done(self):
        self.looks += 1
        return self.looks > 1

    def exception(self):
        return self.error


class Executor:
    """Runs a job when it is submitted; `faults` are the errors of a run's first jobs."""

    def __init__(self, faults):
        self.faults, self.submitted = faults, []

    def submit(self, function, grid, folder, machine_args):
        name = pathlib.Path(folder).name
        self.submitted.append(name)
        if faults := self.faults.get(name):
            return Job(faults.pop(0))
        function(grid, folder, machine_args)
        return Job(None)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    def results(run, folder, machine_args):
        folder.mkdir(parents=True)
        metrics = dict.fromkeys((*study.METRICS, *study.LEARNABLE_METRICS), 0.5)
        return {**metrics, "num_unlearnable": 0, "machine": machine_args}

    monkeypatch.setattr(study, "_results", results)
    monkeypatch.setattr(study_cluster, "_was_killed", lambda error: isinstance(error, Killed))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    return tmp_path / "grid.yaml"


def carry_out(executor, grid, **fields):
    places = {"output_dir": grid.parent / "out", "work_dir": grid.parent / "work", "seconds": 0}
    return study_cluster.run_on_cluster(executor, grid, **places, **{"use_cpu": True, **fields})


def test_each_run_is_a_job_and_a_killed_one_begins_again(grid):
    runs = study.read_study(grid)
    executor = Executor({runs[2].name: [Killed(), Killed()]})
    report = carry_out(executor, grid)
    assert len(runs) == 8 and sorted(executor.submitted) == sorted([run.name for run in runs] + [runs[2].name] * 2)
    lines = {line["name"]: line for line in study.read_runs(grid.parent / "out")}
    assert {name: line["arguments"] for name, line in lines.items()} == {run.name: run.arguments for run in runs}
    assert all(line["machine"] == {"use_cpu": True} for line in lines.values())
    assert ".500 / .500" in report.read_text()
    again = Executor({})
    assert carry_out(again, grid) == report and again.submitted == []
    # The study of one machine finds them, too.
    assert study.run_study(grid, grid.parent / "out", grid.parent / "work") == report


def test_runs_that_fail_are_named_after_all_others(grid):
    runs = study.read_study(grid)
    executor = Executor({runs[0].name: [ValueError("no such folder")], runs[1].name: [Killed("killed")] * 2})
    with pytest.raises(RuntimeError, match=rf"2 runs have no result(?s:.)*{runs[0].name}: no such folder"):
        carry_out(executor, grid, max_restarts=1)
    assert executor.submitted.count(runs[0].name) == 1 and executor.submitted.count(runs[1].name) == 2
    assert len((grid.parent / "out/runs.jsonl").read_text().splitlines()) == 6
    assert json.loads((grid.parent / "out/runs.jsonl").read_text().splitlines()[0])["name"]


def test_settings_that_changed_are_refused_before_a_job_begins(grid):
    carry_out(Executor({}), grid)
    grid.write_text(yaml.safe_dump(GRID | {"common": {"num_train_epochs": 2}}))
    executor = Executor({})
    with pytest.raises(ValueError, match="with other settings"):
        carry_out(executor, grid)
    with pytest.raises(ValueError, match="`num_workers` must be at least 1"):
        carry_out(executor, grid, num_workers=0)
    assert executor.submitted == []


def test_a_job_that_was_killed_is_told_from_one_that_failed():
    errors = pytest.importorskip("submitit.core.utils", reason="submitit is not installed: ecg-hf[cluster]")
    assert study_cluster._was_killed(errors.UncompletedJobError("gone"))
    assert not study_cluster._was_killed(errors.FailedJobError("ValueError"))
    assert not study_cluster._was_killed(OSError("full"))
