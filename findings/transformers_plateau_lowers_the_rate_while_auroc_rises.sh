#!/bin/sh
# The Trainer of transformers lowers the learning rate on a "plateau" of AUROC where AUROC rises from epoch to epoch.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `lr_scheduler_type="reduce_lr_on_plateau"` lowers the learning rate where `metric_for_best_model` has not become
# better for some epochs. `greater_is_better` says in which direction it does; for AUROC it is True, given or not, and
# the best checkpoint and early stopping go by it.
#
# One would guess that the schedule goes by it too.
#
# What happens: the schedule takes less for better, whatever the metric. An AUROC that rises in each epoch counts as one
# that has not improved since the first, and the rate falls to a tenth again and again, until nothing is learnt; while
# AUROC falls, the rate stays. There is no warning; the log looks like a training that has converged. The default
# patience is 10 epochs, or evaluations; here it is 2. `lr_scheduler_kwargs={"mode": "max"}` makes it right.
#
# Output seen:
#     as it is         AUROC after each third epoch  0.625   0.766   0.776   0.777   0.777   0.777
#                      learning rate of that epoch   1e-03   1e-03   1e-04   1e-05   1e-06   1e-07
#     mode "max"       AUROC after each third epoch  0.625   0.766   0.843   0.883   0.908   0.924
#                      learning rate of that epoch   1e-03   1e-03   1e-03   1e-03   1e-03   1e-03
#     as it is, AUROC rises in 14 of 15 epochs
#     transformers lowers the rate while AUROC rises: still so
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
from transformers import Trainer, TrainerCallback, TrainingArguments

LEADS, LABELS, EPOCHS = 12, 5, 16
draw = torch.Generator().manual_seed(0)
waves = torch.randn(1000, LEADS, generator=draw)
likely = waves @ torch.randn(LEADS, LABELS, generator=draw) + torch.randn(1000, LABELS, generator=draw)
rows = [{"waves": one, "labels": findings} for one, findings in zip(waves, (likely > 2).float(), strict=True)]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LEADS, 32), nn.GELU(), nn.Linear(32, LABELS))

    def forward(self, waves, labels):
        logits = self.layers(waves)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


class Rates(TrainerCallback):
    """The learning rate of each epoch, and AUROC after it."""

    def __init__(self):
        self.rates, self.values = [], []

    def on_epoch_begin(self, args, state, control, optimizer=None, **other):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_evaluate(self, args, state, control, metrics=None, **other):
        self.values.append(metrics["eval_auroc"])


def train(name, **options):
    torch.manual_seed(0)
    seen = Rates()
    arguments = TrainingArguments(
        name,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=50,
        learning_rate=1e-3,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 2, **options},
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="auroc",
        greater_is_better=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        Network(),
        arguments,
        train_dataset=rows[:500],
        eval_dataset=rows[500:],
        compute_metrics=lambda output: {"auroc": roc_auc_score(output.label_ids, output.predictions)},
        callbacks=[seen],
    )
    trainer.log = lambda *logs, **other: None
    trainer.train()
    print(f"{name:16} AUROC after each third epoch ", *(f"{value:.3f}  " for value in seen.values[::3]))
    print(f"{'':16} learning rate of that epoch  ", *(f"{rate:.0e}  " for rate in seen.rates[::3]))
    return seen


default, right = train("as it is"), train('mode "max"', mode="max")
rises = sum(later > earlier for earlier, later in zip(default.values, default.values[1:], strict=False))
print(f"as it is, AUROC rises in {rises} of {EPOCHS - 1} epochs")
if (
    rises >= EPOCHS - 4
    and default.rates[-1] < 1e-6 < 9e-4 < right.rates[5]
    and max(default.values) < max(right.values) - 0.05
):
    print("transformers lowers the rate while AUROC rises: still so")
else:
    sys.exit("transformers lowers the rate while AUROC rises: no longer so")
END
