#!/bin/sh
# wfdb's XQRS finds hardly a beat any more once the waves are a third as high, or after one spike.
#
# Versions: wfdb 4.3.1, sleepecg 0.5.9, py-ecg-detectors 1.3.5, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# In a long recording the height of the waves changes, as when the patient lies on the other side, and an electrode
# that is touched gives a spike of some mV. `wfdb.processing.xqrs_detect` adapts its threshold to the beats, and by
# its documentation searches back where no beat came within 1.66 of the recent intervals; so does the Pan-Tompkins
# method, with half the threshold.
#
# One would guess that such a change costs a few beats, until the thresholds have adapted: five minutes at 71 /min,
# the change after one minute, the beats clean before and after it.
#
# What happens: xqrs finds every beat up to the change, and one in the four minutes after it. The threshold moves only
# when a beat is found, and the search back also wants half of it, of an energy that is the square of the height; so a
# threshold that is too high stays so to the end of the record. A spike of 10 mV and 40 ms does the same, as it counts
# as a beat. No warning, and the last rate stays plausible. In py-ecg-detectors, Pan-Tompkins ends in the same way
# both times, and the detector by wavelets when the waves get lower. sleepecg and wfdb's own gqrs find the beats.
#
# Output seen:
#     beats before and after the change: 70 + 282
#     waves a third as high: xqrs 70 + 1, gqrs 70 + 282, sleepecg 70 + 282, pan_tompkins 69 + 1, swt 69 + 1
#     waves half as high: xqrs 70 + 282, gqrs 70 + 282, sleepecg 70 + 282, pan_tompkins 69 + 282, swt 69 + 282
#     one spike of 10 mV, 40 ms: xqrs 70 + 1, gqrs 70 + 281, sleepecg 70 + 282, pan_tompkins 69 + 1, swt 69 + 282
#     wfdb's XQRS goes deaf: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 sleepecg==0.5.9 py-ecg-detectors==1.3.5 \
  numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 'setuptools<81'
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
import sleepecg
from ecgdetectors import Detectors
from wfdb import processing

RATE, SECONDS, CHANGE = 250, 300, 60
WAVES = ((0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009), (0.25, 0.27, 0.045))
beats = np.arange(0.5, SECONDS - 0.5, 0.85)
time = np.arange(RATE * SECONDS) / RATE
ecg = sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in WAVES)
ecg += np.random.default_rng(0).normal(0, 0.01, len(time))
DETECTORS = {
    "xqrs": lambda lead: processing.xqrs_detect(lead, RATE, verbose=False),
    "gqrs": lambda lead: processing.gqrs_detect(lead, RATE),
    "sleepecg": lambda lead: sleepecg.detect_heartbeats(lead, RATE),
    "pan_tompkins": Detectors(RATE).pan_tompkins_detector,
    "swt": Detectors(RATE).swt_detector,
}


def count(name, lead):
    """Prints and gives, for each detector, the beats with a mark within 150 ms, before the change and after it."""
    found = {}
    for detector, detect in DETECTORS.items():
        marks = np.asarray(detect(lead), float) / RATE
        hit = np.abs(beats[:, None] - marks).min(axis=1) < 0.15
        found[detector] = int(hit[beats < CHANGE].sum()), int(hit[beats >= CHANGE].sum())
    print(f"{name}: " + ", ".join(f"{detector} {early} + {late}" for detector, (early, late) in found.items()))
    return found


early, late = int((beats < CHANGE).sum()), int((beats >= CHANGE).sum())
print(f"beats before and after the change: {early} + {late}")
spike = ecg.copy()
spike[CHANGE * RATE + 50 : CHANGE * RATE + 60] += 10
third = count("waves a third as high", np.where(time < CHANGE, 1, 0.33) * ecg)
half = count("waves half as high", np.where(time < CHANGE, 1, 0.5) * ecg)
after = count("one spike of 10 mV, 40 ms", spike)
deaf = [third, after]
if (
    all(found["xqrs"][0] == early and found["xqrs"][1] <= 3 for found in deaf)
    and all(found["pan_tompkins"][0] >= early - 1 and found["pan_tompkins"][1] <= 3 for found in deaf)
    and third["swt"][0] >= early - 1
    and third["swt"][1] <= 3
    and all(found[name][1] >= late - 2 for found in deaf for name in ("gqrs", "sleepecg"))
    and half["xqrs"] == (early, late)
):
    print("wfdb's XQRS goes deaf: still so")
else:
    sys.exit("wfdb's XQRS goes deaf: no longer so")
END
