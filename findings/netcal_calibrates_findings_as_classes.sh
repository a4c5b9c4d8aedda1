#!/bin/sh
# netcal takes several findings for a record as one of several classes: good probabilities become wrong ones.
#
# Versions: netcal 1.4.0, torch 2.13.0, numpy 2.3.5, scikit-learn 1.9.1; Python 3.11.
#
# Probabilities of three findings (records, findings) are given to netcal with a matrix of zeros and ones, in which a
# record may have several ones, or none.
#
# One would guess that each finding is calibrated by itself, or that rows with two ones, or none, are refused: they
# belong to no class.
#
# What happens: a row counts as the class of its first 1, and as the first class if it has none. Of probabilities that
# are calibrated by construction, the expected calibration error is .127 instead of .012, and calibration makes them
# wrong: the finding that stands first, which a fifth of the records have, gets a mean probability of .73 by isotonic
# regression, and of .33 by a temperature; the three sum to 1 in each record. Each finding alone is right.
#
# Output seen:
#     4,000 records, 47 % without a finding, 12 % with several
#                                      mean of each finding       expected calibration error
#     share of the records             0.215  0.226  0.219
#     probabilities, together          0.225  0.225  0.230        0.127
#     probabilities, each alone        0.225  0.225  0.230        0.012  0.010  0.012
#     a temperature, together          0.331  0.334  0.335
#     a temperature, each alone        0.222  0.222  0.225
#     isotonic regression, together    0.725  0.155  0.120
#     isotonic regression, each alone  0.215  0.226  0.219
#     all of it as for the first 1 of a row, or 0: True
#     netcal calibrates findings as classes: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check netcal==1.4.0 torch==2.13.0 numpy==2.3.5 \
  scikit-learn==1.9.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from netcal.binning import IsotonicRegression
from netcal.metrics import ECE
from netcal.scaling import TemperatureScaling

RECORDS, FINDINGS = 4000, 3
generator = np.random.default_rng(0)
scores = 1 / (1 + np.exp(-generator.normal(-2, 2, size=(RECORDS, FINDINGS))))
labels = (generator.random(scores.shape) < scores).astype(int)
first_one = np.where(labels.any(axis=1), labels.argmax(axis=1), 0)


def show(name, probabilities, errors=()):
    means = "  ".join(f"{mean:.3f}" for mean in probabilities.mean(axis=0))
    print(f"{name:32} {means}        {'  '.join(f'{error:.3f}' for error in errors)}".rstrip())


def calibrated(kind, probabilities, truth):
    method = kind()
    method.fit(probabilities, truth)
    return method.transform(probabilities)


def error(probabilities, truth):
    return float(ECE(10).measure(probabilities, truth))


count = labels.sum(axis=1)
print(f"{RECORDS:,} records, {(count == 0).mean():.0%}".replace("%", " %"), end=" without a finding, ")
print(f"{(count > 1).mean():.0%}".replace("%", " %"), "with several")
print(f"{'':32} mean of each finding       expected calibration error")
show("share of the records", labels)
together = error(scores, labels)
alone = [error(scores[:, one], labels[:, one]) for one in range(FINDINGS)]
show("probabilities, together", scores, [together])
show("probabilities, each alone", scores, alone)

as_classes, first_mean = together == error(scores, first_one), []
for name, kind in (("a temperature", TemperatureScaling), ("isotonic regression", IsotonicRegression)):
    found = calibrated(kind, scores, labels)
    separate = np.stack([calibrated(kind, scores[:, one], labels[:, one]) for one in range(FINDINGS)], axis=1)
    show(f"{name}, together", found)
    show(f"{name}, each alone", separate)
    as_classes &= np.allclose(found, calibrated(kind, scores, first_one)) and np.allclose(found.sum(axis=1), 1)
    first_mean.append((found[:, 0].mean(), separate[:, 0].mean()))
print("all of it as for the first 1 of a row, or 0:", as_classes)

is_wrong = all(found > 0.3 and abs(separate - labels[:, 0].mean()) < 0.02 for found, separate in first_mean)
if as_classes and is_wrong and together > 0.1 > 0.02 > max(alone):
    print("netcal calibrates findings as classes: still so")
else:
    sys.exit("netcal calibrates findings as classes: no longer so")
END
