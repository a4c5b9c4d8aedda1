"""A study: one post-training run for each cell of a grid, judged on the validation fold, and a report of them.

The grid is a YAML file (`training/configs/study*.yaml`). Every finished run is a line of `runs.jsonl`; a study that
was stopped continues with the missing runs, the cheapest first. The report is made anew after each run, its figures
after the last: tables, and the verdicts of the paper's claims by the rule in `study_verdicts.py`.

The test fold is read by `--test` alone, once, when no run that it could choose is missing: it writes the choice into
`test.json`, then the figures of one run after another. A reading that was stopped goes on; one that is whole stays.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study_differences import write_differences
from study_grid import Run, best_run, groups_of, is_ready, known_runs, read_grid, read_study, source_of
from study_ray import made_on_ray
from study_report import write_report
from study_runs import (
    MODELS_FOLDER,
    RUNS_FILE,
    ReusedLines,
    append_line,
    drop_cut_line,
    keep,
    kept_folder,
    make_run,
    read_runs,
    train,
    weights,
)
from study_test_fold import read_test_fold

from ecg_hf.synthetic import simulate_ptbxl

logger = logging.getLogger(__name__)

DEMO_RECORDS = 300


class Study:
    """A grid, its finished runs, and where they are carried out.

    Args:
        config: the grid's YAML file.
        output_dir: where `runs.jsonl`, the report and its figures go.
        work_dir: where the run that is going on is kept, and with `keep: true` models and predictions.
        tasks: only the runs of these tasks. Two processes may work on different tasks of one study.
        machine_args: flags of this machine, not of the study (`data_dir`, `cache_dir`, `use_cpu`, `bf16`, ...).

    Raises:
        ValueError: a run of the same name was made with other settings, or from other weights; a task that the grid
            lacks.
    """

    def __init__(
        self,
        config: str | os.PathLike,
        output_dir: str | os.PathLike,
        work_dir: str | os.PathLike,
        tasks: Iterable[str] | None = None,
        **machine_args: Any,
    ):
        self.config, self.output_dir, self.work_dir = config, pathlib.Path(output_dir), pathlib.Path(work_dir)
        self.machine_args = machine_args
        grid = read_grid(config)
        self.keeps = grid.get("keep", False)
        self.runs = read_study(config)
        self.tasks = grid["tasks"] if tasks is None else list(tasks)
        if unknown := [task for task in self.tasks if task not in grid["tasks"]]:
            raise ValueError(f"`--tasks` must be among those of `{config}`, {', '.join(grid['tasks'])}: {unknown[0]}.")
        self._reused = ReusedLines(grid.get("reuse", []))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        drop_cut_line(self.output_dir / RUNS_FILE)
        self.lines = self._read_lines()

    def _read_lines(self) -> dict[str, dict]:
        """By name the finished runs of the grid, here and in other studies."""
        own = {line["name"]: line for line in read_runs(self.output_dir)}
        lines, known = dict(own), known_runs(self.runs, own)
        while True:
            lines = self._reused.of(known) | own
            # The finished runs tell the best rates, and these the runs with further seeds.
            if len(more := known_runs(self.runs, lines)) == len(known):
                break
            known = more
        for run in known:
            self._check_is_same(run, lines.get(run.name))
        return lines

    def _check_is_same(self, run: Run, line: Mapping[str, Any] | None) -> None:
        if line is not None and (line["arguments"], line["weights"]) != (run.arguments, weights(run)):
            raise ValueError(
                f"`{self.output_dir / RUNS_FILE}` has {run.name} with other settings or from other weights than "
                f"`{self.config}` asks for: choose another output folder, or remove that line."
            )

    def missing(self) -> list[Run]:
        """The runs of the chosen tasks that are known and not finished, the cheapest first; refits as they can begin,
        after all that is as cheap."""
        known = known_runs(self.runs, self.lines)
        return [
            run
            for run in known
            if run.name not in self.lines and run.task in self.tasks and is_ready(run, self.runs, self.lines)
        ]

    def carry_out(self) -> pathlib.Path:
        """Make all missing runs -> the report."""
        number = 0
        while wanted := self.missing():
            number += 1
            logger.warning(f"Run {number} of {number + len(wanted) - 1} that are known: {wanted[0].name}")
            self._take_in(wanted[0], make_run(*self.job(wanted[0])))
        return self.report()

    def carry_out_on_ray(self, cpus_per_run: float = 1, gpus_per_run: float = 0) -> pathlib.Path:
        """As [`carry_out`], by the workers of a Ray cluster; errors as in [`made_on_ray`]."""
        for number, (run, line) in enumerate(made_on_ray(self, cpus_per_run, gpus_per_run), start=1):
            self._take_in(run, line)
            logger.warning(f"{number} runs are finished, {len(self.missing())} are known and missing: {run.name}")
        return self.report()

    def job(self, run: Run) -> tuple:
        """The arguments of [`make_run`]."""
        return run, self.work_dir, self.machine_args, self._source(run), self.keeps

    def _take_in(self, run: Run, line: dict) -> None:
        append_line(self.output_dir / RUNS_FILE, line)
        self.lines = self._read_lines()
        shutil.rmtree(self.work_dir / run.name)
        self._forget_models()
        self.report(figures=False)

    def _source(self, run: Run) -> pathlib.Path | None:
        """The folder of the model that a refit starts from."""
        return None if run.refit_of is None else self.model_of(source_of(run, self.runs, self.lines))

    def model_of(self, run: Run) -> pathlib.Path:
        """The folder of a finished run's model. Where it was not kept, the run is made again, with the same arguments;
        on another machine, or in another precision, its figures differ a little from those of its line."""
        target = kept_folder(self.work_dir, run)
        if not target.is_dir():
            folder = self.work_dir / run.name
            logger.warning(f"The model of {run.name} is not in {target.parent}: the run is made again.")
            train(run, folder, self.machine_args, self._source(run))
            keep(run, folder, self.work_dir, self.machine_args)
            shutil.rmtree(folder)
        return target

    def _forget_models(self) -> None:
        """Of each finished search keep the models at the best rate."""
        for group in groups_of(self.runs).values():
            if (best := best_run(group, self.lines)) is not None:
                for run in group:
                    if run.rate != best.rate:
                        shutil.rmtree(kept_folder(self.work_dir, run), ignore_errors=True)

    def report(self, figures: bool = True) -> pathlib.Path:
        if (self.work_dir / MODELS_FOLDER).is_dir():
            write_differences(self.output_dir, self.work_dir, self.runs, self.lines)
        return write_report(self.output_dir, self.runs, self.lines, figures)

    def test(self) -> pathlib.Path:
        """Fill the test columns, once -> the report. Errors as in [`read_test_fold`]."""
        read_test_fold(self)
        return self.report()


def run_study(
    config: str | os.PathLike,
    output_dir: str | os.PathLike,
    work_dir: str | os.PathLike,
    tasks: Iterable[str] | None = None,
    **machine_args: Any,
) -> pathlib.Path:
    """Carry out the runs that are not finished -> the report; arguments and errors as in [`Study`]."""
    return Study(config, output_dir, work_dir, tasks, **machine_args).carry_out()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file of the grid, see `training/configs/study*.yaml`")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data_dir", help="PTB-XL folder in PhysioNet's layout")
    data.add_argument("--demo", action="store_true", help=f"{DEMO_RECORDS} simulated records, made in the work folder")
    parser.add_argument("--output_dir", required=True, help="where `runs.jsonl`, `report.md` and the figures go")
    parser.add_argument("--work_dir", required=True, help="where the run that is under way is kept, and models")
    parser.add_argument("--cache_dir", help="where `datasets` keeps the Arrow copy")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of the grid")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the device has it")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bars")
    _add_scheduler(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--report", action="store_true", help="only make the report, of the runs that are finished")
    what.add_argument("--list", action="store_true", help="only print the missing runs, in their order")
    what.add_argument("--test", action="store_true", help="read the test fold for the chosen runs: once, at the end")
    arguments = vars(parser.parse_args(argv))
    of_ray = _of_ray(parser, arguments)
    only = {name: arguments.pop(name) for name in ("report", "list", "test")}
    if arguments.pop("demo"):
        folder = pathlib.Path(arguments["work_dir"]) / "data"
        arguments["data_dir"] = str(simulate_ptbxl(folder, DEMO_RECORDS, sampling_rates=(100,)))
    elif arguments["data_dir"] is None and not (only["report"] or only["list"]):
        parser.error("runs need records: give --data_dir, or --demo")
    try:
        study = Study(**arguments)
    except (OSError, TypeError, ValueError) as error:  # of the grid, or of runs that are there
        parser.error(str(error))
    if only["list"]:
        print("\n".join(run.name for run in study.missing()))
        return
    if only["report"] or only["test"]:
        report = study.report() if only["report"] else study.test()
    else:
        report = study.carry_out() if of_ray is None else study.carry_out_on_ray(**of_ray)
    print(report.read_text(encoding="utf-8"))
    print(f"The runs and this report are in {report.parent}")


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scheduler", choices=["ray"], help="make runs side by side, on a cluster or on this machine")
    parser.add_argument("--cpus_per_run", type=float, help="of the scheduler: cores of a run (default: 1)")
    parser.add_argument("--gpus_per_run", type=float, help="of the scheduler: GPUs of a run (default: 0)")


def _of_ray(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> dict[str, float] | None:
    """What the runs need of a cluster; None without one."""
    given = {name: arguments.pop(name) for name in ("cpus_per_run", "gpus_per_run")}
    given = {name: value for name, value in given.items() if value is not None}
    if (scheduler := arguments.pop("scheduler")) is None and given:
        parser.error(f"`--{next(iter(given))}` is for runs on a cluster: give `--scheduler ray`, or leave it out.")
    if scheduler is not None and any(arguments[name] for name in ("report", "list", "test")):
        parser.error("`--scheduler` is for making runs: leave it out beside --report, --list and --test.")
    return None if scheduler is None else given


__all__ = ["Study", "main", "read_runs", "read_study", "run_study", "write_report"]

if __name__ == "__main__":
    main()
