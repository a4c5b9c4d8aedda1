"""EDF, BDF, DICOM, MUSE XML and HL7 aECG: files are laid out from the formats' specifications, or by other writers."""

import base64
import itertools
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import wfdb
from wfdb.io.convert.edf import wfdb_to_edf

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.wfdb_ecg_transformer import RecordError
from ecg_hf.readers import read_ecg
from ecg_hf.readers.channels import Said
from ecg_hf.readers.reading import read_leads

edfio = pytest.importorskip("edfio")
pydicom = pytest.importorskip("pydicom")
pytest.importorskip("defusedxml")

PATIENT = "DOE^JOHN"
"""Stands in each file; no message may tell it."""


def read(path, **said):
    """The record of a file, whose format is recognised."""
    return read_leads(path, Said(**said))


def read_error(path, **said):
    with pytest.raises(RecordError) as caught:
        read(path, **said)
    message = str(caught.value)
    assert "DOE" not in message and "JOHN" not in message
    assert caught.value.__cause__ is None
    return message


@pytest.fixture(scope="module")
def digital():
    """Stored values of twelve leads, both ends of a 12-bit range among them."""
    values = np.random.default_rng(1).integers(-2048, 2048, (12, 1000))
    values[:, :2] = -2048, 2047
    return values


# EDF and BDF


