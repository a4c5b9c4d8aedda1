#!/bin/sh
# Two thresholds in a torchmetrics collection give one recall, because of what the first batch held.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# Sensitivity at several thresholds is collected in `torchmetrics.MetricCollection` over the batches of a validation
# set.
#
# One would guess that each metric of the collection gives what it gives alone, whatever the order of the records.
#
# What happens: after the first batch the collection compares the counts of its metrics, and those that are equal by
# then are one metric from there on. For a rare finding many a first batch has no score between two thresholds: then
# the higher threshold gets the recall of the lower. Nothing warns; `reset()` does not undo it, so that the first batch
# of an untrained model (here all scores .6) decides for all epochs. In batches of 32 every second order of the records
# gives a wrong recall. `compute_groups=False` gives what each metric gives alone.
#
# Output seen:
#     2,000 records, prevalence 2 %             recall at .1, .3, .5
#       each metric alone                       0.769  0.538  0.288
#       a collection, batches of 32             0.769  0.538  0.538
#       after an epoch of an untrained model    0.769  0.769  0.769
#       compute_groups=False                    0.769  0.538  0.288
#     orders of the records that give a wrong recall
#       batches of   8: 18 of 20
#       batches of  32: 11 of 20
#       batches of 128: 4 of 20
#     the first batch decides which metrics are one: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryRecall

RECORDS, ORDERS, THRESHOLDS = 2000, 20, (0.1, 0.3, 0.5)


def collection(**options):
    return MetricCollection({f"at {int(100 * one)} %": BinaryRecall(threshold=one) for one in THRESHOLDS}, **options)


def recalls(metrics, scores, labels, batch):
    for scored, known in zip(scores.split(batch), labels.split(batch), strict=True):
        metrics.update(scored, known)
    return [round(float(value), 3) for value in metrics.compute().values()]


def show(name, values):
    print(f"  {name:40}" + "  ".join(f"{value:.3f}" for value in values))


generator = np.random.default_rng(0)
labels = generator.random(RECORDS) < 0.02
logits = 1.3 * generator.normal(size=RECORDS) - 4 + 3.2 * labels
labels, scores = torch.tensor(labels).long(), torch.sigmoid(torch.tensor(logits, dtype=torch.float32))

# The truth, without torchmetrics.
alone = [round(float((scores[labels == 1] > one).float().mean()), 3) for one in THRESHOLDS]
together = recalls(collection(), scores, labels, 32)
metrics = collection()
recalls(metrics, torch.full_like(scores, 0.6), labels, 32)
metrics.reset()
later = recalls(metrics, scores, labels, 32)
separate = recalls(collection(compute_groups=False), scores, labels, 32)
print(f"{RECORDS:,} records, prevalence 2 %             recall at .1, .3, .5")
show("each metric alone", alone)
show("a collection, batches of 32", together)
show("after an epoch of an untrained model", later)
show("compute_groups=False", separate)

print("orders of the records that give a wrong recall")
wrong = {}
for batch in (8, 32, 128):
    orders = [torch.tensor(np.random.default_rng(seed).permutation(RECORDS)) for seed in range(ORDERS)]
    wrong[batch] = sum(recalls(collection(), scores[order], labels[order], batch) != alone for order in orders)
    print(f"  batches of {batch:3}: {wrong[batch]} of {ORDERS}")

if separate == alone and together != alone and len(set(later)) == 1 and wrong[32] >= ORDERS / 2:
    print("the first batch decides which metrics are one: still so")
else:
    sys.exit("the first batch decides which metrics are one: no longer so")
END
