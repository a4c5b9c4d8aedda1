#!/bin/sh
# `dataloader_drop_last` of transformers' Trainer leaves records out of the evaluation and of the predictions.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `dataloader_drop_last` keeps a last batch of a few records, with its noisy gradient, out of training. The test set is
# predicted by the same Trainer.
#
# One would guess that it is about training batches, and that `predict()` gives a row for each record, as it does
# otherwise, whatever the size of the batches.
#
# What happens: the last batch of each evaluation is dropped too. Of 1,000 records in batches of 64 there are 960 rows,
# in batches of 512 only 512, without a warning. As tables are often sorted by hospital, year or finding, the figures
# are of other patients: the last fifth comes from a noisier device, and AUROC is .936 or .990 instead of .928, the
# larger the batch the better.
#
# Output seen:
#     dataloader_drop_last  batch   rows of predictions   AUROC
#     False                    64   1000                  0.928
#     False                   512   1000                  0.928
#     True                     64   960                   0.936
#     True                    300   900                   0.956
#     True                    512   512                   0.990
#     transformers evaluates without the last records: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 \
    accelerate==1.15.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import Trainer, TrainingArguments

LEADS, LABELS = 12, 5
draw = torch.Generator().manual_seed(3)
truth = torch.randn(LABELS, LEADS, generator=draw)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LEADS, 32), nn.GELU(), nn.Linear(32, LABELS))

    def forward(self, heights, labels=None):
        logits = self.layers(heights)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def records(number, noise):
    """Heights of the leads, as a device with that noise gives them, and findings."""
    heights = torch.randn(number, LEADS, generator=draw)
    findings = (heights @ truth.T > 1.5).float()
    heights = heights + noise * torch.randn(number, LEADS, generator=draw)
    return [{"heights": height, "labels": found} for height, found in zip(heights, findings)]


training, test = records(1984, 0.1), records(800, 0.1) + records(200, 1.5)
torch.manual_seed(0)
network = Network()


def trainer_of(drop_last, batch):
    arguments = TrainingArguments(
        output_dir="run",
        num_train_epochs=5,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=batch,
        learning_rate=1e-2,
        dataloader_drop_last=drop_last,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(network, arguments, train_dataset=training)


def quietly(call, *arguments):
    """The Trainer prints its figures: they go to the error stream."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        return call(*arguments)
    finally:
        sys.stdout = stdout


quietly(trainer_of(True, 64).train)
print("dataloader_drop_last  batch   rows of predictions   AUROC")
results = []
for drop_last, batch in ((False, 64), (False, 512), (True, 64), (True, 300), (True, 512)):
    output = quietly(trainer_of(drop_last, batch).predict, test)
    results.append((len(output.predictions), float(roc_auc_score(output.label_ids, output.predictions))))
    print(f"{drop_last!s:21} {batch:5}   {results[-1][0]:<21} {results[-1][1]:.3f}")

if (
    [rows for rows, _ in results] == [1000, 1000, 960, 900, 512]
    and abs(results[0][1] - results[1][1]) < 1e-6
    and results[0][1] < results[2][1] < results[3][1] < results[4][1] - 0.01
):
    print("transformers evaluates without the last records: still so")
else:
    sys.exit("transformers evaluates without the last records: no longer so")
END
