#!/bin/sh
# scipy's filtfilt moves the baseline of the first second by up to 1 mV where a record begins within a QRS complex.
#
# Versions: scipy 1.17.1, numpy 2.4.6; Python 3.11.
#
# A high-pass at 0.5 Hz by `scipy.signal.filtfilt` or `sosfiltfilt` takes the wander of the baseline out of an ECG
# without delay. Records of 10 s, and windows of longer ones, begin anywhere in a beat.
#
# One would guess that the ends are a little off for some hundredths of a second, wherever the record begins, as the
# functions extend the signal at both ends before they filter.
#
# What happens: the signal is extended by 9 to 15 samples, point-reflected at its first one, and the filter starts as
# if the value there had lasted for ever. If the first sample lies on R, that is twice the height of R: the next second
# lies up to 1 mV too low and comes back slowly, which no longer differs from a depression or elevation of ST. Of
# records that begin at any time of a beat one in twelve is off by more than 0.1 mV at this end, and as many at the
# other. Longer extension by the default `padtype` makes it worse; `padtype="even"` with 2 s of padding, or
# `filtfilt(..., method="gust")`, keep all within 0.1 mV.
#
# Output seen:
#     from 0.08 to 1.08 s, over all times of a beat at which a record may begin:
#       sosfiltfilt                       off by 0.04 mV (median), 1.00 mV (most); above 0.1 mV in  8 %
#       filtfilt                          off by 0.04 mV (median), 1.00 mV (most); above 0.1 mV in  8 %
#       sosfiltfilt, padlen=1000          off by 0.08 mV (median), 1.15 mV (most); above 0.1 mV in 13 %
#       sosfiltfilt, "even", padlen=1000  off by 0.02 mV (median), 0.05 mV (most); above 0.1 mV in  0 %
#       filtfilt, method="gust"           off by 0.05 mV (median), 0.06 mV (most); above 0.1 mV in  0 %
#     ST, 80 to 120 ms after R, of the beats in a record that begins on R:
#       sosfiltfilt               -1.04  -0.03  -0.08  -0.11  -0.10 mV
#       filtfilt, method="gust"   -0.04  -0.10  -0.11  -0.10  -0.10 mV
#     filtfilt moves the baseline: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys

import numpy as np
from scipy.signal import butter, filtfilt, sosfiltfilt

RATE, SAMPLES, BEAT = 500, 5000, 400  # 75 /min
NEAR_THE_START = slice(40, 540)  # 0.08 to 1.08 s


def ecg(start):
    """10 s in mV that begin `start` samples after an R peak."""
    time = (np.arange(SAMPLES) + start) / RATE
    signal = np.zeros(SAMPLES)
    for beat in np.arange(-20, 40) * BEAT / RATE:
        for height, delay, width in ((0.12, -0.16, 0.02), (1.5, 0, 0.012), (0.3, 0.28, 0.04)):
            signal += height * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
    return signal


def in_the_middle(start):
    """The same part of a record of 30 s, whose ends are far away."""
    whole = np.concatenate([ecg(start - SAMPLES), ecg(start), ecg(start + SAMPLES)])
    return sosfiltfilt(SECTIONS, whole)[SAMPLES : 2 * SAMPLES]


SECTIONS = butter(2, 0.5, "highpass", fs=RATE, output="sos")
TAPS = butter(2, 0.5, "highpass", fs=RATE)
FILTERS = {
    "sosfiltfilt": lambda signal: sosfiltfilt(SECTIONS, signal),
    "filtfilt": lambda signal: filtfilt(*TAPS, signal),
    "sosfiltfilt, padlen=1000": lambda signal: sosfiltfilt(SECTIONS, signal, padlen=1000),
    'sosfiltfilt, "even", padlen=1000': lambda signal: sosfiltfilt(SECTIONS, signal, padtype="even", padlen=1000),
    'filtfilt, method="gust"': lambda signal: filtfilt(*TAPS, signal, method="gust"),
}
starts = range(200, 200 + BEAT, 2)
truth = {start: in_the_middle(start) for start in starts}
print("from 0.08 to 1.08 s, over all times of a beat at which a record may begin:")
shares, largest = {}, {}
for name, apply_filter in FILTERS.items():
    off = [np.abs(apply_filter(ecg(start)) - truth[start])[NEAR_THE_START].max() for start in starts]
    shares[name], largest[name] = np.mean(np.array(off) > 0.1), max(off)
    print(f"  {name:33} off by {np.median(off):.2f} mV (median), {max(off):.2f} mV (most); ", end="")
    print(f"above 0.1 mV in {100 * shares[name]:2.0f} %")

print("ST, 80 to 120 ms after R, of the beats in a record that begins on R:")
level = {}
for name in ("sosfiltfilt", 'filtfilt, method="gust"'):
    filtered = FILTERS[name](ecg(BEAT))
    level[name] = [filtered[beat * BEAT + 40 : beat * BEAT + 60].mean() for beat in range(5)]
    print(f"  {name:24}" + "".join(f"{value:7.2f}" for value in level[name]) + " mV")

right = ('sosfiltfilt, "even", padlen=1000', 'filtfilt, method="gust"')
if (
    all(0.06 < shares[name] < 0.15 and largest[name] > 0.9 for name in FILTERS if name not in right)
    and all(largest[name] < 0.1 for name in right)
    and level["sosfiltfilt"][0] < -0.5 < -0.2 < min(level[right[1]])
):
    print("filtfilt moves the baseline: still so")
else:
    sys.exit("filtfilt moves the baseline: no longer so")
END
