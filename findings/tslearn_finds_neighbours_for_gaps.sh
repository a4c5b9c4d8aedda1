#!/bin/sh
# `tslearn` gives all records with a gap the same neighbours, and so the same class.
#
# Versions: tslearn 0.10.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# Dynamic time warping compares beats of different lengths. A lead that came off is NaN for a while, or for the whole
# record, as `wfdb` and others give it. `tslearn` has NaN after the end of shorter series.
#
# One would guess that `KNeighborsTimeSeriesClassifier` and `TimeSeriesKMeans` refuse a NaN within a record, as they do
# with the Euclidean metric, or leave it out.
#
# What happens: a gap makes the distance to each record infinite or NaN, and the neighbours are those that a sort of
# equals leaves in front, with metrics "dtw" (the default) and "softdtw". They are the same for all records with a gap,
# in the same places of the table, and so is the class: with a lead off for 20 ms a cohort has no finding at all, or
# each has one, as the training records are sorted. Clusters fall together: one record with a gap among 60 makes one of
# all. There is no warning.
#
# Output seen:
#     metric "dtw"           training records    right     found    neighbours of the first three
#     whole records          findings mixed      1.00      0.50     different
#     gap of 20 ms in V1     findings mixed      0.50      1.00     the same
#     gap of 20 ms in V1     findings last       0.50      1.00     the same
#     gap of 20 ms in V1     findings first      0.50      0.00     the same
#     V1 missing             findings last       0.50      1.00     the same
#     metric "softdtw", V1 with a gap: right 0.50, found 1.00; metric "euclidean": ValueError
#     two clusters of 60 records: 30 and 30, 1.00 right; with a gap in one of them: 0 and 60, 0.50 right
#     tslearn finds neighbours for gaps: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tslearn==0.10.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error -W "ignore:h5py not installed" - <<'END'
import sys

import numpy as np
from tslearn.clustering import TimeSeriesKMeans
from tslearn.neighbors import KNeighborsTimeSeriesClassifier

SAMPLES, V1 = 60, 2  # of a beat at 100 Hz, in leads I, II and V1
TRAIN, TEST = 60, 40


def beats(count, seed):
    """Beats, every other with a wide QRS, which is the finding."""
    generator = np.random.default_rng(seed)
    has_finding = np.arange(count) % 2
    time = np.arange(SAMPLES) - 30 + generator.integers(-3, 4, (count, 1))
    width = np.where(has_finding, 6, 2.5)[:, None]
    beat = np.exp(-((time / width) ** 2)) + 0.3 * np.exp(-(((time - 20) / 5) ** 2))
    leads = beat[:, :, None] * np.array([0.7, 1.2, -0.8])
    return leads + 0.03 * generator.normal(size=leads.shape), has_finding


train, train_finding = beats(TRAIN, 0)
test, test_finding = beats(TEST, 1)
gap, missing = test.copy(), test.copy()
gap[:, 10:12, V1] = np.nan
missing[:, :, V1] = np.nan
ORDERS = {
    "mixed": np.arange(TRAIN),
    "last": np.argsort(train_finding, kind="stable"),
    "first": np.argsort(-train_finding, kind="stable"),
}


def classify(records, order, metric="dtw"):
    """The share that is right, the share that is said to have the finding, and how the neighbours differ."""
    rows = ORDERS[order]
    model = KNeighborsTimeSeriesClassifier(5, metric=metric).fit(train[rows], train_finding[rows])
    found = model.predict(records)
    neighbours = model.kneighbors(records[:3], return_distance=False)
    same = len({frozenset(row) for row in neighbours.tolist()}) == 1
    return (found == test_finding).mean(), found.mean(), "the same" if same else "different"


print('metric "dtw"           training records    right     found    neighbours of the first three')
results = []
for name, records, order in (
    ("whole records", test, "mixed"),
    ("gap of 20 ms in V1", gap, "mixed"),
    ("gap of 20 ms in V1", gap, "last"),
    ("gap of 20 ms in V1", gap, "first"),
    ("V1 missing", missing, "last"),
):
    results.append(classify(records, order))
    right, found, neighbours = results[-1]
    print(f"{name:22} findings {order:10} {right:.2f}      {found:.2f}     {neighbours}")
soft = classify(gap, "last", "softdtw")
try:
    classify(gap, "last", "euclidean")
    euclidean = "no error"
except ValueError as error:
    euclidean = type(error).__name__
print(f'metric "softdtw", V1 with a gap: right {soft[0]:.2f}, found {soft[1]:.2f}; metric "euclidean": {euclidean}')


def cluster(records):
    clusters = TimeSeriesKMeans(2, metric="dtw", random_state=0).fit_predict(records)
    right = (clusters == train_finding).mean()
    return sorted(np.bincount(clusters, minlength=2).tolist()), max(right, 1 - right)


with_one_gap = train.copy()
with_one_gap[0, 10:12, V1] = np.nan
(sizes, right), (sizes_with, right_with) = cluster(train), cluster(with_one_gap)
print(f"two clusters of {TRAIN} records: {sizes[0]} and {sizes[1]}, {right:.2f} right; ", end="")
print(f"with a gap in one of them: {sizes_with[0]} and {sizes_with[1]}, {right_with:.2f} right")

whole, gaps = results[0], [*results[1:], soft]
if (
    whole[0] > 0.95 and whole[2] == "different" and euclidean == "ValueError"
    and all(right == 0.5 and found in (0, 1) and same == "the same" for right, found, same in gaps)
    and {found for _, found, _ in gaps} == {0, 1}
    and sizes[0] > 25 and sizes_with == [0, TRAIN]
):
    print("tslearn finds neighbours for gaps: still so")
else:
    sys.exit("tslearn finds neighbours for gaps: no longer so")
END
