"""The rule of the study's verdicts, on made-up results of all kinds."""

import pytest
from study_verdicts import (
    CONDITIONALLY,
    CONFIRMED,
    NOT_CONFIRMED,
    UNDECIDED,
    Cell,
    Grid,
    Scores,
    Setting,
    decide,
    verdicts,
)

WHOLE, THIRD = Setting("all", 1.0), Setting("all", 0.3)


def cells(setting, method, *seeds, rate=0.001):
    """A run for each seed from 42 on: (AUROC, AUPRC), or None where it is missing."""
    return [
        Cell(setting, method, rate, 42 + place, None if pair is None else Scores(*pair, choice=pair[0]))
        for place, pair in enumerate(seeds)
    ]


def gains(plain, post_trained, setting=WHOLE):
    return [*cells(setting, "finetune", *plain), *cells(setting, "post_train", *post_trained)]


def verdicts_of(*groups):
    return [verdict.verdict for verdict in verdicts([cell for group in groups for cell in group])]


@pytest.mark.parametrize(
    ("post_trained", "auroc", "auprc"),
    [
        ((0.92, 0.40), CONFIRMED, CONFIRMED),  # +2.2 %, +33 %
        ((0.99, 0.60), CONFIRMED, CONFIRMED),  # above both ranges
        ((0.906, 0.36), NOT_CONFIRMED, NOT_CONFIRMED),  # +0.67 % and +20 % do not reach them
        ((0.88, 0.20), NOT_CONFIRMED, NOT_CONFIRMED),
        (None, UNDECIDED, UNDECIDED),
    ],
)
def test_the_gain_at_all_labels_decides_the_first_two_claims(post_trained, auroc, auprc):
    assert verdicts_of(gains([(0.9, 0.3)], [post_trained]))[:2] == [auroc, auprc]


def test_a_gain_with_few_labels_alone_is_a_condition_and_is_named():
    few = Setting("all", 0.1)
    found = verdicts([*gains([(0.9, 0.3)], [(0.9, 0.3)]), *gains([(0.8, 0.2)], [(0.83, 0.26)], few)])
    assert [verdict.verdict for verdict in found[:2]] == [CONDITIONALLY, CONDITIONALLY]
    (text,) = found[0].holds
    assert text.startswith("all, 10 % of the labels: +3.7 % (within the range; better beyond chance, 1 seed), rates")
    assert found[0].fails[0].startswith("all, 100 % of the labels: +0.0 % (below the range; within chance")


def test_each_method_counts_at_its_own_best_rate_and_a_bad_shared_rate_does_not_decide():
    low = gains([(0.70, 0.1)], [(0.80, 0.2)])
    high = [*cells(WHOLE, "finetune", (0.9, 0.3), rate=0.003), *cells(WHOLE, "post_train", (0.9, 0.3), rate=0.003)]
    found = verdicts([*low, *high])
    assert found[0].verdict == found[1].verdict == NOT_CONFIRMED
    assert found[0].same_rate == ["all, 100 % of the labels, rate 0.001: +14.3 % (above the range)"]
    assert "rates 0.003 and 0.003" in found[0].fails[0]


def test_the_rate_is_chosen_on_labels_that_can_be_learned_and_seeds_that_all_rates_have():
    scores = [Scores(0.80, 0.3, choice=0.90), Scores(0.99, 0.3, choice=0.10), Scores(0.85, 0.3, choice=0.70)]
    places = [(1, 42), (1, 43), (2, 42)]
    runs = [Cell(WHOLE, "probe", *place, score) for place, score in zip(places, scores, strict=True)]
    best = Grid(runs).best(WHOLE, "probe")
    assert best.rate == 1 and len(best.scores) == 2  # by seed 42 alone; with seed 43 the other rate would win


def test_three_seeds_count_by_their_spread_and_one_by_the_margin():
    steady = gains([(0.900, 0.3), (0.910, 0.3), (0.920, 0.3)], [(0.907, 0.3), (0.917, 0.3), (0.927, 0.3)])
    unsteady = gains([(0.900, 0.3), (0.910, 0.3), (0.920, 0.3)], [(0.950, 0.3), (0.900, 0.3), (0.910, 0.3)])
    assert verdicts_of(steady)[0] == CONFIRMED  # pairs of equal seeds: +.007 each
    assert verdicts_of(unsteady)[0] == NOT_CONFIRMED  # +1.1 %, but one seed did it
    within_margin = gains([(0.600, 0.30)], [(0.6045, 0.309)])  # +0.75 %
    assert verdicts_of(within_margin)[0] == NOT_CONFIRMED


