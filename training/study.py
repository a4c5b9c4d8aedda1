"""A study: one post-training run for each cell of a grid, judged on the validation fold, and a report of them.

The grid is a YAML file (`training/configs/study_*.yaml`). Every finished run is a line of `runs.jsonl`; a study that
was stopped continues with the missing runs. The test fold is never read.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from transformers import HfArgumentParser

from ecg_hf.cli import post_training_arguments
from ecg_hf.post_training.run import post_train
from ecg_hf.runs.arguments import check_is_number, number_fields

logger = logging.getLogger(__name__)

RUNS_FILE = "runs.jsonl"
REPORT = "report.md"
METRICS = ("eval_macro_auroc", "eval_macro_auprc")
LEARNABLE_METRICS = ("learnable_macro_auroc", "learnable_macro_auprc")
_FIELDS = ("common", "tasks", "train_fractions", "seeds", "methods", "search", "by_fraction")


@dataclass(frozen=True)
class Run:
    """A cell of the grid with one setting of the searched fields; `arguments` are flags of `training/train.py`."""

    task: str
    train_fraction: float
    method: str
    searched: Mapping[str, float]
    seed: int
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A folder's name: `superdiagnostic-0.1-post-trained-learning_rate-0.001-seed-42`."""
        parts = [self.task, f"{self.train_fraction:g}", self.method]
        parts += [f"{field}-{_in_short(value)}" for field, value in self.searched.items()] + [f"seed-{self.seed}"]
        return re.sub(r"[^\w.-]+", "-", "-".join(parts))


def _in_short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def read_study(path: str | os.PathLike) -> list[Run]:
    """The runs of a grid, the cheapest fractions first.

    The file has `tasks`, `train_fractions`, `seeds`, `methods` (for each its flags), and optionally `common` (flags of
    all), `by_fraction` (flags of some fractions, and `seeds` where they need others) and `search` (flags with the
    values to try; the best on validation counts). A method may have a `search` and `train_fractions` of its own.

    Raises `ValueError` for a field or flag that does not exist or is missing, and for a share in `by_fraction` that
    the study lacks; `TypeError` for text where a number is expected, as YAML has it for 1e-3.
    """
    study = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    missing = [name for name in ("tasks", "train_fractions", "seeds", "methods") if name not in study]
    unknown = [name for name in study if name not in _FIELDS]
    if missing or unknown:
        raise ValueError(
            f"`{path}` must have tasks, train_fractions, seeds and methods, and may have common, search and "
            f"by_fraction; missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
        )
    _check_shape(study)
    _check_numbers(study, path)
    cells = itertools.product(sorted(study["train_fractions"]), study["tasks"], study["methods"].items())
    runs = []
    for fraction, task, (method, flags) in cells:
        flags = dict(flags or {})
        if fraction not in flags.pop("train_fractions", study["train_fractions"]):
            continue
        search = flags.pop("search", study.get("search", {}))
        of_fraction = dict(study.get("by_fraction", {}).get(fraction, {}))
        seeds = of_fraction.pop("seeds", study["seeds"])
        for values in itertools.product(*search.values()):
            searched = dict(zip(search, values, strict=True))
            for seed in seeds:
                arguments = {**study.get("common", {}), **of_fraction, **flags}
                arguments |= {"task": task, "train_fraction": fraction, "seed": seed, **searched}
                runs.append(Run(task, fraction, method, searched, seed, arguments))
    return runs


def _check_shape(study: Mapping[str, Any]) -> None:
    """`ValueError` where the grid has one value instead of a list, of which a word would be read letter by letter."""
    methods = study["methods"]
    searches = {"search": study.get("search", {})}
    if isinstance(methods, dict):
        searches |= {f"methods.{name}.search": (flags or {}).get("search", {}) for name, flags in methods.items()}
    groups = {"methods": methods, "by_fraction": study.get("by_fraction", {}), **searches}
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise ValueError(f"`{name}` must hold `name: value` lines, got {group!r}.")
    lists = {name: study[name] for name in ("tasks", "train_fractions", "seeds")}
    lists |= {f"{name}.{field}": values for name, search in searches.items() for field, values in search.items()}
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"`{name}` must be a list of one or more values, such as [1, 2], got {values!r}.")


