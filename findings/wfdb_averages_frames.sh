#!/bin/sh
# wfdb reads a lead of 500 Hz as one of 125 Hz, by averaging.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# A WFDB record may hold leads of several rates: its header gives the rate of the frames, and "16x4" for a lead with
# four samples in each frame, as where respiration at 125 Hz is stored beside an ECG at 500 Hz.
#
# One would guess that `wfdb.rdrecord` gives the lead as it was recorded, 5,000 samples at 500 Hz, or refuses to put two
# rates into one array; at least when the ECG lead alone is asked for.
#
# What happens: the four samples of a frame are averaged, also with `channels=[0]` and also in `wfdb.rdsamp`, without a
# warning. 1,250 samples come back, with a rate of 125 Hz. The mean over a frame is a poor filter: a wave of 60 Hz loses
# a third of its height, and one of 110 Hz comes back at 15 Hz, as something that was never recorded. All samples come
# with `smooth_frames=False`, under other names (`e_p_signal`) and with `fs` still that of the frames.
#
# Output seen:
#     rdrecord: 1250 samples at 125 Hz
#     rdrecord, ECG lead alone: 1250 samples at 125 Hz
#     rdsamp, ECG lead alone: 1250 samples at 125 Hz
#     60 Hz of 1 mV: comes back with 0.68 mV
#     110 Hz of 1 mV: comes back with 0.14 mV, at 15 Hz
#     smooth_frames=False: 5000 samples, largest 0.998 and 0.998 mV, `fs` 125
#     wfdb averages frames: still so
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

FRAMES, PER_FRAME, FRAME_RATE = 1250, 4, 125
time = np.arange(FRAMES * PER_FRAME) / (FRAME_RATE * PER_FRAME)


def write(name, frequency):
    """A record of an ECG lead at 500 Hz, here a sine of 1 mV, and respiration at 125 Hz."""
    lead = np.round(1000 * np.sin(2 * np.pi * frequency * time)).reshape(FRAMES, PER_FRAME)
    respiration = np.zeros((FRAMES, 1))
    np.hstack([lead, respiration]).astype("<i2").tofile(f"{name}.dat")
    with open(f"{name}.hea", "w") as header:
        header.write(f"{name} 2 {FRAME_RATE} {FRAMES}\n")
        header.write(f"{name}.dat 16x{PER_FRAME} 1000/mV 16 0 {int(lead.flat[0])} 0 0 I\n")
        header.write(f"{name}.dat 16 1000/mV 16 0 0 0 0 RESP\n")


def largest(signal):
    return np.abs(signal).max()


write("mains", 60)
write("fast", 110)
both, lead, fast = wfdb.rdrecord("mains"), wfdb.rdrecord("mains", channels=[0]), wfdb.rdrecord("fast", channels=[0])
signal, fields = wfdb.rdsamp("mains", channels=[0])
peak = np.argmax(np.abs(np.fft.rfft(fast.p_signal[:, 0]))) * fast.fs / len(fast.p_signal)
print(f"rdrecord: {len(both.p_signal)} samples at {both.fs:g} Hz")
print(f"rdrecord, ECG lead alone: {len(lead.p_signal)} samples at {lead.fs:g} Hz")
print(f"rdsamp, ECG lead alone: {len(signal)} samples at {fields['fs']:g} Hz")
print(f"60 Hz of 1 mV: comes back with {largest(lead.p_signal):.2f} mV")
print(f"110 Hz of 1 mV: comes back with {largest(fast.p_signal):.2f} mV, at {peak:g} Hz")
whole = [wfdb.rdrecord(name, channels=[0], smooth_frames=False) for name in ("mains", "fast")]
print(
    f"smooth_frames=False: {len(whole[0].e_p_signal[0])} samples, largest {largest(whole[0].e_p_signal[0]):.3f} and "
    f"{largest(whole[1].e_p_signal[0]):.3f} mV, `fs` {whole[0].fs:g}"
)
lengths = {len(both.p_signal), len(lead.p_signal), len(signal)}
if lengths == {FRAMES} and lead.fs == FRAME_RATE and largest(lead.p_signal) < 0.8 and peak == 15:
    print("wfdb averages frames: still so")
else:
    sys.exit("wfdb averages frames: no longer so")
END
