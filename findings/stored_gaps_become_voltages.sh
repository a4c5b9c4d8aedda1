#!/bin/sh
# A gap in a lead (NaN) that is stored in fewer bits comes back as a voltage, in four libraries.
#
# Versions: h5py 3.16.0, zfpy 1.0.1, numcodecs 0.16.6 (the filters of zarr), pyedflib 0.1.42, edfio 0.4.18,
# numpy 2.4.6; Python 3.11.
#
# A lead in mV, of which an electrode was off for .6 s, is stored to the microvolt: in HDF5 with `scaleoffset=3`, by
# `zfpy.compress_numpy(tolerance=0.001)`, by `numcodecs.FixedScaleOffset` in int16, or in EDF by `pyedflib`.
#
# One would guess that the gap comes back as NaN, or that NaN is refused, as edfio does; and that all else is within
# the tolerance.
#
# What happens: in HDF5 the gap becomes the lowest voltage of its chunk, a flat line; if the chunk begins with the gap
# (an electrode that is put on late), float32 is written without a word and cannot be read again, and float64 is right.
# zfp gives zeros, or, for twelve leads of which three have the gap, up to 4 mV within it and an error of a quarter of a
# millivolt beside it, 250 times the tolerance. numcodecs gives zeros (numpy warns of the cast), pyedflib the lowest
# value of the range, without a warning.
#
# Output seen:
#                                            the gap, mV               largest error beside it
#     HDF5, float32                          -0.200 to -0.200          0.001
#     HDF5, float32, begins with the gap     cannot be read            cannot be read
#     HDF5, float64                          -0.200 to -0.200          0.001
#     HDF5, float64, begins with the gap     NaN                       0.000
#     zfp, one lead                          0.000 to 0.000            0.000
#     zfp, twelve leads, three with the gap  -4.000 to 4.000           0.250
#     numcodecs                              0.000 to 0.000            0.000
#     pyedflib                               -5.000 to -5.000          0.000
#     stored gaps become voltages: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0 zfpy==1.0.1 numcodecs==0.16.6 \
  pyedflib==0.1.42 edfio==0.4.18 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import edfio
import h5py
import numpy as np
import pyedflib
import zfpy
from numcodecs import FixedScaleOffset

RATE = 500
time = np.arange(10 * RATE) / RATE
lead = 1.2 * np.exp(-(((time % 0.8 - 0.4) / 0.011) ** 2) / 2) + 0.2 * np.sin(2 * np.pi * 0.3 * time)


def with_gap(start=2000, dtype="float32"):
    signal = lead.astype(dtype)
    signal[start : start + 300] = np.nan
    return signal


def in_hdf5(signal):
    with h5py.File("leads.h5", "w") as file:
        file.create_dataset("lead", data=signal, chunks=signal.shape, scaleoffset=3)
    with h5py.File("leads.h5") as file:
        return file["lead"][:]


def by_zfp(signal):
    return zfpy.decompress_numpy(zfpy.compress_numpy(signal, tolerance=0.001))


def by_numcodecs(signal):
    codec = FixedScaleOffset(offset=0, scale=1000, dtype="f4", astype="i2")
    return codec.decode(codec.encode(signal))


def by_pyedflib(signal):
    numbers = {"physical_min": -5, "physical_max": 5, "digital_min": -32768, "digital_max": 32767}
    texts = {"label": "ECG II", "dimension": "mV", "transducer": "", "prefilter": ""}
    with pyedflib.EdfWriter("lead.edf", 1) as file:
        file.setSignalHeaders([numbers | texts | {"sample_frequency": RATE}])
        file.writeSamples([signal.astype(float)])
    return edfio.read_edf("lead.edf").signals[0].data


def is_lost(name, signal, there_and_back):
    """Prints what came back in the gap, and the largest error beside it, in mV -> whether the gap is one no more."""
    inside = np.isnan(signal)
    try:
        back = there_and_back(signal)
    except OSError:
        gap = beside = "cannot be read"
    else:
        low, high = back[inside].min(), back[inside].max()
        gap = "NaN" if np.isnan(back[inside]).all() else f"{low:.3f} to {high:.3f}"
        beside = f"{np.abs(back - signal)[~inside].max():.3f}"
    print(f"{name:38} {gap:25} {beside}")
    return gap != "NaN"


twelve = np.stack([with_gap() if index < 3 else lead.astype("float32") for index in range(12)], axis=1)
print(f"{'':38} {'the gap, mV':25} largest error beside it")
lost = [
    is_lost("HDF5, float32", with_gap(), in_hdf5),
    is_lost("HDF5, float32, begins with the gap", with_gap(0), in_hdf5),
    is_lost("HDF5, float64", with_gap(dtype="float64"), in_hdf5),
    is_lost("HDF5, float64, begins with the gap", with_gap(0, "float64"), in_hdf5),
    is_lost("zfp, one lead", with_gap(), by_zfp),
    is_lost("zfp, twelve leads, three with the gap", twelve, by_zfp),
    is_lost("numcodecs", with_gap(), by_numcodecs),
    is_lost("pyedflib", with_gap(), by_pyedflib),
]
if lost == [True, True, True, False, True, True, True, True]:
    print("stored gaps become voltages: still so")
else:
    sys.exit("stored gaps become voltages: no longer so")
END
