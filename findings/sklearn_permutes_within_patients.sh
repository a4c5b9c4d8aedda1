#!/bin/sh
# `permutation_test_score` of scikit-learn gives p = 1 to a perfect classifier of patients' diagnoses.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# Several ECGs of each patient are classified into one of two cardiomyopathies, which a patient has or has not. The
# folds must keep patients together, so `groups` are given beside `StratifiedGroupKFold`; the test asks whether the
# AUROC could be chance.
#
# One would guess that diagnoses are exchanged between patients, so that a classifier without an error has the least
# p that the number of permutations allows, 1/40.
#
# What happens: labels are exchanged within each patient only, as the documentation of `groups` says in its first
# half-sentence. All labels of a patient are equal, so that each "permutation" is the data as they are, and p = 1. There
# is no way to give the groups to the folds alone, but for a list of the splits made beforehand; then p is 1/40, but
# now labels are exchanged between ECGs as if they were patients: p is too small, .05 or less in a third of
# experiments where features tell patients apart but no disease.
#
# Output seen:
#     a classifier without an error        AUROC   of permutations    p
#       groups of patients                 1.000   1.000 to 1.000   1.000
#       the same folds as a list           1.000   0.405 to 0.654   0.025
#     features without a diagnosis: p of at most .05 in 33 % of experiments, the folds as a list
#     scikit-learn permutes within patients: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold, permutation_test_score

PATIENTS, ECGS, PERMUTATIONS = 40, 5, 39
patient = np.repeat(np.arange(PATIENTS), ECGS)
diagnosis = np.arange(PATIENTS) % 2
folds = StratifiedGroupKFold(5)
own_folds = list(folds.split(patient, diagnosis[patient], patient))


def test(features, labels, **options):
    return permutation_test_score(
        LinearDiscriminantAnalysis(), features, labels, scoring="roc_auc", n_permutations=PERMUTATIONS, **options
    )


generator = np.random.default_rng(0)
features = generator.normal(size=(len(patient), 4))
features[:, 0] += 8 * diagnosis[patient]
print("a classifier without an error        AUROC   of permutations    p")
results = {}
for name, options in {
    "groups of patients": {"groups": patient, "cv": folds},
    "the same folds as a list": {"cv": own_folds},
}.items():
    value, permuted, p = results[name] = test(features, diagnosis[patient], **options)
    print(f"  {name:34} {value:.3f}   {permuted.min():.3f} to {permuted.max():.3f}   {p:.3f}")

# Features that differ between patients, but have nothing to do with the diagnosis.
chances = {"labels as they are": [], "by patient": []}
for _ in range(12):
    of_patients = generator.normal(size=(PATIENTS, 4))
    features = of_patients[patient] + 0.2 * generator.normal(size=(len(patient), 4))
    chances["labels as they are"].append(test(features, diagnosis[patient], cv=own_folds)[2])
small = np.mean(np.array(chances["labels as they are"]) <= 0.05)
print(f"features without a diagnosis: p of at most .05 in {100 * small:.0f} % of experiments, the folds as a list")

value, permuted, p = results["groups of patients"]
if value == 1 and p == 1 and (permuted == 1).all() and results["the same folds as a list"][2] < 0.03 and small > 0.15:
    print("scikit-learn permutes within patients: still so")
else:
    sys.exit("scikit-learn permutes within patients: no longer so")
END
