#!/bin/sh
# The quality index of neurokit2 calls noise without an ECG better than a clean ECG of a slow heart.
#
# Versions: neurokit2 0.3.0, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1; Python 3.11.
#
# `neurokit2.ecg_quality(..., method="zhao2018")` calls a lead "Excellent", "Barely acceptable" or "Unacceptable", and is
# what records are chosen by. As its documentation says, it is given a lead cleaned by `neurokit2.ecg_clean`. There
# are 12 leads of 10 s of each kind: clean ECGs with noise of 10 uV, and white noise of 0.1 mV alone.
#
# One would guess that noise alone is unacceptable, and clean ECGs excellent, whatever the rhythm.
#
# What happens: of white noise 2 leads are excellent, 9 barely acceptable and 1 unacceptable, as of clean atrial
# fibrillation 2, 10 and none. Of clean sinus rhythm of 50 /min none is excellent, and half are unacceptable (with a QRS
# complex a fifth wider all are): at that rate the heart itself lies below 1 Hz, which counts as wander. An irregular
# heart is judged by the rate of its shortest interval. With `approach="fuzzy"` nearly everything is excellent, noise as
# well. So a data set that is chosen by it keeps noise, and loses slow and irregular hearts, that is, findings.
#
# Output seen:
#                              Excellent  Barely acceptable  Unacceptable   fuzzy: Excellent
#     sinus rhythm, 75 /min           12                  0             0                 12
#     sinus rhythm, 50 /min            0                  6             6                 12
#     atrial fibrillation              2                 10             0                 12
#     white noise of .1 mV             2                  9             1                 11
#     neurokit2 prefers noise to slow hearts: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check neurokit2==0.3.0 numpy==2.4.6 scipy==1.17.1 \
  pandas==3.1.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import neurokit2
import numpy as np

RATE, SECONDS, LEADS = 500, 10, 12
WORDS = ("Excellent", "Barely acceptable", "Unacceptable")
P, *QRST = ((0.12, -0.16, 0.022), (-0.12, -0.022, 0.008), (1.2, 0, 0.011), (-0.25, 0.024, 0.009), (0.3, 0.27, 0.045))
time = np.arange(RATE * SECONDS) / RATE


def ecg(intervals, waves=(P, *QRST)):
    beats = np.cumsum([0.4, *intervals])
    beats = beats[beats < SECONDS - 0.3]
    return sum(height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in waves)


def leads(kind, generator):
    """A lead in mV."""
    if kind == "white noise of .1 mV":
        return generator.normal(0, 0.1, len(time))
    if kind == "atrial fibrillation":
        lead = ecg(generator.uniform(0.4, 1.1, 30), QRST)
    else:
        lead = ecg(np.full(20, 60 / int(kind.split()[-2])))
    return lead + generator.normal(0, 0.01, len(time))


kinds = ("sinus rhythm, 75 /min", "sinus rhythm, 50 /min", "atrial fibrillation", "white noise of .1 mV")
print("                         " + "  ".join(WORDS) + "   fuzzy: Excellent")
counts, fuzzy = {}, {}
for kind in kinds:
    found = []
    for seed in range(LEADS):
        cleaned = neurokit2.ecg_clean(leads(kind, np.random.default_rng(seed)), sampling_rate=RATE)
        settings = {"sampling_rate": RATE, "method": "zhao2018"}
        ways = [neurokit2.ecg_quality(cleaned, approach=approach, **settings) for approach in ("simple", "fuzzy")]
        found.append(ways)
    simple, by_fuzzy = zip(*found)
    counts[kind], fuzzy[kind] = [simple.count(word) for word in WORDS], by_fuzzy.count("Excellent")
    print("{:24} {:9} {:18} {:13} {:18}".format(kind, *counts[kind], fuzzy[kind]))

regular, slow, irregular, noise = (counts[kind] for kind in kinds)
noise_passes = noise[0] >= 1 and noise[2] <= 2 and fuzzy[kinds[-1]] >= LEADS - 2
clean_is_lost = slow[0] == 0 and slow[2] >= 3 and irregular[0] <= 4
if regular[0] == LEADS and noise_passes and clean_is_lost:
    print("neurokit2 prefers noise to slow hearts: still so")
else:
    sys.exit("neurokit2 prefers noise to slow hearts: no longer so")
END
