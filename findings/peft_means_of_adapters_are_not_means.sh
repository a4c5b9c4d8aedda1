#!/bin/sh
# peft's "linear" mean of two adapters is neither the mean of what they do nor near it.
#
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0, numpy 2.4.6; Python 3.11.
#
# Two hospitals train an adapter each on their own records, and the adapters are averaged by
# `add_weighted_adapter([...], [0.5, 0.5], ..., combination_type="linear")`: what federated training does, or a "soup"
# of several seeds.
#
# One would guess that the weights which the mean adds to the network are the mean of those that the two add; and that
# the mean of an adapter and its copy is that adapter.
#
# What happens: the two factors of each adapter are averaged one by one, with the square roots of the weights, and then
# multiplied with each other, so that the factors of different hospitals meet as well. The mean of an adapter and its
# copy is twice that adapter, and .617 of the findings are right where they were .909; so it is, nearly, with adapters
# that began from one seed. With two seeds the mean is no better than the network without adapters, without a warning.
# "cat" gives the exact mean, which is better than either adapter.
#
# Output seen:
#     without an adapter 0.794 right
#     adapter A          0.909 right
#     adapter B          0.916 right
#     adapter C          0.910 right
#     the mean of             by        right   size by that of the mean   error by the size of the mean
#       A and itself          cat      0.909   1.00                       0.00
#       A and itself          linear   0.617   2.00                       1.00
#       A and C, one seed     cat      0.921   1.00                       0.00
#       A and C, one seed     linear   0.695   1.87                       0.99
#       A and B, two seeds    cat      0.921   1.00                       0.00
#       A and B, two seeds    linear   0.793   1.33                       0.76
#     peft's means of adapters are not means: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 \
    accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

LEADS, LABELS, RANK = 12, 5, 2
draw = torch.Generator().manual_seed(0)
truth = torch.randn(LABELS, LEADS, generator=draw)


def records(number, device):
    """Heights of the leads and findings; a hospital's device has offsets and gains of its own."""
    waves = torch.randn(number, LEADS, generator=draw)
    return waves * device[0] + device[1], (waves @ truth.T > 0).float()


# What both devices have in common differs from the device of the base, and something more is of each alone.
common = 1 + torch.randn(LEADS, generator=draw).sign() * 0.6, torch.zeros(LEADS)
hospitals = [
    (common[0] * (1 + 0.1 * torch.randn(LEADS, generator=draw)), 0.1 * torch.randn(LEADS, generator=draw))
    for _ in range(2)
]


def loss_of(model, waves, findings):
    return nn.functional.binary_cross_entropy_with_logits(model(waves), findings)


def train(model, data, steps):
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, *data).backward()
        optimizer.step()


torch.manual_seed(0)
base = nn.Sequential(nn.Linear(LEADS, 32), nn.GELU(), nn.Linear(32, LABELS))
train(base, records(2000, (1.0, 0.0)), 300)

view = None
for name, seed, hospital in (("A", 1, 0), ("B", 2, 1), ("C", 1, 1)):
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0", "2"])
    if view is None:
        view = get_peft_model(base, config, adapter_name=name)
    else:
        view.add_adapter(name, config)
    view.set_adapter(name)
    train(view, records(2000, hospitals[hospital]), 300)

tests = [records(4000, device) for device in hospitals]


def right():
    """The share of findings that are called rightly, in both hospitals."""
    with torch.no_grad():
        shares = [((view(waves) > 0) == findings.bool()).float().mean() for waves, findings in tests]
    return float(sum(shares) / 2)


def weights(name):
    with torch.no_grad():
        return torch.cat([view.base_model.model[place].get_delta_weight(name).flatten() for place in (0, 2)])


with view.disable_adapter():
    print(f"without an adapter {right():.3f} right")
for name in "ABC":
    view.set_adapter(name)
    print(f"adapter {name}          {right():.3f} right")
print("the mean of             by        right   size by that of the mean   error by the size of the mean")
results = {}
for pair, what in (("AA", "A and itself"), ("AC", "A and C, one seed"), ("AB", "A and B, two seeds")):
    mean = (weights(pair[0]) + weights(pair[1])) / 2
    for way in ("cat", "linear"):
        name = f"{pair}_{way}"
        view.add_weighted_adapter(list(pair), [0.5, 0.5], name, combination_type=way)
        view.set_adapter(name)
        size, error = weights(name).norm() / mean.norm(), (weights(name) - mean).norm() / mean.norm()
        results[pair, way] = right(), float(size), float(error)
        print(f"  {what:21} {way:8} {right():.3f}   {size:.2f}                       {error:.2f}")

if (
    all(results[pair, "cat"][2] < 0.01 for pair in ("AA", "AC", "AB"))
    and abs(results["AA", "linear"][1] - 2) < 0.01
    and all(results[pair, "linear"][2] > 0.5 for pair in ("AA", "AC", "AB"))
    and all(results[pair, "linear"][0] < results[pair, "cat"][0] - 0.02 for pair in ("AA", "AC", "AB"))
):
    print("peft's means of adapters are not means: still so")
else:
    sys.exit("peft's means of adapters are not means: no longer so")
END
