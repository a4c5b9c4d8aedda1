#!/bin/sh
# `polars` and `duckdb` call a QT interval that could not be measured (NaN) longer than any limit.
#
# Versions: polars 2.1.0, duckdb 2.0.1, numpy 2.4.6, pandas 3.1.1, pyarrow 26.0.1; Python 3.11.
#
# Where a T wave is flat a program gives NaN for QT. The intervals are arrays of numpy, written to Parquet by pyarrow
# as they are, and records with QTc above 450 ms are labelled "long QT".
#
# One would guess that NaN is not above 450, as IEEE 754 has it, and numpy, pandas and pyarrow; or that it is missing.
#
# What happens: NaN is the largest of all numbers. Of 1,000 records of which a tenth has no QTc, 158 are long instead
# of 40, three quarters of them without a measured interval. The median is higher by 4 ms, as NaN is sorted to the end.
# `is_nan()` must be asked for beforehand. A data frame of pandas that either reads has NaN turned into a missing
# value, and is right.
#
# Output seen:
#                              above 450 ms   of these without QTc   median
#     numpy                    40             0                      413.4
#     pandas                   40             0                      413.4
#     pyarrow                  40             0                      413.4
#     polars                   158            118                    417.1
#     polars, from pandas      40             0                      413.4
#     duckdb                   158            118                    417.1
#     duckdb, from pandas      40             0                      413.4
#     polars and duckdb find long QT where nothing is measured: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 numpy==2.4.6 \
    pandas==3.1.1 pyarrow==26.0.1
cd "$folder"
OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

generator = np.random.default_rng(0)
qtc = generator.normal(415, 22, 1000)
qtc[generator.random(1000) < 0.1] = np.nan
table = pa.table({"record": np.arange(1000), "qtc": qtc})
pq.write_table(table, "intervals.parquet")
print("                         above 450 ms   of these without QTc   median")
results = {}


def show(name, long, median):
    long = np.array(sorted(long))
    results[name] = len(long), int(np.isnan(qtc[long]).sum()), median
    print(f"{name:24} {len(long):<14} {results[name][1]:<22} {median:.1f}")


show("numpy", np.flatnonzero(qtc > 450), float(np.nanmedian(qtc)))
frame = pd.read_parquet("intervals.parquet")
show("pandas", frame["record"][frame["qtc"] > 450], frame["qtc"].median())
read = pq.read_table("intervals.parquet")
above = read.filter(pc.greater(read["qtc"], 450.0))
show("pyarrow", above["record"].to_pylist(), float(np.nanmedian(read["qtc"].to_numpy())))
intervals = pl.read_parquet("intervals.parquet")
show("polars", intervals.filter(pl.col("qtc") > 450)["record"].to_list(), intervals["qtc"].median())
of_pandas = pl.from_pandas(frame)
show("polars, from pandas", of_pandas.filter(pl.col("qtc") > 450)["record"].to_list(), of_pandas["qtc"].median())
long = duckdb.sql("SELECT record FROM 'intervals.parquet' WHERE qtc > 450").fetchall()
median = duckdb.sql("SELECT median(qtc) FROM 'intervals.parquet'").fetchall()[0][0]
show("duckdb", [row for (row,) in long], median)
long = duckdb.sql("SELECT record FROM frame WHERE qtc > 450").fetchall()
show("duckdb, from pandas", [row for (row,) in long], duckdb.sql("SELECT median(qtc) FROM frame").fetchall()[0][0])

right, absent = results["numpy"], int(np.isnan(qtc).sum())
wrong = results["polars"], results["duckdb"]
if (
    right[1] == 0
    and all(results[name][:2] == right[:2] for name in results if name not in ("polars", "duckdb"))
    and all(number == right[0] + absent and lacking == absent for number, lacking, _ in wrong)
):
    print("polars and duckdb find long QT where nothing is measured: still so")
else:
    sys.exit("polars and duckdb find long QT where nothing is measured: no longer so")
END
