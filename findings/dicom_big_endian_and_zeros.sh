#!/bin/sh
# Two readers of DICOM waveforms disagree: one leaves big endian as it is, the other takes zeros out of the ECG.
#
# Versions: pydicom 3.0.2, ecgdatakit 2.0.3, numpy 2.4.6; Python 3.11.
#
# A DICOM waveform may be stored in big endian (a transfer syntax that was retired in 2006, and is in archives), and may
# state a padding value for samples that were not recorded. Some recorders write 0 there and pad nothing.
#
# One would guess that `Dataset.waveform_array` swaps the bytes, as `pixel_array` does, or refuses; and that a flat zero
# within an ECG is 0 uV in every reader.
#
# What happens: pydicom swaps each number of the header and not the samples, without a warning; 100 becomes 25,600.
# ecgdatakit swaps them, but makes NaN of each sample that equals a padding value of 0, wherever a lead crosses zero.
#
# Output seen:
#     stored            I [0, 256, 1000, 7], II [100, -1, 0, -100]
#     little endian     pydicom I [0, 256, 1000, 7], II [100, -1, 0, -100]
#                       ecgdatakit I [0, 256, 1000, 7], II [100, -1, 0, -100]
#     big endian        pydicom I [0, 1, -6141, 1792], II [25600, -1, 0, -25345]
#                       ecgdatakit I [0, 256, 1000, 7], II [100, -1, 0, -100]
#     padding value 0   pydicom I [0, 256, 1000, 7], II [100, -1, 0, -100]
#                       ecgdatakit I [nan, 256, 1000, 7], II [100, -1, nan, -100]
#     pydicom leaves big endian, ecgdatakit takes zeros out: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 ecgdatakit==2.0.3 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
import pydicom
from ecgdatakit import FileParser
from pydicom.dataset import Dataset, FileMetaDataset

STORED = {"I": [0, 256, 1000, 7], "II": [100, -1, 0, -100]}
LITTLE, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
STORAGE = "1.2.840.10008.5.1.4.1.1.9.1.1"


def dataset(**elements):
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def write(name, syntax, padding=None):
    """A 12-lead ECG object of two leads of 1 uV a step."""
    dtype = "<i2" if syntax == LITTLE else ">i2"
    unit = dataset(CodeValue="uV", CodingSchemeDesignator="UCUM", CodeMeaning="microvolt")
    channels = [
        dataset(
            ChannelSourceSequence=[
                dataset(CodeValue=f"5.6.3-9-{number}", CodingSchemeDesignator="SCPECG", CodeMeaning=f"Lead {lead}")
            ],
            ChannelSensitivity="1",
            ChannelSensitivityUnitsSequence=[unit],
            ChannelSensitivityCorrectionFactor="1",
            ChannelBaseline="0",
            WaveformBitsStored=16,
        )
        for number, lead in enumerate(STORED, start=1)
    ]
    group = dataset(
        WaveformOriginality="ORIGINAL",
        NumberOfWaveformChannels=2,
        NumberOfWaveformSamples=4,
        SamplingFrequency="500",
        ChannelDefinitionSequence=channels,
        WaveformBitsAllocated=16,
        WaveformSampleInterpretation="SS",
        WaveformData=np.array(list(STORED.values())).T.astype(dtype).tobytes(),
    )
    group["WaveformData"].VR = "OW"
    if padding is not None:
        group.WaveformPaddingValue = np.array(padding, dtype).tobytes()
        group["WaveformPaddingValue"].VR = "OW"
    file = dataset(SOPClassUID=STORAGE, SOPInstanceUID="1.2.3", WaveformSequence=[group])
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID, file.file_meta.MediaStorageSOPInstanceUID = STORAGE, "1.2.3"
    file.save_as(name, enforce_file_format=True)


def by_pydicom(name):
    return dict(zip(STORED, pydicom.dcmread(name).waveform_array(0).T, strict=True))


def by_ecgdatakit(name):
    return {lead.label: np.asarray(lead.samples) * 1000 for lead in FileParser().parse(name).leads}  # in mV


def show(label, leads):
    print(label + ", ".join(f"{lead} [{', '.join(f'{value:.0f}' for value in values)}]" for lead, values in leads.items()))


def is_stored(leads):
    return all(np.allclose(leads[lead], values) for lead, values in STORED.items())


show("stored            ", STORED)
right = {}
for case, name, arguments in [
    ("little endian", "little.dcm", (LITTLE,)),
    ("big endian", "big.dcm", (BIG,)),
    ("padding value 0", "padded.dcm", (LITTLE, 0)),
]:
    write(name, *arguments)
    first, second = by_pydicom(name), by_ecgdatakit(name)
    show(f"{case:18}pydicom ", first)
    show(f"{'':18}ecgdatakit ", second)
    right[case] = (is_stored(first), is_stored(second))
if right == {"little endian": (True, True), "big endian": (False, True), "padding value 0": (True, False)}:
    print("pydicom leaves big endian, ecgdatakit takes zeros out: still so")
else:
    sys.exit("pydicom leaves big endian, ecgdatakit takes zeros out: no longer so")
END
