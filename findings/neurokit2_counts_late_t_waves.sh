#!/bin/sh
# neurokit2 counts the T waves of a slow heart as beats, and reports twice its rate, of good quality.
#
# Versions: neurokit2 0.3.0, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# The slower a heart, the later its T wave: at 45 /min a normal QT interval is half a second long, and T has its peak
# 0.4 s after R. Here: a minute of clean beats at 500 Hz, R of 1.2 mV, T of a fifth or a third of it, nearly four
# times as wide.
#
# One would guess that `neurokit2.ecg_process` finds each beat once: R is three times as high as T or more and ten
# times as steep, and other methods of the package find just the beats.
#
# What happens: the default method takes each stretch that is steeper than its surroundings for a beat, if it comes
# more than 0.3 s after the last one and is not much shorter than the others. The surroundings are 0.375 s on either
# side, so a T wave that comes late enough has no QRS complex among them. From a T peak at 0.38 or 0.40 s on, where it
# is at 45 /min with a normal QT interval, every T wave is a beat: 88 of 44, of no worse quality. A heart of 45 /min
# is reported at 97 or 98 /min on average, one of 55 /min with a long QT interval at 112; the intervals alternate, as
# in bigeminy. With `mindelay=0.5`, which `ecg_peaks` passes on, the beats alone are found.
#
# Output seen:
#     75 /min, T 0.25 mV at 0.27 s, QTc 442 ms: 73 marks for 73 beats, rate 75 /min, quality 0.91
#     45 /min, T 0.25 mV at 0.34 s, QTc 403 ms: 44 marks for 44 beats, rate 45 /min, quality 0.90
#     45 /min, T 0.4 mV at 0.34 s, QTc 403 ms: 44 marks for 44 beats, rate 45 /min, quality 0.90
#     45 /min, T 0.4 mV at 0.38 s, QTc 437 ms: 88 marks for 44 beats, rate 98 /min, quality 0.96
#     45 /min, T 0.25 mV at 0.40 s, QTc 455 ms: 88 marks for 44 beats, rate 97 /min, quality 0.92
#     55 /min, T 0.25 mV at 0.42 s, QTc 522 ms: 107 marks for 54 beats, rate 112 /min, quality 0.93
#     55 /min, T 0.15 mV at 0.46 s, QTc 560 ms: 108 marks for 54 beats, rate 112 /min, quality 0.93
#     45 /min, T 0.25 mV at 0.40 s, QTc 455 ms, method martinez2004: 44 marks for 44 beats
#     45 /min, T 0.25 mV at 0.40 s, QTc 455 ms, method engzeemod2012: 44 marks for 44 beats
#     45 /min, T 0.25 mV at 0.40 s, QTc 455 ms, mindelay 0.5 s: 44 marks for 44 beats
#     neurokit2 counts late T waves: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check neurokit2==0.3.0 numpy==2.4.6 scipy==1.17.1 \
  pandas==3.1.1
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import neurokit2
import numpy as np

RATE, SECONDS = 500, 60
BEFORE_T = ((0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009))
T_WIDTH = 0.04
time = np.arange(RATE * SECONDS) / RATE


def ecg(per_minute, millivolts, at):
    """A minute in mV with T of that height and time after R, the number of beats, and a name."""
    beats = np.arange(0.6, SECONDS - 1, 60 / per_minute)
    waves = (*BEFORE_T, (millivolts, at, T_WIDTH))
    signal = sum(height * np.exp(-((time - beat - t) ** 2) / (2 * w * w)) for beat in beats for height, t, w in waves)
    # QT: from 45 ms before R to two widths after the peak of T; corrected by the formula of Bazett.
    corrected = 1000 * (0.045 + at + 2 * T_WIDTH) / (60 / per_minute) ** 0.5
    name = f"{per_minute} /min, T {millivolts} mV at {at:.2f} s, QTc {corrected:.0f} ms"
    return signal + np.random.default_rng(0).normal(0, 0.005, len(time)), len(beats), name


def found(*case):
    """Prints what the default finds -> marks for each beat, and the quality."""
    signal, beats, name = ecg(*case)
    table, peaks = neurokit2.ecg_process(signal, sampling_rate=RATE)
    marks, quality = len(peaks["ECG_R_Peaks"]), table["ECG_Quality"].mean()
    print(f"{name}: {marks} marks for {beats} beats, rate {table['ECG_Rate'].mean():.0f} /min, quality {quality:.2f}")
    return marks / beats, quality


right = [found(75, 0.25, 0.27), found(45, 0.25, 0.34), found(45, 0.4, 0.34)]
doubled = [found(45, 0.4, 0.38), found(45, 0.25, 0.4), found(55, 0.25, 0.42), found(55, 0.15, 0.46)]
signal, beats, name = ecg(45, 0.25, 0.4)
cleaned = neurokit2.ecg_clean(signal, sampling_rate=RATE)
others = []
for label, options in (
    ("method martinez2004", {"method": "martinez2004"}),
    ("method engzeemod2012", {"method": "engzeemod2012"}),
    ("mindelay 0.5 s", {"mindelay": 0.5}),
):
    marks = len(neurokit2.ecg_peaks(cleaned, sampling_rate=RATE, **options)[1]["ECG_R_Peaks"])
    others.append(marks)
    print(f"{name}, {label}: {marks} marks for {beats} beats")
once = all(abs(share - 1) < 0.03 for share, _ in right) and max(others) <= beats + 1
twice = all(share > 1.95 for share, _ in doubled) and min(quality for _, quality in doubled) > 0.8
if once and twice:
    print("neurokit2 counts late T waves: still so")
else:
    sys.exit("neurokit2 counts late T waves: no longer so")
END
