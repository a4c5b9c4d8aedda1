#!/bin/sh
# The Trainer of transformers that has trained a head does not train the encoder that is set free afterwards.
#
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# A network is fitted to new ECGs in two stages: first the head alone, on the frozen encoder; then `requires_grad` is
# set for the encoder, `learning_rate` of the arguments to that of fine-tuning, and `train()` is called once more.
#
# One would guess that the second call trains all that requires gradients, at the rate that the arguments then have:
# its schedule begins anew, and its loss falls on.
#
# What happens: the optimizer of the first call is kept. It holds the head alone, at the rate of the first stage: the
# encoder gets gradients, and is the same to the last bit after the second stage, without a warning. What looks like
# fine-tuning has the AUROC of a longer linear probe, .885 instead of .992. A new Trainer for the same network, or
# `trainer.optimizer = None`, trains both.
#
# Output seen:
#     macro AUROC after the head alone    0.819
#     macro AUROC after a second stage by    largest change of the encoder   rate
#       train() again                0.885   0.000                           0.003
#       train(), optimizer = None    0.992   0.659                           0.01
#       a new Trainer                0.992   0.659                           0.01
#     transformers trains the frozen encoder no further: still so
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
        self.encoder = nn.Sequential(nn.Linear(LEADS, 32), nn.GELU())
        self.head = nn.Linear(32, LABELS)

    def forward(self, heights, labels=None):
        logits = self.head(self.encoder(heights))
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def records(number):
    """Heights of the leads, and findings."""
    heights = torch.randn(number, LEADS, generator=draw)
    findings = (heights @ truth.T > 1.5).float()
    return [{"heights": height, "labels": found} for height, found in zip(heights, findings)]


training, validation = records(2000), records(1000)


def trainer_of(network, rate):
    arguments = TrainingArguments(
        output_dir="run",
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=rate,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(
        network,
        arguments,
        train_dataset=training,
        eval_dataset=validation,
        compute_metrics=lambda output: {"auroc": roc_auc_score(output.label_ids, output.predictions)},
    )


def quietly(call):
    """The Trainer prints its figures: they go to the error stream."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        return call()
    finally:
        sys.stdout = stdout


results = {}
for way in ("train() again", "train(), optimizer = None", "a new Trainer"):
    torch.manual_seed(0)
    network = Network()
    network.encoder.requires_grad_(False)
    trainer = trainer_of(network, 3e-3)
    quietly(trainer.train)
    probed = quietly(trainer.evaluate)["eval_auroc"]
    before = network.encoder[0].weight.detach().clone()
    network.encoder.requires_grad_(True)
    if way == "a new Trainer":
        trainer = trainer_of(network, 1e-2)
    trainer.args.learning_rate = 1e-2
    if way == "train(), optimizer = None":
        trainer.optimizer = None
    quietly(trainer.train)
    change = float((network.encoder[0].weight.detach() - before).abs().max())
    results[way] = (quietly(trainer.evaluate)["eval_auroc"], change, trainer.optimizer.param_groups[0]["initial_lr"])

print(f"macro AUROC after the head alone    {probed:.3f}")
print("macro AUROC after a second stage by    largest change of the encoder   rate")
for way, (auroc, change, rate) in results.items():
    print(f"  {way:28} {auroc:.3f}   {change:.3f}                           {rate}")

again, cleared, new = results.values()
if again[1:] == (0, 3e-3) and all(
    auroc > again[0] + 0.03 and change > 0.1 and rate == 1e-2 for auroc, change, rate in (cleared, new)
):
    print("transformers trains the frozen encoder no further: still so")
else:
    sys.exit("transformers trains the frozen encoder no further: no longer so")
END