def edf_bytes(channels, duration="1", *, bdf=False, reserved="", records=None, **fields):
    """EDF or BDF byte by byte; channels are (label, unit, physical range, digital range, samples (records, samples)).

    Samples may be bytes, one string for each record. `fields` replaces those of the file's header.
    """
    signals = [
        (*channel[:4], channel[4] if isinstance(channel[4], list) else np.asarray(channel[4])) for channel in channels
    ]
    width = 3 if bdf else 2
    lengths = [len(s[4][0]) // width if isinstance(s[4], list) else s[4].shape[1] for s in signals]
    header = {
        "version": b"\xffBIOSEMI" if bdf else "0",
        "patient": f"X M X {PATIENT}",
        "recording": "Startdate 01-JAN-2001 X X X",
        "date": "01.01.01",
        "time": "00.00.00",
        "header_bytes": 256 * (len(signals) + 1),
        "reserved": reserved,
        "records": len(signals[0][4]) if records is None else records,
        "duration": duration,
        "signals": len(signals),
    } | fields
    widths = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
    data = b"".join(field(value, size) for value, size in zip(header.values(), widths, strict=True))
    columns = [[s[0] for s in signals], [""] * len(signals), [s[1] for s in signals]]
    columns += [[s[i][j] for s in signals] for i in (2, 3) for j in (0, 1)]
    columns += [[""] * len(signals), lengths, [""] * len(signals)]
    for column, size in zip(columns, (16, 80, 8, 8, 8, 8, 8, 80, 8, 32), strict=True):
        data += b"".join(field(value, size) for value in column)
    for index in range(len(signals[0][4])):
        data += b"".join(stored(signal[4][index], width) for signal in signals)
    return data


def field(value, size):
    value = value if isinstance(value, bytes) else str(value).encode("latin-1")
    assert len(value) <= size
    return value.ljust(size)


def stored(values, width):
    if isinstance(values, bytes):
        return values
    return b"".join(int(value).to_bytes(width, "little", signed=True) for value in values)


def write(folder, data, name="rec.edf"):
    path = folder / name
    path.write_bytes(data)
    return path


def twelve(digital, records=10, unit="uV", physical=(-5000, 4997.5)):
    """Twelve signals of 12 bits, 2.441 µV a step."""
    return [
        (f"ECG {name}", unit, physical, (-2048, 2047), values.reshape(records, -1))
        for name, values in zip(LEAD_NAMES, digital, strict=True)
    ]


@pytest.mark.parametrize("bdf", [False, True])
def test_edf_gives_what_was_stored(tmp_path, digital, bdf):
    signals = twelve(digital)
    signals[3] = (*signals[3][:2], (4997.5, -5000), *signals[3][3:])  # inverted
    signals[4] = ("aVL", b"\xb5V", (0, 8190), (0, 4095), digital[4].reshape(10, -1) + 2048)  # Latin-1, no middle
    signals[5] = ("avf", b"\xc2\xb5V", *signals[5][2:])  # UTF-8
    pulse = ("Pulse", "bpm", (0, 0), (0, 0), np.zeros((10, 7)))  # another rate, no range
    notes = (
        f"{'BDF' if bdf else 'EDF'} Annotations",
        "",
        (-1, 1),
        (-32768, 32767),
        [b"+0\x14\x14".ljust(24, b"\0")] * 10,
    )
    data = edf_bytes([pulse, *signals, notes], "0.2", bdf=bdf, reserved="BDF+C" if bdf else "EDF+C")
    record = read(write(tmp_path, data))
    step = 9997.5 / 4095
    expected = (digital + 2048) * step - 5000
    expected[3] = 4997.5 - (digital[3] + 2048) * step
    expected[4] = (digital[4] + 2048) * 2.0
    assert record.lead_names == LEAD_NAMES and record.sampling_rate == 500 and record.other_channels == ("Pulse",)
    assert record.signal.dtype == np.int16 and np.abs(record.signal - expected).max() <= 0.5


def test_bdf_has_24_bits(tmp_path):
    values = np.array([[-(2**23), -1, 0, 1, 2**23 - 1]])
    signals = [("I", "uV", (-262144, 262143), (-(2**23), 2**23 - 1), values // 16)]  # as BioSemi writes them
    record = read(write(tmp_path, edf_bytes(signals, bdf=True)), lead_names=("I",))
    assert record.signal.dtype == np.float32 and record.sampling_rate == 5
    step = 524287 / (2**24 - 1)
    np.testing.assert_allclose(record.signal[0], (values[0] // 16 + 2**23) * step - 262144, atol=step / 2)


@pytest.mark.parametrize("kind", ["Edf", "Bdf"])
def test_what_edfio_writes_is_read(tmp_path, digital, kind):
    microvolts = digital[::-1] * 1.7
    signals = [
        getattr(edfio, f"{kind}Signal")(values, 250, label=name, physical_dimension="uV", physical_range=(-4000, 4000))
        for name, values in zip(LEAD_NAMES, microvolts, strict=True)
    ]
    path = tmp_path / f"rec.{kind.lower()}"
    getattr(edfio, kind)(signals, annotations=[edfio.EdfAnnotation(1.0, None, PATIENT)]).write(path)
    record = read(path)
    assert record.lead_names == LEAD_NAMES and record.sampling_rate == 250 and not record.other_channels
    step = 8000 / 65535 if kind == "Edf" else 0.01  # float32 of ±4,000 has .0005
    assert record.signal.dtype == np.float32 and np.abs(record.signal - microvolts).max() <= step / 2 + 3e-4


@pytest.mark.parametrize(
    ("duration", "rate"), [("1", 100), ("0.3", 1000 / 3), ("2.5", 40), ("10", 10), ("1e-1", 1000)]
)
def test_the_rate_is_samples_by_duration(tmp_path, digital, duration, rate):
    assert read(write(tmp_path, edf_bytes(twelve(digital), duration))).sampling_rate == rate


def test_an_unknown_number_of_records_is_that_of_the_file(tmp_path, digital):
    data = edf_bytes(twelve(digital), records=-1)
    assert np.array_equal(
        read(write(tmp_path, data)).signal, read(write(tmp_path, edf_bytes(twelve(digital)), "b.edf")).signal
    )
    assert "cut" in read_error(write(tmp_path, data[:-1]))


@pytest.mark.parametrize("bdf", [False, True])
def test_an_interrupted_file_is_read_only_without_gaps(tmp_path, digital, bdf):
    kind = "BDF" if bdf else "EDF"

    def path(onsets):
        texts = [f"{onset}\x14\x14\0note\x14\0".encode().ljust(24, b"\0") for onset in onsets]
        notes = (f"{kind} Annotations", "", (-1, 1), (-32768, 32767), texts)
        signals = twelve(digital)
        return write(tmp_path, edf_bytes([*signals[:3], notes, *signals[3:]], "0.1", bdf=bdf, reserved=f"{kind}+D"))

    whole = [f"+{3 + index / 10}" for index in range(10)]
    assert read(path(whole)).signal.shape == (12, 1000)
    assert "before data record 8" in read_error(path([*whole[:7], "+4.5", *whole[8:]]))
    assert "data record 3 cannot be read" in read_error(path([*whole[:2], "soon", *whole[3:]]))
    without = edf_bytes(twelve(digital), "0.1", bdf=bdf, reserved=f"{kind}+D")
    assert "no annotations" in read_error(write(tmp_path, without))


def test_edf_that_wfdb_filled_up_is_refused(tmp_path, monkeypatch):
    """It writes one data record too many; findings/wfdb_to_edf_mixes_leads.sh."""
    rate, leads = 100, ["I", "II", "III"]
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(10 * rate, 3))
    wfdb.wrsamp("rec", rate, ["mV"] * 3, leads, values, fmt=["16"] * 3)
    wfdb_to_edf("rec")
    assert "the last 10 s of every lead are the lowest" in read_error("rec.edf")


def test_leads_of_edf_may_touch_the_end_of_their_range(tmp_path, digital):
    lowest = digital.copy()
    lowest[:, -49:] = -2048
    assert read(write(tmp_path, edf_bytes(twelve(lowest), "0.2"))).sampling_rate == 500
    lowest[:, -50] = -2048
    path = write(tmp_path, edf_bytes(twelve(lowest), "0.2"))
    assert "the last 0.1 s of every lead are the lowest" in read_error(path)
    lowest[3, -1] = 0
    assert read(write(tmp_path, edf_bytes(twelve(lowest), "0.2"))).signal.shape == (12, 1000)


def test_units_of_edf_are_the_files_or_the_callers(tmp_path, digital):
    path = write(tmp_path, edf_bytes(twelve(digital, unit="", physical=(-5, 4.9975))))
    assert "no unit" in read_error(path)
    assert np.abs(read(path, units="mV").signal).max() == 5000
    assert "must be V, mV" in read_error(write(tmp_path, edf_bytes(twelve(digital, unit="bpm"))))
    assert "`units` says mV" in read_error(write(tmp_path, edf_bytes(twelve(digital))), units="mV")


def test_leads_of_edf_have_one_rate_unless_they_are_not_wanted(tmp_path, digital):
    signals = twelve(digital)
    signals[11] = (*signals[11][:4], digital[11].reshape(10, -1)[:, :50])
    path = write(tmp_path, edf_bytes(signals))
    assert "ECG V6 50" in read_error(path)
    assert read(path, lead_names=("V1", "I")).lead_names == ("V1", "I")
    assert read(path, wanted=frozenset(LEAD_NAMES[:3])).lead_names == ("I", "II", "III")
    assert "lead I is there twice" in read_error(write(tmp_path, edf_bytes([signals[0], *signals[:2]])))
    assert "none of the leads" in read_error(write(tmp_path, edf_bytes([("EEG", *signals[0][1:])])))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duration": "0"}, "no sampling rate"),
        ({"duration": "-1"}, "no sampling rate"),
        ({"duration": "nan"}, "duration of a data record is no number"),
        ({"duration": "1e-999"}, "no sampling rate"),
        ({"duration": ""}, "is no number"),
        ({"duration": b"1  \xa0"}, "is no number"),
        ({"records": 9}, "cut or damaged"),
        ({"records": 11}, "cut or damaged"),
        ({"records": 99999999}, "cut or damaged"),
        ({"records": 0}, "cut or damaged"),
        ({"records": -2}, "cut or damaged"),
        ({"records": PATIENT}, "number of data records is no whole number"),
        ({"signals": 0}, "header has"),
        ({"signals": -1}, "header has"),
        ({"signals": 9999}, "header has"),
        ({"signals": 9999, "header_bytes": 2560000}, "header has"),
        ({"header_bytes": 256}, "header has"),
        ({"header_bytes": "1_000"}, "is no whole number"),
        ({"version": "1"}, "no known format"),
    ],
)
def test_a_header_of_edf_that_does_not_fit_is_refused(tmp_path, digital, fields, message):
    assert message in read_error(write(tmp_path, edf_bytes(twelve(digital), **fields)))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (((-5, 5), (7, 7)), "digital minimum"),
        (((-5, 5), (7, -7)), "digital minimum"),
        (((5, 5), (-7, 7)), "physical ones"),
        ((("nan", 5), (-7, 7)), "physical range of ECG V2 is no number"),
        (((-5, "1e999"), (-7, 7)), "physical range of ECG V2 is no number"),
        (((-5, 5), ("", 7)), "digital range of ECG V2 is no number"),
        ((("-5e9", "5e9"), (-7, 7)), "beyond"),
    ],
)
def test_a_lead_of_edf_without_a_range_is_refused_unless_it_is_not_wanted(tmp_path, digital, ranges, message):
    signals = twelve(digital)
    signals[7] = (*signals[7][:2], *ranges, signals[7][4])
    path = write(tmp_path, edf_bytes(signals))
    assert message in read_error(path)
    assert read(path, lead_names=("I", "II")).lead_names == ("I", "II")


