"""The rule by which the study judges the paper's four claims (arXiv 2509.12991, version 2), set before its runs.

The claims, for PTB-XL, post-training against plain fine-tuning of the same Transformer: macro AUROC is higher by 0.7
to 8.9 %, macro AUPRC by 23.3 to 77.9 %; with 30 % of the labels post-training beats the baseline with 100 %; both
parts, the probe before fine-tuning and stochastic depth in it, matter.

**Settings.** A setting is a task, a share of the labels and a budget (1: the steps that the grid gives that share).
All figures are of the validation fold, macro over all labels with both classes there. Within a setting each method is
taken at its own best learning rate: the highest mean macro AUROC, over the seeds that all its rates have, of the
labels that the training records have in both classes. A gain is the relative one of the means over seeds, in percent.

**Chance.** A difference counts if it exceeds two standard errors over seeds where both methods have three seeds or
more (of the differences of equal seeds within a setting, whose records are the same; of two independent means between
settings), else if it exceeds .005 in AUROC or .01 in AUPRC. Two standard errors of three seeds are a low hurdle: of
normal differences without any effect 18 % pass it, half of them upwards (t distribution, two degrees of freedom).

**A claim holds at a setting**

1. and 2. *gain in AUROC, in AUPRC*: if post-training is better beyond chance, and the gain is at least the claimed
   range's lower end. A gain above the range supports the claim and is said to be above it. The claim's own settings
   are those with all labels and budget 1, one for each task; the others (fewer labels, other budgets) are conditions.
3. *30 % beat 100 %*: if post-training at 30 % is better beyond chance than plain fine-tuning at 100 %, in AUROC and in
   AUPRC, for a task, both with budget 1. Being better in one of the two and not worse in the other is a condition.
4. *both parts matter*: if taking either part away (`finetune+sd` lacks the probe, `probe+finetune` stochastic depth)
   makes post-training worse beyond chance in AUROC or AUPRC, and better beyond chance in neither; budget 1. That each
   part matters, but at different settings, is a condition.

**Verdicts.**

- *confirmed*: the claim holds at all of its own settings;
- *confirmed under stated conditions*: not that, but it holds at some setting or condition, which is named;
- *not confirmed*: it holds nowhere;
- *not yet decided*: a setting that could still change the verdict lacks runs, or the grid has no setting of the claim.

A setting with missing runs says neither yes nor no; a verdict that no missing run can change is given, with the
settings that are open. Gains at the same rate for both methods are listed where they reach the range, since they show
when the claim is seen, but do not decide: a rate that is bad for the baseline proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

FINETUNE, POST_TRAIN = "finetune", "post_train"
WITHOUT_PART = {"the probe": "finetune+sd", "stochastic depth": "probe+finetune"}
RANGES = {"auroc": (0.7, 8.9), "auprc": (23.3, 77.9)}  # percent
METRIC_NAMES = {"auroc": "macro AUROC", "auprc": "macro AUPRC"}
MARGIN_OF_ONE_SEED = {"auroc": 0.005, "auprc": 0.01}
MIN_SEEDS = 3
STANDARD_ERRORS = 2
SMALL_SHARE = 0.3

CONFIRMED = "confirmed"
CONDITIONALLY = "confirmed under stated conditions"
NOT_CONFIRMED = "not confirmed"
UNDECIDED = "not yet decided"


class Scores(NamedTuple):
    """Validation metrics of a run; `choice` is the AUROC of the learnable labels, which chooses the learning rate."""

    auroc: float
    auprc: float
    choice: float


class Setting(NamedTuple):
    task: str
    share: float
    budget: float = 1.0

    def __str__(self) -> str:
        steps = "" if self.budget == 1 else f", {self.budget:g} times the steps"
        return f"{self.task}, {self.share * 100:g} % of the labels{steps}"


@dataclass(frozen=True)
class Cell:
    """A run of the grid; `scores` are None as long as it is missing."""

    setting: Setting
    method: str
    rate: float | str
    seed: int
    scores: Scores | None = None


@dataclass(frozen=True)
class Verdict:
    """Sentences on the settings where a claim holds, fails or lacks runs, and on gains at one rate for both."""

    claim: str
    verdict: str
    holds: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    same_rate: list[str] = field(default_factory=list)


class Best(NamedTuple):
    """A method in a setting at its best rate, with the scores of each seed."""

    rate: float | str
    scores: dict[int, Scores]

    def mean(self, metric: str) -> float:
        return float(np.mean([getattr(scores, metric) for scores in self.scores.values()]))


def verdicts(cells: Iterable[Cell]) -> list[Verdict]:
    """The verdicts of the four claims from the runs of a grid, finished or missing (see the module for the rule)."""
    grid = Grid(cells)
    return [_gain(grid, "auroc"), _gain(grid, "auprc"), _data_efficiency(grid), _ablation(grid)]


class Grid:
    """The cells by setting, method and rate."""

    def __init__(self, cells: Iterable[Cell]):
        self._cells: dict[tuple[Setting, str], list[Cell]] = {}
        for cell in cells:
            self._cells.setdefault((cell.setting, cell.method), []).append(cell)

    def settings(self, *methods: str) -> list[Setting]:
        """Those in which the grid has all `methods`."""
        all_settings = dict.fromkeys(setting for setting, _ in self._cells)
        return sorted(setting for setting in all_settings if all((setting, name) in self._cells for name in methods))

    def keys(self) -> list[tuple[Setting, str]]:
        return list(self._cells)

    def cells(self, setting: Setting, method: str) -> list[Cell]:
        return self._cells.get((setting, method), [])

    def missing(self, setting: Setting, *methods: str) -> int:
        return sum(cell.scores is None for method in methods for cell in self.cells(setting, method))

    def by_rate(self, setting: Setting, method: str) -> dict[float | str, dict[int, Scores]]:
        """The finished runs: for each rate the scores of its seeds."""
        rates: dict[float | str, dict[int, Scores]] = {}
        for cell in self.cells(setting, method):
            if cell.scores is not None:
                rates.setdefault(cell.rate, {})[cell.seed] = cell.scores
        return dict(sorted(rates.items()))

    def best(self, setting: Setting, method: str) -> Best | None:
        """None without a finished run."""
        return best_rate(self.by_rate(setting, method))


def best_rate(rates: dict[float | str, dict[int, Scores]]) -> Best | None:
    """The rate with the highest mean `choice` over the seeds that all rates have; of equals the lowest rate."""
    if not rates:
        return None
    common = set.intersection(*(set(seeds) for seeds in rates.values()))

    def choice(rate: float | str) -> float:
        return float(np.mean([scores.choice for seed, scores in rates[rate].items() if seed in common or not common]))

    rate = max(sorted(rates), key=choice)
    return Best(rate, rates[rate])


def relative_gain(better: Best, worse: Best, metric: str) -> float:
    """In percent of the mean of `worse`."""
    return 100 * (better.mean(metric) / worse.mean(metric) - 1)


def beyond_chance(first: Best, second: Best, metric: str, paired: bool) -> int:
    """1 if `first` is better than `second` by more than chance gives, -1 if it is worse, 0 if neither."""
    values = [{seed: getattr(scores, metric) for seed, scores in best.scores.items()} for best in (first, second)]
    if paired and (common := sorted(values[0].keys() & values[1].keys())):
        values = [{seed: side[seed] for seed in common} for side in values]
    difference = np.mean(list(values[0].values())) - np.mean(list(values[1].values()))
    margin = MARGIN_OF_ONE_SEED[metric]
    if min(map(len, values)) >= MIN_SEEDS:
        margin = STANDARD_ERRORS * _standard_error(*values, paired)
    return 0 if abs(difference) <= margin else int(math.copysign(1, difference))


def _standard_error(first: dict[int, float], second: dict[int, float], paired: bool) -> float:
    if paired and first.keys() == second.keys():
        differences = [first[seed] - second[seed] for seed in first]
        return float(np.std(differences, ddof=1) / math.sqrt(len(differences)))
    return math.sqrt(sum(np.var(list(side.values()), ddof=1) / len(side) for side in (first, second)))


def decide(own: Sequence[bool | None], conditions: Sequence[bool | None]) -> str:
    """The verdict from whether a claim holds at its own settings and at conditions; None where runs are missing."""
    if own and all(own):
        return CONFIRMED
    if False not in own:
        return UNDECIDED
    if any(own) or any(conditions):
        return CONDITIONALLY
    return UNDECIDED if None in (*own, *conditions) else NOT_CONFIRMED


@dataclass
class _Findings:
    """Collects a claim's sentences while its settings are judged."""

    holds: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def add(self, holds: bool, text: str) -> bool:
        (self.holds if holds else self.fails).append(text)
        return holds

    def verdict(self, claim: str, own: Sequence[bool | None], conditions: Sequence[bool | None], **more) -> Verdict:
        return Verdict(claim, decide(own, conditions), self.holds, self.fails, self.unfinished, **more)

    def is_open(self, grid: Grid, *needed: tuple[Setting, str]) -> bool:
        missing = {str(setting): 0 for setting, _ in needed}
        for setting, method in needed:
            missing[str(setting)] += grid.missing(setting, method)
        self.unfinished += [
            f"{setting}: {_count(count, 'run')} missing" for setting, count in missing.items() if count
        ]
        return any(missing.values())


