#!/bin/sh
# HDF5 with `scaleoffset` makes zeros of samples at full scale and of small waves, and turns high R waves over.
#
# Versions: h5py 3.16.0, with HDF5 2.0.0, numpy 2.4.6; Python 3.11.
#
# `create_dataset(..., scaleoffset=n)` of h5py stores whole numbers in n bits, 12 for a recorder of 12 bits, and
# voltages with n digits after the point; "stored values thus have absolute error less than 0.5*10**(-scaleoffset)".
#
# One would guess that 12 bits hold the samples of a recorder of 12 bits, that a chunk which needs more is refused, or
# cut off at the end of the range, and that errors are as stated.
#
# What happens: a chunk is stored as differences from its lowest sample, and one of the 4,096 numbers stands for the
# fill value, 0 unless it is given. In a chunk that reaches both ends of the range, as after a shock, all samples at
# 2047 are 0. A chunk that needs more wraps round: R of 3.4 mV is -.7 mV. Voltages less than a whole step from the fill
# value are taken for it, an error twice as large as stated: with 1 digit a P wave of .09 mV is gone, which to the
# nearest step is .1. There is no error and no warning. 13 bits are right, and so is `scaleoffset=0` for whole numbers.
#
# Output seen:
#     whole numbers                    lowest   highest   read lowest   highest   samples changed   the highest is
#     12-bit recorder, -2048 to 2047   -2048    2047      -2048         2043      47                0
#       the same in 13 bits            -2048    2047      -2048         2047      0                 2047
#     12-bit recorder, -2047 to 2047   -2047    2047      -2047         2047      0                 2047
#     whole uV, R of 3.4 mV, 12 bits   -1185    3400      -1185         2905      45                -696
#       the same, scaleoffset=0        -1185    3400      -1185         3400      0                 3400
#     voltages in float32, in uV       greatest error, stated   found   highest voltage that is 0 when read
#     scaleoffset=1                    50                       100.0   100.0
#     scaleoffset=2                    5                        10.0    10.0
#     HDF5 makes zeros of full scale: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error - <<'END'
import sys

import h5py
import numpy as np

RATE = 500
time = np.arange(10 * RATE) / RATE
phase = (time + 0.3) % 0.8 - 0.3
QRS = np.exp(-((phase / 0.015) ** 2)) - 0.3 * np.exp(-(((phase - 0.035) / 0.012) ** 2))
ECG = 1.2 * QRS + 0.25 * np.exp(-(((phase - 0.28) / 0.05) ** 2)) + 0.1 * np.sin(2 * np.pi * 0.3 * time)  # mV


def there_and_back(lead, scaleoffset):
    with h5py.File("leads.h5", "w") as file:
        file.create_dataset("lead", data=lead, chunks=lead.shape, scaleoffset=scaleoffset)
    with h5py.File("leads.h5") as file:
        return file["lead"][:]


def recorder(lowest):
    """A lead of 5 uV a step from a recorder of 12 bits, after a shock that takes it from end to end for a second."""
    shock = np.where((time > 2) & (time < 3), 40 * np.exp(-4 * (time - 2)) * np.cos(2 * np.pi * 3 * (time - 2)), 0)
    return np.clip(np.rint((ECG + shock) * 200), lowest, 2047).astype(np.int16)


in_uv = np.rint(ECG * 3400 / ECG.max()).astype(np.int16)
CASES = {
    "12-bit recorder, -2048 to 2047": (recorder(-2048), 12),
    "  the same in 13 bits": (recorder(-2048), 13),
    "12-bit recorder, -2047 to 2047": (recorder(-2047), 12),
    "whole uV, R of 3.4 mV, 12 bits": (in_uv, 12),
    "  the same, scaleoffset=0": (in_uv, 0),
}
print("whole numbers                    lowest   highest   read lowest   highest   samples changed   the highest is")
results = []
for name, (lead, bits) in CASES.items():
    read = there_and_back(lead, bits)
    changed, of_highest = (read != lead).sum(), read[lead.argmax()]
    results.append((changed, lead.max(), of_highest))
    columns = lead.min(), lead.max(), read.min(), read.max(), changed, of_highest
    print("{:32} {:<8} {:<9} {:<13} {:<9} {:<17} {}".format(name, *columns))

print("voltages in float32, in uV       greatest error, stated   found   highest voltage that is 0 when read")
errors = {}
for digits in (1, 2):
    read = there_and_back(ECG.astype(np.float32), digits)
    step = 1000 / 10**digits
    errors[digits] = step, 1000 * np.abs(read - ECG).max(), 1000 * np.abs(ECG[read == 0]).max()
    print("{:32} {:<24.0f} {:<7.1f} {:.1f}".format(f"scaleoffset={digits}", 0.5 * step, *errors[digits][1:]))

if (
    results[0][0] > 40 and results[0][1:] == (2047, 0)
    and results[3][0] > 40 and results[3][2] < 0
    and not any(results[index][0] for index in (1, 2, 4))
    and all(found > 0.95 * step and lost > 0.95 * step for step, found, lost in errors.values())
):
    print("HDF5 makes zeros of full scale: still so")
else:
    sys.exit("HDF5 makes zeros of full scale: no longer so")
END