@pytest.mark.parametrize("samples", [0, -5, "many", 99999999])
def test_an_impossible_number_of_samples_is_refused(tmp_path, digital, samples):
    data = edf_bytes(twelve(digital))
    at = 256 + 12 * 216
    assert data[at : at + 8] == b"100     "
    assert read_error(write(tmp_path, data[:at] + str(samples).encode().ljust(8) + data[at + 8 :]))


# DICOM

CODES = dict(zip(LEAD_NAMES, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))


def dataset(**elements):
    made = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def coded(scheme, value, meaning):
    return [dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def dicom_group(
    values, leads=LEAD_NAMES, *, dtype="<i2", kind="SS", scheme="SCPECG", unit="uV", channel=None, **elements
):
    """A multiplex group of `values` (leads, samples), 2 * 2.5 µV a step; None leaves an element out."""
    stems = {"SCPECG": "5.6.3-9-{}", "MDC": "2:{}"}
    definitions = []
    for lead in leads:
        source = coded(scheme, stems.get(scheme, "X{}").format(CODES.get(lead, 99)), f"Lead {lead} (Einthoven)")
        definition = {
            "ChannelSourceSequence": source,
            "ChannelSensitivity": "2.5",
            "ChannelSensitivityUnitsSequence": None if unit is None else coded("UCUM", unit, "unit"),
            "ChannelSensitivityCorrectionFactor": "2",
            "ChannelBaseline": "10",
            "ChannelSampleSkew": "0",
            "WaveformBitsStored": 8 * np.dtype(dtype).itemsize,
        } | (channel or {})
        definitions.append(dataset(**{key: value for key, value in definition.items() if value is not None}))
    data = values.T.astype(dtype).tobytes()
    group = {
        "MultiplexGroupTimeOffset": "0",
        "WaveformOriginality": "ORIGINAL",
        "NumberOfWaveformChannels": len(leads),
        "NumberOfWaveformSamples": values.shape[1],
        "SamplingFrequency": "500",
        "MultiplexGroupLabel": "RHYTHM",
        "ChannelDefinitionSequence": definitions,
        "WaveformBitsAllocated": 8 * np.dtype(dtype).itemsize,
        "WaveformSampleInterpretation": kind,
        "WaveformData": data + b"\0" * (len(data) % 2),
    } | elements
    return dataset(**{key: value for key, value in group.items() if value is not None})


def write_dicom(folder, *groups, syntax="1.2.840.10008.1.2.1", name="rec.dcm", **elements):
    storage = "1.2.840.10008.5.1.4.1.1.9.1.1"
    file = dataset(SOPClassUID=storage, SOPInstanceUID="1.2.3", PatientName=PATIENT, PatientID=PATIENT, **elements)
    if groups:
        file.WaveformSequence = list(groups)
    for group in groups:
        for keyword in ("WaveformData", "WaveformPaddingValue"):
            if keyword in group:
                group[keyword].VR = "OB" if group.WaveformBitsAllocated == 8 else "OW"
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, storage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.file_meta = meta
    file.save_as(folder / name, enforce_file_format=True)
    return folder / name


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
@pytest.mark.parametrize("scheme", ["SCPECG", "MDC", "LOCAL"])
def test_dicom_gives_what_was_stored_and_the_baseline_in_the_unit_of_the_sensitivity(
    tmp_path, digital, syntax, scheme
):
    order = ["V6", "aVR", "Pleth", "I", *(name for name in LEAD_NAMES if name not in ("V6", "aVR", "I"))]
    rows = [LEAD_NAMES.index(name) for name in order if name != "Pleth"]
    values = np.insert(digital[rows], 2, 7, axis=0)
    median = dicom_group(values[:, :40], order, WaveformOriginality="DERIVED", MultiplexGroupLabel="MEDIAN BEAT")
    path = write_dicom(tmp_path, median, dicom_group(values, order, scheme=scheme), syntax=syntax)
    record = read(path)
    assert record.lead_names == tuple(order[:2] + order[3:]) and record.sampling_rate == 500
    assert record.other_channels == ("Lead Pleth (Einthoven)",)
    assert record.signal.dtype == np.int16 and np.array_equal(record.signal, digital[rows] * 5 + 10)


@pytest.mark.parametrize(("kind", "dtype"), [("SS", "<i2"), ("US", "<u2"), ("SL", "<i4"), ("SB", "i1"), ("UB", "u1")])
def test_every_type_of_sample_in_every_unit(tmp_path, kind, dtype):
    limits = np.iinfo(dtype)
    values = np.array([[max(limits.min, -4000), 1, 2, min(limits.max, 4000)]])
    for unit, step in (("mV", 0.005), ("uV", 5), ("V", 5e-6)):
        channel = {
            "ChannelSensitivity": str(step),
            "ChannelSensitivityCorrectionFactor": None,
            "ChannelBaseline": None,
        }
        path = write_dicom(tmp_path, dicom_group(values, ["II"], dtype=dtype, kind=kind, unit=unit, channel=channel))
        assert np.array_equal(read(path).signal, values * 5), unit


def test_groups_of_one_rate_are_joined(tmp_path, digital):
    limb, chest = dicom_group(digital[:6], LEAD_NAMES[:6]), dicom_group(digital[6:], LEAD_NAMES[6:])
    record = read(write_dicom(tmp_path, limb, chest))
    assert record.lead_names == LEAD_NAMES and np.array_equal(record.signal, digital * 5 + 10)
    slow = dicom_group(digital[6:], LEAD_NAMES[6:], SamplingFrequency="250")
    assert "V1 250" in read_error(write_dicom(tmp_path, limb, slow))
    assert read(write_dicom(tmp_path, limb, slow), wanted=frozenset(["I", "II"])).sampling_rate == 500
    unknown = dicom_group(digital[6:], LEAD_NAMES[6:], SamplingFrequency=None)
    assert "V1 unknown" in read_error(write_dicom(tmp_path, limb, unknown))
    late = dicom_group(digital[6:], LEAD_NAMES[6:], MultiplexGroupTimeOffset="10")
    assert "do not start together: 5 samples" in read_error(write_dicom(tmp_path, limb, late))
    short = dicom_group(digital[6:, :-1], LEAD_NAMES[6:])
    assert "equally many samples" in read_error(write_dicom(tmp_path, limb, short))
    assert "lead I is there twice" in read_error(write_dicom(tmp_path, limb, limb))


@pytest.mark.parametrize(("mark", "is_missing"), [(-32768, True), (0, False), (5, False)])
def test_padding_counts_as_missing_only_if_it_cannot_be_a_voltage(tmp_path, digital, mark, is_missing):
    values = digital.copy()
    values[4, 10:13] = mark
    group = dicom_group(
        values,
        channel={"ChannelSensitivity": "1", "ChannelSensitivityCorrectionFactor": "1", "ChannelBaseline": "0"},
        WaveformPaddingValue=int(mark).to_bytes(2, "little", signed=True),
    )
    path = write_dicom(tmp_path, group)
    if is_missing:
        assert "lead aVL has missing samples (NaN): 3 of 1000" in read_error(path)
        assert read(path, lead_names=("I", "V1")).signal.shape == (2, 1000)
    else:
        assert np.array_equal(read(path).signal, values)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"WaveformSampleInterpretation": "MB", "dtype": "u1"}, "samples are of MB with 8 bits"),
        ({"WaveformSampleInterpretation": "AB", "dtype": "u1"}, "samples are of AB with 8 bits"),
        ({"WaveformSampleInterpretation": "SL"}, "samples are of SL with 16 bits"),
        ({"WaveformSampleInterpretation": None}, "samples are of None"),
        ({"WaveformOriginality": "DERIVED"}, "none of its 1 waveforms is ORIGINAL"),
        ({"WaveformOriginality": None}, "none of its 1 waveforms is ORIGINAL"),
        ({"MultiplexGroupLabel": "MEDIAN BEAT"}, "derived beats"),
        ({"NumberOfWaveformChannels": 11}, "states 1000 samples of 11 channels"),
        ({"NumberOfWaveformSamples": 2**32 - 1}, "cut or damaged"),
        ({"NumberOfWaveformSamples": 999}, "cut or damaged"),
        ({"NumberOfWaveformSamples": 0}, "cut or damaged"),
        ({"NumberOfWaveformSamples": None}, "lacks its number of samples"),
        ({"WaveformData": None}, "or its data"),
        ({"WaveformData": b""}, "data"),
        ({"ChannelDefinitionSequence": None}, "no ChannelDefinitionSequence"),
        ({"SamplingFrequency": None}, "does not state its sampling rate"),
        ({"SamplingFrequency": "0"}, "sampling rate is 0"),
        ({"channel": {"ChannelSensitivity": None}}, "has no sensitivity"),
        ({"channel": {"ChannelSensitivity": "0"}}, "has no sensitivity"),
        ({"channel": {"ChannelSensitivityCorrectionFactor": "0"}}, "has no sensitivity"),
        ({"channel": {"ChannelBaseline": "1e30"}}, "beyond"),
        ({"channel": {"ChannelSourceSequence": None}}, "none of the leads"),
        ({"unit": None}, "no unit"),
        ({"unit": "mm[Hg]"}, "must be V, mV"),
    ],
)
def test_a_waveform_that_is_no_ecg_is_refused(tmp_path, digital, elements, message):
    assert message in read_error(write_dicom(tmp_path, dicom_group(digital, **elements)))


