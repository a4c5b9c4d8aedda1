#!/bin/sh
# MONAI's SignalRandShift moves an ECG in time and among its leads as well; SignalRandScale turns half of them over.
#
# Versions: monai 1.6.1, torch 2.13.0, scipy 1.17.1, numpy 2.4.6; Python 3.11.
#
# `monai.transforms.SignalRandShift` shifts a signal of shape (leads, samples) by a random share of its length, and
# `SignalRandScale` scales it by a random factor, to augment training.
#
# One would guess that the samples of each lead are shifted within it, so that lead I stays lead I; and that factors
# are round 1, or at least positive.
#
# What happens: the array is shifted by the same number along both axes. Leads wrap round with a period of 11 rather
# than 12, so that one lead is there twice and another is lost, and in 9 of 10 shifts another lead stands in the place
# of V1; `mode="constant"` gives zeros alone if the shift is longer than 11 samples. The default factor lies between -1
# and 1: every other ECG is turned over, as by exchanged electrodes, and every tenth is a tenth as high or less.
# Neither warns. A shift of each lead by itself is right.
#
# Output seen:
#     as recorded:          I II III aVR aVL aVF V1 V2 V3 V4 V5 V6
#     SignalRandShift:      aVL aVF V1 V2 V3 V4 V5 V6 II III aVR aVL
#     SignalRandShift:      V3 V4 V5 V6 II III aVR aVL aVF V1 V2 V3
#     SignalRandShift:      I II III aVR aVL aVF V1 V2 V3 V4 V5 I
#       leads are moved in 100 % of the shifts, and one is lost in 100 %; another lead stands for V1 in 90 %
#       mode="constant": all leads are zeros in 100 %
#       each lead by itself: right
#     SignalRandScale: factors from -1.00 to 0.96, 50 % turned over, 11 % below a tenth
#     monai shifts leads: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check monai==1.6.1 torch==2.13.0 scipy==1.17.1 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from monai.transforms import SignalRandScale, SignalRandShift

LEADS, RATE, DRAWS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"], 500, 400
time = np.arange(10 * RATE) / RATE
beat = sum(np.exp(-0.5 * ((time - peak) / 0.012) ** 2) for peak in np.arange(0.4, 10, 0.8))
heights = 0.1 * np.arange(1, len(LEADS) + 1)  # in mV; tell which lead a row comes from
ecg = (heights[:, None] * beat).astype(np.float32)


def leads_of(signal):
    """The lead that each row comes from; "-" for a row of zeros."""
    peaks = np.abs(np.asarray(signal)).max(axis=1)
    return [LEADS[np.abs(heights - peak).argmin()] if peak > 0.05 else "-" for peak in peaks]


def draw(shift, seed):
    shift.set_random_state(seed)
    return leads_of(shift(ecg.copy()))


print("as recorded:         ", *LEADS)
shift = SignalRandShift()
rows = [draw(shift, seed) for seed in range(DRAWS)]
for found in rows[:3]:
    print("SignalRandShift:     ", *found)
moved = np.mean([found != LEADS for found in rows])
v1_elsewhere = np.mean([found[6] != "V1" for found in rows])
lost = np.mean([len(set(found)) < len(LEADS) for found in rows])
print(f"  leads are moved in {100 * moved:.0f} % of the shifts, and one is lost in {100 * lost:.0f} %; ", end="")
print(f"another lead stands for V1 in {100 * v1_elsewhere:.0f} %")
constant = SignalRandShift(mode="constant")
empty = np.mean([set(draw(constant, seed)) == {"-"} for seed in range(DRAWS)])
print(f'  mode="constant": all leads are zeros in {100 * empty:.0f} %')
alone = [leads_of(np.concatenate([np.asarray(shift(lead[None].copy())) for lead in ecg])) for _ in range(20)]
print("  each lead by itself:", "right" if all(found == LEADS for found in alone) else "wrong")

factors = []
scale = SignalRandScale()
for seed in range(DRAWS):
    scale.set_random_state(seed)
    scaled = np.asarray(scale(ecg.copy()))
    factors.append(scaled[6, 200] / ecg[6, 200])
factors = np.array(factors)
print(f"SignalRandScale: factors from {factors.min():.2f} to {factors.max():.2f}, ", end="")
print(f"{100 * np.mean(factors < 0):.0f} % turned over, {100 * np.mean(np.abs(factors) < 0.1):.0f} % below a tenth")

if moved > 0.85 and v1_elsewhere > 0.85 and lost > 0.85 and empty > 0.95 and 0.4 < np.mean(factors < 0) < 0.6:
    print("monai shifts leads: still so")
else:
    sys.exit("monai shifts leads: no longer so")
END
