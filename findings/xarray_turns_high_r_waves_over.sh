#!/bin/sh
# `xarray` saves records in the steps of the first one: an R wave that is higher becomes a deep S wave.
#
# Versions: xarray 2026.9.0, zarr 3.1.6, scipy 1.17.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# ECGs are stored as whole numbers of 16 bits with a step for each record, as in EDF and WFDB; in NetCDF and Zarr by
# `scale_factor`. `xarray` reads the files in mV, joins them (`concat`), and saves the data set.
#
# One would guess that what was right in memory is right after saving and reading, or that numbers that do not fit are
# refused, or cut off at worst.
#
# What happens: the step of the first record is kept and taken for all. What lies beyond its range wraps round: R of 1.3
# and 1.8 mV are -1.15 and -.65 mV, 2.6 mV is .14, with neither an error nor a warning; the order of the files decides. A
# Zarr store that is appended to, record by record, does the same. `drop_encoding()` before saving avoids the first.
#
# Output seen:
#     R of the records, in mV:             1.20   1.00   1.30   1.80   2.60
#     each read from its file, joined      1.19   0.99   1.29   1.79   2.58   largest error 0.00 mV
#     saved as NetCDF, and read again      1.19   0.99  -1.15  -0.65   0.14   largest error 2.44 mV
#     saved as Zarr, and read again        1.19   0.99  -1.15  -0.65   0.14   largest error 2.44 mV
#     Zarr, appended record by record      1.19   0.99  -1.15  -0.65   0.14   largest error 2.44 mV
#     after drop_encoding, NetCDF          1.19   0.99   1.29   1.79   2.58   largest error 0.00 mV
#     NetCDF, joined the other way round   2.58   1.79   1.29   0.99   1.19   largest error 0.00 mV
#     warnings: 0
#     xarray turns high R waves over: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xarray==2026.9.0 zarr==3.1.6 scipy==1.17.1 numpy==2.4.6 \
  pandas==3.1.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
import xarray as xr

RATE, SECONDS = 500, 10
WAVES = ((0.1, -0.16, 0.022), (-0.1, -0.022, 0.008), (1, 0, 0.011), (-0.2, 0.024, 0.009), (0.25, 0.27, 0.045))
time = np.arange(RATE * SECONDS) / RATE
R = RATE // 2  # the sample of the first R peak


def record(height):
    """An ECG in mV whose R is so high."""
    beats = np.arange(0.5, SECONDS, 0.8)
    lead = sum(height * h * np.exp(-((time - b - at) ** 2) / (2 * w * w)) for b in beats for h, at, w in WAVES)
    return xr.Dataset({"ecg": (("record", "time"), lead[None])})


def packing(data):
    """Whole numbers of 16 bits that hold the range of the record."""
    return {"ecg": {"dtype": "int16", "scale_factor": float(np.abs(data["ecg"]).max()) / 32000, "_FillValue": -32768}}


def show(name, heights, stored):
    """Prints and gives the voltages of R."""
    voltages = stored["ecg"].values[:, R]
    error = np.abs(stored["ecg"].values - np.concatenate([record(height)["ecg"].values for height in heights])).max()
    print(f"{name:34}", *(f"{voltage:6.2f}" for voltage in voltages), f"  largest error {error:.2f} mV")
    return voltages


heights = (1.2, 1.0, 1.3, 1.8, 2.6)
print("R of the records, in mV:          ", *(f"{height:6.2f}" for height in heights))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number, height in enumerate(heights):
        record(height).to_netcdf(f"{number}.nc", engine="scipy", encoding=packing(record(height)))
    opened = [xr.open_dataset(f"{number}.nc", engine="scipy").load() for number in range(len(heights))]
    joined = xr.concat(opened, "record")
    rows = [show("each read from its file, joined", heights, joined)]
    joined.to_netcdf("joined.nc", engine="scipy")
    rows.append(show("saved as NetCDF, and read again", heights, xr.open_dataset("joined.nc", engine="scipy").load()))
    joined.to_zarr("joined.zarr", zarr_format=2)
    rows.append(show("saved as Zarr, and read again", heights, xr.open_zarr("joined.zarr").load()))
    record(heights[0]).to_zarr("grown.zarr", zarr_format=2, encoding=packing(record(heights[0])))
    for height in heights[1:]:
        record(height).to_zarr("grown.zarr", append_dim="record")
    rows.append(show("Zarr, appended record by record", heights, xr.open_zarr("grown.zarr").load()))
    joined.drop_encoding().to_netcdf("float.nc", engine="scipy")
    dropped = show("after drop_encoding, NetCDF", heights, xr.open_dataset("float.nc", engine="scipy").load())
    opened.reverse()
    xr.concat(opened, "record").to_netcdf("reversed.nc", engine="scipy")
    largest_first = xr.open_dataset("reversed.nc", engine="scipy").load()
    largest_first = show("NetCDF, joined the other way round", heights[::-1], largest_first)
print(f"warnings: {len(caught)}", *{str(warning.message)[:90] for warning in caught})

in_memory, *stored = rows
wrapped = all(
    np.allclose(row[:2], heights[:2], atol=0.03) and (row[2:4] < 0).all() and abs(row[4]) < 0.5 for row in stored
)
right = all(np.allclose(row, heights, atol=0.03) for row in (in_memory, dropped))
if right and np.allclose(largest_first, heights[::-1], atol=0.03) and wrapped:
    print("xarray turns high R waves over: still so")
else:
    sys.exit("xarray turns high R waves over: no longer so")
END
