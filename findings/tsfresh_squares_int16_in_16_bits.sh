#!/bin/sh
# Features of `tsfresh` that square or multiply samples wrap round for voltages stored in int16.
#
# Versions: tsfresh 0.21.2, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, scikit-learn 1.9.1; Python 3.11.
#
# `extract_features` makes hundreds of features of a lead, for a classifier such as a random forest. Most stores of ECGs
# give whole uV in int16.
#
# One would guess that a feature is a number of the voltages, whatever the type of the column.
#
# What happens: energy, root mean square, products of three samples, complexity and the share of the energy that lies in
# a part of the record are computed in 16 bits, which hold the square of 181 uV. The energy is negative in 59 of 100
# records, shares of the whole are -22 to 296, and the root mean square is a fifth of what it is. Features that tell a
# finding which is nothing but high voltage tell it no more. There is no warning. Mean, deviation and most others are
# right, and so is everything after `astype(float)`.
#
# Output seen:
#                                        the first record           AUROC for high voltage
#                                        float64      int16         float64  int16
#     abs_energy                         3.959e+07    7338          1.00     0.54
#     root_mean_square                   199          40.57         1.00     0.74
#     c3                                 1.237e+07    257.9         1.00     0.57
#     time_reversal_asymmetry_statistic  2.999e+05    -155.3        0.97     0.58
#     cid_ce                             3815         39.17         1.00     0.55
#     standard_deviation                 185.3        185.3         1.00     1.00
#     records of negative energy: 0.59; warnings: 0
#     share of the energy in the first second: 0.08 to 0.14; of int16 -21.8 to 296.4
#     tsfresh squares int16 in 16 bits: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tsfresh==0.21.2 numpy==2.4.6 pandas==2.3.3 \
    scipy==1.17.1 scikit-learn==1.9.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tsfresh import extract_features

RECORDS, RATE, SECONDS = 120, 100, 10
FEATURES = {
    "abs_energy": None,
    "root_mean_square": None,
    "c3": [{"lag": 1}],
    "time_reversal_asymmetry_statistic": [{"lag": 1}],
    "cid_ce": [{"normalize": False}],
    "standard_deviation": None,
    "energy_ratio_by_chunks": [{"num_segments": 10, "segment_focus": 0}],
}
rng = np.random.default_rng(0)
has_high_voltage = np.arange(RECORDS) % 2
r_waves = np.where(has_high_voltage, 2200, 1100) * rng.uniform(0.9, 1.1, RECORDS)  # uV


def beats(r_wave):
    """A lead of 75 beats a minute in whole uV, P, QRS and T."""
    phase = (np.arange(RATE * SECONDS) / RATE + 0.3 + rng.uniform(0, 0.8)) % 0.8 - 0.3
    waves = ((-0.16, 0.02, 0.12), (0.0, 0.015, 1.0), (0.035, 0.012, -0.25), (0.28, 0.05, 0.3))
    lead = sum(r_wave * height * np.exp(-(((phase - middle) / width) ** 2)) for middle, width, height in waves)
    return np.rint(lead + rng.normal(0, 10, len(lead)))


leads = np.stack([beats(r_wave) for r_wave in r_waves])
assert np.abs(leads).max() < 32767


def features(dtype):
    """The features of all records, and the warnings."""
    table = pd.DataFrame({
        "record": np.repeat(np.arange(RECORDS), leads.shape[1]),
        "sample": np.tile(np.arange(leads.shape[1]), RECORDS),
        "II": leads.astype(dtype).ravel(),
    })
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = extract_features(
            table, column_id="record", column_sort="sample", default_fc_parameters=FEATURES, n_jobs=0,
            disable_progressbar=True,
        )
    found.columns = list(FEATURES)
    return found, caught


def auroc(feature):
    """How well it tells high voltage, either way round; NaN as 0."""
    area = roc_auc_score(has_high_voltage, feature.fillna(0))
    return max(area, 1 - area)


right, _ = features("float64")
wrong, caught = features("int16")
print(f"{'':34} the first record           AUROC for high voltage")
print(f"{'':34} float64      int16         float64  int16")
areas = {}
for name in list(FEATURES)[:-1]:
    areas[name] = auroc(right[name]), auroc(wrong[name])
    first = right[name].iloc[0], wrong[name].iloc[0]
    print("{:34} {:<12.4g} {:<13.4g} {:.2f}     {:.2f}".format(name, *first, *areas[name]))
shares = wrong["energy_ratio_by_chunks"]
true_shares = right["energy_ratio_by_chunks"]
negative = (wrong["abs_energy"] < 0).mean()
print(f"records of negative energy: {negative:.2f}; warnings: {len(caught)}")
print(f"share of the energy in the first second: {true_shares.min():.2f} to {true_shares.max():.2f}; ", end="")
print(f"of int16 {shares.min():.1f} to {shares.max():.1f}")

if (
    all(areas[name][0] > 0.99 for name in ("abs_energy", "root_mean_square", "c3", "cid_ce"))
    and all(areas[name][1] < 0.8 for name in ("abs_energy", "root_mean_square", "c3", "cid_ce"))
    and negative > 0.3 and not caught
    and shares.min() < 0 and shares.max() > 1
    and np.allclose(right["standard_deviation"], wrong["standard_deviation"])
):
    print("tsfresh squares int16 in 16 bits: still so")
else:
    sys.exit("tsfresh squares int16 in 16 bits: no longer so")
END
