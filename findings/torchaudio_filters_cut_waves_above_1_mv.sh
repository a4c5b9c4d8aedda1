#!/bin/sh
# The filters of torchaudio cut an ECG off at plus and minus 1: R waves above 1 mV are 1 mV high.
#
# Versions: torchaudio 2.11.1, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# `torchaudio.functional` has filters for tensors, and is there wherever a model of ECGs is built on torch:
# `highpass_biquad` against wander, `bandreject_biquad` against hum, `lowpass_biquad` against noise, `filtfilt`.
#
# One would guess that a filter is linear: R of 2.2 mV stays so, and ten times a tenth of the lead gives the same.
#
# What happens: what leaves the filter is cut off at -1 and 1, the range of sound. All waves above 1 mV are 1 mV high,
# and the voltage by which hypertrophy is told (S in V1 and R in V5, 3.5 mV) cannot exceed 2 mV. In uV all is -1 or 1.
# No warning. `lfilter` and `filtfilt` have the option `clamp`, which is True; the filters by name have none, so that
# leads are to be divided before them. `resample` does not cut.
#
# Output seen:
#     in mV                      S V1    R V5    sum    the same, of a tenth of the leads    largest value in uV
#     none                        1.90    2.20   4.10         1.90    2.20   4.10                    2198
#     lowpass_biquad, 150 Hz      1.00    1.00   2.00         1.89    2.19   4.08                       1
#     highpass_biquad, 0.5 Hz     1.00    1.00   2.00         1.81    2.06   3.87                       1
#     bandreject_biquad, 50 Hz    1.00    1.00   2.00         1.90    2.20   4.09                       1
#     filtfilt, 2.4 Hz            1.00    1.00   2.00         1.59    1.83   3.42                       1
#     filtfilt, clamp=False       1.59    1.83   3.42         1.59    1.83   3.42                    1827
#     resample to 250 Hz          1.87    2.20   4.07         1.87    2.20   4.07                    2198
#     torchaudio's filters cut waves above 1 mV: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchaudio==2.11.1
# the compiled part wants CUDA beside it; without that part the same functions run in Python
find "$folder/venv" -name _torchaudio.so -delete
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import torch
from torchaudio import functional

RATE = 500
time = torch.arange(4 * RATE, dtype=torch.float64) / RATE


def lead(waves):
    """Beats at 75 /min: height in mV, time after R and width in s."""
    since = time % 0.8 - 0.4
    return sum(height * torch.exp(-(((since - at) / width) ** 2) / 2) for height, at, width in waves).float()


v1 = lead(((0.25, 0, 0.01), (-1.9, 0.03, 0.012), (-0.15, 0.25, 0.045)))
v5 = lead(((2.2, 0, 0.012), (-0.2, 0.03, 0.01), (0.5, 0.25, 0.045)))
high_pass = functional.highpass_biquad
coefficients = (torch.tensor([1.0, -0.97]), torch.tensor([1.0, -1.0]))  # a high-pass of 2.4 Hz, of order 1
FILTERS = {
    "none": lambda signal: signal,
    "lowpass_biquad, 150 Hz": lambda signal: functional.lowpass_biquad(signal, RATE, 150.0),
    "highpass_biquad, 0.5 Hz": lambda signal: high_pass(signal, RATE, 0.5),
    "bandreject_biquad, 50 Hz": lambda signal: functional.bandreject_biquad(signal, RATE, 50.0, 30.0),
    "filtfilt, 2.4 Hz": lambda signal: functional.filtfilt(signal, *coefficients),
    "filtfilt, clamp=False": lambda signal: functional.filtfilt(signal, *coefficients, clamp=False),
    "resample to 250 Hz": lambda signal: functional.resample(signal, RATE, 250),
}

print("in mV                      S V1    R V5    sum    the same, of a tenth of the leads    largest value in uV")
sums, tenths, in_uv = {}, {}, {}
for name, apply in FILTERS.items():
    s, r = -float(apply(v1).min()), float(apply(v5).max())
    small_s, small_r = -10 * float(apply(v1 / 10).min()), 10 * float(apply(v5 / 10).max())
    sums[name], tenths[name], in_uv[name] = s + r, small_s + small_r, float(apply(1000 * v5).max())
    print(f"{name:25} {s:6.2f} {r:7.2f} {s + r:6.2f} {small_s:12.2f} {small_r:7.2f} {small_s + small_r:6.2f}", end="")
    print(f" {in_uv[name]:23.0f}")

cut = [name for name in FILTERS if "biquad" in name or name == "filtfilt, 2.4 Hz"]
whole = [name for name in FILTERS if name not in cut]
if all(sums[name] == 2 and tenths[name] > 3.3 and in_uv[name] == 1 for name in cut) and all(
    abs(sums[name] - tenths[name]) < 0.01 and in_uv[name] > 1000 for name in whole
):
    print("torchaudio's filters cut waves above 1 mV: still so")
else:
    sys.exit("torchaudio's filters cut waves above 1 mV: no longer so")
END
