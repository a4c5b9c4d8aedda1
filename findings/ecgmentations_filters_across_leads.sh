#!/bin/sh
# Filters of `ecgmentations` run from lead to lead instead of along time: aVR turns upright, and hum stays.
#
# Versions: ecgmentations 0.0.9, numpy 2.4.6, scipy 1.17.1, opencv-python-headless 5.0.0.93; Python 3.11.
#
# `ecgmentations` augments ECGs of several leads, given as (length, leads). Among its methods are `LowPassFilter`,
# `HighPassFilter`, `BandPassFilter`, `Pooling` and `Blur`, with cut-offs in Hz and sizes in samples.
#
# One would guess that each lead is filtered along time, by itself.
#
# What happens: the filters of frequencies run along the leads, as if 12 leads were 12 samples: of an ECG in lead I alone
# all leads get a part, aVR becomes positive, V4 nothing, while hum of 60 Hz and wander of .1 Hz stay as they are.
# `Blur` and `Pooling` take the mean of leads that stand side by side in the array as well. A network is so trained on
# another axis and on lost precordial leads, under the label of before. `GaussBlur` runs along time.
#
# Output seen:
#     lead             I    II   III   aVR   aVL   aVF    V1    V2    V3    V4    V5    V6
#     as given       0.6   1.0   0.4  -0.8   0.1   0.7  -0.9  -0.5   0.3   1.2   1.1   0.8
#     LowPassFilter    0.0   0.0   0.1   0.2   0.3   0.3   0.3   0.2   0.1  -0.0  -0.1   0.0
#     HighPassFilter   0.6   1.0   0.4  -0.8   0.1   0.7  -0.9  -0.5   0.3   1.2   1.1   0.8
#     BandPassFilter   0.0   0.0   0.1   0.2   0.3   0.3   0.2   0.2   0.1  -0.1  -0.1   0.0
#     Blur             0.7   0.4   0.3   0.3  -0.1  -0.3  -0.1   0.2   0.2   0.6   0.8   1.0
#     GaussBlur        0.6   1.0   0.4  -0.8   0.1   0.7  -0.9  -0.5   0.3   1.2   1.1   0.8
#     hum of 1 mV at 60 Hz in all leads, after LowPassFilter: 1.06 mV in V6; leads as rows: 0.26 mV
#     wander of 1 mV at .1 Hz in all leads, after HighPassFilter: 0.99 mV in I
#     of an ECG in lead I alone, leads with a signal after LowPassFilter: 12
#     ecgmentations filters across leads: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ecgmentations==0.0.9 numpy==2.4.6 scipy==1.17.1 \
  opencv-python-headless==5.0.0.93
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys

import ecgmentations
import numpy as np

RATE, SECONDS = 500, 10
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
HEIGHTS = np.array((0.6, 1.0, 0.4, -0.8, 0.1, 0.7, -0.9, -0.5, 0.3, 1.2, 1.1, 0.8))
time = np.arange(RATE * SECONDS) / RATE
beats = np.arange(0.5, SECONDS, 0.8)
peaks = (beats * RATE).round().astype(int)
qrs = sum(np.exp(-((time - beat) ** 2) / (2 * 0.025**2)) for beat in beats)
ecg = (qrs[:, None] * HEIGHTS).astype(np.float32)  # (length, leads), as its README has it
hum = np.repeat(np.sin(2 * np.pi * 60 * time)[:, None], 12, 1).astype(np.float32)
wander = np.repeat(np.sin(2 * np.pi * 0.1 * time)[:, None], 12, 1).astype(np.float32)
middle = slice(4 * RATE, 6 * RATE)


def apply(method, signal):
    np.random.seed(0)
    return method(ecg=signal)["ecg"]


def heights(signal):
    """QRS of each lead in mV: the largest swing near the peaks, with its sign."""
    near = np.concatenate([signal[peak - 50 : peak + 50] for peak in peaks[1:-1]])
    rows = np.abs(near).argmax(0)
    return near[rows, np.arange(12)]


print("lead        ", *(f"{lead:>5}" for lead in LEADS))
print("as given    ", *(f"{height:5.1f}" for height in HEIGHTS))
methods = {
    "LowPassFilter": ecgmentations.LowPassFilter(ecg_frequency=RATE, cutoff_frequency=40.0, p=1.0),
    "HighPassFilter": ecgmentations.HighPassFilter(ecg_frequency=RATE, cutoff_frequency=0.5, p=1.0),
    "BandPassFilter": ecgmentations.BandPassFilter(ecg_frequency=RATE, cutoff_frequencies=(0.5, 40.0), p=1.0),
    "Blur": ecgmentations.Blur(kernel_size_range=(3, 5), p=1.0),
    "GaussBlur": ecgmentations.GaussBlur(p=1.0),
}
found = {}
for name, method in methods.items():
    found[name] = heights(apply(method, ecg))
    print(f"{name:14}"[:14], *(f"{height:5.1f}" for height in found[name]))
left = {name: np.abs(apply(methods[name], hum)[middle, -1]).max() for name in ("LowPassFilter", "BandPassFilter")}
still = np.abs(apply(methods["HighPassFilter"], wander)[RATE:-RATE, 0]).max()
across = apply(methods["LowPassFilter"], np.ascontiguousarray(hum.T)).T
right = np.abs(across[middle, -1]).max()
first = np.zeros_like(ecg)
first[:, 0] = ecg[:, 0]
leaked = int((np.abs(apply(methods["LowPassFilter"], first)).max(0) > 1e-6).sum())
print(f"hum of 1 mV at 60 Hz in all leads, after LowPassFilter: {left['LowPassFilter']:.2f} mV in V6; ", end="")
print(f"leads as rows: {right:.2f} mV")
print(f"wander of 1 mV at .1 Hz in all leads, after HighPassFilter: {still:.2f} mV in I")
print(f"of an ECG in lead I alone, leads with a signal after LowPassFilter: {leaked}")

mixed = all(np.abs(found[name] - HEIGHTS).max() > 0.8 for name in ("LowPassFilter", "BandPassFilter", "Blur"))
turned = all(found[name][LEADS.index("aVR")] > 0.1 for name in ("LowPassFilter", "BandPassFilter", "Blur"))
nothing_removed = min(left["LowPassFilter"], still) > 0.95 and right < 0.5
if mixed and turned and nothing_removed and leaked == 12 and np.allclose(found["GaussBlur"], HEIGHTS, atol=0.05):
    print("ecgmentations filters across leads: still so")
else:
    sys.exit("ecgmentations filters across leads: no longer so")
END
