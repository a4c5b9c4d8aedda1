#!/bin/sh
# `BaseFinetuning` of `lightning` trains the head on another network than the frozen one that is evaluated.
#
# Versions: lightning 2.6.6, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# A pretrained convolutional network is frozen, and a head is trained on it for the ECGs of another device.
# `BaseFinetuning.freeze` does so; `train_bn=False` freezes the batch normalisation as well, which is trained otherwise.
#
# One would guess that a frozen normalisation takes the means and variances that it has learned, so that the head is
# trained on the features that it has in validation.
#
# What happens: `train_bn=False` sets `track_running_stats` to False. Such a layer does not update its means and
# variances, but in training it takes those of the batch instead, and only in validation its own. Weights and buffers
# are all as before; the features are not. If the new device has .7 of the height, .92 of the training records are right
# at the end of training, and .50 of the very same records in validation, without a warning. With the network in
# `eval()` .89 are right in both.
#
# Output seen:
#     the network on its own device: AUROC 0.966, 0.87 right; on the new one: AUROC 0.946, 0.50 right
#                              in training       evaluated: the same     other records    network as before
#     train_bn=False           0.92 right        0.50 right              0.50 right       True
#     train_bn=True            0.96 right        0.97 right              0.94 right       False
#     eval(), by hand          0.89 right        0.89 right              0.85 right       True
#     lightning freezes no batch normalisation: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 scikit-learn==1.9.1 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import copy
import logging
import sys
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LEADS, SAMPLES, RECORDS = 12, 250, 400
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv1d(LEADS, 24, 15, stride=2), nn.BatchNorm1d(24), nn.ReLU(),
            nn.Conv1d(24, 24, 9, stride=2), nn.BatchNorm1d(24), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(24, 1)

    def forward(self, ecgs):
        return self.head(self.backbone(ecgs).mean(-1)).squeeze(-1)

    def training_step(self, batch, _):
        ecgs, has_finding = batch
        logits = self(ecgs)
        self.log("right", ((logits > 0) == (has_finding > 0)).float().mean(), on_step=False, on_epoch=True)
        return nn.functional.binary_cross_entropy_with_logits(logits, has_finding)

    def configure_optimizers(self):
        return torch.optim.Adam([weight for weight in self.parameters() if weight.requires_grad], 0.005)


class Freeze(BaseFinetuning):
    def __init__(self, train_bn):
        super().__init__()
        self.train_bn = train_bn

    def freeze_before_training(self, model):
        self.freeze(model.backbone, train_bn=self.train_bn)

    def finetune_function(self, model, epoch, optimizer):
        """It stays frozen."""


class Evaluation(Callback):
    def setup(self, trainer, model, stage):
        model.backbone.requires_grad_(False)

    def on_train_epoch_start(self, trainer, model):
        model.backbone.eval()


def device(seed, height):
    """ECGs of a device, every other with a finding."""
    draw = torch.Generator().manual_seed(seed)
    has_finding = (torch.arange(RECORDS) % 2).float()
    ecgs = torch.randn(RECORDS, LEADS, SAMPLES, generator=draw)
    return height * (ecgs + 0.15 * has_finding[:, None, None] * torch.sin(torch.arange(SAMPLES) / 4)), has_finding


def train(model, data, epochs, *callbacks):
    """The share that is right in the last epoch, and warnings of what was to be frozen."""
    torch.manual_seed(0)
    model.train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, DataLoader(TensorDataset(*data), 50, shuffle=True))
    about = [str(warning.message) for warning in caught if "orm" in str(warning.message)]
    return trainer.callback_metrics["right"].item(), about


@torch.no_grad()
def judge(model, data):
    model.eval()
    logits = model(data[0])
    return roc_auc_score(data[1], logits), ((logits > 0) == (data[1] > 0)).float().mean().item()


torch.manual_seed(0)
base = Classifier()
train(base, device(1, 1), 10)
new, validation = device(2, 0.7), device(3, 0.7)
print("the network on its own device: AUROC {:.3f}, {:.2f} right;".format(*judge(base, device(4, 1))), end=" ")
print("on the new one: AUROC {:.3f}, {:.2f} right".format(*judge(base, validation)))
print("                         in training       evaluated: the same     other records    network as before")
results = {}
for name, callback in (
    ("train_bn=False", Freeze(False)),
    ("train_bn=True", Freeze(True)),
    ("eval(), by hand", Evaluation()),
):
    model = copy.deepcopy(base)
    learned, about = train(model, new, 60, callback)
    before, after = base.backbone.state_dict(), model.backbone.state_dict()
    same = all(torch.equal(before[key], after[key]) for key in before)
    results[name] = learned, judge(model, new)[1], judge(model, validation)[1], same, about
    print(f"{name:24} {learned:.2f} right        {results[name][1]:.2f} right              ", end="")
    print(f"{results[name][2]:.2f} right       {same}")

frozen, trained, by_hand = results.values()
if (
    frozen[0] - frozen[1] > 0.25 and frozen[0] - frozen[2] > 0.25 and frozen[3] and not frozen[4]
    and trained[2] > 0.85 and not trained[3]
    and abs(by_hand[0] - by_hand[1]) < 0.05 and by_hand[2] - frozen[2] > 0.2 and by_hand[3]
):
    print("lightning freezes no batch normalisation: still so")
else:
    sys.exit("lightning freezes no batch normalisation: no longer so")
END
