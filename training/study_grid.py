"""The grid of a study: a YAML file (`training/configs/study*.yaml`) and the runs that it asks for."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from study_verdicts import Cell, Scores, Setting, best_rate, in_short
from task_specific import TaskSpecificArguments

from ecg_hf.cli import post_training_arguments
from ecg_hf.runs.arguments import check_is_number, number_fields

POST_TRAIN, TASK_SPECIFIC = "post_train", "task_specific"
EPOCHS = {POST_TRAIN: "num_train_epochs", TASK_SPECIFIC: "num_epochs"}
"""The argument of each trainer that a budget multiplies."""
_SCRIPTS = {POST_TRAIN: "train.py", TASK_SPECIFIC: "task_specific.py"}
BUDGET = "budget"

_NEEDED = ("tasks", "train_fractions", "seeds", "methods")
_OPTIONAL = ("common", "search", "by_fraction", "seeds_at_best", "parts", "keep", "reuse")
_OF_PARTS = ("tasks", "train_fractions", "seeds", "seeds_at_best", "methods", "search")
# What the study says itself of each run, and flags of other records than PTB-XL's.
_NOT_OF_A_GRID = (
    *("task", "train_fraction", "seed", "evaluate_test", "output_dir", "resume_from_checkpoint"),
    *("table", "test_table", "streaming"),
)
_OF_METHODS = ("search", "train_fractions", "seeds_at_best", "by_fraction", "trainer", "refit_of", "strategy")
_PROBE_EPOCHS = 2
"""What a probe costs, as a number of passes of fine-tuning over the records: for the order of the runs alone."""


@dataclass(frozen=True)
class Run:
    """A cell of the grid with one setting of the searched fields; `arguments` are flags of `training/train.py`.

    Of the trainer `task_specific` they are the fields of [`TaskSpecificArguments`]. `seeds_at_best` are the seeds that
    follow at the best rate. A run with `refit_of` starts from the finished run of that method and of its seed, at that
    method's best rate. `strategy` is what report and verdicts call the method, where that is another name.
    """

    task: str
    train_fraction: float
    method: str
    searched: Mapping[str, float]
    seed: int
    arguments: Mapping[str, Any]
    seeds_at_best: tuple[int, ...] = ()
    trainer: str = POST_TRAIN
    refit_of: str | None = None
    strategy: str | None = None

    @property
    def name(self) -> str:
        """A folder's name: `superdiagnostic-0.1-post-trained-learning_rate-0.001-seed-42`."""
        parts = [self.task, f"{self.train_fraction:g}", self.method]
        parts += [f"{field}-{in_short(value)}" for field, value in self.searched.items()] + [f"seed-{self.seed}"]
        return re.sub(r"[^\w.-]+", "-", "-".join(parts))

    @property
    def setting(self) -> Setting:
        return Setting(self.task, self.train_fraction, float(self.searched.get(BUDGET, 1)))

    @property
    def rate(self) -> float | str:
        """The value that was searched, beside the budget; of several, or of none, their names and values."""
        searched = {name: value for name, value in self.searched.items() if name != BUDGET}
        if len(searched) == 1 and not isinstance(value := next(iter(searched.values())), str):
            return value
        return in_words(searched)

    @property
    def group(self) -> tuple[Setting, str]:
        """Runs of one group differ in rate and seed."""
        return self.setting, self.label

    @property
    def label(self) -> str:
        return self.strategy or self.method

    @property
    def cost(self) -> float:
        """Passes over all training records, about."""
        epochs = self.arguments.get(EPOCHS[self.trainer], 3)
        # What a refit starts from may have to be made again.
        is_probe = self.arguments.get("stages") == ["probe"] and self.refit_of is None
        return self.train_fraction * (_PROBE_EPOCHS if is_probe else epochs)

    def with_seed(self, seed: int) -> Run:
        return dataclasses.replace(self, seed=seed, arguments={**self.arguments, "seed": seed})


def in_words(searched: Mapping[str, float | str]) -> str:
    """`learning rate 0.001, pooling mean`."""
    return ", ".join(f"{name.replace('_', ' ')} {in_short(value)}" for name, value in searched.items())


