#!/bin/sh
# A network of PyTorchModelHubMixin that was made with a number of numpy is loaded with the default in its place.
#
# Versions: huggingface_hub 2.4.0, torch 2.13.0, safetensors 0.8.0, numpy 2.4.6; Python 3.11.
#
# Classes that are derived from `PyTorchModelHubMixin` save what they were made with in `config.json`, and weights
# beside it. Rates, means and standard deviations of a data set come from numpy or from a column of pandas.
#
# One would guess that such a number is stored, or that saving is refused, as `json` refuses it.
#
# What happens: a whole number, a float32 and an array of numpy, and a tensor, are left out, and the default of the
# argument is written in their place, without a warning; a float64 is kept. The network that is loaded has the same
# weights, and filters 500 Hz as if they were 100 Hz, or divides by 1 instead of the standard deviation: outputs are
# others, though nothing fails. Buffers come back; what is an attribute does not.
#
# Output seen:
#     Python's own numbers   stored: rate 500, std 0.25; 0 % of the outputs are others after loading
#     float64 of numpy       stored: rate 500, std 0.25; 0 % of the outputs are others after loading
#     int64 of numpy         stored: rate 100, std 0.25; 100 % of the outputs are others after loading
#     float32 of numpy       stored: rate 500, std 1.0; 100 % of the outputs are others after loading
#     array of numpy         stored: rate 500, std 1.0; 100 % of the outputs are others after loading
#     tensor                 stored: rate 500, std 1.0; 100 % of the outputs are others after loading
#     warnings: 0
#     the mixin forgets settings of numpy: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0 torch==2.13.0 \
    safetensors==0.8.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python - <<'END'
import json
import pathlib
import sys
import warnings

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn


class Network(nn.Module, PyTorchModelHubMixin):
    """Takes the wander of the baseline off by a mean over one second, and divides by the standard deviation."""

    def __init__(self, leads=12, sampling_rate=100, std=1.0):
        super().__init__()
        self.sampling_rate, self.std = sampling_rate, std
        self.convolution = nn.Conv1d(leads, 8, 25)
        self.head = nn.Linear(8, 1)

    def forward(self, ecg):  # mV
        second = int(self.sampling_rate) + 1
        sums = nn.functional.pad(ecg, (second // 2 + 1, second // 2), mode="replicate").cumsum(2)
        ecg = ecg - (sums[..., second:] - sums[..., :-second]) / second
        ecg = ecg / torch.as_tensor(self.std, dtype=ecg.dtype).reshape(-1, 1)
        return torch.sigmoid(20 * self.head(torch.relu(self.convolution(ecg)).mean(2)))[:, 0]


draw = np.random.default_rng(0)
time = np.arange(1000) / 500
st_elevation = draw.uniform(0, 0.5, 60)[:, None] * (time % 0.8 < 0.3)
ecg = 0.05 * draw.normal(size=(60, 12, 1000)) + st_elevation[:, None] + np.exp(-(((time % 0.8 - 0.1) / 0.02) ** 2))
ecg = torch.tensor(ecg, dtype=torch.float32)
SETTINGS = {
    "Python's own numbers": (500, 0.25),
    "float64 of numpy": (500, np.float64(0.25)),
    "int64 of numpy": (np.int64(500), 0.25),
    "float32 of numpy": (500, np.float32(0.25)),
    "array of numpy": (500, np.full(12, 0.25)),
    "tensor": (500, torch.full((12,), 0.25)),
}

found = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name, (rate, std) in SETTINGS.items():
        torch.manual_seed(0)
        network = Network(sampling_rate=rate, std=std).eval()
        network.save_pretrained("saved")
        stored = json.loads(pathlib.Path("saved/config.json").read_text())
        with torch.no_grad():
            before, after = network(ecg), Network.from_pretrained("saved").eval()(ecg)
        changed = (before != after).float().mean().item()
        found[name] = (stored["sampling_rate"], stored["std"], changed)
        print(f"{name:22} stored: rate {stored['sampling_rate']}, std {stored['std']}; ", end="")
        print(f"{100 * changed:.0f} % of the outputs are others after loading")
print(f"warnings: {len(caught)}", *{str(warning.message)[:100] for warning in caught})

kept = [found[name] for name in ("Python's own numbers", "float64 of numpy")]
rate = found["int64 of numpy"]
lost = [found[name] for name in ("float32 of numpy", "array of numpy", "tensor")]
if (
    all(row == (500, 0.25, 0) for row in kept)
    and rate[:2] == (100, 0.25)
    and rate[2] > 0.9
    and all(row[:2] == (500, 1.0) and row[2] > 0.9 for row in lost)
):
    print("the mixin forgets settings of numpy: still so")
else:
    sys.exit("the mixin forgets settings of numpy: no longer so")
END
