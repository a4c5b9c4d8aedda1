#!/bin/sh
# `pyxdf` closes a dropout of 3 s, and moves all beats of the recording by up to 1.5 s.
#
# Versions: pyxdf 1.17.5, numpy 2.4.6; Python 3.11.
#
# Recordings of several devices by Lab Streaming Layer are XDF files: a stream of ECG, say of a chest strap at 130 Hz,
# and one of events on the same clock. Each sample has a time of its own. `load_xdf` removes the jitter of these times
# unless it is told not to. Radio links lose some seconds of ECG now and then.
#
# One would guess that jitter is a matter of milliseconds, and that a dropout of 3 s stays where it is: the
# documentation names a threshold of 1 s for breaks, from which on there are several segments.
#
# What happens: a break has to last 500 samples as well, which are 3.8 s at 130 Hz and 5 s at 100 Hz. A shorter one is
# taken for jitter: one line is laid through all times, without a warning. The pause is gone, the samples beside it are
# 1.5 s off, an event at an R wave lies .44 s beside it, and 60 beats a minute are 57.8 from the first to the last. A
# dropout of 4 s is right, and so is `jitter_break_threshold_samples=1`.
#
# Output seen:
#     ECG of 60 /min for 120 s at 130 Hz, an event at the R wave of 90 s
#     dropout   longest interval between samples   rate    greatest shift   event is beside its R wave
#     none      0.01 s                             60.0    0.00 s           0.00 s
#     2 s       0.01 s                             58.5    1.01 s           0.28 s
#     3 s       0.01 s                             57.8    1.52 s           0.44 s
#     4 s       4.01 s                             60.0    0.00 s           0.00 s
#     3 s, jitter_break_threshold_samples=1
#               3.01 s                             60.0    0.00 s           0.00 s
#     pyxdf smooths dropouts away: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyxdf==1.17.5 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import struct
import sys

import numpy as np
import pyxdf

RATE, SECONDS, EVENT = 130, 120, 90.0
ECG, EVENTS = 1, 2


def chunk(tag, content):
    content = struct.pack("<H", tag) + content
    return b"\x04" + struct.pack("<I", len(content)) + content


def of_stream(tag, stream, content):
    return chunk(tag, struct.pack("<I", stream) + content)


def element(tag, **entries):
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in entries.items())
    return f"<?xml version='1.0'?><{tag}>{inner}</{tag}>".encode()


def samples(stream, pieces):
    return of_stream(3, stream, b"\x04" + struct.pack("<I", len(pieces)) + b"".join(pieces))


def write(times, voltages):
    """An XDF file of one lead and one event; both devices have the clock of the recorder, measured every 5 s."""
    parts = [b"XDF:", chunk(1, element("info", version="1.0"))]
    for stream, name, kind, rate, form in (
        (ECG, "strap", "ECG", RATE, "float32"),
        (EVENTS, "events", "Markers", 0, "string"),
    ):
        description = {"nominal_srate": rate, "channel_format": form, "created_at": 0, "uid": name}
        parts.append(of_stream(2, stream, element("info", name=name, type=kind, channel_count=1, **description)))
    for first in range(0, len(times), RATE):
        pieces = zip(times[first : first + RATE], voltages[first : first + RATE])
        parts.append(samples(ECG, [b"\x08" + struct.pack("<df", *piece) for piece in pieces]))
    parts.append(samples(EVENTS, [b"\x08" + struct.pack("<d", EVENT) + b"\x01\x08exercise"]))
    for second in range(0, SECONDS, 5):
        parts += [of_stream(4, stream, struct.pack("<dd", second, 0.0)) for stream in (ECG, EVENTS)]
    for stream, first, last, count in ((ECG, times[0], times[-1], len(times)), (EVENTS, EVENT, EVENT, 1)):
        ends = {"first_timestamp": first, "last_timestamp": last, "sample_count": count}
        parts.append(of_stream(6, stream, element("info", **ends)))
    with open("recording.xdf", "wb") as file:
        file.write(b"".join(parts))


def r_waves(voltages):
    middle = voltages[1:-1]
    return 1 + np.flatnonzero((middle > 0.5) & (middle > voltages[:-2]) & (middle >= voltages[2:]))


print(f"ECG of 60 /min for {SECONDS} s at {RATE} Hz, an event at the R wave of {EVENT:.0f} s")
print("dropout   longest interval between samples   rate    greatest shift   event is beside its R wave")
results = {}
for dropout, options in (
    (0, {}),
    (2, {}),
    (3, {}),
    (4, {}),
    (3, {"jitter_break_threshold_samples": 1}),
):
    times = np.arange(SECONDS * RATE) / RATE
    times = times[(times < 60) | (times >= 60 + dropout)]
    write(times, np.exp(-((((times + 0.5) % 1 - 0.5) / 0.012) ** 2)))
    streams = {stream["info"]["name"][0]: stream for stream in pyxdf.load_xdf("recording.xdf", **options)[0]}
    read, voltages = streams["strap"]["time_stamps"], streams["strap"]["time_series"][:, 0]
    waves = r_waves(voltages)
    beside = abs(streams["events"]["time_stamps"][0] - read[waves[np.argmin(abs(times[waves] - EVENT))]])
    result = np.diff(read).max(), 60 / np.median(np.diff(read[waves])), abs(read - times).max(), beside
    results[dropout, bool(options)] = result
    name = f"{dropout} s" if dropout else "none"
    if options:
        print(f"{name}, jitter_break_threshold_samples=1")
        name = ""
    longest, rate, shift, beside = result
    print(f"{name:9} {longest:.2f} s                             {rate:.1f}    {shift:.2f} s           {beside:.2f} s")

closed, whole, right = results[3, False], results[4, False], results[3, True]
if (
    closed[0] < 0.01 and closed[1] < 58 and closed[2] > 1.5 and closed[3] > 0.4
    and all(result[0] > 3 and result[2] < 1e-6 and result[3] < 1e-6 for result in (whole, right))
):
    print("pyxdf smooths dropouts away: still so")
else:
    sys.exit("pyxdf smooths dropouts away: no longer so")
END