def _gain(grid: Grid, metric: str) -> Verdict:
    low, high = RANGES[metric]
    findings, own, conditions, same_rate = _Findings(), [], [], []
    for setting in grid.settings(FINETUNE, POST_TRAIN):
        holds = None
        if not findings.is_open(grid, (setting, FINETUNE), (setting, POST_TRAIN)):
            plain, post_trained = grid.best(setting, FINETUNE), grid.best(setting, POST_TRAIN)
            holds = findings.add(*_judge_gain(setting, plain, post_trained, metric))
        (own if (setting.share, setting.budget) == (1, 1) else conditions).append(holds)
        same_rate += _gains_at_same_rate(grid, setting, metric)
    claim = f"{METRIC_NAMES[metric]} is higher by {low:g} to {high:g} %"
    return findings.verdict(claim, own, conditions, same_rate=same_rate)


def _judge_gain(setting: Setting, plain: Best, post_trained: Best, metric: str) -> tuple[bool, str]:
    gain = relative_gain(post_trained, plain, metric)
    real = beyond_chance(post_trained, plain, metric, paired=True)
    seeds = len(plain.scores.keys() & post_trained.scores.keys())
    text = (
        f"{setting}: {gain:+.1f} % ({_place(gain, metric)}; {_CHANCE[real]}, {_count(seeds, 'seed')}), rates "
        f"{in_short(plain.rate)} and {in_short(post_trained.rate)}"
    )
    return real > 0 and gain >= RANGES[metric][0], text


