#!/bin/sh
# ecg2dcm cuts leads of a WFDB record at the range of its smallest lead, and reads HL7 aECG in millivolts as microvolts.
#
# Versions: ecg2dcm 1.3.1, pydicom 2.4.5, wfdb 4.3.1, numpy 2.4.6, pandas 3.1.1; Python 3.11.
#
# `ecg2dcm` turns records of other formats into DICOM waveforms of one scale for all leads.
#
# One would guess that each lead keeps its voltages to within a step, or that the record is refused.
#
# What happens: the scale of all leads is the finest of them, and what does not fit in 16 bits of it is cut off. A WFDB
# record that `wfdb.wrsamp` wrote without gains, which is its default, has a scale for each lead that just holds it: all
# R waves come out as high as the lowest. Of HL7 aECG the scale of the last lead is taken for all, its unit is not
# looked at, and the origin is left out. The library's own check of the files finds nothing.
#
# Output seen (R in mV):
#                                              I       II      V1      V4      V6
#     in truth                                 0.20    1.50    0.30    2.00    1.10
#     WFDB, 1000 steps for a mV everywhere     0.20    1.50    0.30    2.00    1.10
#     WFDB, gains chosen by wfdb               0.10    0.10    0.10    0.10    0.10
#     aECG, scale of 5 uV                      0.20    1.50    0.30    2.00    1.10
#     aECG, scale of 0.005 mV                  0.00    0.00    0.00    0.00    0.00
#     aECG, 2.5 uV for the limb leads, else 5  0.40    3.00    0.30    2.00    1.10
#     aECG, all leads from an origin of -1 mV  1.20    2.50    1.30    3.00    2.10
#     faults that check_iod_constraints finds: 0
#     ecg2dcm changes voltages: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ecg2dcm==1.3.1 pydicom==2.4.5 wfdb==4.3.1 \
  numpy==2.4.6 pandas==3.1.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import datetime
import pathlib
import sys

import ecg2dcm
import numpy as np
import pydicom
import wfdb

RATE, SHOWN = 500, ["I", "II", "V1", "V4", "V6"]
HEIGHTS = {"I": 0.2, "II": 1.5, "V1": 0.3, "V2": 0.8, "V3": 1.2, "V4": 2.0, "V5": 1.6, "V6": 1.1}  # mV
DERIVED = {"III": 1.3, "aVR": -0.85, "aVL": -0.55, "aVF": 1.4}
wave = np.exp(-(((np.arange(10 * RATE) / RATE % 0.8 - 0.4) / 0.02) ** 2) / 2)


def write_wfdb(**options):
    heights = HEIGHTS | DERIVED
    signal = wave[:, None] * np.array(list(heights.values()))
    day, hour = datetime.date(2024, 5, 1), datetime.time(12)
    names, formats = list(heights), ["16"] * len(heights)
    wfdb.wrsamp("record", RATE, ["mV"] * 12, names, signal, fmt=formats, base_date=day, base_time=hour, **options)
    return "record.hea"


def write_aecg(scale=5.0, unit="uV", limb_scale=None, origin=0):
    """All voltages are whole steps from the origin; a unit of mV is a thousand uV."""
    in_microvolts = {"uV": 1, "mV": 1000}[unit]

    def sequence(code, value):
        return f"<component><sequence><code code='{code}'/>{value}</sequence></component>"

    text = sequence("TIME_ABSOLUTE", "<value><head value='20240501120000'/><increment value='0.002' unit='s'/></value>")
    for lead, height in HEIGHTS.items():
        step = limb_scale if limb_scale and lead in ("I", "II") else scale
        digits = np.round((1000 * height * wave - origin) / (step * in_microvolts)).astype(int)
        text += sequence(
            f"MDC_ECG_LEAD_{lead}",
            f"<value><origin value='{origin / in_microvolts:g}' unit='{unit}'/><scale value='{step:g}' unit='{unit}'/>"
            f"<digits>{' '.join(map(str, digits))}</digits></value>",
        )
    series = f"<series><code code='RHYTHM'/><component><sequenceSet>{text}</sequenceSet></component></series>"
    pathlib.Path("record.xml").write_text(
        f"<AnnotatedECG xmlns='urn:hl7-org:v3'><component>{series}</component></AnnotatedECG>"
    )
    return "record.xml"


def through_dicom(name, path):
    """Prints and gives the heights of the leads that are shown, in mV; counts what the check of the file finds."""
    file = ecg2dcm.build(ecg2dcm.parse(path), index=1, deidentify_record=True)
    faults.extend(ecg2dcm.check_iod_constraints(file))
    file.save_as("record.dcm", write_like_original=False)
    file = pydicom.dcmread("record.dcm")
    channels = file.WaveformSequence[0].ChannelDefinitionSequence
    assert {channel.ChannelSensitivityUnitsSequence[0].CodeValue for channel in channels} == {"uV"}
    leads = [channel.ChannelSourceSequence[0].CodeMeaning.removeprefix("Lead ") for channel in channels]
    heights = dict(zip(leads, file.waveform_array(0).max(axis=0) / 1000, strict=True))
    return show(name, [round(float(heights[lead]), 2) for lead in SHOWN])


def show(name, heights):
    print(f"{name:40} " + "    ".join(f"{height:.2f}" for height in heights))
    return heights


faults = []
print(f"{'':40} " + "".join(f"{lead:8}" for lead in SHOWN).rstrip())
truth = show("in truth", [HEIGHTS[lead] for lead in SHOWN])
found = [
    through_dicom("WFDB, 1000 steps for a mV everywhere", write_wfdb(adc_gain=[1000] * 12, baseline=[0] * 12)),
    through_dicom("WFDB, gains chosen by wfdb", write_wfdb()),
    through_dicom("aECG, scale of 5 uV", write_aecg()),
    through_dicom("aECG, scale of 0.005 mV", write_aecg(0.005, "mV")),
    through_dicom("aECG, 2.5 uV for the limb leads, else 5", write_aecg(limb_scale=2.5)),
    through_dicom("aECG, all leads from an origin of -1 mV", write_aecg(origin=-1000)),
]
print(f"faults that check_iod_constraints finds: {len(faults)}")
right = [heights == truth for heights in found]
if right == [True, False, True, False, False, False] and max(found[1]) <= 0.11 and not faults:
    print("ecg2dcm changes voltages: still so")
else:
    sys.exit("ecg2dcm changes voltages: no longer so")
END
