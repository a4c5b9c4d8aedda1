#!/bin/sh
# neurokit2 puts inverted T waves two tenths of a second too early, and P waves where there are none.
#
# Versions: neurokit2 0.3.0, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# Inverted T waves are a sign of ischaemia, absent P waves one of atrial fibrillation. `neurokit2.ecg_process` marks
# the waves of each beat by `ecg_delineate` with its default, the discrete wavelet transform; a wave that is not found
# is NaN.
#
# One would guess that a clean inverted T of 0.25 mV is marked at its peak, as an upright one, or at worst is NaN; and
# that a level line of 5 microvolts of noise before QRS gives NaN for P.
#
# What happens: in every beat with inverted T, the mark of T is 82 ms after R instead of 270 or 300, where the S wave
# has just ended, and T ends at 108 ms: the QT interval is 164 ms instead of 420, without a gap or a warning. 68 of 69
# beats of an irregular rhythm without P waves have one, onset included. `method="prominence"` marks the inverted T
# rightly.
#
# Output seen, median in ms after R, and the number of beats that have the mark:
#     upright T at 270 ms: 69 beats; P -160, from -210 (69); T 270, to 364 (69); QT 420 ms
#     inverted T at 270 ms: 69 beats; P -160, from -210 (69); T 82, to 108 (69); QT 164 ms
#     inverted T at 300 ms: 69 beats; P -160, from -210 (69); T 82, to 108 (69); QT 162 ms
#     inverted T at 270 ms, prominence: 69 beats; P -160, from -210 (69); T 270, to 370 (69); QT 408 ms
#     irregular, no P: 69 beats; P -180, from -205 (68); T 270, to 366 (69); QT 421 ms
#     neurokit2 marks waves that are not there: still so
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
P, QRS = (0.12, -0.16, 0.022), ((-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009))
time = np.arange(RATE * SECONDS) / RATE


def marks(name, beats, waves, method=None):
    """Prints and gives the medians of the marks of P and T in ms after R, the median QT, and the share of beats with P
    and with T."""
    signal = sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in waves)
    signal += np.random.default_rng(0).normal(0, 0.005, len(time))
    if method is None:
        _, found = neurokit2.ecg_process(signal, sampling_rate=RATE)
        peaks = found["ECG_R_Peaks"]
    else:
        cleaned, peaks = neurokit2.ecg_clean(signal, sampling_rate=RATE), np.round(beats * RATE).astype(int)
        _, found = neurokit2.ecg_delineate(cleaned, peaks, sampling_rate=RATE, method=method)
    after = {wave: (np.array(found[f"ECG_{wave}"], float) - peaks) / RATE * 1000 for wave in (
        "P_Onsets", "P_Peaks", "R_Onsets", "T_Peaks", "T_Offsets"
    )}  # fmt: skip
    p, t, end = (np.nanmedian(after[wave]) for wave in ("P_Peaks", "T_Peaks", "T_Offsets"))
    onset, qt = np.nanmedian(after["P_Onsets"]), np.nanmedian(after["T_Offsets"] - after["R_Onsets"])
    with_p, with_t = (np.isfinite(after[wave]).sum() for wave in ("P_Onsets", "T_Peaks"))
    print(
        f"{name}: {len(beats)} beats; P {p:.0f}, from {onset:.0f} ({with_p}); T {t:.0f}, to {end:.0f} ({with_t}); "
        f"QT {qt:.0f} ms"
    )
    return p, t, qt, with_p / len(beats), with_t / len(beats)


regular = np.arange(0.6, SECONDS - 1, 0.85)
irregular = 0.6 + np.cumsum(np.random.default_rng(0).uniform(0.45, 1.2, 69))
upright = marks("upright T at 270 ms", regular, (P, *QRS, (0.25, 0.27, 0.045)))
inverted = marks("inverted T at 270 ms", regular, (P, *QRS, (-0.25, 0.27, 0.045)))
deeper = marks("inverted T at 300 ms", regular, (P, *QRS, (-0.4, 0.3, 0.045)))
other = marks("inverted T at 270 ms, prominence", regular, (P, *QRS, (-0.25, 0.27, 0.045)), "prominence")
without = marks("irregular, no P", irregular[irregular < SECONDS - 1], (*QRS, (0.25, 0.27, 0.045)))
right = abs(upright[0] + 160) < 10 and all(abs(case[1] - 270) < 10 for case in (upright, other))
early = all(case[1] < 120 and case[2] < 220 and case[4] > 0.95 for case in (inverted, deeper))
if right and early and without[3] > 0.9:
    print("neurokit2 marks waves that are not there: still so")
else:
    sys.exit("neurokit2 marks waves that are not there: no longer so")
END