def test_what_dicom_does_not_say_the_caller_may(tmp_path, digital):
    path = write_dicom(tmp_path, dicom_group(digital, unit=None, SamplingFrequency=None))
    record = read(path, units="uV", sampling_rate=500)
    assert record.sampling_rate == 500 and np.array_equal(record.signal, digital * 5 + 10)


def test_a_code_counts_more_than_its_meaning(tmp_path, digital):
    group = dicom_group(digital[:1], ["I"])
    group.ChannelDefinitionSequence[0].ChannelSourceSequence[0].CodeMeaning = "Lead V4"
    assert read(write_dicom(tmp_path, group)).lead_names == ("I",)
    group.ChannelDefinitionSequence[0].ChannelSourceSequence[0].CodeValue = "5.6.3-9-11"  # V3R
    assert "none of the leads" in read_error(write_dicom(tmp_path, group))


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.2", "Big Endian"), ("1.2.840.10008.1.2.1.99", "Deflated"), ("1.2.840.10008.1.2.5", "RLE")],
)
def test_other_transfer_syntaxes_are_refused_by_name(tmp_path, digital, syntax, name):
    if name == "RLE":  # pydicom encapsulates only pixels: the syntax alone is changed
        path = write_dicom(tmp_path, dicom_group(digital))
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1))
    else:
        path = write_dicom(tmp_path, dicom_group(digital), syntax=syntax)
    message = read_error(path)
    assert "transfer syntax" in message and name in message


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_transfer_syntax_that_is_none_is_not_told(tmp_path, digital):
    path = write_dicom(tmp_path, dicom_group(digital))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", PATIENT.encode().ljust(20), 1))
    assert "transfer syntax is missing or not known" in read_error(path)