def _check_numbers(study: Mapping[str, Any], path: str | os.PathLike) -> None:
    by_fraction = study.get("by_fraction", {})
    for name, values in (("by_fraction", by_fraction), ("seeds", study["seeds"])):
        _check_are_numbers(name, values)
    _check_are_numbers("train_fractions", study["train_fractions"])
    if absent := sorted(set(by_fraction) - set(study["train_fractions"])):
        raise ValueError(
            f"`{path}` has settings for the shares {', '.join(map(str, absent))}, which are not among its "
            f"train_fractions {', '.join(map(str, study['train_fractions']))}."
        )
    groups = [study.get("common", {}), *by_fraction.values(), *study["methods"].values(), study.get("search", {})]
    for flags in groups:
        _check_flags(flags or {}, path)


def _check_are_numbers(name: str, values: Any) -> None:
    for value in values if isinstance(values, (list, dict)) else [values]:
        check_is_number(name, value)


def _check_flags(flags: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Flags of `training/train.py`, or in `search` lists of their values."""
    kinds = post_training_arguments()
    known = {item.name for kind in kinds for item in dataclasses.fields(kind)}
    numbers = set().union(*map(number_fields, kinds))
    for name, value in flags.items():
        if name == "search":
            _check_flags(value, path)
        elif name in numbers | {"train_fractions", "seeds"}:
            _check_are_numbers(name, value)
        elif name not in known:
            raise ValueError(f"`{path}` has a flag that `training/train.py` lacks: {name}.")


def run_study(
    config: str | os.PathLike,
    output_dir: str | os.PathLike,
    work_dir: str | os.PathLike,
    tasks: Iterable[str] | None = None,
    **machine_args: Any,
) -> pathlib.Path:
    """Carry out the runs that `<output_dir>/runs.jsonl` does not have yet -> the report.

    Args:
        config: the grid's YAML file.
        output_dir: where `runs.jsonl` and `report.md` go.
        work_dir: where the run that is going on is kept; a run that was stopped is resumed from there.
        tasks: only the runs of these tasks. Two processes may work on different tasks of one study.
        machine_args: flags of this machine, not of the study (`data_dir`, `cache_dir`, `use_cpu`, `bf16`, ...).

    Raises:
        ValueError: a run of the same name was made with other settings, or from other weights.
    """
    output_dir, work_dir = pathlib.Path(output_dir), pathlib.Path(work_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    runs = read_study(config)
    _drop_cut_line(output_dir / RUNS_FILE)
    finished = {line["name"]: line for line in read_runs(output_dir)}
    for run in runs:
        facts = {"arguments": run.arguments, "weights": _weights(run)}
        if run.name in finished and any(finished[run.name][name] != value for name, value in facts.items()):
            raise ValueError(
                f"`{output_dir / RUNS_FILE}` has {run.name} with other settings or from other weights than `{config}` "
                "asks for: choose another output folder, or remove that line."
            )
    wanted = [run for run in runs if run.name not in finished and (tasks is None or run.task in tasks)]
    for index, run in enumerate(wanted):
        logger.warning(f"Run {index + 1} of {len(wanted)}: {run.name}")
        folder = work_dir / run.name
        facts = {"weights": _weights(run), "bf16": machine_args.get("bf16", False)}
        line = {"name": run.name, **dataclasses.asdict(run), **facts, **_results(run, folder, machine_args)}
        with open(output_dir / RUNS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shutil.rmtree(folder)
        write_report(output_dir, runs)
    return write_report(output_dir, runs)


def _results(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        **run.arguments,
        **machine_args,
        "evaluate_test": False,
        "output_dir": str(folder),
        "resume_from_checkpoint": "true",
    }
    results = post_train(*HfArgumentParser(post_training_arguments()).parse_dict(fields))
    metrics = json.loads((folder / "metrics.json").read_text())
    return {**results, **_learnable_metrics(metrics["validation"]["per_label"], metrics["data"]["unlearnable_labels"])}


def _learnable_metrics(per_label: Mapping[str, dict], unlearnable: list[str]) -> dict[str, float]:
    """The macro metrics of the labels that the training records have in both classes, and the number of the others."""
    values = [value for label, value in per_label.items() if label not in unlearnable and value["auroc"] is not None]
    return {
        "num_unlearnable": len(unlearnable),
        "learnable_macro_auroc": float(np.mean([value["auroc"] for value in values])),
        "learnable_macro_auprc": float(np.mean([value["auprc"] for value in values])),
    }


def _weights(run: Run) -> str | None:
    """SHA-256 of the checkpoint that a run starts from; None for random weights and for one on the Hub."""
    folder = run.arguments.get("model_name_or_path")
    if folder is None or not (file := pathlib.Path(folder) / "model.safetensors").is_file():
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _drop_cut_line(path: pathlib.Path) -> None:
    """A kill can cut the last line off; what is added later must not follow its beginning."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def read_runs(output_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of `runs.jsonl`; none if there is no such file. A last line that was cut off is ignored."""
    path = pathlib.Path(output_dir) / RUNS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]


