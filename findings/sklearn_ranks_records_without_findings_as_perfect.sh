#!/bin/sh
# Ranking metrics of scikit-learn count a record without any finding as ranked without a fault.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `label_ranking_average_precision_score`, `coverage_error` and `label_ranking_loss` say how high a model ranks the
# findings of each record among all. Records without any are frequent, most of all in screening: here none, half or
# 95 % of them.
#
# One would guess that a record without a finding, where nothing is to be ranked, is left out, or refused.
#
# What happens: it has an average precision of 1, a coverage of 0 and a loss of 0, whatever the scores, without a
# warning; the figure says how many records are normal. One model has .85, .93 and .99 where no, half and 95 % of the
# records are without a finding, and its AUROC is .92 everywhere. Guesses have .97 in screening, more than the model
# has among patients. Among records with a finding the model has .85 to .86 and guesses .36 everywhere.
#
# Output seen:
#     share without a finding   AUROC           LRAP            coverage      ranking loss     with a finding alone
#                               model   guess   model   guess   model guess   model   guess    LRAP: model   guess
#     0.0                       0.922   0.500   0.846   0.363   2.88  6.87    0.076   0.501    0.846         0.363
#     0.5                       0.923   0.496   0.927   0.678   1.41  3.45    0.036   0.253    0.855         0.356
#     0.95                      0.923   0.517   0.993   0.967   0.15  0.35    0.004   0.025    0.862         0.356
#     scikit-learn ranks records without findings as perfect: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, label_ranking_loss, roc_auc_score

FINDINGS, RECORDS = 10, 5000
metrics = label_ranking_average_precision_score, coverage_error, label_ranking_loss
print("share without a finding   AUROC           LRAP            coverage      ranking loss     with a finding alone")
print("                          model   guess   model   guess   model guess   model   guess    LRAP: model   guess")
results = {}
for share in (0.0, 0.5, 0.95):
    generator = np.random.default_rng(0)
    labels = (generator.random((RECORDS, FINDINGS)) < 0.1).astype(int)
    labels[np.arange(RECORDS), generator.integers(0, FINDINGS, RECORDS)] = 1
    labels[generator.random(RECORDS) < share] = 0
    scores = {
        "model": generator.normal(size=labels.shape) + 2 * labels,
        "guess": generator.normal(size=labels.shape),
    }
    have = labels.any(axis=1)
    rows = [
        [metric(labels, scores[name]) for name in scores]
        for metric in (lambda truth, score: roc_auc_score(truth, score, average="macro"), *metrics)
    ]
    rows.append([metrics[0](labels[have], scores[name][have]) for name in scores])
    results[share] = rows
    (auroc, lrap, coverage, loss, alone) = rows
    print(
        f"{share:<25} {auroc[0]:.3f}   {auroc[1]:.3f}   {lrap[0]:.3f}   {lrap[1]:.3f}   {coverage[0]:.2f}  "
        f"{coverage[1]:.2f}    {loss[0]:.3f}   {loss[1]:.3f}    {alone[0]:.3f}         {alone[1]:.3f}"
    )

hospital, screening = results[0.0], results[0.95]
if (
    abs(hospital[0][0] - screening[0][0]) < 0.01
    and screening[1][1] > hospital[1][0] + 0.1 > hospital[1][1] + 0.4
    and screening[2][1] < 1 < hospital[2][0]
    and screening[3][1] < hospital[3][0]
    and screening[4][1] < 0.4 < 0.8 < screening[4][0]
):
    print("scikit-learn ranks records without findings as perfect: still so")
else:
    sys.exit("scikit-learn ranks records without findings as perfect: no longer so")
END
