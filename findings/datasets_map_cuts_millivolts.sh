#!/bin/sh
# ECGs in uV that `Dataset.map` converts to mV become whole mV: R waves of 1, and nothing else.
#
# Versions: datasets 5.2.0, numpy 2.4.6; Python 3.11.
#
# Records are stored as whole uV (`Array2D((leads, samples), "int16")`). `map` divides them by 1,000.
#
# One would guess that the column becomes one of floats, as a column of single numbers and of plain lists does, or that
# numbers with a fraction are refused for a column of whole ones.
#
# What happens: if the function gives lists, `map` keeps the type of the column and cuts fractions off, without a
# warning: all that is below 1 mV is 0. If it gives numpy arrays, the column is one of floats. `Dataset.from_dict` and
# `from_generator` with such a type do the same: lists are cut, arrays are refused. In `Value("int16")` and
# `List(Value("int16"))` they cut both. What is left has the leads, the length and the rate of the record.
#
# Output seen:
#     map that gives lists               R 1.00 and 0.00, T 0.00 and 0.00 mV,  99 % zeros, whole numbers
#       in batches                       R 1.00 and 0.00, T 0.00 and 0.00 mV,  99 % zeros, whole numbers
#       of numpy arrays                  R 1.00 and 0.00, T 0.00 and 0.00 mV,  99 % zeros, whole numbers
#     map that gives arrays              R 1.27 and 0.76, T 0.40 and 0.24 mV,  31 % zeros, floats
#     map of plain lists, gives lists    R 1.27 and 0.76, T 0.40 and 0.24 mV,  31 % zeros, floats
#     from_dict, lists                   R 1.00 and 0.00, T 0.00 and 0.00 mV,  99 % zeros, whole numbers
#     from_dict, array in plain lists    R 1.00 and 0.00, T 0.00 and 0.00 mV,  99 % zeros, whole numbers
#     from_dict, arrays: ArrowInvalid; warnings: 0
#     map cuts millivolts: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
from datasets import Array2D, Dataset, Features, List, Value, disable_progress_bars

disable_progress_bars()
RATE, SECONDS, RECORDS = 100, 10, 3
WAVES = ((0.12, -0.16, 0.022), (-0.15, -0.022, 0.01), (1.3, 0, 0.012), (-0.35, 0.024, 0.01), (0.4, 0.27, 0.045))
time = np.arange(RATE * SECONDS) / RATE
beats = np.arange(0.5, SECONDS, 0.8)
lead = sum(h * np.exp(-((time - b - at) ** 2) / (2 * w * w)) for b in beats for h, at, w in WAVES)
mv = np.stack([lead, 0.6 * lead])
uv = np.rint(1000 * mv).astype("int16")
R, T = 50, 77  # samples of the first beat
WAVES_TYPE = Array2D(uv.shape, "int16")
stored = Dataset.from_dict({"ecg": [uv] * RECORDS}, features=Features(ecg=WAVES_TYPE))


def show(name, dataset):
    """Prints and gives R and T in two leads in mV, and whether the column is one of whole numbers."""
    ecg = np.array(dataset.with_format("numpy")[0]["ecg"], dtype=float).reshape(uv.shape)
    whole = "int16" in str(dataset.features["ecg"])
    print(f"{name:34} R {ecg[0, R]:.2f} and {ecg[1, R]:.2f}, T {ecg[0, T]:.2f} and {ecg[1, T]:.2f} mV, ", end="")
    print(f"{100 * np.mean(ecg == 0):3.0f} % zeros, {'whole numbers' if whole else 'floats'}")
    return (*ecg[:, R], *ecg[:, T], whole)


def to_list(row):
    return {"ecg": (np.array(row["ecg"]) / 1000).tolist()}


def to_array(row):
    return {"ecg": np.array(row["ecg"]) / 1000}


found = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cut = [show("map that gives lists", stored.map(to_list))]
    cut.append(show("  in batches", stored.map(to_list, batched=True)))
    cut.append(show("  of numpy arrays", stored.with_format("numpy").map(to_list)))
    right = [show("map that gives arrays", stored.map(to_array))]
    flat = Dataset.from_dict({"ecg": [uv.ravel()] * RECORDS}, features=Features(ecg=List(Value("int16"))))
    right.append(show("map of plain lists, gives lists", flat.map(to_list)))
    cut.append(show("from_dict, lists", Dataset.from_dict({"ecg": [mv.tolist()]}, features=Features(ecg=WAVES_TYPE))))
    plain = Features(ecg=List(Value("int16")))
    cut.append(show("from_dict, array in plain lists", Dataset.from_dict({"ecg": [mv.ravel()]}, features=plain)))
try:
    Dataset.from_dict({"ecg": [mv]}, features=Features(ecg=WAVES_TYPE))
    refused = "no error"
except Exception as error:
    refused = type(error).__name__
print(f"from_dict, arrays: {refused}; warnings: {len(caught)}")

if (
    all(row == (1, 0, 0, 0, True) for row in cut)
    and all(np.allclose(row[:4], (*mv[:, R], *mv[:, T]), atol=0.001) and not row[4] for row in right)
    and refused == "ArrowInvalid"
    and not caught
):
    print("map cuts millivolts: still so")
else:
    sys.exit("map cuts millivolts: no longer so")
END
