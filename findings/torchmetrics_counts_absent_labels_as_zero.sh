#!/bin/sh
# Macro AUROC of `torchmetrics` counts a label that no record has as 0, worse than the worst network.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# Of many statements some are absent from a validation fold. Their AUROC is unknown: scikit-learn gives NaN, and
# `torchmetrics` has a warning that it leaves out labels whose value is NaN of a macro average.
#
# One would guess that the macro average is that of the labels that occur.
#
# What happens: the curve of a label without a positive, or without a negative, is a line of zeros, so that its area is 0
# and never NaN. With 4 of 20 labels absent, AUROC is .742 instead of .927, and average precision falls as well: two
# folds, or two epochs on parts of the data, differ by the labels that they happen to have. With `thresholds`, as is
# advised for large data, there is no warning.
#
# Output seen:
#     scikit-learn, AUROC of the 16 labels that occur: 0.927
#                                        16 labels  20 labels  warnings
#     MultilabelAUROC              exact     0.927      0.742         4
#     MultilabelAUROC                200     0.927      0.741         0
#     MultilabelAveragePrecision   exact     0.668      0.534         4
#     MultilabelAveragePrecision     200     0.664      0.531         0
#     AUROC of each label that is absent: [0.0, 0.0, 0.0, 0.0]
#     AUROC of each label that all have:  [0.0, 0.0, 0.0, 0.0]
#     torchmetrics counts absent labels as zero: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1 \
  numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision

RECORDS, LABELS, ABSENT = 500, 20, 4


def records(seed):
    """Probabilities, and truth in which the last labels are absent."""
    draw = torch.Generator().manual_seed(seed)
    truth = (torch.rand(RECORDS, LABELS, generator=draw) < 0.1).int()
    truth[:, -ABSENT:] = 0
    return torch.sigmoid(2 * truth - 1 + torch.randn(RECORDS, LABELS, generator=draw)), truth


def macro(metric, thresholds, scores, truth):
    """The macro average, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = metric(scores.shape[1], thresholds=thresholds)(scores, truth).item()
    return value, len(caught)


scores, truth = records(0)
present = slice(0, LABELS - ABSENT)
of_present = roc_auc_score(truth[:, present], scores[:, present], average="macro")
print(f"scikit-learn, AUROC of the {LABELS - ABSENT} labels that occur: {of_present:.3f}")
print(f"{'':34} {LABELS - ABSENT} labels  {LABELS} labels  warnings")
values = {}
for metric in (MultilabelAUROC, MultilabelAveragePrecision):
    for thresholds in (None, 200):
        few, _ = macro(metric, thresholds, scores[:, present], truth[:, present])
        all_of_them, warned = macro(metric, thresholds, scores, truth)
        values[metric.__name__, thresholds] = few, all_of_them, warned
        print(f"{metric.__name__:26} {thresholds or 'exact':>7} {few:9.3f} {all_of_them:10.3f} {warned:9}")
of_labels = MultilabelAUROC(LABELS, average=None, thresholds=200)(scores, truth)
print("AUROC of each label that is absent:", of_labels[-ABSENT:].tolist())
always = truth.clone()
always[:, -ABSENT:] = 1
of_labels_always = MultilabelAUROC(LABELS, average=None, thresholds=200)(scores, always)
print("AUROC of each label that all have: ", of_labels_always[-ABSENT:].tolist())

share = (LABELS - ABSENT) / LABELS
counted_as_zero = all(abs(all_of_them - share * few) < 1e-4 for few, all_of_them, _ in values.values())
zero = not of_labels[-ABSENT:].any() and not of_labels_always[-ABSENT:].any()
silent = all(values[name, 200][2] == 0 for name in ("MultilabelAUROC", "MultilabelAveragePrecision"))
if counted_as_zero and zero and silent and abs(values["MultilabelAUROC", None][0] - of_present) < 1e-4:
    print("torchmetrics counts absent labels as zero: still so")
else:
    sys.exit("torchmetrics counts absent labels as zero: no longer so")
END
