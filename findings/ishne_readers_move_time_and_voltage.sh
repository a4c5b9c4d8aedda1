#!/bin/sh
# `ishne-to-csv` starts a Holter recording at another minute, and `ishneholterlib` leaves steps in place of mV.
#
# Versions: ishne-to-csv 1.2, ishneholterlib 2020.5.29, crccheck 1.3.1, numpy 1.26.4, pandas 2.3.3; Python 3.11.
#
# ISHNE is a format of Holter recordings: a header with the start in hours, minutes and seconds, the resolution of each
# lead in nV and a checksum, then int16. `ishne-to-csv` makes a table with the time of each sample; `ishneholterlib`
# reads files, takes names out of them by `deidentify`, and writes them.
#
# One would guess that the table begins at the time that the header states and gives voltages, or the resolution; that
# a file which is read and written keeps its samples, and that writing changes nothing of what was read.
#
# What happens: hours, minutes and seconds are numbers of two bytes and are read as one byte each. Minutes become 0 and
# seconds the minutes: 13:45:20 is 13:00:45, so that a complaint in the diary stands beside another part of the ECG, up
# to an hour off. The table has steps, and no file says how high one is. `ishneholterlib` reads times and voltages as
# they are. It multiplies those in memory when it writes: R of 2.2 mV is 880 from then on; and it cuts fractions off, so
# that at some resolutions two samples in three lose a step each time a file is read and written. There is no warning.
#
# Output seen:
#     start in the file   ishneholterlib   first row of ishne-to-csv
#     13:45:20            13:45:20         13:00:45
#     22:10:05            22:10:05         22:00:10
#     08:00:00            08:00:00         08:00:00
#     highest value of lead II in the table: 880, in the ECG: 2.2 mV
#     resolution in the description of the table: no
#     resolution   R in memory, read    after writing   samples changed, by steps: once         five times
#     2500 nV      2.20                 880.0           0.02, 1                          0.02, 1
#     4880 nV      2.20                 451.0           0.10, 1                          0.10, 5
#     9770 nV      2.20                 225.0           0.64, 1                          0.64, 5
#     ISHNE readers move time and voltage: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ishne-to-csv==1.2 ishneholterlib==2020.5.29 \
    crccheck==1.3.1 numpy==1.26.4 pandas==2.3.3
cd "$folder"
TZ=UTC OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning -W error::RuntimeWarning - <<'END'
import datetime
import json
import struct
import sys

import numpy as np
import pandas as pd
from crccheck.crc import Crc16CcittFalse
from ishne_to_csv import ishne_to_csv
from ishneholterlib import Holter

RATE, SECONDS = 200, 10
II, V1, ABSENT = 6, 11, -9
time = np.arange(RATE * SECONDS) / RATE
phase = (time + 0.3) % 0.8 - 0.3
ECG = np.exp(-((phase / 0.015) ** 2)) + 0.2 * np.exp(-(((phase - 0.28) / 0.05) ** 2)) + 0.1 * np.sin(time)  # mV
LEADS = np.stack([2 * ECG, -ECG])


def write(name, start, resolution):
    """An ISHNE file of two leads -> its samples."""
    samples = np.rint(LEADS * 1e6 / resolution).astype("<i2")

    def for_twelve_leads(of_lead_ii, of_v1):
        return struct.pack("<12h", of_lead_ii, of_v1, *[ABSENT] * 10)

    header = struct.pack("<4ih", 0, samples.shape[1], 522, 522, 1)
    header += b"Name".ljust(40, b"\0") + b"Surname".ljust(40, b"\0") + b"1".ljust(20, b"\0")
    header += struct.pack("<2h", 1, 0) + struct.pack("<9h", 1, 1, 1950, 3, 2, 2024, 4, 2, 2024)
    header += struct.pack("<3h", *start) + struct.pack("<h", len(samples))
    header += for_twelve_leads(II, V1) + for_twelve_leads(1, 1) + for_twelve_leads(resolution, resolution)
    header += struct.pack("<h", 0) + b"digital".ljust(40, b"\0") + struct.pack("<h", RATE) + bytes(80 + 80 + 88)
    assert len(header) == 512
    checksum = struct.pack("<H", Crc16CcittFalse.calc(header))
    with open(name, "wb") as file:
        file.write(b"ISHNE1.0" + checksum + header + samples.T.tobytes())
    return samples


print("start in the file   ishneholterlib   first row of ishne-to-csv")
starts = []
for start in ((13, 45, 20), (22, 10, 5), (8, 0, 0)):
    samples = write("holter.ecg", start, 2500)
    stated = Holter("holter.ecg").start_time
    ishne_to_csv("holter.ecg", "holter.csv", "holter.json", verbose=False)
    table = pd.read_csv("holter.csv")
    first = datetime.datetime.fromtimestamp(int(table["time"].iloc[0]) / 1e9).time()
    starts.append((datetime.time(*start), stated, first))
    print("{!s:19} {!s:16} {}".format(*starts[-1]))
of_table = table.filter(like="Lead").to_numpy().T
in_json = any("2500" in str(value) for value in json.load(open("holter.json")).values())
print(f"highest value of lead II in the table: {of_table[0].max()}, in the ECG: {LEADS[0].max():.1f} mV")
print(f"resolution in the description of the table: {'yes' if in_json else 'no'}")

print("resolution   R in memory, read    after writing   samples changed, by steps: once         five times")
changes = []
for resolution in (2500, 4880, 9770):
    samples = write("holter.ecg", (13, 45, 20), resolution)
    heights, counts = [], []
    name = "holter.ecg"
    for _ in range(5):
        holter = Holter(name)
        assert holter.is_valid()
        holter.load_data()
        heights.append(holter.lead[0].data.max())
        holter.deidentify()
        holter.filename = name = "anonymous.ecg"
        holter.write_file(overwrite=True)
        heights.append(holter.lead[0].data.max())
        again = Holter(name)
        again.load_data(convert=False)
        difference = np.abs(np.stack([lead.data for lead in again.lead]).astype(int) - samples)
        counts.append(((difference > 0).mean(), difference.max()))
    changes.append((*heights[:2], *counts[0], *counts[-1]))
    text = "{:<12} {:.2f}                 {:<15.1f} {:.2f}, {}                          {:.2f}, {}"
    print(text.format(f"{resolution} nV", *changes[-1]))

if (
    all(stated == header for header, stated, _ in starts)
    and all(first == header.replace(minute=0, second=header.minute) for header, _, first in starts)
    and np.array_equal(of_table, np.rint(LEADS * 400)) and not in_json
    and all(height < 3 and after > 100 * height for height, after, *_ in changes)
    and changes[-1][2] > 0.5 and changes[-1][5] == 5
):
    print("ISHNE readers move time and voltage: still so")
else:
    sys.exit("ISHNE readers move time and voltage: no longer so")
END
