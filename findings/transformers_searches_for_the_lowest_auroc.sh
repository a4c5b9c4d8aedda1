#!/bin/sh
# `hyperparameter_search` of transformers' Trainer gives the settings of the lowest AUROC as the best.
#
# Versions: transformers 5.23.0, optuna 5.0.0, torch 2.13.0, accelerate 1.15.0, scikit-learn 1.9.1, numpy 2.4.6; Python
# 3.11.
#
# The arguments of a Trainer name what is best: `metric_for_best_model="auroc"`, `greater_is_better=True`. By these it
# chooses the epoch within a run (`load_best_model_at_end`). `hyperparameter_search` trains with several settings.
#
# One would guess that it takes the run that is best by the same metric in the same direction.
#
# What happens: neither is read. The sum of all metrics but the loss is minimised, whatever they are: of four learning
# rates the one that has learnt least is given as the best, with an AUROC of .431 instead of .987, without a warning.
# With `direction="maximize"` the sum is maximised; only `compute_objective` takes one metric out of it.
#
# Output seen:
#     best run by                               learning rate   AUROC
#       metric_for_best_model, as in training   1e-05           0.431
#       and direction="maximize"                0.01            0.987
#     transformers searches for the lowest AUROC: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 optuna==5.0.0 torch==2.13.0 \
    accelerate==1.15.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import optuna
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import Trainer, TrainingArguments

LEADS, LABELS, RATES = 12, 5, [1e-5, 1e-4, 1e-3, 1e-2]
draw = torch.Generator().manual_seed(3)
truth = torch.randn(LABELS, LEADS, generator=draw)
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LEADS, 32), nn.GELU(), nn.Linear(32, LABELS))

    def forward(self, heights, labels=None):
        logits = self.layers(heights)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def records(number):
    """Heights of the leads, and findings."""
    heights = torch.randn(number, LEADS, generator=draw)
    findings = (heights @ truth.T > 1.5).float()
    return [{"heights": height, "labels": found} for height, found in zip(heights, findings)]


training, validation = records(2000), records(1000)
results = {}
for way, options in (
    ("metric_for_best_model, as in training", {}),
    ('and direction="maximize"', {"direction": "maximize"}),
):
    seen = []

    def metrics(output):
        seen.append(float(roc_auc_score(output.label_ids, output.predictions)))
        return {"auroc": seen[-1]}

    trainer = Trainer(
        model_init=Network,
        args=TrainingArguments(
            output_dir="run",
            num_train_epochs=2,
            per_device_train_batch_size=32,
            report_to=[],
            eval_strategy="epoch",
            save_strategy="epoch",
            metric_for_best_model="auroc",
            greater_is_better=True,
            load_best_model_at_end=True,
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=training,
        eval_dataset=validation,
        compute_metrics=metrics,
    )
    stdout, sys.stdout = sys.stdout, sys.stderr  # the Trainer prints its figures
    try:
        best = trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", RATES)},
            n_trials=len(RATES),
            backend="optuna",
            sampler=optuna.samplers.GridSampler({"learning_rate": RATES}, seed=0),
            **options,
        )
    finally:
        sys.stdout = stdout
    results[way] = best.hyperparameters["learning_rate"], best.objective

print("best run by                               learning rate   AUROC")
for way, (rate, auroc) in results.items():
    print(f"  {way:39} {rate:<15} {auroc:.3f}")

unasked, asked = results.values()
if unasked[0] == min(RATES) and unasked[1] < asked[1] - 0.3 and asked[0] == max(RATES):
    print("transformers searches for the lowest AUROC: still so")
else:
    sys.exit("transformers searches for the lowest AUROC: no longer so")
END
