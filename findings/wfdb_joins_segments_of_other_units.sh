#!/bin/sh
# wfdb gives segments in microvolts as millivolts, a thousand times too high, where others are in millivolts.
#
# Versions: wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# A WFDB record may consist of segments, each with a header of its own: with its own gains, and its own units, as when a
# monitor's export was changed in the middle. `wfdb.rdrecord(m2s=True)`, the default, joins them into one record.
#
# One would guess that the voltages come in one unit, or that such a record is refused.
#
# What happens: the numbers of the segments are put end to end as they are. Where the layout is fixed, `units` then says
# what the first segment has; where it is variable, `units` is None. A wave of 1 mV in both halves is 1 in the first and
# 1000 in the second, and nothing warns. The header of each segment is right, and read alone each is right.
#
# Output seen:
#     fixed layout: units ['mV', 'mV'], a wave of 1 mV is 1 high in the first segment and 1000 in the second
#     variable layout: units None, a wave of 1 mV is 1 high in the first segment and 1000 in the second
#     warnings: 0
#     the second segment alone: units ['uV', 'uV'], 1000 high
#     wfdb joins segments of other units: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wfdb==4.3.1 numpy==2.4.6 pandas==3.1.1
cd "$folder"
venv/bin/python - <<'END'
import pathlib
import sys
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pandas, while its tables are made
    import wfdb

import numpy as np

RATE, SAMPLES, LEADS = 500, 2500, ["I", "II"]
wave = np.round(1000 * np.sin(2 * np.pi * np.arange(SAMPLES) / RATE)).astype(int)  # 1 mV, in microvolts
for name, unit, gain in (("first", "mV", 1000.0), ("second", "uV", 1.0)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wfdb.wrsamp(
            name,
            fs=RATE,
            units=[unit] * 2,
            sig_name=LEADS,
            d_signal=np.stack([wave, wave], axis=1),
            fmt=["16"] * 2,
            adc_gain=[gain] * 2,
            baseline=[0] * 2,
        )
segments = f"first {SAMPLES}\nsecond {SAMPLES}\n"
pathlib.Path("fixed.hea").write_text(f"fixed/2 2 {RATE} {2 * SAMPLES}\n{segments}")
channels = "".join(f"~ 0 1000/mV 0 0 0 0 0 {lead}\n" for lead in LEADS)
pathlib.Path("layout.hea").write_text(f"layout 2 {RATE} 0\n{channels}")
pathlib.Path("variable.hea").write_text(f"variable/3 2 {RATE} {2 * SAMPLES}\nlayout 0\n{segments}")

right, count = True, 0
for name, units in (("fixed", ["mV", "mV"]), ("variable", None)):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = wfdb.rdrecord(name)
    count += len([warning for warning in caught if "Pandas" not in warning.category.__name__])
    halves = [float(np.abs(part).max()) for part in np.split(record.p_signal, 2)]
    print(
        f"{name} layout: units {record.units}, a wave of 1 mV is {halves[0]:g} high in the first segment and "
        f"{halves[1]:g} in the second"
    )
    right = right and record.units == units and halves == [1, 1000]
print(f"warnings: {count}")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    alone = wfdb.rdrecord("second")
print(f"the second segment alone: units {alone.units}, {np.abs(alone.p_signal).max():g} high")
if right and count == 0 and alone.units == ["uV", "uV"]:
    print("wfdb joins segments of other units: still so")
else:
    sys.exit("wfdb joins segments of other units: no longer so")
END
