#!/bin/sh
# biosppy leaves pauses and slow hearts out of its heart rate; heartpy gives a slow heart several times its rate.
#
# Versions: biosppy 2.2.4, heartpy 1.2.7, numpy 2.4.6, scipy 1.17.1, peakutils 1.3.5; Python 3.11.
#
# `biosppy.signals.ecg.ecg` gives R peaks and, by its documentation, the instantaneous heart rate; `heartpy.process`
# gives a mean rate, of 40 to 180 /min unless told otherwise.
#
# One would guess that biosppy has a rate for each interval between two of its R peaks, so that the lowest shows a
# pause; and that heartpy gives 36 /min of a regular heart of 36 /min, or raises its BadSignalWarning, as documented.
#
# What happens: biosppy leaves out rates below 40 and above 200 /min, without a warning. Every sixth interval of 2.5 s
# (24 /min) among those of 0.8 s leaves no trace: lowest rate and mean are 75 /min, where 55 beats in a minute were
# found. At 36 /min, with all beats found, the rates are an empty array. heartpy looks for a threshold that makes the
# rate likely, which lets small waves and noise in, and gives 334 to 395 /min without a warning (or NaN; it depends on
# the noise). The same ECG with 5 mV added does raise. At 45 /min, or with `bpmmin=30`, heartpy is right.
#
# Output seen:
#     biosppy, pauses of 2.5 s: 55 of 55 beats; 45 rates, mean 75.0, lowest 75.0 /min
#     biosppy, regular 36 /min: 36 of 36 beats; 0 rates
#     biosppy, regular 45 /min: 45 of 45 beats; 44 rates, mean 45.0, lowest 45.0 /min
#     heartpy, regular 35 /min: 333.6 /min
#     heartpy, regular 36 /min: 379.8 /min
#     heartpy, regular 37 /min: 394.8 /min
#     heartpy, regular 36 /min, 5 mV added: BadSignalWarning
#     heartpy, regular 36 /min, bpmmin=30: 36.0 /min
#     heartpy, regular 45 /min: 45.0 /min
#     biosppy and heartpy misstate slow hearts: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check biosppy==2.2.4 heartpy==1.2.7 numpy==2.4.6 \
  scipy==1.17.1 peakutils==1.3.5
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import heartpy
import numpy as np
from biosppy.signals.ecg import ecg

RATE, SECONDS = 500, 60
WAVES = np.array(  # P, Q, R, S, T: mV, seconds after R, width in seconds
    [(0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009), (0.25, 0.27, 0.045)]
)
time = np.arange(RATE * SECONDS) / RATE


def lead(beats):
    """A minute of an ECG in mV, with R at the given seconds, and a little noise."""
    shape = sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in WAVES)
    return shape + np.random.default_rng(0).normal(0, 0.01, len(time))


def by_biosppy(name, beats):
    """Prints what is found -> the rates, and whether every beat was found."""
    found = ecg(lead(beats), RATE, show=False)
    rates = found["heart_rate"]
    print(
        f"biosppy, {name}: {len(found['rpeaks'])} of {len(beats)} beats; {len(rates)} rates"
        + (f", mean {rates.mean():.1f}, lowest {rates.min():.1f} /min" if len(rates) else "")
    )
    return rates, len(found["rpeaks"]) == len(beats)


def by_heartpy(name, signal, **options):
    """Prints and gives the mean rate; None where heartpy raises."""
    try:
        rate = heartpy.process(signal, RATE, **options)[1]["bpm"]
    except heartpy.exceptions.BadSignalWarning:
        rate = None
    print(f"heartpy, {name}: " + ("BadSignalWarning" if rate is None else f"{rate:.1f} /min"))
    return rate


pauses = 0.5 + np.cumsum([0, *(2.5 if number % 6 == 5 else 0.8 for number in range(54))])
slow, usual = np.arange(0.5, 59.5, 60 / 36), np.arange(0.5, 59.5, 60 / 45)
with_pauses, at_36, at_45 = (
    by_biosppy(name, beats)
    for name, beats in (("pauses of 2.5 s", pauses), ("regular 36 /min", slow), ("regular 45 /min", usual))
)
wrong = [by_heartpy(f"regular {rate} /min", lead(np.arange(0.5, 59.5, 60 / rate))) for rate in (35, 36, 37)]
raised = by_heartpy("regular 36 /min, 5 mV added", lead(slow) + 5)
told = by_heartpy("regular 36 /min, bpmmin=30", lead(slow), bpmmin=30)
right = by_heartpy("regular 45 /min", lead(usual))
all_found = with_pauses[1] and at_36[1] and at_45[1]
left_out = with_pauses[0].min() > 70 and len(at_36[0]) == 0 < len(at_45[0])
misread = min(rate or 0 for rate in wrong) > 150 and raised is None and round(told) == 36 and round(right) == 45
if all_found and left_out and misread:
    print("biosppy and heartpy misstate slow hearts: still so")
else:
    sys.exit("biosppy and heartpy misstate slow hearts: no longer so")
END
