#!/bin/sh
# A part that `pyedflib` crops from an EDF file has none of its notes, and may end in voltages that nobody recorded.
#
# Versions: pyEDFlib 0.1.42, edfio 0.4.18, numpy 2.4.6; Python 3.11.
#
# `pyedflib.highlevel.crop_edf` writes the part of a recording between two times to a new EDF file. Notes (annotations)
# of Holter recordings say where the arrhythmia is, or what a beat is.
#
# One would guess that notes of the part come along, moved to its beginning, as they do in other functions beside it;
# and that the part is as long as was asked for, or that a time within a data record is refused.
#
# What happens: all notes are gone, without a warning, so that a part with atrial fibrillation looks like one without
# findings. A part of 10.3 s becomes 11 s: the rest is filled by the digital 0, which is the middle of the range of each
# lead, and a flat 2 mV in one of -1 to 5 mV.
#
# Output seen:
#     whole            20.0 s  flat at the end: 0.00 s                     notes: AF, PVC, pain
#     2 to 12 s        10.0 s  flat at the end: 0.00 s                     notes: none
#     2 to 12.3 s      11.0 s  flat at the end: 0.70 s (0.00 and 2.00 mV)  notes: none
#     2.5 to 12.75 s   11.0 s  flat at the end: 0.75 s (0.00 and 2.00 mV)  notes: none
#     4 to 4.6 s        1.0 s  flat at the end: 0.40 s (0.00 and 2.00 mV)  notes: none
#     notes that read_edf gives: 3
#     warnings: 0
#     pyedflib crops notes away: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyedflib==0.1.42 edfio==0.4.18 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import edfio
import numpy as np
from pyedflib import highlevel

RATE, SECONDS = 500, 20
RHYTHMS = ((3.0, 4.0, "AF"), (11.0, 0.5, "PVC"), (15.0, None, "pain"))
time = np.arange(RATE * SECONDS) / RATE
leads = {"ECG I": np.sin(2 * np.pi * time), "ECG V5": 1 + np.sin(2 * np.pi * time)}  # mV
ranges = {"ECG I": (-3, 3), "ECG V5": (-1, 5)}

signals = [
    edfio.EdfSignal(lead, RATE, label=name, physical_dimension="mV", physical_range=ranges[name])
    for name, lead in leads.items()
]
notes = [edfio.EdfAnnotation(*note) for note in RHYTHMS]
edfio.Edf(signals, annotations=notes, data_record_duration=1).write("whole.edf")


def show(name, path):
    """Prints and gives the length in s, the number of notes, and how much of the end is one value."""
    edf = edfio.read_edf(path)
    flat, values = [], []
    for signal in edf.signals:
        data = signal.data
        flat.append((len(data) - 1 - np.flatnonzero(np.diff(data))[-1] - 1) / RATE)
        values.append(data[-1])
    texts = ", ".join(note.text for note in edf.annotations) or "none"
    print(f"{name:14} {edf.duration:6.1f} s  flat at the end: {max(flat):4.2f} s", end="")
    print(f" ({values[0]:.2f} and {values[1]:.2f} mV)" if max(flat) > 0.01 else f"{'':19}", end="")
    print(f"  notes: {texts}")
    return edf.duration, len(edf.annotations), max(flat), values


show("whole", "whole.edf")
found = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for start, stop in ((2, 12), (2, 12.3), (2.5, 12.75), (4, 4.6)):
        formats = {"start_format": "seconds", "stop_format": "seconds", "verbose": False}
        highlevel.crop_edf("whole.edf", new_file="part.edf", start=start, stop=stop, **formats)
        found[start, stop] = show(f"{start} to {stop} s", "part.edf")
    signals, headers, header = highlevel.read_edf("whole.edf", digital=True)
    print(f"notes that read_edf gives: {len(header['annotations'])}")
print(f"warnings: {len(caught)}")

parts = list(found.values())
notes_are_lost = len(header["annotations"]) == 3 and not any(notes for _, notes, _, _ in parts)
filled = all(
    duration == np.ceil(round(stop - start, 6)) and abs(flat - (duration - (stop - start))) < 0.02
    for (start, stop), (duration, _, flat, _) in found.items()
    if duration != stop - start
)
in_the_middle = all(np.allclose(values, (0, 2), atol=0.01) for _, _, flat, values in parts[1:])
if notes_are_lost and filled and in_the_middle and not caught:
    print("pyedflib crops notes away: still so")
else:
    sys.exit("pyedflib crops notes away: no longer so")
END
