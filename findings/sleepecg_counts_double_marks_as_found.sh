#!/bin/sh
# `compare_heartbeats` of sleepecg gives a detector that marks each beat twice no false positive.
#
# Versions: sleepecg 0.6.0, wfdb 4.3.1, numpy 2.4.6; Python 3.11.
#
# A detector of heartbeats is judged by its marks that have a reference beat within, say, 100 ms (true positives), those
# that have none (false positives), and the beats without a mark (false negatives). A typical fault is two marks for one
# beat: R and S, or both R of a bundle branch block.
#
# One would guess that a beat makes one mark true, and that the second is a false positive, as in the standards for such
# comparisons (ANSI/AAMI EC57) and in `wfdb`.
#
# What happens: each mark is looked at by itself, each that is near enough to any beat is a true positive. A detector
# that marks R and S of all beats has 198 true positives of 99 beats, and a precision of 1; `wfdb` gives .5. Detectors
# that are chosen by these numbers give wrong rates and wrong variability of rates.
#
# Output seen:
#     99 beats of 75 /min             sleepecg                 wfdb
#                             marks   TP   FP   FN   precision TP   FP   FN   precision
#     each beat once             99     99    0    0   1.000     99    0    0   1.000
#     R and S of each           198    198    0    0   1.000     99   99    0   0.500
#     R and S of every fifth    119    119    0    0   1.000     99   20    0   0.832
#     sleepecg counts double marks as found: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sleepecg==0.6.0 wfdb==4.3.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys

import numpy as np
from sleepecg import compare_heartbeats
from wfdb.processing import compare_annotations

FS = 250
DISTANCE = FS // 10  # 100 ms
beats = np.arange(FS, 80 * FS, FS * 60 // 75)


def both(name, marks):
    """Prints and gives true positives, false positives and false negatives, of sleepecg and of wfdb."""
    ours = tuple(len(part) for part in compare_heartbeats(marks, beats, DISTANCE))
    paired = compare_annotations(beats, marks, DISTANCE)
    theirs = paired.tp, paired.fp, paired.fn
    texts = [f"{tp:4} {fp:4} {fn:4}   {tp / (tp + fp):.3f}   " for tp, fp, fn in (ours, theirs)]
    print(f"{name:24} {len(marks):4}   {''.join(texts).rstrip()}")
    return ours, theirs


print(f"{len(beats)} beats of 75 /min             sleepecg                 wfdb")
print("                        marks   TP   FP   FN   precision TP   FP   FN   precision")
once = both("each beat once", beats + 2)
twice = both("R and S of each", np.sort(np.concatenate([beats, beats + 15])))
fifth = both("R and S of every fifth", np.sort(np.concatenate([beats, beats[::5] + 15])))
number = len(beats)
if (
    once == ((number, 0, 0),) * 2
    and twice == ((2 * number, 0, 0), (number, number, 0))
    and fifth[0][1:] == (0, 0)
    and fifth[1][1] == len(beats[::5])
):
    print("sleepecg counts double marks as found: still so")
else:
    sys.exit("sleepecg counts double marks as found: no longer so")
END
