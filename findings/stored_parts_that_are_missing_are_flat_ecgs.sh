#!/bin/sh
# Records of a part that is missing come as zeros from a virtual data set of `h5py` and from `zarr`.
#
# Versions: h5py 3.16.0, zarr 3.1.6, numpy 2.4.6; Python 3.11.
#
# A large set comes in parts, as CODE-15 % in 18 files of HDF5. A virtual data set makes one array of them without a
# copy; Zarr keeps one array in chunks, or in shards of chunks, a file each. Of four parts the second has not arrived.
#
# One would guess that its records raise an error, as a missing file does everywhere else.
#
# What happens: they are zeros, without a warning. `h5py` reads the other parts as they are; `zarr` takes an absent
# file for a part that was never written, though all were. A quarter of the records are flat: low voltage, which .06
# have, is found in .29, and a scale that is taken from all samples is 13 % too low. Only who asked for NaN as the fill
# value when the array was made can see it (in floats; whole numbers have no NaN).
#
# Output seen:
#                                 zeros        NaN          low voltage   scale in uV
#     h5py, virtual               0            0            0.06          178
#       without the second part   500          0            0.29          155
#     h5py, virtual, fill NaN     0            0            0.06          178
#       without the second part   0            500          0.04          nan
#     zarr, chunks                0            0            0.06          178
#       without the second part   500          0            0.29          155
#     zarr, shards                0            0            0.06          178
#       without the second part   500          0            0.29          155
#     zarr, chunks, fill NaN      0            0            0.06          178
#       without the second part   0            500          0.04          nan
#     stored parts that are missing are flat ECGs: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0 zarr==3.1.6 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import pathlib
import sys

import h5py
import numpy as np
import zarr

PARTS, EACH, SAMPLES, LEADS = 4, 500, 500, 12
generator = np.random.default_rng(0)
beats = np.exp(-(((np.arange(SAMPLES) % 100 - 50) / 2) ** 2))
heights = np.where(generator.random(PARTS * EACH) < 0.05, 0.3, 1.2)
ecgs = heights[:, None, None] * beats[:, None] * generator.uniform(0.8, 1.2, size=(1, 1, LEADS))
ecgs = (1000 * (ecgs + 0.02 * generator.normal(size=ecgs.shape))).astype("int16")


def virtual(folder, fill=0):
    """Write a file for each part, and one that makes one array of them."""
    layout = h5py.VirtualLayout(ecgs.shape, "float32" if fill else "int16")
    for part in range(PARTS):
        rows = slice(part * EACH, (part + 1) * EACH)
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["tracings"] = ecgs[rows]
            layout[rows] = h5py.VirtualSource(file["tracings"])
    with h5py.File(folder / "exams.hdf5", "w") as file:
        file.create_virtual_dataset("tracings", layout, fillvalue=fill)
    return folder / "exams_part1.hdf5", lambda: h5py.File(folder / "exams.hdf5")["tracings"][:]


def chunked(folder, fill=0, **form):
    """Write a Zarr array whose files hold a part each."""
    array = zarr.create_array(
        folder, shape=ecgs.shape, dtype="float32" if fill else "int16", fill_value=fill, **form
    )
    array[:] = ecgs
    return folder / "c/1/0/0", lambda: zarr.open_array(folder, mode="r")[:]


print("                            zeros        NaN          low voltage   scale in uV")
whole, shape = (EACH, SAMPLES, LEADS), (50, SAMPLES, LEADS)
results = {}
for name, write in {
    "h5py, virtual": virtual,
    "h5py, virtual, fill NaN": lambda folder: virtual(folder, np.nan),
    "zarr, chunks": lambda folder: chunked(folder, chunks=whole),
    "zarr, shards": lambda folder: chunked(folder, chunks=shape, shards=whole),
    "zarr, chunks, fill NaN": lambda folder: chunked(folder, np.nan, chunks=whole),
}.items():
    folder = pathlib.Path(name.replace(", ", "-").replace(" ", "-"))
    folder.mkdir()
    part, read = write(folder)
    for there in (True, False):
        if not there:
            part.unlink()
        signals = read()
        zeros = int((signals == 0).all(axis=(1, 2)).sum())
        gaps = int(np.isnan(signals).all(axis=(1, 2)).sum())
        low = float((np.ptp(signals[:, :, 1], axis=1) < 500).mean())
        scale = float(signals.std(dtype=float))
        results[name, there] = zeros, gaps, low, scale
        print(
            f"{name if there else '  without the second part':27} {zeros:<12} {gaps:<12} {low:<13.2f} {scale:.0f}"
        )

if all(
    numbers[:2] == (0, 0) if there else numbers[:2] == ((0, EACH) if "NaN" in name else (EACH, 0))
    for (name, there), numbers in results.items()
):
    print("stored parts that are missing are flat ECGs: still so")
else:
    sys.exit("stored parts that are missing are flat ECGs: no longer so")
END
