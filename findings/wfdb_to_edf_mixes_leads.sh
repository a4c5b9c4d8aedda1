#!/bin/sh
# wfdb writes EDF files that are a block too long, or that go on with another lead in the middle of a lead.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; read back by edfio 0.4.18; Python 3.11.
#
# `wfdb.io.convert.edf.wfdb_to_edf` turns a WFDB record into an EDF file, which holds blocks of equal length: of 10 s
# here, of 1 s for twelve leads at 500 Hz.
#
# One would guess that a record of whole blocks comes back as it was, and that a last block that is not full is filled
# up lead by lead.
#
# What happens: there is always one block more than whole blocks. If the record ends with a block, the last one is at
# the lowest value that the file can hold, so that 10 s are 20 s, or 11 s. If it does not, the samples that are left are
# laid into the last block without a gap: lead I runs on into lead II, and lead II into V1. Of a record that is shorter
# than a block only the first lead is right. Nothing warns, and the header is valid.
#
# Output seen (a lead holds its number and the second: 100 to 109 in 10 s of lead I, 200 to 209 of II):
#     3 leads,  8 s: 10 s long, wrong within the 8 s: I 0 %, II 100 %, V1 100 %
#     3 leads, 10 s: 20 s long, wrong within the 10 s: I 0 %, II 0 %, V1 0 %
#     3 leads, 12 s: 20 s long, wrong within the 12 s: I 0 %, II 17 %, V1 17 %
#     12 leads, 10 s: 11 s long, wrong within the 10 s: none; the last second is at -32768
#     12 leads, 9.5 s: 10 s long, wrong within the 9.5 s: 11 of 12 leads
#     lead I of the  8 s by second: 100 101 102 103 104 105 106 107 200 201
#     lead II of the 8 s by second: 202 203 204 205 206 207 300 301 302 303
#     wfdb mixes leads in EDF: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 numpy==2.4.6 pandas==3.1.1 edfio==0.4.18
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import contextlib
import io
import sys

import edfio
import numpy as np
import wfdb
from wfdb.io.convert.edf import wfdb_to_edf

RATE = 500
TWELVE = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def through_edf(leads, seconds):
    """Writes leads that hold 100, 101, ...; 200, ... -> the digital values written, and those of the EDF file."""
    written = 100 * np.arange(1, len(leads) + 1) + np.arange(int(RATE * seconds))[:, None] // RATE
    wfdb.wrsamp(
        "record",
        fs=RATE,
        units=["mV"] * len(leads),
        sig_name=leads,
        d_signal=written,
        fmt=["16"] * len(leads),
        adc_gain=[1000] * len(leads),
        baseline=[0] * len(leads),
    )
    assert (wfdb.rdrecord("record", physical=False).d_signal == written).all()
    with contextlib.redirect_stdout(io.StringIO()):
        wfdb_to_edf("record")
    file = edfio.read_edf("record.edf")
    assert [signal.label for signal in file.signals] == leads
    return written, np.stack([signal.digital for signal in file.signals], axis=1)


def wrong(written, found):
    """The share of each lead's samples that are not what was written."""
    return (found[: len(written)] != written).mean(axis=0)


three, leads = {}, ["I", "II", "V1"]
for seconds in (8, 10, 12):
    written, found = through_edf(leads, seconds)
    three[seconds] = found, wrong(written, found)
    shares = ", ".join(f"{lead} {share:.0%}".replace("%", " %") for lead, share in zip(leads, three[seconds][1]))
    print(f"3 leads, {seconds:2} s: {len(found) // RATE} s long, wrong within the {seconds} s: {shares}")

written, whole = through_edf(TWELVE, 10)
whole_right = not wrong(written, whole).any() and (whole[len(written) :] == -32768).all() and len(whole) == 11 * RATE
print(
    f"12 leads, 10 s: {len(whole) // RATE} s long, wrong within the 10 s: {'none' if whole_right else 'some'}; "
    f"the last second is at {whole[-1, 0]}"
)
written, part = through_edf(TWELVE, 9.5)
mixed = int((wrong(written, part) > 0).sum())
print(f"12 leads, 9.5 s: {len(part) // RATE} s long, wrong within the 9.5 s: {mixed} of 12 leads")

by_second = [three[8][0][RATE // 2 :: RATE, lead].tolist() for lead in (0, 1)]
for name, numbers in zip(("I of the  8 s", "II of the 8 s"), by_second):
    print(f"lead {name} by second:", *numbers)

if (
    whole_right
    and mixed == 11
    and [len(found) // RATE for found, _ in three.values()] == [10, 20, 20]
    and by_second == [[*range(100, 108), 200, 201], [*range(202, 208), *range(300, 304)]]
):
    print("wfdb mixes leads in EDF: still so")
else:
    sys.exit("wfdb mixes leads in EDF: no longer so")
END