def test_a_budget_is_a_setting_of_its_own_and_no_substitute_for_the_whole_one():
    quarter = Setting("all", 1.0, 0.25)
    found = verdicts([*gains([(0.9, 0.3)], [(0.9, 0.3)]), *gains([(0.8, 0.2)], [(0.9, 0.4)], quarter)])
    assert found[0].verdict == CONDITIONALLY
    assert found[0].holds[0].startswith("all, 100 % of the labels, 0.25 times the steps: +12.5 % (above the range")
    assert verdicts_of(gains([(0.8, 0.2)], [(0.9, 0.4)], quarter))[0] == UNDECIDED


def test_missing_runs_leave_open_what_they_could_change_and_nothing_else():
    other = Setting("superdiagnostic", 1.0)
    won, lost, half = [(0.92, 0.4)], [(0.9, 0.3)], [(0.92, 0.4), None]
    assert verdicts_of(gains(lost, won), gains(lost, half, other))[0] == UNDECIDED
    assert verdicts_of(gains(lost, lost), gains(lost, half, other))[0] == UNDECIDED
    few = Setting("all", 0.1)
    decided = verdicts([*gains(lost, lost), *gains(lost, won, few), *gains(lost, half, other)])[0]
    assert decided.verdict == CONDITIONALLY
    assert decided.unfinished == ["superdiagnostic, 100 % of the labels: 1 run missing"]


@pytest.mark.parametrize(
    ("small", "verdict"),
    [
        ((0.93, 0.35), CONFIRMED),
        ((0.93, 0.305), CONDITIONALLY),
        ((0.93, 0.25), NOT_CONFIRMED),  # better in AUROC, worse in AUPRC
        ((0.90, 0.30), NOT_CONFIRMED),
        (None, UNDECIDED),
    ],
)
def test_thirty_percent_against_all_labels(small, verdict):
    assert verdicts_of(cells(WHOLE, "finetune", (0.9, 0.3)), cells(THIRD, "post_train", small))[2] == verdict


def test_thirty_percent_of_one_task_of_two_is_a_condition():
    other = [Setting("form", 1.0), Setting("form", 0.3)]
    results = [*cells(WHOLE, "finetune", (0.9, 0.3)), *cells(THIRD, "post_train", (0.93, 0.35))]
    results += [*cells(other[0], "finetune", (0.9, 0.3)), *cells(other[1], "post_train", (0.8, 0.2))]
    assert verdicts_of(results)[2] == CONDITIONALLY


def ablation(whole, without_probe, without_depth, setting=WHOLE):
    names = ("post_train", "finetune+sd", "probe+finetune")
    values = (whole, without_probe, without_depth)
    return [cell for name, value in zip(names, values, strict=True) for cell in cells(setting, name, value)]


def test_both_parts_must_matter():
    best, worse = (0.93, 0.35), (0.90, 0.30)
    few = Setting("all", 0.01)
    assert verdicts_of(ablation(best, worse, worse))[3] == CONFIRMED
    assert verdicts_of(ablation(best, worse, best))[3] == NOT_CONFIRMED
    assert verdicts_of(ablation(best, worse, (0.95, 0.30)))[3] == NOT_CONFIRMED  # mixed: AUROC is better without
    assert verdicts_of(ablation(best, worse, worse), ablation(best, best, best, few))[3] == CONDITIONALLY
    assert verdicts_of(ablation(best, worse, best), ablation(best, best, worse, few))[3] == CONDITIONALLY
    assert verdicts_of(ablation(best, worse, best), ablation(best, worse, best, few))[3] == NOT_CONFIRMED
    assert verdicts_of(ablation(best, worse, None))[3] == UNDECIDED
    assert verdicts_of(ablation(best, worse, best), ablation(best, best, None, few))[3] == UNDECIDED


def test_a_grid_without_a_claims_runs_decides_nothing():
    assert verdicts_of(cells(WHOLE, "scratch", (0.9, 0.3))) == [UNDECIDED] * 4
    assert verdicts_of() == [UNDECIDED] * 4


@pytest.mark.parametrize(
    ("own", "conditions", "verdict"),
    [
        ([True, True], [False, None], CONFIRMED),
        ([True, None], [True], UNDECIDED),
        ([True, False], [], CONDITIONALLY),
        ([False], [True, None], CONDITIONALLY),
        ([False, None], [], UNDECIDED),
        ([False], [None], UNDECIDED),
        ([False, False], [False], NOT_CONFIRMED),
        ([], [True], UNDECIDED),
    ],
)
def test_a_verdict_is_given_only_where_no_missing_run_can_change_it(own, conditions, verdict):
    assert decide(own, conditions) == verdict
