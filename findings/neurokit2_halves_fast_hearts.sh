#!/bin/sh
# neurokit2 finds every other beat of a heart above 200 /min, and reports half the rate.
#
# Versions: neurokit2 0.3.0, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# A supraventricular tachycardia of 220 /min is no rarity, and a child's may be faster. Here: narrow beats without
# noise to speak of, half a minute at 500 Hz.
#
# One would guess that `neurokit2.ecg_process` finds these clean beats; or, if they are too fast for its method, that
# few are found, the rate is missing, or the quality is low.
#
# What happens: the default method wants more than 0.3 s between two beats, and so takes every other beat above
# 200 /min, and none besides. 220 /min comes out as a perfectly regular 110 /min, a rate that nobody questions, with the
# quality of a slow heart; all intervals double. Other methods of the package find all beats of the same signal, and so
# does this one with `mindelay=0.2`, which `ecg_peaks` passes on.
#
# Output seen:
#     75 /min: 37 of 37 beats, rate 75.0 /min, quality 0.89
#     180 /min: 87 of 87 beats, rate 180.0 /min, quality 0.92
#     220 /min: 54 of 107 beats, rate 110.0 /min, quality 0.92
#     250 /min: 61 of 121 beats, rate 125.0 /min, quality 0.92
#     220 /min, method martinez2004: 107 of 107 beats
#     220 /min, method khamis2016: 107 of 107 beats
#     220 /min, mindelay 0.2 s: 107 of 107 beats
#     neurokit2 halves fast hearts: still so
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

RATE, SECONDS = 500, 30
WAVES = ((-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009))  # Q, R, S: mV, s after R, width in s
time = np.arange(RATE * SECONDS) / RATE


def ecg(beats_per_minute):
    """Half a minute in mV, and the number of beats."""
    interval = 60 / beats_per_minute
    stretch = min(1, interval) ** 0.5
    waves = [*WAVES, (0.25, 0.27 * stretch, 0.045 * stretch)]  # T comes sooner in a fast heart
    beats = np.arange(0.5, SECONDS - 0.5, interval)
    noise = np.random.default_rng(0).normal(0, 0.01, len(time))
    shape = sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in waves)
    return shape + noise, len(beats)


seen = {}
for beats_per_minute in (75, 180, 220, 250):
    signal, beats = ecg(beats_per_minute)
    table, found = neurokit2.ecg_process(signal, sampling_rate=RATE)
    rate, quality = table["ECG_Rate"].mean(), table["ECG_Quality"].mean()
    seen[beats_per_minute] = rate / beats_per_minute
    print(
        f"{beats_per_minute} /min: {len(found['ECG_R_Peaks'])} of {beats} beats, rate {rate:.1f} /min, quality "
        f"{quality:.2f}"
    )
signal, beats = ecg(220)
clean = neurokit2.ecg_clean(signal, sampling_rate=RATE)
others = []
for name, options in (
    ("method martinez2004", {"method": "martinez2004"}),
    ("method khamis2016", {"method": "khamis2016"}),
    ("mindelay 0.2 s", {"mindelay": 0.2}),
):
    others.append(len(neurokit2.ecg_peaks(clean, sampling_rate=RATE, **options)[1]["ECG_R_Peaks"]))
    print(f"220 /min, {name}: {others[-1]} of {beats} beats")
if np.allclose([seen[75], seen[180], 2 * seen[220], 2 * seen[250]], 1, atol=0.02) and min(others) >= beats - 2:
    print("neurokit2 halves fast hearts: still so")
else:
    sys.exit("neurokit2 halves fast hearts: no longer so")
END
