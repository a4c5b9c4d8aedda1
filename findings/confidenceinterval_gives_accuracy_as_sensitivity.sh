#!/bin/sh
# recall_score, precision_score and f1_score of `confidenceinterval` are all the accuracy, of a rare finding 97 %.
#
# Versions: confidenceinterval 1.0.5, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `confidenceinterval` gives metrics of classifiers with intervals, under the names and with the arguments of
# scikit-learn.
#
# One would guess that `recall_score(truth, predicted)` of a finding that is there or not is scikit-learn's: the share
# of the positives that are found.
#
# What happens: the default is `average="micro"`, over both classes, where it is "binary" in scikit-learn. Recall,
# precision and F1 are then one number, the share of all records that are right: a classifier that finds a third of the
# records with AF has a "recall" of .97, and one that never finds any .96. There is no warning; ends of intervals lie
# above 1 if nearly all are right. `tpr_score` gives the sensitivity, and so does `average="binary"`, if `method` is
# given too. The AUROC of 6 positives that are apart from 200 other records is 1 with the interval [1, 1].
#
# Output seen:
#     a third of AF is found: 0.968 of all records are right
#       recall_score     scikit-learn 0.325   confidenceinterval 0.968 [0.957, 0.979]
#       precision_score  scikit-learn 0.722   confidenceinterval 0.968 [0.957, 0.979]
#       f1_score         scikit-learn 0.448   confidenceinterval 0.968 [0.957, 0.979]
#     AF is never found: 0.960 of all records are right
#       recall_score     scikit-learn 0.000   confidenceinterval 0.960 [0.948, 0.972]
#       precision_score  scikit-learn 0.000   confidenceinterval 0.960 [0.948, 0.972]
#       f1_score         scikit-learn 0.000   confidenceinterval 0.960 [0.948, 0.972]
#     one of AF is missed: 0.999 of all records are right
#       recall_score     scikit-learn 0.975   confidenceinterval 0.999 [0.997, 1.001]
#       precision_score  scikit-learn 1.000   confidenceinterval 0.999 [0.997, 1.001]
#       f1_score         scikit-learn 0.987   confidenceinterval 0.999 [0.997, 1.001]
#     recall_score with average="binary" 0.325, tpr_score 0.325
#     roc_auc_score of 6 positives that are separated: 1.000 [1.000, 1.000]
#     warnings: 0
#     confidenceinterval gives the accuracy: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check confidenceinterval==1.0.5 scikit-learn==1.9.1 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import confidenceinterval
import numpy as np
import sklearn.metrics

RECORDS, WITH_AF = 1000, 40
has_af = (np.arange(RECORDS) < WITH_AF).astype(int)


def calls(found, false_alarms):
    called = np.zeros(RECORDS, dtype=int)
    called[:found] = 1
    called[WITH_AF : WITH_AF + false_alarms] = 1
    return called


def show(name, called):
    """Prints and gives recall, precision and F1 of both packages."""
    print(f"{name}: {np.mean(called == has_af):.3f} of all records are right")
    pairs = []
    for metric in ("recall_score", "precision_score", "f1_score"):
        right = getattr(sklearn.metrics, metric)(has_af, called, zero_division=0)
        value, (low, high) = getattr(confidenceinterval, metric)(has_af, called)
        print(f"  {metric:16} scikit-learn {right:.3f}   confidenceinterval {value:.3f} [{low:.3f}, {high:.3f}]")
        pairs.append((right, value, high))
    return pairs


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    third = show("a third of AF is found", calls(13, 5))
    never = show("AF is never found", calls(0, 0))
    nearly = show("one of AF is missed", calls(39, 0))
binary, _ = confidenceinterval.recall_score(has_af, calls(13, 5), average="binary", method="wilson")
sensitivity, _ = confidenceinterval.tpr_score(has_af, calls(13, 5))
print(f'recall_score with average="binary" {binary:.3f}, tpr_score {sensitivity:.3f}')
truth = (np.arange(206) < 6).astype(int)
auroc, (low, high) = confidenceinterval.roc_auc_score(truth, np.where(truth, 0.9, 0.1) + np.arange(206) / 5000)
print(f"roc_auc_score of 6 positives that are separated: {auroc:.3f} [{low:.3f}, {high:.3f}]")
print(f"warnings: {len(caught)}")

accuracy = [np.mean(called == has_af) for called in (calls(13, 5), calls(0, 0), calls(39, 0))]
if (
    all(np.allclose([value for _, value, _ in found], right) for found, right in zip((third, never, nearly), accuracy))
    and third[0][0] < 0.35
    and never[0][0] == 0
    and nearly[2][2] > 1
    and np.allclose([binary, sensitivity], third[0][0], atol=1e-6)
    and (low, high) == (1, 1)
):
    print("confidenceinterval gives the accuracy: still so")
else:
    sys.exit("confidenceinterval gives the accuracy: no longer so")
END
