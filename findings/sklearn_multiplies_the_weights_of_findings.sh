#!/bin/sh
# "balanced" weights of scikit-learn for several findings are products: a handful of records counts, the others do not.
#
# Versions: scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `class_weight="balanced"` of random forests, and `compute_sample_weight("balanced", ...)`, give records of a rare
# finding more weight. Labels of an ECG are several at once: a matrix of 0 and 1, which both take.
#
# One would guess that each finding is balanced by itself, or that a record has the mean of its weights: so balanced,
# forests rank rare findings better than without weights.
#
# What happens: the weights of all findings are multiplied, also those for being without a finding, of about one half
# each. With 20 findings the heaviest record weighs 47 million times as much as the lightest, and all weights together
# are worth 5 of 2,000 records. The AUROC is .66, below that without any weights (.82) and far below that of forests
# that are balanced each by itself (.88), without a warning.
#
# Output seen:
#     findings   records that count   highest over lowest one   AUROC: balanced, each   no weights   balanced, all
#     3          3                    13,212                    0.856                   0.840        0.853
#     20         5                    47,081,547                0.877                   0.815        0.658
#     scikit-learn multiplies the weights of findings: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

FEATURES = 30
FOREST = {"n_estimators": 30, "min_samples_leaf": 3, "random_state": 0}


def probabilities(forest, features):
    """Of each finding, as a matrix."""
    return np.stack([column[:, 1] for column in forest.predict_proba(features)], axis=1)


print("findings   records that count   highest over lowest one   AUROC: balanced, each   no weights   balanced, all")
results = {}
for findings in (3, 20):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(FEATURES, findings)) / FEATURES**0.5
    prevalence = generator.uniform(0.01, 0.08, findings)

    def records(number):
        """Features, and how far each finding is from its threshold."""
        features = generator.normal(size=(number, FEATURES))
        return features, features @ weights + 0.5 * generator.normal(size=(number, findings))

    features, heights = records(2000)
    limits = np.array([np.quantile(heights[:, k], 1 - prevalence[k]) for k in range(findings)])
    labels = (heights > limits).astype(int)
    new_features, new_heights = records(4000)
    new_labels = (new_heights > limits).astype(int)
    weight = compute_sample_weight("balanced", labels)
    count = weight.sum() ** 2 / (weight**2).sum()
    each = [
        RandomForestClassifier(class_weight="balanced", **FOREST).fit(features, labels[:, k]) for k in range(findings)
    ]
    scores = [roc_auc_score(new_labels, np.stack([tree.predict_proba(new_features)[:, 1] for tree in each], axis=1))]
    for class_weight in (None, "balanced"):
        forest = RandomForestClassifier(class_weight=class_weight, **FOREST).fit(features, labels)
        scores.append(roc_auc_score(new_labels, probabilities(forest, new_features)))
    results[findings] = count, scores
    print(
        f"{findings:<10} {count:<20.0f} {weight.max() / weight.min():<25,.0f} "
        f"{scores[0]:<23.3f} {scores[1]:<12.3f} {scores[2]:.3f}"
    )

count, (each, unweighted, together) = results[20]
if count < 20 and each > unweighted + 0.03 and unweighted > together + 0.1 and abs(np.diff(results[3][1][::2])) < 0.02:
    print("scikit-learn multiplies the weights of findings: still so")
else:
    sys.exit("scikit-learn multiplies the weights of findings: no longer so")
END