def read_grid(path: str | os.PathLike) -> dict[str, Any]:
    """The checked content of the file; errors as in [`read_study`]."""
    study = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    missing = [name for name in _NEEDED if name not in study]
    unknown = [name for name in study if name not in (*_NEEDED, *_OPTIONAL)]
    if missing or unknown:
        raise ValueError(
            f"`{path}` must have tasks, train_fractions, seeds and methods, and may have common, search, by_fraction, "
            f"seeds_at_best, parts, keep and reuse; missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(unknown) or 'none'}."
        )
    _check_shape(study)
    _check_numbers(study, path)
    _check_methods(study, path)
    _check_parts(study, path)
    return study


def read_study(path: str | os.PathLike) -> list[Run]:
    """The runs of a grid that are known before the first is made, the cheapest first.

    The file has `tasks`, `train_fractions`, `seeds`, `methods` (for each its flags), and optionally

    - `common` (flags of all) and `by_fraction` (flags of some fractions, and `seeds` where they need others);
    - `search`: flags with the values to try; the best on validation counts. `budget` multiplies the epochs;
    - `seeds_at_best`: further seeds, which are run at the best of the searched values alone;
    - `parts`: a list of grids that have some of tasks, train_fractions, seeds, seeds_at_best, methods (a list of
      names) and search of their own, and are run in place of the whole one;
    - `keep`: whether models and validation predictions of the best runs stay in the work folder;
    - `reuse`: files of finished runs of other studies, which count where arguments and weights are the same.

    A method may have `search`, `train_fractions`, `seeds_at_best` and `by_fraction` of its own; `trainer:
    task_specific` for the network of `training/task_specific.py`, whose fields are then its flags; `refit_of: NAME` to
    start from the final encoder of another method's run; and `strategy: NAME`, by which report and verdicts know it.

    Raises `ValueError` for a field or flag that does not exist or is missing, and for a share in `by_fraction` that
    the study lacks; `TypeError` for text where a number is expected, as YAML has it for 1e-3.
    """
    study = read_grid(path)
    runs: dict[str, Run] = {}
    for part in study.get("parts", [{}]):
        for run in _runs_of({**study, **part, "methods": _methods_of(study, part)}, study):
            first = runs.setdefault(run.name, run)
            if (first.method, first.arguments) != (run.method, run.arguments):
                raise ValueError(f"`{path}` asks for two different runs named {run.name}: rename one of the methods.")
    _check_refits(list(runs.values()))
    return sorted(runs.values(), key=lambda run: run.cost)


def _check_refits(runs: Sequence[Run]) -> None:
    """`ValueError` for a refit without a run to start from."""
    groups = groups_of(runs)
    for run in runs:
        group = groups.get((run.setting, run.refit_of), [])
        seeds = {seed for source in group for seed in (source.seed, *source.seeds_at_best)}
        if run.refit_of is not None and run.seed not in seeds:
            raise ValueError(
                f"{run.method} on {run.setting} with seed {run.seed} refits a run of {run.refit_of} that the grid "
                "lacks: give both the same shares, seeds and seeds_at_best."
            )


def _methods_of(study: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, dict]:
    methods = {name: dict(flags or {}) for name, flags in study["methods"].items()}
    if "search" in part:  # of the part, not of a method
        methods = {name: {**flags, "search": part["search"]} for name, flags in methods.items()}
    return {name: methods[name] for name in part.get("methods", methods)}


def _runs_of(part: Mapping[str, Any], study: Mapping[str, Any]) -> Iterator[Run]:
    for fraction, task, (method, flags) in itertools.product(
        sorted(part["train_fractions"]), part["tasks"], part["methods"].items()
    ):
        if fraction not in flags.get("train_fractions", part["train_fractions"]):
            continue
        trainer, refit_of = flags.get("trainer", POST_TRAIN), flags.get("refit_of")
        if refit_of is not None:
            refit_of = (study["methods"][refit_of] or {}).get("strategy", refit_of)
        of_fraction = dict(study.get("by_fraction", {}).get(fraction, {}))
        seeds = of_fraction.pop("seeds", part["seeds"])
        at_best = flags.get("seeds_at_best", part.get("seeds_at_best", []))
        given = {**study.get("common", {}), **of_fraction} if trainer == POST_TRAIN else {}
        given |= {name: value for name, value in flags.items() if name not in _OF_METHODS}
        given |= flags.get("by_fraction", {}).get(fraction, {})
        cell = {"task": task, "train_fraction": fraction, "method": method, "trainer": trainer, "refit_of": refit_of}
        cell["strategy"] = flags.get("strategy")
        if refit_of is not None:
            for seed in dict.fromkeys([*seeds, *at_best]):
                yield Run(searched={}, seed=seed, arguments=_arguments(given, cell, {}, seed), **cell)
            continue
        search = flags.get("search", part.get("search", {}))
        for values in itertools.product(*search.values()):
            searched = dict(zip(search, values, strict=True))
            for seed in seeds:
                arguments = _arguments(given, cell, searched, seed)
                more = tuple(other for other in at_best if other not in seeds)
                yield Run(searched=searched, seed=seed, arguments=arguments, seeds_at_best=more, **cell)


