#!/bin/sh
# A threshold that `torchmetrics` finds for a sensitivity misses it when its own metrics use it.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# `binary_specificity_at_sensitivity` of `torchmetrics` gives the highest specificity at a sensitivity that is asked
# for, and the threshold for it. The metrics `binary_recall`, `binary_specificity` and so on take a `threshold`.
#
# One would guess that the second, given the threshold of the first, have the sensitivity and specificity that it said.
#
# What happens: the search counts a record at the threshold as positive (>=), the metrics count it as negative (>). The
# threshold is the probability of a record, where sensitivity is asked for, of a positive one: that record is lost. Of a
# statement with three positives a sensitivity of 1 becomes .667, of one with ten .9 becomes .8, without a warning.
# `binary_recall_at_fixed_precision` does likewise.
#
# Output seen:
#       3 of 500 records positive, sensitivity 1.00 asked for, threshold 0.2581: binary_recall 0.667, with >= 1.000
#      10 of 500 records positive, sensitivity 0.90 asked for, threshold 0.6722: binary_recall 0.800, with >= 0.900
#     100 of 500 records positive, sensitivity 0.90 asked for, threshold 0.5846: binary_recall 0.890, with >= 0.900
#     recall at a fixed precision of .5, 10 positives: stated 1.000, binary_recall 0.900
#     warnings: 0
#     torchmetrics takes other thresholds than it finds: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
import torch
from torchmetrics.functional.classification import (
    binary_recall,
    binary_recall_at_fixed_precision,
    binary_specificity,
    binary_specificity_at_sensitivity,
)

RECORDS = 500


def records(positives):
    """Probabilities and truth; no two probabilities are equal."""
    rng = np.random.default_rng(positives)
    truth = np.arange(RECORDS) < positives
    scores = rng.normal(np.where(truth, 1.5, -1.5), 1)
    return torch.from_numpy(1 / (1 + np.exp(-scores))).float(), torch.from_numpy(truth.astype(int))


def rates(scores, truth, threshold):
    """Sensitivity by the metric, and with >=; specificity by the metric."""
    called = scores >= threshold
    value = float(threshold)
    return (
        float(binary_recall(scores, truth, threshold=value)),
        float((called & (truth == 1)).sum() / (truth == 1).sum()),
        float(binary_specificity(scores, truth, threshold=value)),
    )


right = True
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for positives, wanted in ((3, 1.0), (10, 0.9), (100, 0.9)):
        scores, truth = records(positives)
        specificity, threshold = binary_specificity_at_sensitivity(scores, truth, min_sensitivity=wanted)
        recall, with_equal, of_metric = rates(scores, truth, threshold)
        print(
            f"{positives:3} of {RECORDS} records positive, sensitivity {wanted:.2f} asked for, threshold "
            f"{threshold:.4f}: binary_recall {recall:.3f}, with >= {with_equal:.3f}"
        )
        right &= with_equal >= wanted - 1e-6 and np.isclose(recall, with_equal - 1 / positives, atol=1e-6)
        right &= np.isclose(float(specificity), of_metric, atol=1e-6)
    scores, truth = records(10)
    stated, threshold = binary_recall_at_fixed_precision(scores, truth, min_precision=0.5)
    recall, _, _ = rates(scores, truth, threshold)
    print(f"recall at a fixed precision of .5, 10 positives: stated {stated:.3f}, binary_recall {recall:.3f}")
    right &= float(stated) > recall + 0.05
print(f"warnings: {len(caught)}")
if right and not caught:
    print("torchmetrics takes other thresholds than it finds: still so")
else:
    sys.exit("torchmetrics takes other thresholds than it finds: no longer so")
END
