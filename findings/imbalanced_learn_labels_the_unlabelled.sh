#!/bin/sh
# imbalanced-learn gives records without a finding the first finding.
#
# Versions: imbalanced-learn 0.14.2, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6; Python 3.11.
#
# The labels of ECGs are a matrix of 0 and 1, a column for each finding, and most records of a screened population have
# none. `RandomOverSampler` takes such a matrix and refuses it, by name, where a row has two labels.
#
# One would guess that a row without a label comes back without one, as a class of its own; or that it is refused, too.
#
# What happens: rows of zeros are taken for the first column by every sampler tried, without a warning. They are drawn
# as its records, and the matrix that comes back states the first finding for each of them. The rarer the finding, the
# more of "its" records are normal ones: here 19 of 20. The order of the columns decides which finding it is.
#
# Output seen:
#     1,000 records: AF 50, LBBB 40, RBBB 30, none 880
#     RandomOverSampler      AF 930, LBBB 930, RBBB 930, none 0; called AF without having it: 880
#     RandomUnderSampler     AF 30, LBBB 30, RBBB 30, none 0; called AF without having it: 29
#     SMOTE                  AF 930, LBBB 930, RBBB 930, none 0; called AF without having it: 880
#     columns the other way round: called RBBB without having it: 880
#     a record with two labels: ValueError
#     records without a label get the first one: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imbalanced-learn==0.14.2 scikit-learn==1.9.1 \
    scipy==1.17.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler

COUNTS = {"AF": 50, "LBBB": 40, "RBBB": 30}
RECORDS = 1000

labels = np.zeros((RECORDS, len(COUNTS)), dtype=int)
first = 0
for column, count in enumerate(COUNTS.values()):
    labels[first : first + count, column] = 1
    first += count
labels = np.random.default_rng(0).permutation(labels)
# One feature says which record it is; SMOTE's new records lie between two of one class, so they are left out below.
features = np.arange(RECORDS, dtype=float)[:, None]


def wrong(sampler, labels, names):
    """Prints -> the records that have no label and come back with the first."""
    drawn, given = sampler.fit_resample(features, labels)
    stored = np.isin(drawn[:, 0], features[:, 0])
    records = drawn[stored, 0].astype(int)
    changed = (given[stored] != labels[records]).any(axis=1)
    assert not labels[records[changed]].any() and given[stored][changed, 0].all()
    counts = [*zip(names, given.sum(axis=0), strict=True), ("none", (given.sum(axis=1) == 0).sum())]
    called = len(np.unique(records[changed]))
    return ", ".join(f"{name} {count}" for name, count in counts), called


none = (labels.sum(axis=1) == 0).sum()
print(f"{RECORDS:,} records: {', '.join(f'{name} {count}' for name, count in COUNTS.items())}, none {none}")
called = {}
for sampler in (RandomOverSampler(random_state=0), RandomUnderSampler(random_state=0), SMOTE(random_state=0)):
    name = type(sampler).__name__
    counts, called[name] = wrong(sampler, labels, COUNTS)
    print(f"{name:23}{counts}; called AF without having it: {called[name]}")
turned = wrong(RandomOverSampler(random_state=0), labels[:, ::-1], reversed(COUNTS))[1]
print(f"columns the other way round: called RBBB without having it: {turned}")
both = labels.copy()
both[0] = [1, 1, 0]
try:
    RandomOverSampler().fit_resample(features, both)
    refused = "taken"
except ValueError:
    refused = "ValueError"
print(f"a record with two labels: {refused}")
if called["RandomOverSampler"] == called["SMOTE"] == turned == none and called["RandomUnderSampler"] > 20:
    print("records without a label get the first one: still so")
else:
    sys.exit("records without a label get the first one: no longer so")
END