def _arguments(given: Mapping[str, Any], cell: Mapping[str, Any], searched: Mapping, seed: int) -> dict[str, Any]:
    arguments = {**given, "task": cell["task"], "train_fraction": cell["train_fraction"], "seed": seed, **searched}
    if (budget := arguments.pop(BUDGET, 1)) != 1:
        field = EPOCHS[cell["trainer"]]
        if field not in arguments or "max_steps" in arguments:
            raise ValueError(
                f"`{BUDGET}` multiplies `{field}`, which {cell['method']} at the share {cell['train_fraction']:g} "
                "must have, without `max_steps`."
            )
        epochs = arguments[field] * budget
        if epochs != int(epochs):
            raise ValueError(f"`{BUDGET}` {budget:g} of {arguments[field]} epochs is not a whole number of them.")
        arguments[field] = int(epochs)
    return arguments


def known_runs(runs: Sequence[Run], lines: Mapping[str, dict]) -> list[Run]:
    """`runs`, and those with `seeds_at_best` whose best rate the finished ones (`lines` by name) tell."""
    known = {run.name: run for run in runs}
    for group in groups_of(runs).values():
        if (best := best_run(group, lines)) is not None:
            known |= {(run := best.with_seed(seed)).name: run for seed in best.seeds_at_best}
    return sorted(known.values(), key=lambda run: run.cost)


def best_run(group: Sequence[Run], lines: Mapping[str, dict]) -> Run | None:
    """The run at the best rate with the first seed, once the search of the group is finished."""
    if any(run.name not in lines for run in group):
        return None
    rates: dict[Any, dict[int, Scores]] = {}
    for run in group:
        rates.setdefault(run.rate, {})[run.seed] = scores_of(lines[run.name])
    rate = best_rate(rates).rate
    return next(run for run in group if run.rate == rate)


def source_of(run: Run, runs: Sequence[Run], lines: Mapping[str, dict]) -> Run | None:
    """The finished run that a refit starts from; None while it is not known or not finished."""
    group = groups_of(runs).get((run.setting, run.refit_of), [])
    best = best_run(group, lines) if group else None
    source = None if best is None else best.with_seed(run.seed)
    return source if source is not None and source.name in lines else None


def is_ready(run: Run, runs: Sequence[Run], lines: Mapping[str, dict]) -> bool:
    return run.refit_of is None or source_of(run, runs, lines) is not None


def cells_of(runs: Sequence[Run], lines: Mapping[str, dict]) -> list[Cell]:
    """The grid with the scores of what is finished; also the seeds whose rate is not known yet, at rate NaN."""
    known = known_runs(runs, lines)
    cells = [
        Cell(*run.group, run.rate, run.seed, scores_of(lines[run.name]) if run.name in lines else None)
        for run in known
    ]
    for group in groups_of(runs).values():
        if best_run(group, lines) is None:
            cells += [Cell(*group[0].group, float("nan"), seed) for seed in group[0].seeds_at_best]
    return cells


def scores_of(line: Mapping[str, Any]) -> Scores:
    return Scores(line["eval_macro_auroc"], line["eval_macro_auprc"], line["learnable_macro_auroc"])


