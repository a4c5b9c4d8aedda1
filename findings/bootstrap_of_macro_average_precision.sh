#!/bin/sh
# Bootstrap percentiles of macro average precision exclude the value that they are an interval of.
#
# Versions: scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6; Python 3.11.
#
# Multi-label classification is reported by the mean of `sklearn.metrics.average_precision_score` over the labels, with
# an interval from records drawn with replacement (`scipy.stats.bootstrap`; here 100 resamples, which are enough to see
# it).
#
# One would guess that a 95 % interval contains the value of the sample that it was computed from, nearly always; and
# that BCa, scipy's default, whose first letters say "bias-corrected", mends what percentiles leave.
#
# What happens with 71 labels of 12 positives among 300 records: the percentile interval lies above its own value in
# most data sets, and above the mean value of further data sets as well. A positive that is drawn twice stands beside
# itself, and its precision counts itself twice: resamples are better than the sample. The more labels, the narrower is
# the interval, while the bias stays. BCa moves in the right direction, but has no resamples there: it is a sliver from
# the lowest resample to about the value itself. With few and frequent labels nothing of this is seen.
#
# Output seen:
#     71 labels of 12 positives among 300 records; mean of 30 sets 0.192
#       value 0.201, percentile interval [0.201, 0.254]
#       value 0.199, percentile interval [0.203, 0.252]
#       value 0.178, percentile interval [0.181, 0.220]
#       5 of 6 intervals exclude their own value, 4 lie above the mean of further sets
#     5 labels of 90 positives among 300 records; mean of 30 sets 0.588
#       value 0.575, percentile interval [0.540, 0.623]
#       value 0.555, percentile interval [0.517, 0.603]
#       value 0.599, percentile interval [0.561, 0.654]
#       0 of 6 intervals exclude their own value, 0 lie above the mean of further sets
#     BCa for the first set: [0.196, 0.201], value 0.201, lowest resample 0.196
#     percentile intervals of macro average precision exclude their own value: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score

RECORDS, SETS = 300, 6


def draw(generator, num_labels, num_positives):
    """Binormal scores with an AUROC of .76 in each label."""
    labels = np.argsort(generator.random((RECORDS, num_labels)), axis=0) < num_positives
    return labels.astype(int), generator.normal(size=labels.shape) + labels


def macro(labels, scores):
    """The mean over the labels that have a positive."""
    some = labels.any(axis=0)
    return average_precision_score(labels[:, some], scores[:, some], average="macro")


def resample(generator, labels, scores, **options):
    return bootstrap(
        (np.arange(RECORDS),),
        lambda records: macro(labels[records], scores[records]),
        vectorized=False,
        rng=generator,
        **{"n_resamples": 100, "method": "percentile", **options},
    )


def excluded(num_labels, num_positives):
    """Prints intervals of data sets -> how many exclude their own value, and how many lie above `expected`."""
    expected = np.mean([macro(*draw(np.random.default_rng(1000 + i), num_labels, num_positives)) for i in range(30)])
    print(f"{num_labels} labels of {num_positives} positives among {RECORDS} records; mean of 30 sets {expected:.3f}")
    own = above = 0
    for seed in range(SETS):
        generator = np.random.default_rng(seed)
        sample = draw(generator, num_labels, num_positives)
        value, (low, high) = macro(*sample), resample(generator, *sample).confidence_interval
        own, above = own + (not low <= value <= high), above + (low > expected)
        if seed < 3:
            print(f"  value {value:.3f}, percentile interval [{low:.3f}, {high:.3f}]")
    print(f"  {own} of {SETS} intervals exclude their own value, {above} lie above the mean of further sets")
    return own


rare, frequent = excluded(71, 12), excluded(5, 90)
generator = np.random.default_rng(0)
sample = draw(generator, 71, 12)
percentiles = resample(generator, *sample)
bca = resample(generator, *sample, method="BCa", n_resamples=0, bootstrap_result=percentiles)
print(
    f"BCa for the first set: [{bca.confidence_interval.low:.3f}, {bca.confidence_interval.high:.3f}], value "
    f"{macro(*sample):.3f}, lowest resample {percentiles.bootstrap_distribution.min():.3f}"
)
if rare >= SETS / 2 and frequent == 0:
    print("percentile intervals of macro average precision exclude their own value: still so")
else:
    sys.exit("percentile intervals of macro average precision exclude their own value: no longer so")
END