def test_dicom_without_waveforms_is_refused(tmp_path):
    assert "no WaveformSequence" in read_error(write_dicom(tmp_path))
    assert "transfer syntax is missing or not known" in read_error(write(tmp_path, b"\0" * 128 + b"DICM", "rec.dcm"))
    damaged = b"\0" * 128 + b"DICM\2\0\0\0UL\3\0abc"
    assert "meta information cannot be read" in read_error(write(tmp_path, damaged, "rec.dcm"))


def test_the_ecg_that_comes_with_pydicom_is_read(tmp_path):
    path = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    if path is None:
        pytest.skip("pydicom was installed without its test files")
    record = read_ecg(path)
    assert record.lead_names == LEAD_NAMES and record.sampling_rate == 1000 and record.signal.shape == (12, 10000)
    expected = pydicom.dcmread(path).waveform_array(0).T  # 1.25 µV a step
    assert np.abs(record.signal - expected).max() <= 0.5
    limbs = record.signal[:6].astype(int)
    assert np.abs(limbs[0] + limbs[2] - limbs[1]).max() <= 4  # Einthoven's law, up to rounding


# GE MUSE XML

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def muse_lead(name, values, *, per_bit="4.88", unit="MICROVOLTS", data=None, **fields):
    data = values.astype("<i2").tobytes() if data is None else data
    fields = {
        "LeadByteCountTotal": len(data),
        "LeadTimeOffset": 0,
        "LeadSampleCountTotal": len(data) // 2,
        "LeadAmplitudeUnitsPerBit": per_bit,
        "LeadAmplitudeUnits": unit,
        "LeadID": name,
        "LeadOffsetFirstSample": 0,
        "LeadSampleSize": 2,
        "LeadDataCRC32": zlib.crc32(data),
        "WaveFormData": "\n" + base64.encodebytes(data).decode(),
    } | fields
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items() if value is not None)
    return f"<LeadData>{inside}</LeadData>"


def muse_waveform(leads, kind="Rhythm", base=500, exponent=0):
    fields = {"WaveformType": kind, "SampleBase": base, "SampleExponent": exponent}
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items() if value is not None)
    return f"<Waveform>{inside}{''.join(leads)}</Waveform>"


def write_muse(
    folder, *waveforms, doctype='<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', root="RestingECG", name="rec.xml"
):
    patient = f"<PatientDemographics><PatientLastName>{PATIENT}</PatientLastName></PatientDemographics>"
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n{doctype}\n<{root}>{patient}{"".join(waveforms)}</{root}>'
    return write(folder, text.encode("latin-1"), name)


def muse_leads(digital, **fields):
    return [muse_lead(name, digital[LEAD_NAMES.index(name)], **fields) for name in EIGHT]


def test_muse_gives_the_rhythm_and_not_the_median(tmp_path, digital):
    median = muse_waveform(muse_leads(digital[:, :300]), "Median")
    record = read(write_muse(tmp_path, median, muse_waveform(muse_leads(digital))))
    assert record.lead_names == EIGHT and record.sampling_rate == 500 and not record.other_channels
    expected = digital[[LEAD_NAMES.index(name) for name in EIGHT]] * 4.88
    assert record.signal.dtype == np.int16 and np.abs(record.signal - expected).max() <= 0.5


def test_muse_may_have_a_decimal_comma_an_exponent_and_more_leads(tmp_path, digital):
    leads = [
        muse_lead(name, values, per_bit="0,00488", unit="mV") for name, values in zip(LEAD_NAMES, digital, strict=True)
    ]
    extra = muse_lead("V3R", digital[0, :5], LeadDataCRC32=5)
    record = read(write_muse(tmp_path, muse_waveform([*leads, extra], base=25, exponent=1)))
    assert record.lead_names == LEAD_NAMES and record.sampling_rate == 250 and record.other_channels == ("V3R",)
    assert np.abs(record.signal - digital * 4.88).max() <= 0.5
    assert read(write_muse(tmp_path, muse_waveform(leads, base=5000, exponent=-1))).sampling_rate == 500


def test_what_muse_does_not_say_the_caller_may(tmp_path, digital):
    path = write_muse(tmp_path, muse_waveform(muse_leads(digital, unit=None), base=None))
    assert "sampling_rate" in read_error(path, units="uV") and "no unit" in read_error(path, sampling_rate=500)
    assert read(path, units="uV", sampling_rate=500).signal.shape == (8, 1000)
    checked = ("LeadDataCRC32", "LeadSampleSize", "LeadByteCountTotal", "LeadSampleCountTotal")
    path = write_muse(tmp_path, muse_waveform(muse_leads(digital, **dict.fromkeys(checked))))
    assert read(path).signal.shape == (8, 1000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"LeadDataCRC32": 1}, "lead II has the LeadDataCRC32"),
        ({"LeadSampleCountTotal": 999}, "LeadSampleCountTotal 1000, not 999"),
        ({"LeadByteCountTotal": 10**15}, "LeadByteCountTotal 2000, not"),
        ({"LeadSampleSize": 1}, "LeadSampleSize 2, not 1"),
        ({"LeadSampleSize": "two"}, "LeadSampleSize of lead II is no whole number"),
        ({"WaveFormData": "not base64!"}, "not base64"),
        ({"WaveFormData": None}, "has the LeadByteCountTotal 0"),
        ({"data": b"\1\2\3"}, "3 bytes"),
        ({"data": b"\1\2"}, "equally many samples"),
        ({"per_bit": None}, "lead II has no LeadAmplitudeUnitsPerBit"),
        ({"per_bit": "0"}, "lead II has no LeadAmplitudeUnitsPerBit"),
        ({"per_bit": "nan"}, "LeadAmplitudeUnitsPerBit of lead II is no number"),
        ({"per_bit": "1,000,5"}, "LeadAmplitudeUnitsPerBit of lead II is no number"),
        ({"per_bit": "5000"}, "beyond"),
        ({"unit": "PERCENT"}, "must be V, mV"),
        ({"LeadTimeOffset": 4}, "do not start together"),
        ({"LeadID": "I"}, "lead I is there twice"),
        ({"LeadID": None}, "LeadData has"),
    ],
)
def test_a_damaged_lead_of_muse_is_refused_unless_it_is_not_wanted(tmp_path, digital, fields, message):
    leads = muse_leads(digital)
    leads[1] = muse_lead("II", digital[1], **fields)
    if message == "LeadData has":
        leads[1] = leads[1].replace("<LeadData>", "<LeadData><LeadID>II</LeadID><LeadID>II</LeadID>")
    path = write_muse(tmp_path, muse_waveform(leads))
    assert message in read_error(path)
    if fields.get("LeadID", "II") == "II":
        assert "II" not in read(path, lead_names=("I", "V1")).lead_names


