#!/bin/sh
# CutMix of torch-ecg mixes labels the wrong way round: the more of an ECG is left, the less its label counts.
#
# Versions: torch-ecg 0.0.33, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# `torch_ecg.augmenters.cutmix.CutMix` puts a part of another record of the batch in the place of the same part of a
# record, and mixes the labels. It takes labels of shape (batch, classes), or a mask for each sample (batch, samples,
# classes), such as the times of atrial fibrillation.
#
# One would guess that the share of a record's own label is the share of its own samples, as in CutMix by its authors;
# and that a mask is cut where the signal is cut, so that each sample keeps the class that it has.
#
# What happens: the shares are exchanged. A record of which 90 % are left has a tenth of its own label and nine tenths
# of the other's; with the default Beta(.5, .5) the shares are mostly far from a half, so that most mixed records learn
# mainly the other's findings. Masks are not cut: two masks of 0 and 1 become one fraction all along, equal at samples
# of either record.
#
# Output seen:
#     359 of 400 records are mixed; what is left of a record, and of its label
#       0.07 of the signal, 0.93 of the label
#       0.29 of the signal, 0.71 of the label
#       0.51 of the signal, 0.50 of the label
#       0.71 of the signal, 0.29 of the label
#       0.93 of the signal, 0.07 of the label
#     largest difference of the label's share to the other signal's: 0.002, to its own: 1.00
#     the record that most of the signal is of has the smaller label in 100 % of them
#     masks of 191 records with samples of both classes: within a record they differ by 0.00
#     torch-ecg's CutMix swaps labels: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch-ecg==0.0.33 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
import torch
from torch_ecg.augmenters.cutmix import CutMix

RECORDS, LEADS, SAMPLES = 400, 12, 500
number = torch.arange(RECORDS, dtype=torch.float32)
records = number[:, None, None].expand(RECORDS, LEADS, SAMPLES).clone()  # each sample tells the record it comes from
cutmix = CutMix(prob=0.9, inplace=False)

# one class for each record, so that the mixed label tells the shares
mixed, labels = cutmix(records, torch.eye(RECORDS))
signal_share = (mixed[:, 0] == number[:, None]).float().mean(dim=1).numpy()
label_share = labels.diagonal().numpy()
cut = (signal_share > 0) & (signal_share < 1)
print(f"{cut.sum()} of {RECORDS} records are mixed; what is left of a record, and of its label")
bins = ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1))
for low, high in bins:
    chosen = cut & (signal_share > low) & (signal_share <= high)
    print(f"  {signal_share[chosen].mean():.2f} of the signal, {label_share[chosen].mean():.2f} of the label")
exchanged = np.abs(1 - signal_share[cut] - label_share[cut]).max()
right = np.abs(signal_share[cut] - label_share[cut]).max()
print(f"largest difference of the label's share to the other signal's: {exchanged:.3f}, to its own: {right:.2f}")
mostly_wrong = np.mean((signal_share[cut] > 0.5) != (label_share[cut] > 0.5))
print(f"the record that most of the signal is of has the smaller label in {100 * mostly_wrong:.0f} % of them")

# a mask for each sample: class 1 throughout in the records of even number, class 0 in the others
is_even = (number % 2 == 0).float()
mixed, masks = cutmix(records, is_even[:, None, None].expand(RECORDS, SAMPLES, 1).clone())
truth = (mixed[:, 0] % 2 == 0).float()  # of each sample that is there now
both = (truth.min(dim=1).values == 0) & (truth.max(dim=1).values == 1)
spread = float((masks[both].max(dim=1).values - masks[both].min(dim=1).values).max())
print(f"masks of {int(both.sum())} records with samples of both classes: within a record they differ by {spread:.2f}")

if exchanged < 0.005 and right > 0.9 and mostly_wrong > 0.95 and both.any() and spread == 0:
    print("torch-ecg's CutMix swaps labels: still so")
else:
    sys.exit("torch-ecg's CutMix swaps labels: no longer so")
END
