#!/bin/sh
# pyedflib cuts voltages towards digital zero when it writes: small waves vanish, all others shrink.
#
# Versions: pyedflib 0.1.42, edfio 0.4.18, numpy 2.4.6; Python 3.11.
#
# EDF stores whole numbers, so a writer must choose one for each voltage.
#
# One would guess that it is the nearest, and that the error is half of a step at most and zero in the mean.
#
# What happens with `EdfWriter.writeSamples`: the fraction is cut off. The error is up to a whole step, always towards
# zero, and everything between -1 and 1 step becomes 0: with steps of 5 uV a wave of 4.9 uV is gone. edfio rounds.
# Whoever tests a reader with files of pyedflib sees errors that are the writer's.
#
# Output seen:
#     pyedflib: error towards zero 0.00 to 1.00 steps, mean 0.50; a wave of 0.98 steps comes back with 0.00
#     edfio: error towards zero -0.50 to 0.50 steps, mean 0.00; a wave of 0.98 steps comes back with 1.00
#     pyedflib cuts when it writes: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyedflib==0.1.42 edfio==0.4.18 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import edfio
import numpy as np
import pyedflib

RATE, STEP = 500, 5.0  # Hz, uV
PHYSICAL, DIGITAL = (-10240, 10235), (-2048, 2047)


def by_pyedflib(values):
    header = {"label": "I", "dimension": "uV", "sample_frequency": RATE, "transducer": "", "prefilter": ""}
    header |= {"physical_min": PHYSICAL[0], "physical_max": PHYSICAL[1]}
    writer = pyedflib.EdfWriter("file.edf", 1)
    writer.setSignalHeader(0, header | {"digital_min": DIGITAL[0], "digital_max": DIGITAL[1]})
    writer.writeSamples([values])
    writer.close()


def by_edfio(values):
    signal = edfio.EdfSignal(
        values, RATE, label="I", physical_dimension="uV", physical_range=PHYSICAL, digital_range=DIGITAL
    )
    edfio.Edf([signal]).write("file.edf")


def steps_stored(write, steps):
    write(steps * STEP)
    return edfio.read_edf("file.edf").signals[0].data / STEP


voltages = np.random.default_rng(0).uniform(-200, 200, 20 * RATE)
wave = 0.98 * np.sin(2 * np.pi * 7 * np.arange(10 * RATE) / RATE)
seen = {}
for write in (by_pyedflib, by_edfio):
    name = write.__name__.removeprefix("by_")
    error = (voltages - steps_stored(write, voltages)) * np.sign(voltages)
    height = abs(steps_stored(write, wave)).max()
    seen[name] = (error.max(), error.mean(), height)
    print(
        f"{name}: error towards zero {error.min():.2f} to {error.max():.2f} steps, mean {abs(error.mean()):.2f}; "
        f"a wave of 0.98 steps comes back with {height:.2f}"
    )
cuts = seen["pyedflib"][0] > 0.9 and seen["pyedflib"][1] > 0.45 and seen["pyedflib"][2] < 0.01
rounds = seen["edfio"][0] < 0.501 and abs(seen["edfio"][1]) < 0.05 and seen["edfio"][2] > 0.99
if cuts and rounds:
    print("pyedflib cuts when it writes: still so")
else:
    sys.exit("pyedflib cuts when it writes: no longer so")
END
