#!/bin/sh
# wfdb reads EDF files up to one step too low, and a lead beside a slower channel in digital numbers called uV.
#
# Versions: wfdb 4.3.1, edfio 0.4.18, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# EDF states for each signal which voltages its lowest and highest digital value stand for; a line through both gives
# all others. Channels may have different rates, as an ECG beside respiration.
#
# One would guess that `wfdb.io.convert.edf.read_edf` gives the voltages that edfio and every other reader give, to the
# rounding of floats.
#
# What happens: it takes the baseline for one more than it is, and cuts it to a whole number. So with the usual range of
# a converter, -2048 to 2047 steps, each sample is one step too low; with the same steps for -5000 to 5000 uV, half of
# one. Where rates differ, it averages the faster lead (as in wfdb_averages_frames.sh), and the gain is applied to the
# baseline alone: what is called uV is the mean of digital numbers, here 2.4 times too small.
#
# Output seen:
#     -2048 to 2047 for -2048 to 2047 uV: wfdb -1.000 to -1.000 steps from the voltage, edfio 0.000 to 0.000
#     -2048 to 2047 for -5000 to 5000 uV: wfdb -0.500 to -0.500 steps from the voltage, edfio 0.000 to 0.000
#     0 to 4095 for 0 to 4095 uV: wfdb -1.000 to -1.000 steps from the voltage, edfio 0.000 to 0.000
#     a lead of 500 Hz beside respiration of 125 Hz: 250 samples at 125 Hz, in uV
#       largest mean of four samples 3860 uV, largest that wfdb gives 1580
#     wfdb reads EDF low and unscaled: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 edfio==0.4.18 numpy==2.4.6 pandas==3.1.1
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import edfio
import numpy as np
from wfdb.io.convert.edf import read_edf

rng = np.random.default_rng(0)


def write(name, physical, digital, records):
    """An EDF file of two records of one second, by the specification; `records` has for each signal 2 x samples."""
    count = len(records)

    def fields(width, *values):
        return b"".join(str(value).encode().ljust(width) for value in values)

    header = fields(8, 0) + fields(80, "X X X X", "Startdate X X X X") + fields(8, "01.01.01", "00.00.00")
    header += fields(8, 256 * (count + 1)) + fields(44, "") + fields(8, 2, 1) + fields(4, count)
    header += fields(16, *("I", "RESP")[:count]) + fields(80 * count, "") + fields(8, *["uV"] * count)
    for value in (*physical, *digital):
        header += fields(8, *[value] * count)
    header += fields(80 * count, "") + fields(8, *(len(values[0]) for values in records)) + fields(32 * count, "")
    with open(name, "wb") as file:
        file.write(header)
        for second in range(2):
            for values in records:
                file.write(values[second].astype("<i2").tobytes())


def voltages(stored, physical, digital):
    return (stored - digital[0]) * (physical[1] - physical[0]) / (digital[1] - digital[0]) + physical[0]


errors = []
for physical, digital in [((-2048, 2047), (-2048, 2047)), ((-5000, 5000), (-2048, 2047)), ((0, 4095), (0, 4095))]:
    stored = rng.integers(digital[0], digital[1] + 1, (2, 500))
    write("one.edf", physical, digital, [stored])
    step = (physical[1] - physical[0]) / (digital[1] - digital[0])
    expected = voltages(stored, physical, digital).ravel()
    low = (read_edf("one.edf").p_signal[:, 0] - expected) / step
    other = (edfio.read_edf("one.edf").signals[0].data - expected) / step
    errors.append(low.round(3))
    print(
        f"{digital[0]} to {digital[1]} for {physical[0]} to {physical[1]} uV: wfdb {low.min():.3f} to {low.max():.3f} "
        f"steps from the voltage, edfio {abs(other.min()):.3f} to {abs(other.max()):.3f}"
    )
physical, digital = (-5000, 5000), (-2048, 2047)
stored = rng.integers(-2048, 2048, (2, 500))
write("two.edf", physical, digital, [stored, rng.integers(-2048, 2048, (2, 125))])
record = read_edf("two.edf")
means = voltages(stored, physical, digital).reshape(-1, 4).mean(axis=1)
given = record.p_signal[:, 0]
print(f"a lead of 500 Hz beside respiration of 125 Hz: {len(given)} samples at {record.fs:g} Hz, in {record.units[0]}")
print(f"  largest mean of four samples {abs(means).max():.0f} uV, largest that wfdb gives {abs(given).max():.0f}")
low = (errors[0] == -1).all() and (errors[1] == -0.5).all() and (errors[2] == -1).all()
if low and np.corrcoef(means, given)[0, 1] > 0.999 and 2.3 < means.std() / given.std() < 2.6:
    print("wfdb reads EDF low and unscaled: still so")
else:
    sys.exit("wfdb reads EDF low and unscaled: no longer so")
END