def _gains_at_same_rate(grid: Grid, setting: Setting, metric: str) -> list[str]:
    plain, post_trained = grid.by_rate(setting, FINETUNE), grid.by_rate(setting, POST_TRAIN)
    texts = []
    for rate in sorted(plain.keys() & post_trained.keys()):
        holds, _ = _judge_gain(setting, Best(rate, plain[rate]), Best(rate, post_trained[rate]), metric)
        if holds:
            gain = relative_gain(Best(rate, post_trained[rate]), Best(rate, plain[rate]), metric)
            texts.append(f"{setting}, rate {in_short(rate)}: {gain:+.1f} % ({_place(gain, metric)})")
    return texts


def _data_efficiency(grid: Grid) -> Verdict:
    findings, own, conditions = _Findings(), [], []
    for task, small, whole in _pairs_of_shares(grid):
        if findings.is_open(grid, (small, POST_TRAIN), (whole, FINETUNE)):
            own.append(None)
            conditions.append(None)
            continue
        post_trained, plain = grid.best(small, POST_TRAIN), grid.best(whole, FINETUNE)
        better = {metric: beyond_chance(post_trained, plain, metric, paired=False) for metric in RANGES}
        figures = "; ".join(
            f"{METRIC_NAMES[metric]} {post_trained.mean(metric):.3f} against {plain.mean(metric):.3f}, {_CHANCE[sign]}"
            for metric, sign in better.items()
        )
        own.append(min(better.values()) > 0)
        conditions.append(_is_better(better))
        findings.add(_is_better(better), f"{task}: {figures}")
    return findings.verdict("30 % of the labels beat 100 % for plain fine-tuning", own, conditions)


def _pairs_of_shares(grid: Grid) -> list[tuple[str, Setting, Setting]]:
    wholes = [setting for setting in grid.settings(FINETUNE) if (setting.share, setting.budget) == (1, 1)]
    pairs = [(whole.task, Setting(whole.task, SMALL_SHARE), whole) for whole in wholes]
    return [pair for pair in pairs if grid.cells(pair[1], POST_TRAIN)]


def _ablation(grid: Grid) -> Verdict:
    findings = _Findings()
    methods = (POST_TRAIN, *WITHOUT_PART.values())
    settings = [setting for setting in grid.settings(*methods) if setting.budget == 1]
    matters: dict[str, list[bool | None]] = {part: [] for part in WITHOUT_PART}
    for setting in settings:
        is_open = findings.is_open(grid, *((setting, method) for method in methods))
        for part, method in WITHOUT_PART.items():
            if is_open:
                matters[part].append(None)
            else:
                whole, without = grid.best(setting, POST_TRAIN), grid.best(setting, method)
                matters[part].append(findings.add(*_judge_part(setting, part, whole, without)))
    own = [_both(values) for values in zip(*matters.values(), strict=True)]
    somewhere = [_any(values) for values in matters.values()]
    return findings.verdict("both the probe and stochastic depth matter", own, [_both(somewhere)] if settings else [])


def _judge_part(setting: Setting, part: str, whole: Best, without: Best) -> tuple[bool, str]:
    signs = {metric: beyond_chance(whole, without, metric, paired=True) for metric in RANGES}
    figures = "; ".join(
        f"{METRIC_NAMES[metric]} {whole.mean(metric):.3f} with, {without.mean(metric):.3f} without, {_CHANCE[sign]}"
        for metric, sign in signs.items()
    )
    return _is_better(signs), f"{setting}, {part}: {figures}"


def _is_better(signs: dict[str, int]) -> bool:
    """In one metric or both, and worse in neither."""
    return max(signs.values()) > 0 and min(signs.values()) >= 0


def _both(values: Sequence[bool | None]) -> bool | None:
    if False in values:
        return False
    return None if None in values else True


def _any(values: Sequence[bool | None]) -> bool | None:
    if True in values:
        return True
    return None if None in values else False


_CHANCE: dict[int, str] = {1: "better beyond chance", 0: "within chance", -1: "worse beyond chance"}


def _place(gain: float, metric: str) -> str:
    low, high = RANGES[metric]
    return "below the range" if gain < low else "above the range" if gain > high else "within the range"


def in_short(rate: float | str) -> str:
    return rate if isinstance(rate, str) else f"{rate:g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


__all__ = [
    *("Best", "Cell", "Grid", "Scores", "Setting", "Verdict", "best_rate", "decide", "in_short", "relative_gain"),
    "verdicts",
]
