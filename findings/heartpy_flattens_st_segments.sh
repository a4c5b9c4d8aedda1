#!/bin/sh
# heartpy's removal of baseline wander at 0.05 Hz takes the ST level, the T waves and half of R with it.
#
# Versions: heartpy 1.2.7, numpy 2.4.6, scipy 1.17.1; Python 3.11.
#
# `heartpy.remove_baseline_wander` is documented as a notch filter that removes wander, especially from ECGs, with
# 0.05 Hz as its default and recommended cutoff: the edge that guidelines set for a diagnostic ECG, because it keeps
# the ST segment.
#
# One would guess that it takes out what is slower than about 0.05 Hz, and leaves an ST elevation of 0.3 mV, the T
# wave and R as they are, to a few per cent; and that a higher cutoff, 0.5 Hz, as for monitoring, lowers the ST
# segment some more.
#
# What happens: the notch is 200 times as wide as its frequency, here 10 Hz, and is run forwards and backwards. Half
# of a wave of 10 Hz is left, a fifth of one of 5 Hz, a hundredth of one of 1 Hz. A tenth of the ST elevation remains,
# a sixth of T, half of R. At 0.5 Hz the notch is 100 Hz wide, and less than a twentieth of R remains. There is no
# warning. A high-pass filter of the second order at 0.05 Hz, run both ways, keeps all of them.
#
# Output seen, above the level of PQ:
#     before:                       R 1.19 mV, ST 0.30 mV, T 0.26 mV
#     high-pass at 0.05 Hz:         R 1.19 mV, ST 0.30 mV, T 0.26 mV
#     heartpy, cutoff 0.05 Hz:      R 0.63 mV, ST 0.03 mV, T 0.04 mV
#     heartpy, cutoff 0.5 Hz:       R 0.02 mV, ST 0.00 mV, T 0.00 mV
#     heartpy, cutoff 0.05 Hz, leaves of waves of 1, 5, 10, 20 Hz: 0.01, 0.20, 0.50, 0.80
#     heartpy flattens ST segments: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check heartpy==1.2.7 numpy==2.4.6 scipy==1.17.1 \
  'setuptools<81'
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import heartpy
import numpy as np
from scipy.signal import butter, sosfiltfilt

RATE, SECONDS = 500, 40
WAVES = ((0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009), (0.25, 0.27, 0.045))
beats = np.arange(0.5, SECONDS, 0.8)
time = np.arange(RATE * SECONDS) / RATE
ecg = sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in WAVES)
# An elevation of 0.3 mV from 50 to 200 ms after R.
for beat in beats:
    ecg += 0.3 / (1 + np.exp(-(time - beat - 0.05) / 0.008)) / (1 + np.exp((time - beat - 0.2) / 0.02))


def heights(name, signal):
    """Prints and gives R, ST (120 ms after R) and T above PQ (60 ms before R), in mV, of a beat in the middle."""
    r, st, t, pq = (signal[round((beats[25] + at) * RATE)] for at in (0, 0.12, 0.27, -0.06))
    print(f"{name:28}  R {r - pq:.2f} mV, ST {abs(st - pq):.2f} mV, T {abs(t - pq):.2f} mV")
    return np.array([r, st, t]) - pq


before = heights("before:", ecg)
high_pass = heights("high-pass at 0.05 Hz:", sosfiltfilt(butter(2, 0.05, "highpass", fs=RATE, output="sos"), ecg))
usual = heights("heartpy, cutoff 0.05 Hz:", heartpy.remove_baseline_wander(ecg, RATE))
higher = heights("heartpy, cutoff 0.5 Hz:", heartpy.remove_baseline_wander(ecg, RATE, cutoff=0.5))
left = []
for hertz in (1, 5, 10, 20):
    wave = np.sin(2 * np.pi * hertz * time)
    middle = slice(10 * RATE, 30 * RATE)
    left.append(heartpy.remove_baseline_wander(wave, RATE)[middle].std() / wave[middle].std())
print("heartpy, cutoff 0.05 Hz, leaves of waves of 1, 5, 10, 20 Hz: " + ", ".join(f"{share:.2f}" for share in left))
kept = (abs(high_pass / before - 1) < 0.05).all()
lost = 0.4 < usual[0] / before[0] < 0.7 and (abs(usual[1:] / before[1:]) < 0.25).all()
if kept and lost and abs(higher[0] / before[0]) < 0.05 and 0.4 < left[2] < 0.6 and left[1] < 0.3:
    print("heartpy flattens ST segments: still so")
else:
    sys.exit("heartpy flattens ST segments: no longer so")
END
