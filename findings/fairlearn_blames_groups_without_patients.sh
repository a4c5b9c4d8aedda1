#!/bin/sh
# fairlearn gives a group without a single patient of the finding a sensitivity of 0, and a miss rate of 0 as well.
#
# Versions: fairlearn 0.15.0, scikit-learn 1.9.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# Sensitivity for a rare finding is compared over groups of patients: by sex, hospital, device. Small groups have
# nobody with the finding.
#
# One would guess that sensitivity is unknown there, NaN, and that the differences are those of the other groups; or
# at least that a warning says so.
#
# What happens: `true_positive_rate` is 0 there, without a warning, and `false_negative_rate` is 0 too, though they are
# 1 together. The group is the worst of all in the one and the best of all in the other. The difference of equalized
# odds becomes the sensitivity of the best group, .85 where it is .04, for each finding that any group lacks.
#
# Output seen:
#     group       records   with AF   true_positive_rate   false_negative_rate
#     hospital A      480        47                0.809                 0.191
#     hospital B      480        39                0.846                 0.154
#     hospital C       40         0                0.000                 0.000
#                                        A and B   A, B and C
#     equal_opportunity_difference         0.038        0.846
#     equalized_odds_difference            0.038        0.846
#     ... agg="mean"                       0.028        0.443
#     equal_opportunity_ratio              0.956        0.000
#     MetricFrame.difference of misses     0.038        0.191
#     warnings: 0
#     fairlearn blames groups without patients: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fairlearn==0.15.0 scikit-learn==1.9.1 numpy==2.4.6 \
  pandas==3.1.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    equal_opportunity_difference,
    equal_opportunity_ratio,
    equalized_odds_difference,
    false_negative_rate,
    true_positive_rate,
)

generator = np.random.default_rng(0)
hospital = np.repeat(["A", "B", "C"], [480, 480, 40])
has_af = (generator.random(len(hospital)) < 0.1) & (hospital != "C")
called = generator.random(len(hospital)) < np.where(has_af, 0.8, 0.1)
everyone, others = np.full(len(hospital), True), hospital != "C"


def misses(truth, predicted, sensitive_features):
    frame = MetricFrame(
        metrics=false_negative_rate, y_true=truth, y_pred=predicted, sensitive_features=sensitive_features
    )
    return frame.difference()


def show(name, measure, **options):
    """Prints and gives a measure of fairness without the group that has no patient, and with it."""
    values = [
        float(measure(has_af[who], called[who], sensitive_features=hospital[who], **options))
        for who in (others, everyone)
    ]
    print(f"{name:34}" + "".join(f"{value:8.3f}     " for value in values).rstrip())
    return values


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rates = {"true_positive_rate": true_positive_rate, "false_negative_rate": false_negative_rate}
    by_group = MetricFrame(metrics=rates, y_true=has_af, y_pred=called, sensitive_features=hospital).by_group
    print("group       records   with AF   true_positive_rate   false_negative_rate")
    for name, row in by_group.iterrows():
        here = hospital == name
        found, missed = row
        print(f"hospital {name} {here.sum():8} {has_af[here].sum():9} {found:20.3f} {missed:21.3f}")
    print(f"{'':35}A and B   A, B and C")
    values = [
        show("equal_opportunity_difference", equal_opportunity_difference),
        show("equalized_odds_difference", equalized_odds_difference),
        show('... agg="mean"', equalized_odds_difference, agg="mean"),
        show("equal_opportunity_ratio", equal_opportunity_ratio),
        show("MetricFrame.difference of misses", misses),
    ]
print(f"warnings: {len(caught)}")
best = by_group["true_positive_rate"].max()
if (
    by_group.loc["C"].tolist() == [0, 0]
    and [with_group for _, with_group in values[:2]] == [best, best]
    and max(without for without, _ in values[:2]) < 0.05
    and not caught
):
    print("fairlearn blames groups without patients: still so")
else:
    sys.exit("fairlearn blames groups without patients: no longer so")
END
