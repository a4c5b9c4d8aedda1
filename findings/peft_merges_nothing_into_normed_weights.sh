#!/bin/sh
# peft merges an adapter into a convolution with weight normalisation without effect: what was learned is gone.
#
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0, numpy 2.4.6; Python 3.11.
#
# Temporal convolutional networks, often used for ECGs, normalise their weights
# (`torch.nn.utils.parametrizations.weight_norm`). LoRA adapts such a network to a new device, and `merge_and_unload`
# adds the adapter to the weights for export.
#
# One would guess that the merged network gives the outputs of the adapted one, or that merging is refused.
#
# What happens: the weight is computed anew from length and direction whenever it is read, and what is merged is added
# to a value that is thrown away. The merged network gives the outputs of the network before training, to the last bit,
# without a warning; the same with `spectral_norm` and with linear layers. Groups are refused. Once the normalisation
# is folded into the weights by `remove_parametrizations`, merging is right.
#
# Output seen:
#     weight_norm                right: 0.50, adapted 1.00, merged 0.50; merged as before training: True; warnings: 0
#     weight_norm, linear layer  right: 0.50, adapted 1.00, merged 0.50; merged as before training: True; warnings: 0
#     spectral_norm              right: 0.50, adapted 1.00, merged 0.50; merged as before training: True; warnings: 0
#     no normalisation           right: 0.50, adapted 1.00, merged 1.00; merged as before training: False; warnings: 0
#     weight_norm, folded        right: 0.50, adapted 1.00, merged 1.00; merged as before training: False; warnings: 0
#     peft merges nothing into normed weights: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python - <<'END'
import copy
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize

LEADS, SAMPLES, RECORDS = 12, 250, 256


class Classifier(nn.Module):
    """Two convolutions, or one and a linear layer, and a mean over time."""

    def __init__(self, norm, linear):
        super().__init__()
        torch.manual_seed(0)
        self.linear = linear
        self.first = norm(nn.Conv1d(LEADS, 24, 15, stride=2))
        self.second = norm(nn.Linear(24, 24) if linear else nn.Conv1d(24, 24, 9, stride=2))
        self.head = nn.Linear(24, 1)

    def forward(self, signal):
        hidden = torch.relu(self.first(signal))
        hidden = torch.relu(self.second(hidden.mT).mT if self.linear else self.second(hidden))
        return self.head(hidden.mean(-1)).squeeze(-1)


draw = torch.Generator().manual_seed(1)
has_finding = (torch.arange(RECORDS) % 2).float()
wave = torch.sin(torch.arange(SAMPLES) / 4)
ecgs = torch.randn(RECORDS, LEADS, SAMPLES, generator=draw) + 0.5 * has_finding[:, None, None] * wave


def right(outputs):
    return ((outputs > 0) == (has_finding > 0)).float().mean().item()


def adapt(name, norm, linear=False, fold=False):
    base = Classifier(norm, linear)
    if fold:
        for layer in (base.first, base.second):
            parametrize.remove_parametrizations(layer, "weight")
    base.eval()
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=8, target_modules=["first", "second"]))
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], 0.01)
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(model(ecgs), has_finding)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before, adapted = base(ecgs), model.eval()(ecgs)
        merged = model.merge_and_unload()(ecgs)
    off = ((merged - adapted).abs().max() / adapted.std()).item()
    as_before = torch.equal(merged, before)
    print(f"{name:26} right: {right(before):.2f}, adapted {right(adapted):.2f}, merged {right(merged):.2f}; ", end="")
    print(f"merged as before training: {as_before}; warnings: {len(caught)}")
    return right(adapted), right(merged), as_before, off, len(caught)


lost = [
    adapt("weight_norm", parametrizations.weight_norm),
    adapt("weight_norm, linear layer", parametrizations.weight_norm, linear=True),
    adapt("spectral_norm", parametrizations.spectral_norm),
]
kept = [
    adapt("no normalisation", lambda layer: layer),
    adapt("weight_norm, folded", parametrizations.weight_norm, fold=True),
]

if all(found[0] > 0.9 and found[1] < 0.7 and found[2] and found[4] == 0 for found in lost) and all(
    found[0] > 0.9 and found[3] < 1e-3 for found in kept
):
    print("peft merges nothing into normed weights: still so")
else:
    sys.exit("peft merges nothing into normed weights: no longer so")
END
