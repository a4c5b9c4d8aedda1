#!/bin/sh
# An ECG that a cardiologist has not read counts as a finding of its own in the kappa of statsmodels.
#
# Versions: statsmodels 0.15.0, numpy 2.4.6, pandas 3.1.1, scipy 1.17.1; Python 3.11.
#
# Of several cardiologists each reads a part of the ECGs; where one has not read, the table of readings has NaN.
# `aggregate_raters` counts the readings of each ECG, and `fleiss_kappa` gives the agreement of the counts.
#
# One would guess that NaN is left out, or refused, as unequal numbers of readings do not suit the formula.
#
# What happens: NaN is one more category, and two who have not read agree. Of readers who agree with a kappa of .80 it
# is -.05, "no agreement", if each ECG is read by two of five, and .46 if a fifth of the readings is missing. Of
# readers who guess it is .50, "moderate agreement", if the table has as many ECGs that nobody has read. There is no
# warning; the list of categories that comes with the counts has nan at its end.
#
# Output seen:
#     readings                                      kappa of statsmodels   mean kappa of pairs
#     good readers, all ECGs read by all five       0.805                  0.805
#     good readers, a fifth missing                 0.461                  0.802
#     good readers, each ECG read by two of five    -0.046                 0.798
#     guesses, all ECGs read by all five            -0.003                 -0.003
#     guesses, half of the ECGs read by none        0.497                  -0.005
#     statsmodels takes unread ECGs for a finding: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0 numpy==2.4.6 pandas==3.1.1 \
    scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import itertools
import sys

import numpy as np
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

ECGS, READERS, FINDINGS = 2000, 5, 3
generator = np.random.default_rng(0)


def pairs(readings):
    """The mean kappa of two readers, over the ECGs that both have read."""
    kappas = []
    for one, other in itertools.combinations(readings.T, 2):
        both = ~np.isnan(one) & ~np.isnan(other)
        table = np.zeros((FINDINGS, FINDINGS))
        np.add.at(table, (one[both].astype(int), other[both].astype(int)), 1)
        kappas.append(cohens_kappa(table, return_results=False))
    return float(np.mean(kappas))


truth = generator.integers(0, FINDINGS, (ECGS, 1))
guesses = generator.integers(0, FINDINGS, (ECGS, READERS)).astype(float)
good = np.where(generator.random((ECGS, READERS)) < 0.105, guesses, truth).astype(float)
fifth = np.where(generator.random(good.shape) < 0.2, np.nan, good)
order = generator.permuted(np.tile(np.arange(READERS), (ECGS, 1)), axis=1)
two = np.where(order < 2, good, np.nan)
half = guesses.copy()
half[: ECGS // 2] = np.nan

print("readings                                      kappa of statsmodels   mean kappa of pairs")
results = []
for name, readings in (
    ("good readers, all ECGs read by all five", good),
    ("good readers, a fifth missing", fifth),
    ("good readers, each ECG read by two of five", two),
    ("guesses, all ECGs read by all five", guesses),
    ("guesses, half of the ECGs read by none", half),
):
    counts, _ = aggregate_raters(readings)
    results.append((float(fleiss_kappa(counts)), pairs(readings)))
    print(f"{name:45} {results[-1][0]:<22.3f} {results[-1][1]:.3f}")

whole, missing, two_each, guessed, unread = results
if (
    all(abs(of_pairs - 0.8) < 0.05 for _, of_pairs in (whole, missing, two_each))
    and abs(whole[0] - whole[1]) < 0.02
    and missing[0] < whole[0] - 0.2
    and two_each[0] < 0.1
    and abs(guessed[0]) < 0.05
    and abs(unread[1]) < 0.1
    and unread[0] > 0.4
):
    print("statsmodels takes unread ECGs for a finding: still so")
else:
    sys.exit("statsmodels takes unread ECGs for a finding: no longer so")
END
