#!/bin/sh
# `IterativeStratification` of scikit-multilearn spreads rare findings nearly by chance, and with a seed all findings.
#
# Versions: scikit-multilearn-ng 0.0.8, iterative-stratification 0.1.9, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6;
# Python 3.11.
#
# Folds of records with several findings each are made by iterative stratification (Sechidis, Tsoumakas and Vlahavas
# 2011): the rarest finding is dealt out first, so that each fold gets its share. scikit-multilearn has it as
# `IterativeStratification`, and in `iterative_train_test_split`.
#
# One would guess that of 10 records with a rare finding each of 10 folds gets one, as by `iterative-stratification`;
# and that `random_state` only makes the folds the same each time.
#
# What happens: a finding comes before another only if it is rarer and its combination has more labels; among single
# findings it is that which the table comes to first. Of the folds .31 have no record of a rare finding, nearly as many
# as where folds are drawn by chance (.36), so that as many AUROCs are undefined. With `random_state` or `shuffle`
# records are shuffled, and places among the shuffled ones are returned as places among those that were given: nothing
# is stratified, the common findings neither. There is no warning.
#
# Output seen:
#     2000 records, 20 findings with 10 records each, 10 common ones; 10 folds
#                                          no record of a    spread of a
#                                          rare finding      common finding
#     by chance                            0.36              0.178
#     IterativeStratification, order=1     0.31              0.075
#       order=2                            0.27              0.031
#       order=1, random_state=0            0.35              0.157
#       order=2, random_state=0            0.35              0.153
#     iterative-stratification             0.00              0.019
#     scikit-multilearn stratifies no rare findings: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-multilearn-ng==0.0.8 \
    iterative-stratification==0.1.9 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import KFold
from skmultilearn.model_selection import IterativeStratification

RECORDS, RARE, EACH, COMMON, FOLDS, DATA_SETS = 2000, 20, 10, 10, 10, 3


def draw(seed):
    """Labels of records, the rare findings first."""
    generator = np.random.default_rng(seed)
    rare = np.zeros((RECORDS, RARE), int)
    for column in rare.T:
        column[generator.choice(RECORDS, EACH, replace=False)] = 1
    common = generator.random((RECORDS, COMMON)) < np.linspace(0.05, 0.4, COMMON)
    return np.concatenate([rare, common], axis=1)


def judge(splitter, labels):
    """The share of folds without a record of a rare finding, and the spread of common ones around their mean."""
    places = [test for _, test in splitter.split(np.zeros((RECORDS, 1)), labels)]
    assert sorted(np.concatenate(places)) == list(range(RECORDS))
    counts = np.stack([labels[test].sum(axis=0) for test in places])
    common = counts[:, RARE:]
    return (counts[:, :RARE] == 0).mean(), (common / common.mean(axis=0)).std()


print(f"{RECORDS} records, {RARE} findings with {EACH} records each, {COMMON} common ones; {FOLDS} folds")
print("                                     no record of a    spread of a")
print("                                     rare finding      common finding")
results = {}
for name, make in {
    "by chance": lambda: KFold(FOLDS, shuffle=True, random_state=0),
    "IterativeStratification, order=1": lambda: IterativeStratification(FOLDS, order=1),
    "  order=2": lambda: IterativeStratification(FOLDS, order=2),
    "  order=1, random_state=0": lambda: IterativeStratification(FOLDS, order=1, random_state=0),
    "  order=2, random_state=0": lambda: IterativeStratification(FOLDS, order=2, random_state=0),
    "iterative-stratification": lambda: MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=0),
}.items():
    np.random.seed(0)
    results[name] = np.mean([judge(make(), draw(seed)) for seed in range(DATA_SETS)], axis=0)
    print(f"{name:36} {results[name][0]:<17.2f} {results[name][1]:.3f}")

chance, first, second, first_seeded, second_seeded, right = results.values()
if (
    min(first[0], second[0]) > 0.2 and max(first[1], second[1]) < 0.12
    and all(seeded[0] > 0.25 and seeded[1] > 0.13 for seeded in (chance, first_seeded, second_seeded))
    and right[0] < 0.02 and right[1] < 0.03
):
    print("scikit-multilearn stratifies no rare findings: still so")
else:
    sys.exit("scikit-multilearn stratifies no rare findings: no longer so")
END
