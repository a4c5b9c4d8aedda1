#!/bin/sh
# An adapter of nn.TransformerEncoder is trained by `peft`, and left out of the network as soon as it is evaluated.
#
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0, numpy 2.4.6; Python 3.11.
#
# Many ECG encoders are a convolution and `torch.nn.TransformerEncoder`. LoRA adapts it to a new hospital: the adapter
# is trained, its outputs are evaluated (`eval()`), and it is merged.
#
# One would guess that without dropout the outputs are the same in training and in evaluation, with and without
# gradients, and after merging; or that layers which cannot be adapted are refused.
#
# What happens: in evaluation each layer of torch takes its fast path, which reads the weights and calls none of the
# linear layers, so that the adapters of `linear1` and `linear2` are skipped; with `self_attn` besides all are. The
# outputs are those of before training, gradients or not. With `out_proj`, which "all-linear" holds, the adapter of the
# attention takes no part in training either and never leaves its first values, which are zero. There is no warning. The
# loss of training falls, and the validation stays where it was: whoever stops early by it stops at once.
# `torch.backends.mha.set_fastpath_enabled(False)` brings the adapters back, `out_proj` excepted.
#
# Output seen:
#     linear1, linear2: loss of training 0.02, adapters still 0: 0; right before 0.65
#        in train() 0.98   in eval() 0.65   with gradients 0.65   no fast path 0.98   merged 0.98
#     linear1, linear2, self_attn: loss of training 0.05, adapters still 0: 0; right before 0.65
#        in train() 0.98   in eval() 0.65   with gradients 0.65   no fast path 0.98   merged 0.98
#     all-linear: loss of training 0.00, adapters still 0: 2; right before 0.65
#        in train() 0.99   in eval() 0.82   with gradients 0.82   no fast path 0.99   merged 0.99
#     warnings that name adapters or layers: 0
#     adapters are skipped in evaluation: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'END'
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

LEADS, SAMPLES, RECORDS = 12, 200, 400


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(LEADS, 32, 20, 20)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 2)

    def forward(self, ecg):
        return self.head(self.encoder(self.patches(ecg).transpose(1, 2)).mean(1))


draw = torch.Generator().manual_seed(0)
has_st_elevation = torch.arange(RECORDS) % 2
wave = torch.exp(-((torch.arange(SAMPLES) % 80 - 40.0) ** 2) / 200)
ecg = 0.3 * torch.randn(RECORDS, LEADS, SAMPLES, generator=draw) + 0.4 * has_st_elevation[:, None, None] * wave
train, test = slice(0, 300), slice(300, None)
TARGETS = {
    "linear1, linear2": ["linear1", "linear2"],
    "linear1, linear2, self_attn": ["linear1", "linear2", "self_attn"],
    "all-linear": "all-linear",
}


def right(logits):
    return (logits.argmax(1) == has_st_elevation[test]).float().mean().item()


def outputs(model, mode, gradients=False):
    model.train(mode)
    with torch.set_grad_enabled(gradients):
        return model(ecg[test]).detach()


found = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name, target in TARGETS.items():
        torch.manual_seed(0)
        network = Network()
        before = outputs(network, False)
        model = get_peft_model(network, LoraConfig(r=4, lora_alpha=16, target_modules=target))
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        model.train()
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(ecg[train]), has_st_elevation[train])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        idle = sum(p.abs().max().item() == 0 for key, p in model.named_parameters() if "lora_B" in key)
        training, evaluation = outputs(model, True), outputs(model, False)
        with_gradients = outputs(model, False, gradients=True)
        torch.backends.mha.set_fastpath_enabled(False)
        slow = outputs(model, False)
        torch.backends.mha.set_fastpath_enabled(True)
        merged = outputs(model.merge_and_unload(), False)
        found[name] = [right(logits) for logits in (before, training, evaluation, with_gradients, slow, merged)]
        found[name] += [(evaluation - before).abs().max().item(), idle]
        print(f"{name}: loss of training {loss.item():.2f}, adapters still 0: {idle}; ", end="")
        print(f"right before {found[name][0]:.2f}")
        names = ("in train()", "in eval()", "with gradients", "no fast path", "merged")
        print("  ", *(f"{key} {value:.2f}  " for key, value in zip(names, found[name][1:6], strict=True)))
print("warnings that name adapters or layers:", sum("adapt" in str(w.message).lower() for w in caught))

same = all(found[name][6] < 1e-5 for name in list(TARGETS)[:2])
worse = all(row[1] > 0.95 and row[2] < row[1] - 0.2 and row[3] == row[2] for row in list(found.values())[:2])
cured = all(row[4] == row[1] == row[5] for row in list(found.values())[:2])
if same and worse and cured and [row[7] for row in found.values()] == [0, 0, 2]:
    print("adapters are skipped in evaluation: still so")
else:
    sys.exit("adapters are skipped in evaluation: no longer so")
END
