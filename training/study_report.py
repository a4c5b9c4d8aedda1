"""The report of a study, `report.md`: verdicts, tables with every rate, figures, and what is missing of each.

All figures are of the validation fold, but for columns and rows that say test.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from study_differences import DIFFERENCES_FILE, VALIDATION
from study_figures import draw_dynamics, draw_efficiency, draw_gains, save
from study_grid import Run, cells_of, in_words, known_runs
from study_runs import read_lines, read_runs
from study_test_fold import TEST_FILE
from study_verdicts import (
    FINETUNE,
    METRIC_NAMES,
    POST_TRAIN,
    WITHOUT_PART,
    Grid,
    Setting,
    Verdict,
    beyond_chance,
    in_short,
    verdicts,
)

from ecg_hf.files import write_atomic

REPORT = "report.md"
METRICS = ("eval_macro_auroc", "eval_macro_auprc")
LEARNABLE_METRICS = ("learnable_macro_auroc", "learnable_macro_auprc")
PUBLISHED = {"auroc": 0.9254, "auprc": 0.3706}
"""Macro metrics of xresnet1d101 on all 71 statements, fold 10, PTB-XL 1.0.1 at 100 Hz, from the predictions that its
authors published (Strodthoff et al. 2021, arXiv 2004.13701)."""
STRATEGIES = {
    "scratch": "fine-tuning from random weights",
    "probe": "a linear head on the frozen encoder",
    "finetune": "plain fine-tuning of the encoder, new random head, no stochastic depth",
    "finetune+sd": "the same with stochastic depth",
    "probe+finetune": "probe, then fine-tuning without stochastic depth",
    "post_train": "probe, then fine-tuning with stochastic depth",
    "post_train+refit": "post_train, then the head fitted anew on its encoder",
    "task_specific": "a plain 1-D ResNet from random weights (`training/task_specific.py`)",
}
_LISTED = 12


def write_report(
    output_dir: str | os.PathLike, runs: Iterable[Run], lines: Mapping[str, dict] | None = None, figures: bool = True
) -> pathlib.Path:
    """Write `report.md`, and with `figures` what it shows, for the grid `runs`; `lines` are by name the finished ones,
    by default those of the folder."""
    return Report(output_dir, list(runs), lines, figures).write()


class Report:
    """What the sections of the report need."""

    def __init__(
        self, output_dir: str | os.PathLike, runs: list[Run], lines: Mapping[str, dict] | None, figures: bool
    ):
        self.folder, self.draws = pathlib.Path(output_dir), figures
        self.lines = {line["name"]: line for line in read_runs(output_dir)} if lines is None else lines
        self.runs = known_runs(runs, self.lines)
        self.grid = Grid(cells_of(runs, self.lines))
        self.tasks = list(dict.fromkeys(run.task for run in runs))
        # A refit follows what it starts from; otherwise the order of the file, whatever the cost of the runs.
        self.methods = list(dict.fromkeys(run.label for run in runs))

    def write(self) -> pathlib.Path:
        text = ["# Validation fold: macro AUROC / AUPRC, and the setting that was best there\n"]
        text += [self._state(), *self._strategies(), *self._verdicts()]
        for task in self.tasks:
            text += self._task(task)
        write_atomic(self.folder / REPORT, re.sub(r"\n{3,}", "\n\n", "\n".join(text)) + "\n")
        return self.folder / REPORT

    def methods_of(self, task: str) -> list[str]:
        return [method for method in self.methods if any((r.task, r.label) == (task, method) for r in self.runs)]

    def settings(self, task: str, *methods: str) -> list[Setting]:
        return [setting for setting in self.grid.settings(*methods) if setting.task == task]

    def finished(self, setting: Setting, method: str) -> list[dict]:
        return [self.lines[r.name] for r in self.runs if r.group == (setting, method) and r.name in self.lines]

    def _state(self) -> str:
        cells = [cell for key in self.grid.keys() for cell in self.grid.cells(*key)]
        done = [self.lines[run.name] for run in self.runs if run.name in self.lines]
        text = f"{len(done)} of {len(cells)} runs are finished"
        if reused := sum("reused_from" in line for line in done):
            text += f", {reused} of them in another study"
        if (rounded := sum(bool(line.get("bf16")) for line in done)) not in (0, len(done)):
            text += f"; {rounded} in bfloat16, the others in float32"
        if any(line.get("simulated") for line in done):
            text += ". **The records are simulated: figures and verdicts say nothing about ECGs of patients**"
        return f"{text}.\n"

    def _strategies(self) -> list[str]:
        known = [f"`{method}`: {STRATEGIES[method]}" for method in self.methods if method in STRATEGIES]
        return [f"{'; '.join(known)}.\n"] if known else []

    # ---- Verdicts ----

    def _verdicts(self) -> list[str]:
        found = verdicts(cell for key in self.grid.keys() for cell in self.grid.cells(*key))
        if not any(verdict.holds or verdict.fails or verdict.unfinished for verdict in found):
            return []  # a grid for another question
        text = ["## Verdicts\n", "By the rule in `training/study_verdicts.py`, which was set before the study.\n"]
        text += _table(["the paper's claim", "verdict"], [[v.claim, f"**{v.verdict}**"] for v in found])
        for verdict in found:
            text += [f"\n**{verdict.claim}: {verdict.verdict}.**\n", *_reasons(verdict)]
        return text

    # ---- A task ----

    def _task(self, task: str) -> list[str]:
        text = [f"\n## {task}\n", *self._methods_table(task)]
        text += self._published(task) + self._edges(task) + self._test(task)
        of_task = (task, self.methods_of(task), self._published_figures(task))
        text += self._figure(draw_efficiency, f"efficiency-{task}.png", "Label efficiency", self.grid, *of_task)
        text += self._gains(task)
        text += self._rates(task)
        text += self._ablation(task)
        text += self._dynamics(task)
        text += self._differences(task)
        return text

    def _figure(self, draw: Callable[..., Any], name: str, title: str, *arguments: Any) -> list[str]:
        figure = draw(*arguments) if self.draws else None
        if figure is None:
            return []
        save(figure, self.folder / name)
        return [f"\n![{title}]({name})"]

    def _methods_table(self, task: str) -> list[str]:
        settings = [setting for setting in self.settings(task) if setting.budget == 1]
        head = ["method", *(f"{setting.share:.0%} of the labels" for setting in settings)]
        rows, missing = [], []
        for method in self.methods_of(task):
            rows.append([method, *(self._best_in_words(setting, method) for setting in settings)])
            missing += self._missing(settings, method)
        text = [
            "In brackets: without labels that are the same in all training records of that share and cannot be "
            "learned.\n"
        ]
        return [*text, *_table(head, rows), *_missing_in_words(missing)]

    def _missing(self, settings: Iterable[Setting], method: str) -> list[str]:
        """For each setting that lacks runs of a method a phrase."""
        counts = {setting: self.grid.missing(setting, method) for setting in settings}
        return [
            f"{method}, {_column(setting)} ({count} of {len(self.grid.cells(setting, method))})"
            for setting, count in counts.items()
            if count
        ]

    def _best_in_words(self, setting: Setting, method: str) -> str:
        """The setting of the searched fields that is best on validation, in words; empty without a finished run."""
        best = self.grid.best(setting, method)
        if best is None:
            return ""
        group = [run for run in self.runs if run.group == (setting, method) and run.name in self.lines]
        chosen = [run for run in group if run.rate == best.rate]
        lines = [self.lines[run.name] for run in chosen]
        text = _in_words(_means(lines, METRICS))
        if len(lines) > 1:
            deviations = [np.std([line[metric] for line in lines], ddof=1) for metric in METRICS]
            text += f" (± {_in_words(deviations)}, {len(lines)} seeds)"
        if any(line["num_unlearnable"] for line in lines):
            text += f" [{_in_words(_means(lines, LEARNABLE_METRICS))}]"
        return text + "".join(f", {in_words({name: value})}" for name, value in chosen[0].searched.items())

    def _published_figures(self, task: str) -> dict[str, float] | None:
        of_patients = not any(line.get("simulated") for line in self.lines.values())
        return PUBLISHED if task == "all" and of_patients else None

    def _published(self, task: str) -> list[str]:
        if self._published_figures(task) is None:
            return []
        head = ["for comparison, **test** fold", "100% of the labels"]
        return ["", *_table(head, [["xresnet1d101, published (arXiv 2004.13701)", _in_words(PUBLISHED.values())]])]

    def _edges(self, task: str) -> list[str]:
        """Where the best rate is the lowest or highest that was tried."""
        found = []
        for setting in self.settings(task):
            for method in self.methods_of(task):
                rates = [rate for rate in self.grid.by_rate(setting, method) if not isinstance(rate, str)]
                best = self.grid.best(setting, method)
                if len(rates) > 1 and best.rate in (rates[0], rates[-1]):
                    found.append(f"{method}, {_column(setting)} ({best.rate:g})")
        text = "\nBest at the edge of the rates tried, so that a rate beyond may be better: "
        return [text + "; ".join(found) + "."] if found else []

    def _test(self, task: str) -> list[str]:
        path = self.folder / TEST_FILE
        if not path.is_file():
            return []
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for entry in content["runs"]:
            if entry["task"] == task:
                cells = [_interval_in_words(entry[name]) for name in ("macro_auroc", "macro_auprc")]
                cells.append(_in_words(entry["validation"]))
                rows.append([entry["method"], entry["name"].rpartition("-")[2], *cells])
        if not rows:
            return []
        text = f"\n**Test fold**, read once, on {content['date']} at commit `{content['commit']}`, all labels"
        if (unread := len(content["chosen"]) - len(content["runs"])) > 0:
            text += f" ({unread} of the {len(content['chosen'])} runs that were chosen then are not read yet)"
        head = ["method", "seed", "macro AUROC", "macro AUPRC", "validation, the same model"]
        return [f"{text}:\n", *_table(head, rows)]

    def _gains(self, task: str) -> list[str]:
        settings = self.settings(task, FINETUNE, POST_TRAIN)
        if not settings:
            return []
        text = [f"\n### {task}: gain of post-training over plain fine-tuning\n"]
        text += self._figure(draw_gains, f"gain-{task}.png", "Map of the gain", self.grid, task)
        missing = [phrase for method in (FINETUNE, POST_TRAIN) for phrase in self._missing(settings, method)]
        return [*text, *_missing_in_words(missing)]

    def _rates(self, task: str) -> list[str]:
        text = [f"\n### {task}: every rate\n", "Means over the seeds in brackets, where there are several.\n"]
        for setting in self.settings(task):
            methods = [name for name in self.methods_of(task) if self.grid.cells(setting, name)]
            methods = [name for name in methods if any(cell.rate for cell in self.grid.cells(setting, name))]
            if not methods:
                continue
            rates = {
                cell.rate for name in methods for cell in self.grid.cells(setting, name) if cell.rate == cell.rate
            }
            rows = []
            for rate in sorted(rates, key=lambda rate: (isinstance(rate, str), rate)):
                rows.append([in_short(rate), *(self._rate_in_words(setting, name, rate) for name in methods)])
            missing = [phrase for name in methods for phrase in self._missing([setting], name)]
            text += [f"\n{_column(setting)}:\n", *_table(["rate", *methods], rows), *_missing_in_words(missing)]
        return text

    def _rate_in_words(self, setting: Setting, method: str, rate: float | str) -> str:
        cells = [cell for cell in self.grid.cells(setting, method) if cell.rate == rate]
        scores = [cell.scores for cell in cells if cell.scores is not None]
        if not scores:
            return "missing" if cells else ""
        text = _in_words([np.mean([s.auroc for s in scores]), np.mean([s.auprc for s in scores])])
        return text + (f" ({len(scores)})" if len(scores) > 1 else "")

    # ---- Ablation, dynamics, differences ----

    def _ablation(self, task: str) -> list[str]:
        parts = {POST_TRAIN: "both parts", **{method: f"without {part}" for part, method in WITHOUT_PART.items()}}
        parts[FINETUNE] = "neither"
        settings = [setting for setting in self.settings(task, POST_TRAIN, FINETUNE) if setting.budget == 1]
        methods = [name for name in parts if name in self.methods_of(task)]
        if len(methods) < 3:
            absent = [name for name in WITHOUT_PART.values() if name not in methods]
            return [f"\n### {task}: ablation\n", f"The grid lacks {' and '.join(absent)}."] if settings else []
        rows, missing = [], []
        for setting in settings:
            rows.append([_column(setting), *(self._against_whole(setting, name) for name in methods)])
            missing += [phrase for name in methods for phrase in self._missing([setting], name)]
        head = ["share", *(f"{parts[name]} (`{name}`)" for name in methods)]
        text = "Each at its own best rate; in brackets the difference to both parts, * where it is beyond chance.\n"
        return [f"\n### {task}: ablation\n", text, *_table(head, rows), *_missing_in_words(missing)]

    def _against_whole(self, setting: Setting, method: str) -> str:
        best, whole = self.grid.best(setting, method), self.grid.best(setting, POST_TRAIN)
        if best is None:
            return "missing"
        text = _in_words([best.mean("auroc"), best.mean("auprc")])
        if method == POST_TRAIN or whole is None:
            return text
        differences = []
        for metric in METRIC_NAMES:
            mark = "*" if beyond_chance(best, whole, metric, paired=True) else ""
            differences.append(f"{best.mean(metric) - whole.mean(metric):+.3f}{mark}")
        return f"{text} ({' / '.join(differences)})"

    def _curves(self, task: str) -> dict[Setting, dict[str, list]]:
        """The curves at the own best rates, of settings where a run of both methods has one."""
        curves: dict[Setting, dict[str, list]] = {}
        for setting in self.settings(task, FINETUNE, POST_TRAIN):
            found = {}
            for method in (FINETUNE, POST_TRAIN):
                best = self.grid.best(setting, method)
                group = [run for run in self.runs if run.group == (setting, method) and run.name in self.lines]
                lines = [self.lines[run.name] for run in group if run.rate == best.rate] if best else []
                found[method] = [line["curve"] for line in lines if line.get("curve")]
            if all(found.values()):
                curves[setting] = found
        return curves

    def _dynamics(self, task: str) -> list[str]:
        if not (settings := self.settings(task, FINETUNE, POST_TRAIN)):
            return []
        curves = self._curves(task)
        text = [f"\n### {task}: learning dynamics\n"]
        if curves:
            text.append(
                "Both at their own best rates. Steps until plain fine-tuning's best validation macro AUROC is first "
                "reached, by itself and by post-training (after its probe), medians over the seeds that have curves; "
                "spread: standard deviation of the final macro AUROC over seeds.\n"
            )
            rows = [self._dynamics_row(setting, curves[setting]) for setting in curves]
            text += _table(["share", FINETUNE, POST_TRAIN, f"spread, {FINETUNE}", f"spread, {POST_TRAIN}"], rows)
        text += self._figure(draw_dynamics, f"dynamics-{task}.png", "Validation during training", curves, task)
        lacking = [_column(setting) for setting in settings if setting not in curves]
        return text + ([f"\nNo curves of both methods are kept of: {'; '.join(lacking)}."] if lacking else [])

    def _dynamics_row(self, setting: Setting, curves: Mapping[str, list]) -> list[str]:
        target = float(np.median([max(auroc for _, auroc, _ in curve) for curve in curves[FINETUNE]]))
        steps = [_steps_until(target, curves[method]) for method in (FINETUNE, POST_TRAIN)]
        return [_column(setting), *steps, *(self._spread(setting, method) for method in (FINETUNE, POST_TRAIN))]

    def _spread(self, setting: Setting, method: str) -> str:
        values = [scores.auroc for scores in self.grid.best(setting, method).scores.values()]
        return f"{np.std(values, ddof=1):.4f} ({len(values)} seeds)" if len(values) > 1 else "one seed"

    def _differences(self, task: str) -> list[str]:
        rows = []
        for line in read_lines(self.folder / DIFFERENCES_FILE):
            if line["task"] == task:
                setting = Setting(task, line["train_fraction"], line["budget"])
                cells = [_interval_in_words(line[metric], sign="+") for metric in METRIC_NAMES]
                rows.append([line.get("split", VALIDATION), _column(setting), str(line["seed"]), *cells])
        if not rows:
            return []
        text = f"\n### {task}: {POST_TRAIN} - {FINETUNE} on the same patients\n"
        note = "Own best rates, same seed, with 95 % intervals over patients; they do not contain other seeds.\n"
        return [text, note, *_table(["fold", "share", "seed", *METRIC_NAMES.values()], rows)]


def _reasons(verdict: Verdict) -> list[str]:
    groups = {"holds": verdict.holds, "does not hold": verdict.fails, "not yet decided": verdict.unfinished}
    text = [f"- {title}: {sentence}" for title, sentences in groups.items() for sentence in sentences]
    if verdict.same_rate:
        title = "at the same rate for both, which does not decide, within or above the range"
        text.append(f"- {title}: {'; '.join(verdict.same_rate)}")
    return text or ["- the grid has no runs for this claim"]


def _steps_until(target: float, curves: Sequence[list]) -> str:
    reached = [next((step for step, auroc, _ in curve if auroc >= target), None) for curve in curves]
    steps = [step for step in reached if step is not None]
    if not steps:
        return "not reached"
    text = f"{np.median(steps):g} of {max(curve[-1][0] for curve in curves):g}"
    return text if len(steps) == len(reached) else f"{text} (by {len(steps)} of {len(reached)} seeds)"


def _missing_in_words(phrases: Sequence[str]) -> list[str]:
    if not phrases:
        return []
    more = f"; and {len(phrases) - _LISTED} more settings" if len(phrases) > _LISTED else ""
    return [f"\nMissing runs: {'; '.join(phrases[:_LISTED])}{more}."]


def _column(setting: Setting) -> str:
    return str(setting).removeprefix(f"{setting.task}, ").replace(" of the labels", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" if row else "|---" * len(head) + "|" for row in (head, [], *rows)]


def _means(lines: list[dict], metrics: Iterable[str]) -> list[float]:
    return [np.mean([line[metric] for line in lines]) for metric in metrics]


def _in_words(values: Iterable[float]) -> str:
    return " / ".join(_without_zero(value) for value in values)


def _without_zero(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _interval_in_words(interval: Mapping[str, float | None], sign: str = "") -> str:
    text = f"{interval['value']:{sign}.3f}"
    return text if interval["low"] is None else f"{text} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"