def write_report(output_dir: str | os.PathLike, runs: Iterable[Run]) -> pathlib.Path:
    """`report.md`: for each task a table of the methods at each fraction of the labels."""
    path = pathlib.Path(output_dir) / REPORT
    lines = {line["name"]: line for line in read_runs(output_dir)}
    cells = _cells([run for run in runs if run.name in lines], lines)
    text = [
        "# Validation fold: macro AUROC / AUPRC, and the setting that was best there\n",
        "In brackets: without labels that are the same in all training records of that share and cannot be learned.\n",
    ]
    for task in dict.fromkeys(run.task for run in runs):
        fractions = sorted({run.train_fraction for run in runs if run.task == task})
        text.append(f"\n## {task}\n")
        text.append("| method | " + " | ".join(f"{fraction:.0%} of the labels" for fraction in fractions) + " |")
        text.append("|---" * (len(fractions) + 1) + "|")
        for method in dict.fromkeys(run.method for run in runs if run.task == task):
            row = [cells.get((task, fraction, method), "") for fraction in fractions]
            text.append(f"| {method} | " + " | ".join(row) + " |")
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def _cells(runs: list[Run], lines: Mapping[str, dict]) -> dict[tuple[str, float, str], str]:
    """For each task, fraction and method the setting that is best on validation, in words."""
    settings: dict[tuple, dict[tuple, list[dict]]] = {}
    for run in runs:
        of_cell = settings.setdefault((run.task, run.train_fraction, run.method), {})
        of_cell.setdefault(tuple(run.searched.items()), []).append(lines[run.name])
    return {cell: _best(of_cell) for cell, of_cell in settings.items()}


def _best(settings: Mapping[tuple, list[dict]]) -> str:
    # What cannot be learned has the AUROC of a coin that all its labels share; it must not choose.
    best = max(settings, key=lambda setting: _means(settings[setting], LEARNABLE_METRICS)[0])
    lines = settings[best]
    text = _in_words(_means(lines, METRICS))
    if len(lines) > 1:
        deviations = [np.std([line[metric] for line in lines], ddof=1) for metric in METRICS]
        text += f" (± {_in_words(deviations)}, {len(lines)} seeds)"
    if any(line["num_unlearnable"] for line in lines):
        text += f" [{_in_words(_means(lines, LEARNABLE_METRICS))}]"
    return text + "".join(f", {name.replace('_', ' ')} {_in_short(value)}" for name, value in best)


def _means(lines: list[dict], metrics: Iterable[str]) -> list[float]:
    return [np.mean([line[metric] for line in lines]) for metric in metrics]


def _in_words(values: Iterable[float]) -> str:
    return " / ".join(_without_zero(value) for value in values)


def _without_zero(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file of the grid, see `training/configs/study_*.yaml`")
    parser.add_argument("--data_dir", required=True, help="PTB-XL folder in PhysioNet's layout")
    parser.add_argument("--output_dir", required=True, help="where `runs.jsonl` and `report.md` go")
    parser.add_argument("--work_dir", required=True, help="where the run that is under way is kept")
    parser.add_argument("--cache_dir", help="where `datasets` keeps the Arrow copy")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of the grid")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16, where the device has it")
    parser.add_argument("--disable_tqdm", action="store_true", help="no progress bars")
    report = run_study(**vars(parser.parse_args(argv)))
    print(report.read_text(encoding="utf-8"))
    print(f"The runs and this report are in {report.parent}")


if __name__ == "__main__":
    main()
