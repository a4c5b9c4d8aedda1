#!/bin/sh
# wfdb's XQRS counts T waves as beats where an ECG is sampled at 100 Hz, as many public records are.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# `wfdb.processing.xqrs_detect` filters to 5 to 20 Hz, scales its windows to the sampling rate, and compares the slope of
# a wave that follows a beat within .36 s with that of the beat, so that a T wave is not taken for one. The same ECG is
# sampled at 100, 125, 250 and 500 Hz: a minute at 60 /min, its T wave a third as high as R, with noise of 10 uV.
#
# One would guess that 100 Hz, five times the highest frequency that the detector uses, give the same beats as 500 Hz.
#
# What happens: at 100 Hz each T wave is a beat as well, and the heart has 120 /min instead of 60. The slope is taken
# from sample to sample, and of the wave that is judged it is brought to one height first, that of the beat is not; the
# fewer samples a wave has, the steeper it looks. Lower T waves count now and then, which gives a false arrhythmia
# instead. From 125 Hz on all is right, and so is `gqrs_detect` of the same package at 100 Hz. PTB-XL at 100 Hz is
# such a case. Resampling to 250 Hz before the detector gives the beats.
#
# Output seen:
#                            beats  xqrs at 100   125   250   500 Hz  gqrs at 100  xqrs at 100, resampled to 250
#      60 /min, T of 0.45 mV     59          118    59    59    59              59            59
#      60 /min, T of 0.40 mV     59          118    59    59    59              59            59
#      50 /min, T of 0.40 mV     50           99    50    50    50              50            50
#      71 /min, T of 0.40 mV     70          140    70    70    70              70            70
#      50 /min, T of 0.30 mV     50           59    50    50    50              50            50
#     wfdb's XQRS counts T waves at 100 Hz: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from scipy.signal import resample_poly
from wfdb.processing import gqrs_detect, xqrs_detect

SECONDS, RATES = 60, (100, 125, 250, 500)
PQRS = ((0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009))


def ecg(rate, beat_times, t_height):
    time = np.arange(rate * SECONDS) / rate
    waves = (*PQRS, (t_height, 0.3, 0.04))  # height in mV, time after R and width in s
    lead = sum(h * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beat_times for h, at, w in waves)
    return lead + np.random.default_rng(0).normal(0, 0.01, len(time))


def xqrs(lead, rate):
    return len(xqrs_detect(lead, rate, verbose=False))


print("                       beats  xqrs at 100   125   250   500 Hz  gqrs at 100  xqrs at 100, resampled to 250")
found = []
for interval, t_height in ((1, 0.45), (1, 0.4), (1.2, 0.4), (0.85, 0.4), (1.2, 0.3)):
    beat_times = np.arange(0.5, SECONDS - 0.5, interval)
    at_100 = ecg(100, beat_times, t_height)
    by_rate = [xqrs(ecg(rate, beat_times, t_height), rate) for rate in RATES]
    others = len(gqrs_detect(at_100, 100)), xqrs(resample_poly(at_100, 5, 2), 250)
    found.append((len(beat_times), *by_rate, *others))
    counts = "{:5} {:12} {:5} {:5} {:5} {:15} {:13}".format(*found[-1])
    print(f"{60 / interval:3.0f} /min, T of {t_height:.2f} mV  {counts}")

high_t, low_t = found[:4], found[4]
doubled = all(row[1] >= 2 * row[0] - 2 for row in high_t) and low_t[1] > 1.1 * low_t[0]
if doubled and all(abs(count - row[0]) <= 1 for row in found for count in row[2:]):
    print("wfdb's XQRS counts T waves at 100 Hz: still so")
else:
    sys.exit("wfdb's XQRS counts T waves at 100 Hz: no longer so")
END
