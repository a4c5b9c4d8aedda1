#!/bin/sh
# The threshold that `TunedThresholdClassifierCV` of scikit-learn takes for a rare finding is far from the best one.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `TunedThresholdClassifierCV` chooses the threshold of a finding by the balanced accuracy (the default) within the
# training records. For a rare finding all probabilities are low; the best threshold is near its prevalence.
#
# One would guess that thresholds are tried where the probabilities lie, so that the balanced accuracy that it reaches
# is about that of the best threshold; and that more records make it right.
#
# What happens: 100 thresholds lie evenly from the lowest to the highest probability. One record of high probability
# sets their distance: of a finding of 2 in 1,000 records one of the 100 lies below the best threshold. The sensitivity
# is .66 instead of .90, without a warning, and still .69 instead of .81 with five times the records, which raise the
# highest probability. For a frequent finding all is right; so it is if `thresholds` are quantiles of probabilities.
#
# Output seen:
#     prevalence  records   threshold      tried below   balanced accuracy   sensitivity
#                           tuned   best   the best      tuned   best        tuned   best
#            0.2    20000   0.1615  0.1624      17       0.838   0.838       0.872   0.871
#          0.002    20000   0.0064  0.0014       1       0.802   0.851       0.655   0.898
#          0.002   100000   0.0060  0.0028       1       0.813   0.846       0.687   0.813
#     scikit-learn tunes thresholds past rare findings: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import TunedThresholdClassifierCV

generator = np.random.default_rng(0)


def records(number, prevalence):
    """Features of which the first is 2 standard deviations higher in records with the finding."""
    has = generator.random(number) < prevalence
    features = generator.normal(size=(number, 3))
    features[:, 0] += 2 * has
    return features, has


print("prevalence  records   threshold      tried below   balanced accuracy   sensitivity")
print("                      tuned   best   the best      tuned   best        tuned   best")
results = {}
for prevalence, number in ((0.2, 20_000), (0.002, 20_000), (0.002, 100_000)):
    features, has = records(number, prevalence)
    new_features, new_has = records(200_000, prevalence)
    tuned = TunedThresholdClassifierCV(LogisticRegression(), store_cv_results=True).fit(features, has)
    probabilities = tuned.estimator_.predict_proba(features)[:, 1]
    new = tuned.estimator_.predict_proba(new_features)[:, 1]
    candidates = np.quantile(probabilities, np.linspace(0, 1, 1001))
    best = max(candidates, key=lambda threshold: balanced_accuracy_score(has, probabilities >= threshold))
    tried = int((tuned.cv_results_["thresholds"] < best).sum())
    calls = tuned.predict(new_features), new >= best
    accuracies = [balanced_accuracy_score(new_has, call) for call in calls]
    found = [call[new_has].mean() for call in calls]
    results[prevalence, number] = accuracies, found, tried
    print(
        f"{prevalence:10} {number:8}   {tuned.best_threshold_:.4f}  {best:.4f} {tried:7}       "
        f"{accuracies[0]:.3f}   {accuracies[1]:.3f}       {found[0]:.3f}   {found[1]:.3f}"
    )

(frequent, _, _), *rare = results.values()
if abs(frequent[0] - frequent[1]) < 0.01 and all(
    accuracies[0] < accuracies[1] - 0.02 and found[0] < found[1] - 0.1 and tried <= 1
    for accuracies, found, tried in rare
):
    print("scikit-learn tunes thresholds past rare findings: still so")
else:
    sys.exit("scikit-learn tunes thresholds past rare findings: no longer so")
END