@pytest.mark.parametrize(
    ("waveforms", "message"),
    [
        ([], "0 of its 0 waveforms"),
        ([{"kind": "Median"}], "0 of its 1 waveforms"),
        ([{"kind": None}], "0 of its 1 waveforms"),
        ([{}, {}], "2 of its 2 waveforms"),
        ([{"base": 0}], "sampling rate is 0"),
        ([{"base": "fast"}], "SampleBase is no number"),
        ([{"exponent": 400}], "SampleExponent is 400"),
        ([{"exponent": None}], "does not state its sampling rate"),
    ],
)
def test_muse_without_one_rhythm_is_refused(tmp_path, digital, waveforms, message):
    path = write_muse(tmp_path, *(muse_waveform(muse_leads(digital), **fields) for fields in waveforms))
    assert message in read_error(path)


def test_the_leads_of_muse_must_agree_with_the_caller(tmp_path, digital):
    path = write_muse(tmp_path, muse_waveform(muse_leads(digital)))
    assert "has no lead aVR" in read_error(path, lead_names=("I", "aVR"))
    assert "expected 250 Hz" in read_error(path, sampling_rate=250)
    assert read(path, wanted=frozenset(["aVR", "V6"])).lead_names == ("V6",)


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE RestingECG [<!ENTITY a "5"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE RestingECG [<!ENTITY a SYSTEM "secret.txt">]>',
        '<!DOCTYPE RestingECG [<!ENTITY % a SYSTEM "secret.txt"> %a;]>',
    ],
)
def test_entities_are_refused(tmp_path, digital, doctype):
    path = write_muse(tmp_path, muse_waveform(muse_leads(digital)), doctype=doctype)
    assert "entities" in read_error(path)


def test_what_is_no_xml_of_the_format_is_refused(tmp_path, digital):
    good = write_muse(tmp_path, muse_waveform(muse_leads(digital))).read_bytes()
    assert "cut or damaged at line" in read_error(write(tmp_path, good[:-20], "rec.xml"))
    assert "encoding" in read_error(write(tmp_path, good.replace(b"ISO-8859-1", b"KLINGON-01"), "rec.xml"))
    utf16 = good.decode("latin-1").replace("ISO-8859-1", "UTF-16").encode("utf-16")
    assert read_ecg(write(tmp_path, utf16, "rec.xml")).lead_names == EIGHT


# HL7 aECG


def aecg_sequence(name, digits, *, origin=("0", "uV"), scale=("2.5", "uV"), kind="SLIST_PQ"):
    origin, scale = (
        "" if quantity is None else f'<{tag} value="{quantity[0]}" unit="{quantity[1]}"/>'
        for tag, quantity in (("origin", origin), ("scale", scale))
    )
    digits = (
        ""
        if digits is None
        else f"<digits>{digits if isinstance(digits, str) else ' '.join(map(str, digits))}</digits>"
    )
    return (
        f'<component><sequence><code code="{name}" codeSystem="2.16.840.1.113883.6.24"/>'
        f'<value xsi:type="{kind}">{origin}{scale}{digits}</value></sequence></component>'
    )


def aecg_time(increment="0.002", unit="s", kind="ABSOLUTE"):
    head = '<head value="20010101"/>' if kind == "ABSOLUTE" else '<origin value="0" unit="s"/>'
    increment = "" if increment is None else f'<increment value="{increment}" unit="{unit}"/>'
    return (
        f'<component><sequence><code code="TIME_{kind}" codeSystem="2.16.840.1.113883.5.4"/>'
        f'<value xsi:type="GLIST_TS">{head}{increment}</value></sequence></component>'
    )


def aecg_sequences(digital, **fields):
    return [
        aecg_sequence(f"MDC_ECG_LEAD_{name.upper()}", row, **fields)
        for name, row in zip(LEAD_NAMES, digital, strict=True)
    ]


def aecg_series(sequences, code="RHYTHM", sets=1):
    beats = "".join(aecg_sequences(np.full((12, 4), 9)))
    inside = f"<component><sequenceSet>{''.join(sequences)}</sequenceSet></component>" * sets
    beats = f"<component><sequenceSet>{aecg_time()}{beats}</sequenceSet></component>"
    derived = f'<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT"/>{beats}</derivedSeries></derivation>'
    return f'<component><series><code code="{code}"/>{derived}{inside}</series></component>'


def write_aecg(folder, *series, namespace='xmlns="urn:hl7-org:v3"', name="rec.xml"):
    subject = f"<componentOf><subject><name>{PATIENT}</name></subject></componentOf>"
    xsi = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    text = f"<AnnotatedECG {namespace} {xsi}>{subject}{''.join(series)}</AnnotatedECG>"
    return write(folder, b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode(), name)


