#!/bin/sh
# `EMAWeightAveraging` of `lightning` averages from the first step on if it is told to start at an epoch.
#
# Versions: lightning 2.6.6, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# An exponential moving average of the weights is what is validated, saved and kept. With the default decay of .999 it
# remembers a thousand steps, so that in short trainings it is to start once the first epochs are over:
# `update_starting_at_step` and `update_starting_at_epoch` are there for that.
#
# One would guess that with `update_starting_at_epoch=10` nothing from before epoch 10 is in the average, as with the
# step at which that epoch begins.
#
# What happens: the epoch says from when on weights are averaged at the end of each epoch as well; each step is averaged
# all along, and the last one of an epoch twice from then on. The average is for the most part that of the untrained
# network, as without the option: AUROC is .705 instead of .988, in validation, in the file and at the end, without a
# warning. Only `update_every_n_steps=0` beside the epoch leaves the steps out. Before the first step that counts it is
# the untrained network that is validated, by which early stopping goes.
#
# Output seen:
#     14 epochs of 8 steps                           updates    first    AUROC: epoch 5    end      file
#     no average                                     0          -        0.946             0.993    0.993
#     from the beginning                             112        1        0.586             0.695    0.695
#     update_starting_at_epoch=10                    116        1        0.586             0.705    0.705
#     update_starting_at_step=80                     32         81       0.541             0.988    0.988
#     ..._epoch=10, update_every_n_steps=0           4          88       0.541             0.991    0.991
#     lightning averages before the epoch: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.13.0 scikit-learn==1.9.1 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import logging
import sys
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LEADS, SAMPLES, RECORDS, EPOCHS, START, STEPS = 12, 250, 400, 14, 10, 8
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(LEADS, 24, 15, stride=2), nn.ReLU(), nn.Conv1d(24, 24, 9, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 1),
        )  # fmt: skip
        self.validated = []

    def forward(self, ecgs):
        return self.layers(ecgs).squeeze(-1)

    def training_step(self, batch, _):
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.validated.append(roc_auc_score(batch[1], self(batch[0])))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.003)


class Counting(EMAWeightAveraging):
    """The callback as it is, which tells after how many steps it has averaged."""

    def __init__(self, **options):
        super().__init__(**options)
        self.updates = []

    def should_update(self, step_idx=None, epoch_idx=None):
        updates = super().should_update(step_idx, epoch_idx)
        if updates:
            self.updates.append((epoch_idx + 1) * STEPS if step_idx is None else step_idx + 1)
        return updates


def ecgs(seed):
    """ECGs, every other with a finding."""
    draw = torch.Generator().manual_seed(seed)
    has_finding = (torch.arange(RECORDS) % 2).float()
    noise = torch.randn(RECORDS, LEADS, SAMPLES, generator=draw)
    return TensorDataset(noise + 0.15 * has_finding[:, None, None] * torch.sin(torch.arange(SAMPLES) / 4), has_finding)


@torch.no_grad()
def judge(model):
    signals, has_finding = validation.tensors
    return roc_auc_score(has_finding, model.eval()(signals))


training, validation = ecgs(1), ecgs(2)
print("14 epochs of 8 steps                           updates    first    AUROC: epoch 5    end      file")
results = {}
for name, options in {
    "no average": None,
    "from the beginning": {},
    "update_starting_at_epoch=10": {"update_starting_at_epoch": START},
    "update_starting_at_step=80": {"update_starting_at_step": START * STEPS},
    "..._epoch=10, update_every_n_steps=0": {"update_starting_at_epoch": START, "update_every_n_steps": 0},
}.items():
    torch.manual_seed(0)
    model = Classifier()
    callbacks = [] if options is None else [Counting(**options)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(
            model, DataLoader(training, RECORDS // STEPS, shuffle=True), DataLoader(validation, len(validation))
        )
        trainer.save_checkpoint("last.ckpt")
    assert trainer.global_step == EPOCHS * STEPS and not any("verag" in str(warning.message) for warning in caught)
    loaded = Classifier()
    loaded.load_state_dict(torch.load("last.ckpt", weights_only=False)["state_dict"])
    updates = callbacks[0].updates if callbacks else []
    results[name] = len(updates), min(updates, default=None), model.validated[4], judge(model), judge(loaded)
    print("{:46} {:<10} {:<8} {:.3f}             {:.3f}    {:.3f}".format(
        name, len(updates), min(updates, default="-"), *results[name][2:]
    ))  # fmt: skip

none, beginning, epoch, step, ends = results.values()
if (
    beginning[:2] == (EPOCHS * STEPS, 1) and epoch[:2] == (EPOCHS * STEPS + EPOCHS - START, 1)
    and step[:2] == ((EPOCHS - START) * STEPS, START * STEPS + 1)
    and ends[:2] == (EPOCHS - START, (START + 1) * STEPS)
    and max(*beginning[3:], *epoch[3:]) < 0.8 and min(*none[3:], *step[3:], *ends[3:]) > 0.95
    and abs(step[2] - 0.5) < 0.1 and none[2] > 0.8
):
    print("lightning averages before the epoch: still so")
else:
    sys.exit("lightning averages before the epoch: no longer so")
END
