#!/bin/sh
# mne and edfio join the parts of an interrupted EDF+ file as if no time had passed between them.
#
# Versions: mne 1.13.2, edfio 0.4.18, pyedflib 0.1.42, numpy 2.4.6; Python 3.11.
#
# An EDF+ file whose header says EDF+D may have gaps: a Holter recorder writes one when it is paused. Each block of such
# a file states its time.
#
# One would guess that a reader refuses such a file, as pyedflib does, or that the gap is seen in what it gives: in the
# times, as NaN, or as a marked stretch.
#
# What happens: in mne and in edfio the samples lie end to end and the duration is that of the samples. Nothing warns
# and nothing marks the place. The notes of the file keep their true times, so that each note after the gap points at
# another beat; the pause between the beats on both sides of the gap is a common one.
#
# Output seen (beats of 1 mV each second; 10 s, a gap of 5 s, 10 s; the beat at 17.5 s is 3 mV high, and noted as V):
#     mne, preload=True: 20 s; the note is at 17.5 s, there a beat of 1 mV; the beat of 3 mV is at 12.5 s
#     mne, preload=False: 20 s; the note is at 17.5 s, there a beat of 1 mV; the beat of 3 mV is at 12.5 s
#     edfio: 20 s; the note is at 17.5 s, there a beat of 1 mV; the beat of 3 mV is at 12.5 s
#     intervals of the 20 beats: 1.0 to 1.0 s; in truth one is 6.0 s
#     warnings: 0; marks of the gap: 0
#     pyedflib: refused
#     mne and edfio close gaps: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mne==1.13.2 edfio==0.4.18 pyedflib==0.1.42 \
  numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import pathlib
import sys
import warnings

import edfio
import mne
import numpy as np
import pyedflib

RATE, NOTE_BYTES, HIGH = 200, 40, 17.5
SECONDS = [*range(10), *range(15, 25)]  # when each block of a second begins

wave = np.exp(-(((np.arange(RATE) / RATE - 0.5) / 0.02) ** 2) / 2)
blocks = [np.round(wave * (3000 if second == int(HIGH) else 1000)).astype("<i2") for second in SECONDS]


def fields(width, *texts):
    return "".join(str(text).ljust(width) for text in texts).encode("ascii")


def notes(second):
    text = f"+{second}\x14\x14\0" + (f"+{HIGH}\x14V\x14\0" if second == int(HIGH) else "")
    return text.encode("ascii").ljust(NOTE_BYTES, b"\0")


header = [
    (8, "0"), (80, "X X X X"), (80, "Startdate 01-JAN-2024 X X X"), (8, "01.01.24"), (8, "00.00.00"), (8, 3 * 256),
    (44, "EDF+D"), (8, len(SECONDS)), (8, 1), (4, 2), (16, "ECG II", "EDF Annotations"), (80, "", ""), (8, "uV", ""),
    (8, -32768, -1), (8, 32767, 1), (8, -32768, -32768), (8, 32767, 32767), (80, "", ""), (8, RATE, NOTE_BYTES // 2),
    (32, "", ""),
]  # fmt: skip
body = [block.tobytes() + notes(second) for second, block in zip(SECONDS, blocks, strict=True)]
pathlib.Path("holter.edf").write_bytes(b"".join(fields(*line) for line in header) + b"".join(body))


def show(name, microvolts, marks):
    """Prints what stands at the note -> whether it is another beat, and how many marks there are beside the note."""
    (at,) = [onset for onset, text in marks if text == "V"]
    noted, highest = microvolts[round(at * RATE)] / 1000, microvolts.argmax() / RATE
    print(
        f"{name}: {len(microvolts) / RATE:g} s; the note is at {at:g} s, there a beat of {noted:.0f} mV; the beat of "
        f"{microvolts.max() / 1000:.0f} mV is at {highest:g} s"
    )
    return (len(microvolts) / RATE, at, round(noted), highest) == (20, 17.5, 1, 12.5), len(marks) - 1


shown = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for preload in (True, False):
        raw = mne.io.read_raw_edf("holter.edf", preload=preload, verbose="WARNING")
        marks = [(mark["onset"], mark["description"]) for mark in raw.annotations]
        signal = raw.get_data("ECG II")[0] * 1e6
        shown.append(show(f"mne, preload={preload}", signal, marks))
    edf = edfio.read_edf("holter.edf")
    signal = edf.signals[0].data
    shown.append(show("edfio", signal, [(mark.onset, mark.text) for mark in edf.annotations]))
intervals = np.diff(np.flatnonzero((signal[1:-1] > signal[:-2]) & (signal[1:-1] >= signal[2:]))) / RATE
print(f"intervals of the 20 beats: {intervals.min():.1f} to {intervals.max():.1f} s; in truth one is 6.0 s")
marked = sum(count for _, count in shown)
print(f"warnings: {len(caught)}; marks of the gap: {marked}")
try:
    pyedflib.EdfReader("holter.edf")
    refused = False
except OSError:
    refused = True
print("pyedflib:", "refused" if refused else "read")

if all(closed for closed, _ in shown) and not caught and not marked and refused and intervals.max() == 1:
    print("mne and edfio close gaps: still so")
else:
    sys.exit("mne and edfio close gaps: no longer so")
END