def test_aecg_gives_the_rhythm_and_not_the_representative_beats(tmp_path, digital):
    other = aecg_sequence("MDC_ECG_LEAD_V3R", "")
    record = read(write_aecg(tmp_path, aecg_series([aecg_time(), *aecg_sequences(digital), other])))
    assert record.lead_names == LEAD_NAMES and record.sampling_rate == 500
    assert record.other_channels == ("MDC_ECG_LEAD_V3R",)
    assert record.signal.dtype == np.int16 and np.abs(record.signal - digital * 2.5).max() <= 0.5


def test_aecg_has_units_of_its_own_for_origin_scale_and_time(tmp_path, digital):
    sequences = aecg_sequences(digital, origin=("100", "uV"), scale=("0.005", "mV"))
    times = [aecg_time("4", "ms", "RELATIVE"), aecg_time("4000", "us")]
    record = read(write_aecg(tmp_path, aecg_series([*sequences, *times]), namespace=""))
    assert record.sampling_rate == 250 and np.array_equal(record.signal, digital * 5 + 100)
    fine = aecg_sequence("MDC_ECG_LEAD_II", "\n 0.125 -1.5\t2e-2 ", scale=("1", "mV"))
    record = read(write_aecg(tmp_path, aecg_series([aecg_time(), fine])))
    assert record.signal.dtype == np.float32 and np.array_equal(record.signal, np.float32([[125, -1500, 20]]))


def test_aecg_without_times_takes_the_callers_rate(tmp_path, digital):
    path = write_aecg(tmp_path, aecg_series(aecg_sequences(digital)))
    assert "sampling_rate" in read_error(path)
    assert read(path, sampling_rate=360).sampling_rate == 360


def test_a_rounded_step_of_time_is_the_rate_that_the_caller_says(tmp_path, digital):
    near, far = (
        write_aecg(tmp_path, aecg_series([aecg_time(step), *aecg_sequences(digital)]), name=f"{step}.xml")
        for step in ("0.0027778", "0.002778")
    )
    assert read(near, sampling_rate=360).sampling_rate == pytest.approx(359.9971, abs=1e-4)
    assert "359.971 Hz, expected 360 Hz" in read_error(far, sampling_rate=360)
    edf = write(tmp_path, edf_bytes(twelve(digital), "0.333333"))
    assert read(edf, sampling_rate=300).signal.shape == (12, 1000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"origin": None}, "MDC_ECG_LEAD_V2 has no origin"),
        ({"scale": None}, "MDC_ECG_LEAD_V2 has no scale"),
        ({"scale": ("0", "uV")}, "scale of MDC_ECG_LEAD_V2 is 0"),
        ({"scale": ("NaN", "uV")}, "scale of MDC_ECG_LEAD_V2 is no number"),
        ({"scale": ("1e999", "uV")}, "scale of MDC_ECG_LEAD_V2 is no number"),
        ({"scale": ("5", "mm")}, "must be V, mV"),
        ({"scale": ("5", "")}, "no unit"),
        ({"origin": ("0", "")}, "origin of MDC_ECG_LEAD_V2 has no unit"),
        ({"kind": "SLIST_INT"}, "another type"),
        ({"digits": "1 2 three"}, "digits of MDC_ECG_LEAD_V2 are not all numbers"),
        ({"digits": "1 nan 3"}, "digits of MDC_ECG_LEAD_V2 are not all numbers"),
        ({"digits": "1 2-3"}, "digits of MDC_ECG_LEAD_V2 are not all numbers"),
        ({"digits": "1 1e999 " * 500}, "V2 has missing samples"),
        ({"digits": "1 2"}, "V2 2"),
        ({"digits": ""}, "V2 0"),
        ({"digits": None}, "V2 0"),
        ({"digits": "99999 " * 1000}, "V2 reaches"),
        ({"name": "MDC_ECG_LEAD_I"}, "lead I is there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_damaged_lead_of_aecg_is_refused_unless_it_is_not_wanted(tmp_path, digital, fields, message):
    sequences = aecg_sequences(digital)
    sequences[7] = aecg_sequence(**{"name": "MDC_ECG_LEAD_V2", "digits": digital[7], **fields})
    path = write_aecg(tmp_path, aecg_series([aecg_time(), *sequences]))
    assert message in read_error(path)
    if "name" not in fields:
        assert read(path, lead_names=("I", "V1")).lead_names == ("I", "V1")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([aecg_time(None)], "TIME_ABSOLUTE has no increment"),
        ([aecg_time("0")], "above 0"),
        ([aecg_time("-1")], "above 0"),
        ([aecg_time("1", "min")], "above 0 and in s, ms, us"),
        ([aecg_time("soon")], "is no number"),
        ([aecg_time("0.002"), aecg_time("0.004", kind="RELATIVE")], "TIME_RELATIVE 250"),
    ],
)
def test_times_of_aecg_that_are_none_are_refused(tmp_path, digital, times, message):
    assert message in read_error(write_aecg(tmp_path, aecg_series([*times, *aecg_sequences(digital)])))


def test_aecg_without_one_rhythm_is_refused(tmp_path, digital):
    sequences = [aecg_time(), *aecg_sequences(digital)]
    assert "0 sets of sequences in 0 series" in read_error(write_aecg(tmp_path))
    assert "0 series" in read_error(write_aecg(tmp_path, aecg_series(sequences, "REPRESENTATIVE_BEAT")))
    assert "2 sets of sequences in 1 series" in read_error(write_aecg(tmp_path, aecg_series(sequences, sets=2)))
    assert "2 sets of sequences in 2 series" in read_error(write_aecg(tmp_path, *[aecg_series(sequences)] * 2))
    assert "0 sets" in read_error(write_aecg(tmp_path, aecg_series(sequences, sets=0)))


# What holds for all


