#!/bin/sh
# captum's DeepLift gives wrong contributions, even of the wrong sign, where a network has GELU or SiLU.
#
# Versions: captum 0.9.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# DeepLift shares out the difference between the outputs for a record and for a baseline among the samples of the
# record. It does so where a gradient cannot: where an activation is saturated.
#
# One would guess that the contributions sum up to that difference for any activation that torch has as a module, or
# that a module that is not known is refused by its name.
#
# What happens: the rule of DeepLift is applied to ReLU, LeakyReLU, ELU, Sigmoid, Tanh, Softplus and Softmax; all other
# modules, GELU and SiLU of today's Transformers among them, silently pass the plain gradient. Here a network measures
# the ST segment in V2 and V3 and says yes from 0.1 mV on. With ReLU the segment gets all of the output; with GELU it
# speaks against the elevation that it shows. Integrated gradients are right for all.
#
# Output seen (elevation of 0.2 mV):
#                  output less baseline   DeepLift: ST segment   all else   integrated gradients: ST segment
#     ReLU                        1.000                  1.000      0.000                              1.000
#     ELU                         1.632                  1.632      0.000                              1.632
#     GELU                        1.000                 -0.167      0.000                              1.000
#     SiLU                        1.000                  0.145      0.000                              1.000
#     warnings that name the activation: 0
#     captum's DeepLift reverses GELU: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check captum==0.9.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import torch
from captum.attr import DeepLift, IntegratedGradients
from torch import nn

LEADS, SAMPLES, LIMIT = 12, 500, 0.1  # mV
ST, V2_V3 = slice(160, 190), slice(7, 9)


def detector(activation):
    """1 - activation(1 - ST / limit): 0 without elevation, and saturated beyond the limit."""
    measure, answer = nn.Linear(LEADS * SAMPLES, 1), nn.Linear(1, 1)
    weights = torch.zeros(LEADS, SAMPLES)
    weights[V2_V3, ST] = -1 / (LIMIT * 2 * 30)
    with torch.no_grad():
        measure.weight.copy_(weights.flatten()[None])
        measure.bias.fill_(1)
        answer.weight.fill_(-1)
        answer.bias.fill_(1)
    return nn.Sequential(nn.Flatten(), measure, activation(), answer).eval()


record = torch.zeros(1, LEADS, SAMPLES)
record[:, :, 140:150] = 1.2  # R
record[:, V2_V3, ST] = 2 * LIMIT
baseline = torch.zeros_like(record)

print(f"{'':12} output less baseline   DeepLift: ST segment   all else   integrated gradients: ST segment")
found, named = {}, 0
for activation in (nn.ReLU, nn.ELU, nn.GELU, nn.SiLU):
    network = detector(activation)
    difference = float((network(record) - network(baseline)).detach())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shares = DeepLift(network).attribute(record, baseline)[0].detach()
        integrated = IntegratedGradients(network).attribute(record, baseline, n_steps=500)[0].detach()
    named += sum(activation.__name__ in str(warning.message) for warning in caught)
    segment = float(shares[V2_V3, ST].sum())
    found[activation.__name__] = segment / difference
    right = abs(float(integrated[V2_V3, ST].sum()) - difference) < 0.01
    print(
        f"{activation.__name__:12} {difference:20.3f} {segment:22.3f} {abs(float(shares.sum()) - segment):10.3f} "
        f"{float(integrated[V2_V3, ST].sum()):34.3f}"
    )
    assert right
print(f"warnings that name the activation: {named}")
if max(abs(found["ReLU"] - 1), abs(found["ELU"] - 1)) < 0.01 and found["GELU"] < 0 and found["SiLU"] < 0.5 and not named:
    print("captum's DeepLift reverses GELU: still so")
else:
    sys.exit("captum's DeepLift reverses GELU: no longer so")
END
