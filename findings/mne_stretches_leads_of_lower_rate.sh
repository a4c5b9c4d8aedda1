#!/bin/sh
# mne stretches, moves or empties leads of a lower rate when a part of an EDF file is read.
#
# Versions: mne 1.13.2, edfio 0.4.18, numpy 2.4.6, scipy 1.17.1; Python 3.11.
#
# An EDF file may hold leads of several rates; `mne.io.read_raw_edf` brings all to the highest. Long recordings are
# opened with `preload=False`, the default, and read in parts: by `crop`, by `get_data`, or as epochs round the beats.
#
# One would guess that a part equals that part of the whole, but for a few samples at its ends: a warning says that
# "edge artifacts" will result.
#
# What happens, here with the same beats at 75 /min in a lead of 1000 Hz and one of 250 Hz: of the lower lead whole
# data records (of a second) are read, one too many or too few, and squeezed or stretched to the length that was asked
# for. `crop(20, 30)` includes its last sample, touches an eleventh record, and gives 82.5 /min, beside 75 in the
# other lead. A part that begins within a record is moved as well; some short parts are zero throughout, as 28 of 70
# beats here are; a mean beat keeps a fifth of its height. `load_data` after `crop` gives the same. With
# `preload=True` all is right.
#
# Output seen:
#     20 to 30 s: 75.0 /min at 1000 Hz, 82.5 /min at 250 Hz; first R after 0.400 s, 0.364 s
#     20.5 to 30.5 s: 75.0 /min at 1000 Hz, 67.5 /min at 250 Hz; first R after 0.700 s, 0.002 s
#     20.5 to 21.7 s: largest value 1.00 mV at 1000 Hz, 0.00 mV at 250 Hz
#     70 beats of 0.6 s: mean beat 1.00 mV at 1000 Hz, 0.21 mV at 250 Hz; 0 and 28 are zero
#     preload=True, 20 to 30 s: 75.0 /min at 1000 Hz, 75.0 /min at 250 Hz; first R after 0.400 s, 0.400 s
#     preload=True, 70 beats of 0.6 s: mean beat 1.00 mV at 1000 Hz, 1.00 mV at 250 Hz; 0 and 0 are zero
#     mne stretches leads of a lower rate: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mne==1.13.2 edfio==0.4.18 numpy==2.4.6 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import edfio
import mne
import numpy as np
from scipy.signal import find_peaks

SECONDS, BEATS = 60, np.arange(0.4, 60, 0.8)
EVENTS = np.array([[round(1000 * beat), 0, 1] for beat in BEATS[1:71]])
mne.set_log_level("ERROR")


def lead(name, rate):
    """R waves of 1 mV at 75 /min."""
    time = np.arange(SECONDS * rate) / rate
    values = sum(1000 * np.exp(-((time - beat) ** 2) / (2 * 0.012**2)) for beat in BEATS)
    return edfio.EdfSignal(values, rate, label=name, physical_dimension="uV", physical_range=(-3000, 3000))


def rates(raw, start, end, title=""):
    """Prints and gives the heart rate of both leads between two times."""
    peaks = [find_peaks(x, height=0.5e-3, distance=300)[0] for x in raw.copy().crop(start, end).load_data().get_data()]
    fast, slow = (60_000 / np.diff(found).mean() for found in peaks)
    print(
        f"{title}{start:g} to {end:g} s: {fast:.1f} /min at 1000 Hz, {slow:.1f} /min at 250 Hz; first R after "
        f"{peaks[0][0] / 1000:.3f} s, {peaks[1][0] / 1000:.3f} s"
    )
    return fast, slow


def mean_beats(raw, title=""):
    """Prints and gives the height of both leads' mean beat in mV."""
    options = {"tmin": -0.2, "tmax": 0.4, "baseline": None, "preload": True}
    beats = 1000 * mne.Epochs(raw, EVENTS, **options).get_data()
    fast, slow = beats.mean(axis=0).max(axis=1)
    zero = (beats == 0).all(axis=2).sum(axis=0)
    print(
        f"{title}{len(beats)} beats of 0.6 s: mean beat {fast:.2f} mV at 1000 Hz, {slow:.2f} mV at 250 Hz; "
        f"{zero[0]} and {zero[1]} are zero"
    )
    return fast, slow


edfio.Edf([lead("ECG I", 1000), lead("ECG V1", 250)], data_record_duration=1).write("file.edf")
parts, whole = (mne.io.read_raw_edf("file.edf", preload=preload) for preload in (False, True))
stretched, moved = rates(parts, 20, 30), rates(parts, 20.5, 30.5)
short = 1000 * parts.get_data(start=20_500, stop=21_700).max(axis=1)
print(f"20.5 to 21.7 s: largest value {short[0]:.2f} mV at 1000 Hz, {short[1]:.2f} mV at 250 Hz")
beats = mean_beats(parts)
right = [rates(whole, 20, 30, "preload=True, "), mean_beats(whole, "preload=True, ")]
wrong = stretched[1] > 80 and moved[1] < 70 and short[1] < 0.01 and beats[1] < 0.5
if wrong and np.allclose([stretched[0], moved[0]], 75) and np.allclose(right, [[75, 75], [1, 1]], rtol=0.01):
    print("mne stretches leads of a lower rate: still so")
else:
    sys.exit("mne stretches leads of a lower rate: no longer so")
END