@pytest.fixture
def files(tmp_path, digital):
    """A small sound file of each format."""
    short = digital[:, :100]
    edf_file = write(tmp_path, edf_bytes(twelve(short)), "small.edf")
    bdf_file = write(tmp_path, edf_bytes(twelve(short), bdf=True), "small.bdf")
    notes = (
        "EDF Annotations",
        "",
        (-1, 1),
        (-32768, 32767),
        [f"+{i}\x14\x14".encode().ljust(8, b"\0") for i in range(10)],
    )
    cut_file = write(tmp_path, edf_bytes([notes, *twelve(short)], reserved="EDF+D"), "interrupted.edf")
    dicom_file = write_dicom(tmp_path, dicom_group(short), name="small.dcm")
    implicit = write_dicom(tmp_path, dicom_group(short), name="implicit.dcm", syntax="1.2.840.10008.1.2")
    muse_file = write_muse(tmp_path, muse_waveform(muse_leads(short)), name="muse.xml")
    aecg_file = write_aecg(tmp_path, aecg_series([aecg_time(), *aecg_sequences(short)]), name="aecg.xml")
    return [edf_file, bdf_file, cut_file, dicom_file, implicit, muse_file, aecg_file]


def damage(whole, rng):
    """Some bytes changed, cut out or there twice; half of it in the first quarter, where the headers are."""
    changed, limit = bytearray(whole), len(whole) // rng.choice([1, 4])
    kind, start, length = rng.integers(3), rng.integers(limit), rng.integers(1, 64)
    if kind == 0:
        changed[start : start + 1 + length % 3] = rng.bytes(1 + length % 3)
    elif kind == 1:
        del changed[start : start + length]
    else:
        changed[start:start] = changed[start : start + length]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_a_record_or_an_error(tmp_path, files):
    rng = np.random.default_rng(2)
    outcomes = {}
    for path in files:
        whole = path.read_bytes()
        damaged = [whole[:length] for length in [0, 1, *rng.integers(2, len(whole), 40)]]
        damaged += [damage(whole, rng) for _ in range(150)]
        for data, said in zip(damaged, itertools.cycle([Said(), Said(500.0, "uV"), Said(lead_names=("I",))])):
            broken = write(tmp_path, data, "broken")
            try:
                signal = read_leads(broken, said).signal
            except RecordError as error:
                assert PATIENT not in str(error) and len(str(error)) < 1000
                outcomes.setdefault(path.name, set()).add("error")
            else:
                assert signal.dtype in (np.int16, np.float32) and np.isfinite(signal).all()
                outcomes.setdefault(path.name, set()).add("record")
    assert outcomes == {path.name: {"error", "record"} for path in files}


def test_no_memory_is_taken_for_what_a_header_claims(tmp_path, digital):
    short = digital[:, :100]
    claims = [
        write(tmp_path, edf_bytes(twelve(short), records=99999999), "a.edf"),
        write(tmp_path, edf_bytes(twelve(short), signals=9999, header_bytes=99999999), "b.edf"),
        write_dicom(tmp_path, dicom_group(short, NumberOfWaveformSamples=2**32 - 1)),
        write_muse(tmp_path, muse_waveform([muse_lead("I", short[0], LeadSampleCountTotal=10**12)])),
    ]
    for path in claims:
        read_error(path)
        tracemalloc.start()
        read_error(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**21, path


def test_an_xml_file_has_a_limit_before_it_is_opened(tmp_path):
    path = write(tmp_path, b"<RestingECG>".ljust(5000), "large.xml")
    with open(path, "r+b") as file:
        file.truncate(2**27)  # sparse: it takes no space
    assert "67108864 at most" in read_error(path)


def test_a_part_of_a_file_that_holds_one_record_is_refused(files):
    for path in files:
        with pytest.raises(RecordError, match="one record: leave out #row=1"):
            read_ecg(f"{path}#row=1")


@pytest.mark.parametrize("kind", ["dicom", "muse", "aecg"])
def test_channels_that_tell_no_lead_are_named_by_the_caller(tmp_path, digital, kind):
    """As handheld and patch recorders write them."""
    rows = digital[:2]
    if kind == "dicom":
        groups = [
            dicom_group(row[None], ["I"], channel={"ChannelSourceSequence": coded("SCPECG", "5.6.3-9-0", name)})
            for row, name in zip(rows, ("Unspecified lead", "ECG 2"), strict=True)
        ]
        path, expected = write_dicom(tmp_path, *groups), rows * 5 + 10
    elif kind == "muse":
        leads = [muse_lead(name, row) for name, row in zip(("ECG1", "ECG2"), rows, strict=True)]
        path, expected = write_muse(tmp_path, muse_waveform(leads)), rows * 4.88
    else:
        sequences = [aecg_sequence(name, row) for name, row in zip(("MDC_ECG_LEAD", "ECG"), rows, strict=True)]
        path, expected = write_aecg(tmp_path, aecg_series([*sequences, aecg_time()])), rows * 2.5
    record = read_ecg(path, lead_names=["II", "V5"])
    assert (record.lead_names, record.sampling_rate) == (("II", "V5"), 500)
    assert np.abs(record.signal - expected).max() <= 0.5
    assert "Where these are no names of leads, such as ECG, say by `lead_names`" in read_error(path)
    assert "it has no lead I" in read_error(path, lead_names=("I",))


@pytest.mark.parametrize("package", ["edfio", "pydicom", "defusedxml.ElementTree"])
def test_a_package_that_is_not_installed_is_one_sentence(files, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    needing = {"edfio": files[:3], "pydicom": files[3:5], "defusedxml.ElementTree": files[5:]}[package]
    for path in needing:
        with pytest.raises(ImportError, match=f"{package.split('.')[0]}: pip install 'ecg-hf"):
            read_ecg(path)


def test_no_other_file_is_opened(tmp_path, digital, monkeypatch):
    """The DTD that MUSE names is none of the parser's business."""
    (tmp_path / "restecg.dtd").write_text('<!ENTITY x "y">')
    path = write_muse(tmp_path, muse_waveform(muse_leads(digital)))
    monkeypatch.chdir(tmp_path)
    opened, open_file = [], open
    monkeypatch.setattr("builtins.open", lambda file, *args: opened.append(str(file)) or open_file(file, *args))
    assert read(path).lead_names == EIGHT
    assert set(opened) == {str(path)}
