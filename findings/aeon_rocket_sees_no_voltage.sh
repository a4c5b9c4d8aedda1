#!/bin/sh
# aeon's RocketClassifier cannot tell low from high voltage, nor which of two leads has the higher R wave.
#
# Versions: aeon 1.6.0, scikit-learn 1.9.1, numpy 2.3.5; Python 3.11.
#
# ROCKET with a linear classifier is a common yardstick for time series. Here one class has a third of the voltage of
# the other (as in an effusion, or the other way round in hypertrophy), or an electrical axis nearer to lead aVF than to
# lead I. Nothing else differs: the noise has its share of the height.
#
# One would guess that it tells such plain classes apart, or has an option for it.
#
# What happens: each lead of each record is brought to mean 0 and standard deviation 1 first, and the heights are gone:
# it does no better than chance (100 kernels here, for speed; more do not help). `RocketClassifier` has no option for it, and its documentation does not mention it. The
# transformer `Rocket(normalise=False)` before the same kind of linear classifier is right in all records.
#
# Output seen:
#                                   RocketClassifier   Rocket(normalise=False), RidgeClassifierCV
#     a third of the voltage        0.45               1.00
#     axis of 20 or of 70 degrees   0.54               1.00
#     options: class_weight, estimator, n_jobs, n_kernels, random_state
#     aeon's Rocket sees no voltage: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aeon==1.6.0 scikit-learn==1.9.1 numpy==2.3.5
cd "$folder"
OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from aeon.classification.convolution_based import RocketClassifier
from aeon.transformations.collection.convolution_based import Rocket
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline

RATE, SECONDS, RECORDS, KERNELS = 100, 5, 40, 100
generator = np.random.default_rng(0)
time = np.arange(SECONDS * RATE) / RATE


def record(heights):
    """R and T in leads I and aVF, with R of these heights; each record has its own height, and noise in proportion."""
    beats = np.arange(generator.uniform(0, 0.8), SECONDS, 0.8)
    wave = np.exp(-(((time[:, None] - beats) / 0.02) ** 2) / 2)
    wave += 0.25 * np.exp(-(((time[:, None] - beats - 0.28) / 0.05) ** 2) / 2)
    noise = generator.normal(0, 0.01, size=(2, len(time)))
    return generator.uniform(0.9, 1.1) * np.array(heights)[:, None] * (wave.sum(axis=1) + noise)


def records(kinds):
    signals = [record(heights) for heights in kinds for _ in range(RECORDS)]
    return np.stack(signals), np.repeat(np.arange(len(kinds)), RECORDS)


def at(degrees):
    return np.cos(np.radians(degrees)), np.sin(np.radians(degrees))  # of lead I and of aVF


print(f"{'':29} RocketClassifier   Rocket(normalise=False), RidgeClassifierCV")
scores = []
for name, kinds in (
    ("a third of the voltage", [(0.4, 0.4), (1.2, 1.2)]),
    ("axis of 20 or of 70 degrees", [at(20), at(70)]),
):
    train, test = records(kinds), records(kinds)
    classifier = RocketClassifier(n_kernels=KERNELS, random_state=0)
    by_hand = make_pipeline(Rocket(n_kernels=KERNELS, normalise=False, random_state=0), RidgeClassifierCV())
    scores.append([one.fit(*train).score(*test) for one in (classifier, by_hand)])
    print(f"{name:29} {scores[-1][0]:.2f}               {scores[-1][1]:.2f}")
options = sorted(classifier.get_params())
print("options:", ", ".join(options))
if all(blind < 0.7 and right > 0.95 for blind, right in scores) and not any("normal" in name for name in options):
    print("aeon's Rocket sees no voltage: still so")
else:
    sys.exit("aeon's Rocket sees no voltage: no longer so")
END
