#!/bin/sh
# Logits that `torchmetrics` is given record by record are taken for probabilities where they lie between 0 and 1.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# Metrics of `torchmetrics` take logits or probabilities: what lies outside 0 to 1 is called logits, and the sigmoid is
# taken of it. Long records of different lengths are mostly evaluated one at a time.
#
# One would guess that the metric of all records is the same whatever the batches, or that it refuses a mixture.
#
# What happens: each batch is judged by itself. A logit between 0 and 1 that comes alone stays what it is, and is compared
# with probabilities of the others: .3, a finding (.57), is below the threshold. Record by record AUROC falls from .968
# to .889 and the recall from .906 to .706, without a warning; the last batch of an epoch is often of one record, too.
# Probabilities are the same in any batches.
#
# Output seen:
#     scikit-learn: AUROC 0.968, recall 0.906
#     batch of   logits: AUROC  recall  calibration error     probabilities: AUROC  recall  calibration error
#            1          0.889   0.706              0.142                    0.968   0.906              0.189
#            2          0.953   0.878              0.184                    0.968   0.906              0.189
#            4          0.968   0.906              0.189                    0.968   0.906              0.189
#           16          0.968   0.906              0.189                    0.968   0.906              0.189
#         2000          0.968   0.906              0.189                    0.968   0.906              0.189
#     warnings: 0
#     torchmetrics reads some logits as probabilities: still so
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
from sklearn.metrics import recall_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError, BinaryRecall

RECORDS = 2000
draw = torch.Generator().manual_seed(0)
truth = (torch.rand(RECORDS, generator=draw) < 0.3).int()
logits = 2 * truth - 1 + 0.8 * torch.randn(RECORDS, generator=draw)


def metrics(scores, size):
    """AUROC, recall at .5 and calibration error, from batches of so many records."""
    found = [BinaryAUROC(), BinaryRecall(), BinaryCalibrationError()]
    for at in range(0, RECORDS, size):
        for metric in found:
            metric.update(scores[at : at + size], truth[at : at + size])
    return [metric.compute().item() for metric in found]


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(f"scikit-learn: AUROC {roc_auc_score(truth, logits):.3f}, recall {recall_score(truth, logits > 0):.3f}")
    print("batch of   logits: AUROC  recall  calibration error     probabilities: AUROC  recall  calibration error")
    rows = {}
    for size in (1, 2, 4, 16, RECORDS):
        rows[size] = metrics(logits, size), metrics(torch.sigmoid(logits), size)
        print("{:8} {:14.3f} {:7.3f} {:18.3f} {:24.3f} {:7.3f} {:18.3f}".format(size, *rows[size][0], *rows[size][1]))
print(f"warnings: {len(caught)}")

of_logits, of_probabilities = zip(*rows.values())
whole = of_logits[-1]
probabilities_agree = all(abs(a - b) < 1e-3 for row in of_probabilities for a, b in zip(row, whole))
single = of_logits[0]
if probabilities_agree and single[0] < whole[0] - 0.05 and single[1] < whole[1] - 0.1 and not caught:
    print("torchmetrics reads some logits as probabilities: still so")
else:
    sys.exit("torchmetrics reads some logits as probabilities: no longer so")
END
