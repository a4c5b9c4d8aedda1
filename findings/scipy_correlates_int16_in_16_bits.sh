#!/bin/sh
# `scipy.signal.correlate` of two records of int16 wraps round, and finds one at a random place in the other.
#
# Versions: scipy 1.17.1, numpy 2.4.6; Python 3.11.
#
# Two devices record one heart, the second begins up to 2 s earlier. The lag that brings them together is where their
# correlation is highest. Samples are int16, as WFDB, EDF and DICOM store them; here 1 uV is 1, and R is 1.5 mV.
#
# One would guess that sums of 5,000 products are not kept in the type of the samples: `scipy.signal.fftconvolve` gives
# float64, and `correlate` has a method "fft", which computes the same way.
#
# What happens: `correlate` and `convolve` give int16, by either method; products and sums wrap round at 32,767, also
# where R has a twentieth of that height. No lag of 40 is found, without a warning, where `fftconvolve` finds all.
# `numpy.correlate` does the same.
#
# Output seen:
#     lags found of 40, R in mV      1.5, int16     0.075, int16   1.5, int32     1.5, float64
#     scipy.signal.correlate         0              0              40             40
#                           , "fft"  0              0              40             40
#     scipy.signal.convolve          0              0              40             40
#     scipy.signal.fftconvolve       40             40             40             40
#     numpy.correlate                0              0              40             40
#     scipy correlates int16 in 16 bits: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from scipy import signal

RATE, SECONDS, PAIRS = 500, 10, 40


def lead_of(generator, height):
    """A simulated lead in uV: QRS and T at irregular intervals, with noise of 10 uV."""
    time = np.arange(RATE * (SECONDS + 2)) / RATE
    beats = np.cumsum(generator.normal(0.8, 0.06, size=20)) - 0.5
    lead = sum(
        np.exp(-(((time - beat) / 0.02) ** 2)) + 0.25 * np.exp(-(((time - beat - 0.28) / 0.05) ** 2)) for beat in beats
    )
    return 1000 * (height * lead + 0.01 * generator.normal(size=len(time)))


ways = {
    "scipy.signal.correlate": signal.correlate,
    '                      , "fft"': lambda late, early: signal.correlate(late, early, method="fft"),
    "scipy.signal.convolve": lambda late, early: signal.convolve(late, early[::-1]),
    "scipy.signal.fftconvolve": lambda late, early: signal.fftconvolve(late, early[::-1]),
    "numpy.correlate": lambda late, early: np.correlate(late, early, mode="full"),
}
kinds = [(1.5, "int16"), (0.075, "int16"), (1.5, "int32"), (1.5, "float64")]
print(f"lags found of {PAIRS}, R in mV      " + "   ".join(f"{height:g}, {kind}".ljust(12) for height, kind in kinds))
results = {}
for name, correlation in ways.items():
    found = []
    for height, kind in kinds:
        generator = np.random.default_rng(0)
        count = 0
        for _ in range(PAIRS):
            lead = np.round(lead_of(generator, height)).astype(kind)
            lag = int(generator.integers(0, 2 * RATE))
            early, late = lead[2 * RATE :], lead[2 * RATE - lag : len(lead) - lag]
            count += abs(correlation(late, early).argmax() - (len(early) - 1) - lag) <= 1
        found.append(int(count))
    results[name] = found
    print(f"{name:30} " + "   ".join(str(count).ljust(12) for count in found))

right = results.pop("scipy.signal.fftconvolve")
if set(right) == {PAIRS} and all(
    tall <= 2 and low <= 2 and wide == double == PAIRS for tall, low, wide, double in results.values()
):
    print("scipy correlates int16 in 16 bits: still so")
else:
    sys.exit("scipy correlates int16 in 16 bits: no longer so")
END
