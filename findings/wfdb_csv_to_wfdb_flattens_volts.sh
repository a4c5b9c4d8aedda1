#!/bin/sh
# wfdb's csv_to_wfdb stores leads in steps of a 200th of their unit: an ECG in volts becomes a flat line.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# `wfdb.io.convert.csv.csv_to_wfdb` makes a WFDB record of a table of voltages; rate and unit are given.
#
# One would guess that the step follows the values, as where `wfdb.wrsamp` writes the same voltages: it takes the finest
# step that 16 bits have room for.
#
# What happens: the step is 1/200 of the unit. In mV that is 5 uV, so that waves are off by up to 2.5 uV, and those below
# vanish. In V, as some recorders export, it is 5 mV: all leads are 0 throughout.
# In uV the record is refused, as R would need more than 16 bits. `adc_gain` has to be given, and no warning says so.
#
# Output seen:
#                          R, mV    late wave, uV  largest error, uV
#     csv_to_wfdb, mV        1.2000            0.0            2.4
#     wrsamp, mV             1.2000            2.0            0.0
#     csv_to_wfdb, V         0.0000            0.0         1200.0
#     wrsamp, V              1.2000            2.0            0.0
#     csv_to_wfdb, uV: Channel 0 contain values outside allowed range [-32768, 32767] for fmt 16
#     wfdb's csv_to_wfdb flattens volts: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 numpy==2.4.6 pandas==3.1.1
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
import wfdb
from wfdb.io.convert.csv import csv_to_wfdb

RATE = 500
since = np.arange(10 * RATE) / RATE % 0.8 - 0.4
R, LATE_POTENTIAL = (np.exp(-(((since - at) / width) ** 2) / 2) for at, width in ((0, 0.011), (0.08, 0.004)))
leads = np.stack([1.2 * R, 0.6 * R + 0.002 * LATE_POTENTIAL], axis=1)  # in mV; in V5 2 uV after QRS
late = LATE_POTENTIAL > 0.9


def show(name, record, factor):
    """Prints and gives R of lead II, the wave after QRS in V5 and the largest error, in mV."""
    stored = record.p_signal * factor
    figures = stored[:, 0].max(), stored[late, 1].max(), np.abs(stored - leads).max()
    print(f"{name:20} {figures[0]:8.4f} {1000 * figures[1]:14.1f} {1000 * figures[2]:14.1f}")
    return figures


print("                     R, mV    late wave, uV  largest error, uV")
by_table, by_wrsamp = {}, {}
for unit, factor in (("mV", 1), ("V", 1000)):
    values = leads / factor
    np.savetxt(f"{unit}.csv", values, delimiter=",", header="II,V5", comments="", fmt="%.9f")
    csv_to_wfdb(f"{unit}.csv", fs=RATE, units=unit)
    by_table[unit] = show(f"csv_to_wfdb, {unit}", wfdb.rdrecord(unit), factor)
    wfdb.wrsamp("direct", fs=RATE, units=[unit] * 2, sig_name=["II", "V5"], p_signal=values, fmt=["16"] * 2)
    by_wrsamp[unit] = show(f"wrsamp, {unit}", wfdb.rdrecord("direct"), factor)
np.savetxt("uV.csv", 1000 * leads, delimiter=",", header="II,V5", comments="", fmt="%.6f")
try:
    csv_to_wfdb("uV.csv", fs=RATE, units="uV")
    refused = False
except IndexError as error:
    refused = True
    print("csv_to_wfdb, uV:", error)

flat = by_table["V"][0] == 0 and by_table["V"][1] == 0
coarse = by_table["mV"][1] == 0 and by_table["mV"][2] > 0.002
if flat and coarse and refused and all(abs(found[1] - 0.002) < 1e-4 for found in by_wrsamp.values()):
    print("wfdb's csv_to_wfdb flattens volts: still so")
else:
    sys.exit("wfdb's csv_to_wfdb flattens volts: no longer so")
END
