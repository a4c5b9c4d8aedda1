#!/bin/sh
# The numpy and torch formats of `datasets` round numbers of patients, so that several share one, and times to minutes.
#
# Versions: datasets 5.2.0, pandas 3.1.1, numpy 2.4.6; Python 3.11.
#
# Tables of hospitals number patients and studies in eight digits, and one empty cell makes the column float64 in
# pandas, which holds such numbers exactly. Times are seconds since 1970, in float64.
#
# One would guess that `with_format("numpy")` gives a column of float64 as float64.
#
# What happens: columns and batches come as float32, with 24 bits: above 16,777,216 odd numbers become even ones, above
# 33,554,432 four are one. Of 1,000 studies in a row 251 numbers are left, and three of four join with the label of
# another study; of 500 patients 251 are left, so that a split by patient mixes them. Times come in steps of 128 s. One
# row alone is right, as it comes as float64. There is no warning; `with_format("numpy", dtype="float64")` and "pandas"
# give what is stored.
#
# Output seen:
#     stored as {'study': 'float64', 'patient': 'float64', 'seconds': 'float64'}
#     with_format("numpy")           float32:  251 studies, 251 patients, steps of 128 s, 64 % with their own label
#     with_format("numpy", float64)  float64: 1000 studies, 500 patients, steps of 10 s, 100 % with their own label
#     with_format("pandas")          float64: 1000 studies, 500 patients, steps of 10 s, 100 % with their own label
#     patient 19000251: a row alone gives 19000251 (float64), a batch 19000252 (float32), the column 19000251
#     datasets rounds patient numbers: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pandas==3.1.1 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import numpy as np
import pandas as pd
from datasets import Dataset

STUDIES = 1000
study = np.arange(40_000_001, 40_000_001 + STUDIES)
patient = 19_000_000 + np.arange(STUDIES) // 2  # two studies each
seconds = 1_700_000_000 + 10.0 * np.arange(STUDIES)
has_af = np.random.default_rng(0).random(STUDIES) < 0.5
table = pd.DataFrame({"study": study, "patient": patient, "seconds": seconds})
table.loc[STUDIES] = [np.nan, np.nan, np.nan]  # one that was not filled in
stored = Dataset.from_pandas(table, preserve_index=False)
print("stored as", {name: feature.dtype for name, feature in stored.features.items()})


def show(name, dataset):
    """Prints and gives how many numbers and times are left, and the share of studies that find their own label."""
    columns = {column: np.asarray(dataset[column][:])[:STUDIES] for column in ("study", "patient", "seconds")}
    by_study = dict(zip(columns["study"].tolist(), has_af.tolist(), strict=True))
    own = np.mean([by_study[number] == truth for number, truth in zip(columns["study"].tolist(), has_af, strict=True)])
    left = [len(np.unique(values)) for values in columns.values()]
    step = np.unique(np.diff(np.unique(columns["seconds"]))).min()
    print(f"{name:30} {columns['study'].dtype}: {left[0]:4} studies, {left[1]:3} patients, ", end="")
    print(f"steps of {step:.0f} s, {100 * own:.0f} % with their own label")
    return left, step, own


numpy_format = show('with_format("numpy")', stored.with_format("numpy"))
exact = show('with_format("numpy", float64)', stored.with_format("numpy", dtype="float64"))
in_pandas = show('with_format("pandas")', stored.with_format("pandas"))
rows = stored.with_format("numpy")
alone, in_a_batch, in_a_column = rows[503]["patient"], rows[503:504]["patient"][0], rows["patient"][503]
print(f"patient {stored[503]['patient']:.0f}: a row alone gives {alone:.0f} ({alone.dtype}), ", end="")
print(f"a batch {in_a_batch:.0f} ({in_a_batch.dtype}), the column {in_a_column:.0f}")

right = ([STUDIES, STUDIES // 2, STUDIES], 10, 1)
if (
    exact == right
    and in_pandas == right
    and numpy_format[0][0] < 0.26 * STUDIES
    and numpy_format[0][1] < 0.26 * STUDIES
    and numpy_format[1] == 128
    and numpy_format[2] < 0.7
):
    print("datasets rounds patient numbers: still so")
else:
    sys.exit("datasets rounds patient numbers: no longer so")
END
