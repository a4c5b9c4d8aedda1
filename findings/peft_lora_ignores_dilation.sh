#!/bin/sh
# LoRA adapters of dilated convolutions see the neighbouring samples only, until they are merged.
#
# Versions: peft 0.21.2, torch 2.13.0, transformers 5.23.0, accelerate 1.15.0, numpy 2.4.6; Python 3.11.
#
# Temporal convolutional networks for ECGs stack `Conv1d(..., dilation=d, padding="same")`. `peft` gives each an
# adapter, two convolutions whose product `merge_and_unload` adds to the kernel.
#
# One would guess that the adapter has the geometry of the convolution that it adapts: its dilation and its way of
# padding, and that the merged model gives what the unmerged one gave.
#
# What happens: the adapter is made without them. With padding="same" no shape betrays it: the adapter of a kernel of 5
# taps 8 samples apart reads 5 neighbouring samples, and learns what those hold; what the base reads, 8 samples apart,
# it cannot, but for the middle one. Merged, its weights lie 8 samples apart, and the model that is deployed is another
# one than the one that was validated. With padding_mode "circular" or "reflect" the two differ at both ends of a
# signal. (With padding=16 instead of "same" the shapes differ, and `forward` raises.)
#
# Output seen:
#     what an impulse changes, in samples off it     unmerged              merged
#       dilation 1                                   -2 -1 0 1 2           -2 -1 0 1 2
#       dilation 8                                   -2 -1 0 1 2           -16 -8 0 8 16
#     how much of the adapter's effect merging changes
#       dilation 1                                   0.00
#       dilation 8                                   1.28
#       circular padding                             0.06
#       circular padding, two ends                   0.79
#     squared error of a trained adapter (1 without it) that is to add a kernel of its rank
#       dilation 1, that of the kernel 1              0.00                  0.00
#       dilation 8, that of the kernel 8              0.78                  0.78
#       dilation 8, that of the kernel 1              0.00                  1.55
#     LoRA ignores dilation and padding mode: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 transformers==5.23.0 \
    accelerate==1.15.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import copy
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

LENGTH = 400


def convolution(**options):
    torch.manual_seed(0)
    return nn.Conv1d(12, 16, 5, **{"padding": "same", **options})


def adapted(convolution):
    """peft's view of the convolution, with an adapter of rank 4."""
    model = nn.Sequential()
    model.add_module("convolution", convolution)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules=["convolution"]))


def effects(convolution, signals):
    """What a random adapter changes in the output: unmerged, and merged."""
    view = adapted(convolution).eval()
    with torch.no_grad():
        for name, weight in view.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
        with view.disable_adapter():
            plain = view(signals)
        unmerged = view(signals) - plain
        return unmerged, view.merge_and_unload()(signals) - plain


def share(unmerged, merged):
    return float((unmerged - merged).norm() / unmerged.norm())


print("what an impulse changes, in samples off it     unmerged              merged")
impulse = torch.zeros(1, 12, LENGTH)
impulse[..., LENGTH // 2] = 1
offsets = {}
for dilation in (1, 8):
    changed = effects(convolution(dilation=dilation), impulse)
    offsets[dilation] = [
        ((one.abs().amax(dim=(0, 1)) > 1e-5).nonzero()[:, 0] - LENGTH // 2).tolist() for one in changed
    ]
    texts = [" ".join(map(str, one)) for one in offsets[dilation]]
    print(f"  dilation {dilation:<36}{texts[0]:22}{texts[1]}")

print("how much of the adapter's effect merging changes")
signals = torch.randn(8, 12, LENGTH, generator=torch.Generator().manual_seed(1))
parts = {f"dilation {dilation}": share(*effects(convolution(dilation=dilation), signals)) for dilation in (1, 8)}
unmerged, merged = effects(convolution(padding=2, padding_mode="circular"), signals)
parts["circular padding"] = share(unmerged, merged)
parts["circular padding, two ends"] = share(unmerged[..., [0, 1, -2, -1]], merged[..., [0, 1, -2, -1]])
for name, part in parts.items():
    print(f"  {name:45}{part:.2f}")

print("squared error of a trained adapter (1 without it) that is to add a kernel of its rank")
delta = torch.einsum("or,rik->oik", torch.randn(16, 4), torch.randn(4, 12, 5))
losses = {}
for dilation, spacing in ((1, 1), (8, 8), (8, 1)):
    start = convolution(dilation=dilation)
    added = nn.functional.conv1d(signals, delta, padding="same", dilation=spacing)
    wanted, scale = (start(signals) + added).detach(), added.square().mean()
    view = adapted(start)
    optimizer = torch.optim.Adam([weight for weight in view.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(300):
        loss = (view(signals) - wanted).square().mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        merged = (view.merge_and_unload()(signals) - wanted).square().mean() / scale
    losses[dilation, spacing] = loss.item(), merged.item()
    print(f"  dilation {dilation}, that of the kernel {spacing:<15}{loss.item():<22.2f}{merged.item():.2f}")

if (
    offsets == {1: [[-2, -1, 0, 1, 2]] * 2, 8: [[-2, -1, 0, 1, 2], [-16, -8, 0, 8, 16]]}
    and parts["dilation 1"] < 0.01 < 0.5 < min(parts["dilation 8"], parts["circular padding, two ends"])
    and max(losses[1, 1]) < 0.05 < 0.5 < min(losses[8, 8])
    and losses[8, 1][0] < 0.05 < 1 < losses[8, 1][1]
):
    print("LoRA ignores dilation and padding mode: still so")
else:
    sys.exit("LoRA ignores dilation and padding mode: no longer so")
END
