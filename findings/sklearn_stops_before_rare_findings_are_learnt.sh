#!/bin/sh
# scikit-learn stops the training of several rare findings by the share of records that are right in all of them.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `MLPClassifier(early_stopping=True)` learns findings from features of ECGs, several at once (a matrix of 0 and 1).
# It keeps a tenth of the records back, and stops when the "validation score" is no better for 10 epochs.
#
# One would guess that the score is the loss on those records, which is what is trained, or a mean over the findings.
#
# What happens: it is the share of records of which every finding is called rightly at a threshold of one half. Where
# findings are rare this share is hardly below its highest value when none is ever called, as by a network that knows
# only how frequent they are: once it has learnt that, the score stands still, and training ends while the ranking has
# hardly begun. The AUROC is .56 to .60 instead of .84 to .88, without a warning. Where findings are frequent it is
# near the right one.
#
# Output seen:
#     share of each finding   seed   AUROC: 60 epochs   stopped   epochs   found of 1,000: 60 epochs   stopped
#     0.100 to 0.50           0      0.880              0.875     56       638                          623
#     0.100 to 0.50           1      0.872              0.858     40       605                          543
#     0.100 to 0.50           2      0.879              0.876     58       683                          672
#     0.005 to 0.04           0      0.878              0.564     24       81                          0
#     0.005 to 0.04           1      0.844              0.564     22       47                          2
#     0.005 to 0.04           2      0.883              0.601     24       103                          2
#     scikit-learn stops before rare findings are learnt: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error -W "ignore:Stochastic Optimizer" - <<'END'
import sys

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

FINDINGS, FEATURES = 12, 30
print("share of each finding   seed   AUROC: 60 epochs   stopped   epochs   found of 1,000: 60 epochs   stopped")
results = {}
for shares in ((0.1, 0.5), (0.005, 0.04)):
    for seed in range(3):
        generator = np.random.default_rng(seed)
        weights = generator.normal(size=(FEATURES, FINDINGS)) / FEATURES**0.5
        prevalence = generator.uniform(*shares, FINDINGS)

        def records(number):
            """Features, and how far each finding is from its threshold."""
            features = generator.normal(size=(number, FEATURES))
            return features, features @ weights + 0.7 * generator.normal(size=(number, FINDINGS))

        features, heights = records(4000)
        limits = np.array([np.quantile(heights[:, k], 1 - prevalence[k]) for k in range(FINDINGS)])
        labels = (heights > limits).astype(int)
        new_features, new_heights = records(8000)
        new_labels = (new_heights > limits).astype(int)
        networks = [
            MLPClassifier((32,), early_stopping=early, max_iter=60, random_state=0).fit(features, labels)
            for early in (False, True)
        ]
        whole, stopped = (roc_auc_score(new_labels, network.predict_proba(new_features)) for network in networks)
        found = [1000 * float(network.predict(new_features)[new_labels == 1].mean()) for network in networks]
        results[shares, seed] = whole, stopped, networks[1].n_iter_, found
        print(
            f"{shares[0]:.3f} to {shares[1]:<14.2f} {seed}      {whole:.3f}              {stopped:.3f}     "
            f"{networks[1].n_iter_:<8} {found[0]:<27.0f} {found[1]:.0f}"
        )

if all(
    stopped > whole - 0.02
    if shares[0] == 0.1
    else whole > 0.8 and stopped < 0.65 and epochs < 40 and found[1] < 10 < found[0]
    for (shares, _), (whole, stopped, epochs, found) in results.items()
):
    print("scikit-learn stops before rare findings are learnt: still so")
else:
    sys.exit("scikit-learn stops before rare findings are learnt: no longer so")
END
