#!/bin/sh
# wfdb's ann2rr takes marks of rhythm and noise for beats, and its start and stop times for lengths of intervals.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# An annotation file holds beats, and between them marks that are none: "+" where a rhythm begins, "~" where the
# quality of the signal changes, as in the MIT-BIH databases. `wfdb.processing.ann2rr` is there to "obtain RR interval
# series from ECG annotation files"; `start_time` is "the time to start the intervals in seconds".
#
# One would guess that intervals are those between beats, as by the program of the same name in the WFDB software; and
# that start and stop choose a part of the record.
#
# What happens: each mark counts as a beat, so that the interval in which it lies comes as two short ones; and the time
# from the start of the record to the first mark comes as the first interval. Ten minutes of a regular 75 /min with 40
# marks get an SDNN of 135 ms and an RMSSD of 162 ms instead of 20 and 28. With `start_time=300` the answer is empty and
# with `stop_time=300` it is the whole record, as both are compared with the intervals: `start_time=0.79` leaves out
# all short intervals, and makes the heart slower than it is.
#
# Output seen:
#     between beats                 749 intervals, shortest 0.72 s, 75.1 /min, SDNN 20 ms, RMSSD 28 ms
#     ann2rr                        791 intervals, shortest 0.05 s, 79.1 /min, SDNN 135 ms, RMSSD 162 ms
#     ann2rr, start_time=300           0 intervals
#     ann2rr, stop_time=300          791 intervals, 600 s in all
#     ann2rr, start_time=0.79       479 intervals, shortest 0.79 s, 74.1 /min, SDNN 14 ms, RMSSD 20 ms
#     ann2rr gives the steps between all annotations: True
#     wfdb's ann2rr counts marks: still so
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
from wfdb.processing import ann2rr

RATE, BEATS, MARKS = 360, 750, 40
generator = np.random.default_rng(0)
beats = np.cumsum(np.r_[0.9, generator.normal(0.8, 0.02, BEATS - 1)])  # ten minutes, in s
after = np.linspace(5, BEATS - 5, MARKS).astype(int)  # a mark lies within the interval that follows this beat
marks = beats[after] + generator.uniform(0.1, 0.7, MARKS)
times = np.r_[0.05, beats, marks]
symbols = np.array(["+"] + ["N"] * BEATS + ["+", "~"] * (MARKS // 2))
order = np.argsort(times)
notes = [{"+": "(N", "~": "", "N": ""}[symbol] for symbol in symbols[order]]
wfdb.wrann("record", "atr", np.round(times[order] * RATE).astype(int), list(symbols[order]), fs=RATE, aux_note=notes)

annotations = wfdb.rdann("record", "atr")
is_beat = np.array(annotations.symbol) == "N"
between_beats = np.diff(annotations.sample[is_beat]) / RATE


def show(name, intervals):
    spread, change = 1000 * intervals.std(), 1000 * np.sqrt(np.mean(np.diff(intervals) ** 2))
    print(f"{name:28} {len(intervals):4} intervals, shortest {intervals.min():.2f} s, ", end="")
    print(f"{60 / intervals.mean():.1f} /min, SDNN {spread:.0f} ms, RMSSD {change:.0f} ms")
    return spread, change


def by_wfdb(**times):
    return ann2rr("record", "atr", format="s", **times)


right = show("between beats", between_beats)
wrong = show("ann2rr", by_wfdb())
late, early, long = by_wfdb(start_time=300), by_wfdb(stop_time=300), by_wfdb(start_time=0.79)
print(f"ann2rr, start_time=300         {len(late):3} intervals")
print(f"ann2rr, stop_time=300          {len(early):3} intervals, {early.sum():.0f} s in all")
show("ann2rr, start_time=0.79", long)
of_all = np.array_equal(by_wfdb(), np.diff(np.r_[0, annotations.sample]) / RATE)
print("ann2rr gives the steps between all annotations:", of_all)

by_length = len(late) == 0 and len(early) == BEATS + MARKS + 1 and long.min() > 0.79
if of_all and by_length and wrong[0] > 4 * right[0] and wrong[1] > 4 * right[1]:
    print("wfdb's ann2rr counts marks: still so")
else:
    sys.exit("wfdb's ann2rr counts marks: no longer so")
END