def groups_of(runs: Iterable[Run]) -> dict[tuple[Setting, str], list[Run]]:
    """By setting and method the runs, which then differ in rate and seed."""
    groups: dict[tuple[Setting, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups


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
    lists |= {name: study[name] for name in ("seeds_at_best", "parts", "reuse") if name in study}
    lists |= {f"{name}.{field}": values for name, search in searches.items() for field, values in search.items()}
    _check_are_lists(lists)


def _check_are_lists(lists: Mapping[str, Any]) -> None:
    for name, values in lists.items():
        may_be_empty = name.rpartition(".")[2] == "seeds_at_best"
        if not isinstance(values, list) or not (values or may_be_empty):
            raise ValueError(f"`{name}` must be a list of one or more values, such as [1, 2], got {values!r}.")


def _check_numbers(study: Mapping[str, Any], path: str | os.PathLike) -> None:
    by_fraction = study.get("by_fraction", {})
    seeds = {name: study[name] for name in ("seeds", "seeds_at_best") if name in study}
    for name, values in {"by_fraction": by_fraction, **seeds}.items():
        _check_are_numbers(name, values)
    _check_are_numbers("train_fractions", study["train_fractions"])
    if absent := sorted(set(by_fraction) - set(study["train_fractions"])):
        raise ValueError(
            f"`{path}` has settings for the shares {', '.join(map(str, absent))}, which are not among its "
            f"train_fractions {', '.join(map(str, study['train_fractions']))}."
        )
    for flags in (study.get("common", {}), *by_fraction.values(), study.get("search", {})):
        _check_flags(flags or {}, path)


def _check_are_numbers(name: str, values: Any) -> None:
    for value in values if isinstance(values, (list, dict)) else [values]:
        check_is_number(name, value)


def _check_flags(flags: Mapping[str, Any], path: str | os.PathLike, trainer: str = POST_TRAIN) -> None:
    """Flags of `training/train.py` or fields of `training/task_specific.py`, or in `search` lists of their values."""
    kinds = post_training_arguments() if trainer == POST_TRAIN else [TaskSpecificArguments]
    known = {item.name for kind in kinds for item in dataclasses.fields(kind)}
    numbers = set().union(*map(number_fields, kinds))
    for name, value in flags.items():
        if name == "search":
            _check_flags(value, path, trainer)
        elif name in _NOT_OF_A_GRID:
            raise ValueError(
                f"`{path}` must not have the flag {name}: a study gives each run its task, share, seed, folder "
                "and the records of PTB-XL."
            )
        elif name in numbers | {"train_fractions", "seeds", "seeds_at_best", BUDGET}:
            _check_are_numbers(name, value)
        elif name not in known:
            raise ValueError(f"`{path}` has a flag that `training/{_SCRIPTS[trainer]}` lacks: {name}.")


def _check_methods(study: Mapping[str, Any], path: str | os.PathLike) -> None:
    labels: dict[str, str] = {}
    for name, flags in study["methods"].items():
        flags = dict(flags or {})
        trainer, source = flags.pop("trainer", POST_TRAIN), flags.pop("refit_of", None)
        if (strategy := flags.pop("strategy", name)) in labels:
            raise ValueError(
                f"`methods.{name}` must be a strategy of its own, {strategy!r} is also {labels[strategy]}."
            )
        labels[strategy] = name
        if trainer not in EPOCHS:
            raise ValueError(f"`methods.{name}.trainer` must be one of {', '.join(EPOCHS)}, got {trainer!r}.")
        if source is not None and (source == name or source not in study["methods"]):
            raise ValueError(f"`methods.{name}.refit_of` must be another method of the grid, got {source!r}.")
        if source is not None and ("search" in flags or trainer != POST_TRAIN or not study.get("keep")):
            raise ValueError(
                f"`methods.{name}.refit_of` starts from the best run of {source}: the grid needs `keep: true`, and "
                "the method neither `search` nor another trainer."
            )
        for of_fraction in flags.pop("by_fraction", {}).values():
            _check_flags(of_fraction, path, trainer)
        _check_flags(flags, path, trainer)


def _check_parts(study: Mapping[str, Any], path: str | os.PathLike) -> None:
    for place, part in enumerate(study.get("parts", [])):
        if not isinstance(part, dict) or (unknown := sorted(set(part) - set(_OF_PARTS))):
            found = repr(part) if not isinstance(part, dict) else ", ".join(unknown)
            raise ValueError(f"`parts[{place}]` of `{path}` may have {', '.join(_OF_PARTS)}; got {found}.")
        _check_are_lists({f"parts[{place}].{name}": part[name] for name in part if name != "search"})
        _check_are_lists({f"parts[{place}].search.{name}": values for name, values in part.get("search", {}).items()})
        for name in ("tasks", "train_fractions", "methods"):
            if absent := [str(value) for value in part.get(name, []) if value not in study[name]]:
                raise ValueError(f"`parts[{place}].{name}` must be among the grid's {name}; not there: {absent[0]}.")
        _check_flags({name: part[name] for name in part if name in ("search", "seeds", "seeds_at_best")}, path)
