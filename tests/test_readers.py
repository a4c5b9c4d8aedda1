"""`read_ecg`: what is common to all formats, and WFDB, NumPy, text, MATLAB and HDF5 files."""

import contextlib
import json
import os
import struct
import sys
import warnings
import zipfile

import edfio
import h5py
import numpy as np
import pytest
import scipy.io
import wfdb
from conftest import SHARED

import ecg_hf
from ecg_hf import ECGTransformerFeatureExtractor, Record, RecordError, read_ecg
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.wfdb_ecg_transformer import read_record
from ecg_hf.ecg_transformer.wfdb_objects_ecg_transformer import wfdb_recording
from ecg_hf.readers.channels import Channel, Said, canonical_lead, record_of, whole_microvolts
from ecg_hf.readers.folders import records_below
from ecg_hf.readers.reading import read_leads

NUM_SAMPLES = 200
EDF = {"physical_dimension": "uV", "physical_range": (-3276.8, 3276.7)}
SAID = {"sampling_rate": 250, "units": "mV", "lead_names": LEAD_NAMES}


@pytest.fixture
def millivolts():
    """Random signals in mV with three decimals, (12, samples)."""
    return np.random.default_rng(0).integers(-3000, 3000, (12, NUM_SAMPLES)) / 1000


def read(path, **kwargs) -> Record:
    """The record, read without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_ecg(path, **kwargs)


def refused(path, *parts, kind=RecordError, **kwargs) -> str:
    """The message of a `RecordError` that names the path and contains `parts`."""
    with warnings.catch_warnings(), pytest.raises(RecordError) as caught:
        warnings.simplefilter("error")
        read_ecg(path, **kwargs)
    message = str(caught.value)
    assert isinstance(caught.value, kind) and message.startswith("Record ") and "\n" not in message
    assert os.path.splitext(str(path).partition("#")[0])[0] in message
    assert [part for part in parts if part not in message] == [], message
    return message


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_wfdb(folder, digital, *, leads=LEAD_NAMES, gain=1000.0, name="rec", units="mV"):
    """Write int (leads, samples) with wfdb."""
    count = len(digital)
    wfdb.wrsamp(
        name,
        fs=250,
        units=[units] * count,
        sig_name=list(leads),
        d_signal=np.rint(digital).T.astype(np.int64),
        fmt=["16"] * count,
        adc_gain=[gain] * count,
        baseline=[0] * count,
        write_dir=str(folder),
    )
    return folder / name


def save(path, values):
    np.save(path, values)
    return path


def table_text(values, separator=",", header=LEAD_NAMES, decimal="."):
    """Text of (leads, samples) with a column for each lead."""
    lines = [separator.join(f"{value:.3f}".replace(".", decimal) for value in row) for row in np.transpose(values)]
    return "\n".join([*([separator.join(header)] if header else []), *lines]) + "\n"


# The frame


def test_the_package_gives_reader_record_and_error():
    assert {"read_ecg", "Record", "RecordError"} <= set(ecg_hf.__all__)
    assert ecg_hf.RecordError is RecordError and issubclass(RecordError, ValueError)


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("avr", "aVR"),
        (" AVR ", "aVR"),
        ("Lead aVR", "aVR"),
        ("ECG v1", "V1"),
        ("EKG_II", "II"),
        ("MDC_ECG_LEAD_AVL", "aVL"),
        ("Lead I (Einthoven)", "I"),
        ("DIII", "III"),
        ("D2", "II"),
        ("AVR,", "aVR"),
        ("V,", None),
        ("V7", None),
        ("VX", None),
        ("", None),
        ("V1 copy", None),
    ],
)
def test_leads_are_known_by_name(name, lead):
    assert canonical_lead(name) == lead


@pytest.mark.parametrize(
    ("kwargs", "part"),
    [
        ({"lead_names": "II"}, "`lead_names`"),
        ({"lead_names": []}, "`lead_names`"),
        ({"lead_names": ["I", "Lead i"]}, "each once"),
        ({"lead_names": ["V7"]}, "V7"),
        ({"units": "furlong"}, "V, mV, uV or nV"),
        ({"units": ""}, "unit"),
        ({"sampling_rate": 0}, "Hz above 0"),
        ({"sampling_rate": float("nan")}, "Hz above 0"),
        ({"sampling_rate": -500}, "Hz above 0"),
        ({"sampling_rate": "500"}, "number of Hz above 0, got '500'"),
        ({"sampling_rate": True}, "number of Hz above 0"),
    ],
)
def test_arguments_that_fit_no_file_are_refused_before_any_is_opened(kwargs, part):
    with pytest.raises(ValueError, match=part) as caught:
        read_ecg("nowhere", **kwargs)
    assert not isinstance(caught.value, RecordError)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path):
    refused(tmp_path / "absent.npy", "no such file", kind=FileNotFoundError)
    refused(tmp_path / "absent", "no such file", kind=FileNotFoundError)
    refused(tmp_path / "absent.hea", "does not exist", kind=FileNotFoundError)
    refused(tmp_path / "absent.hdf5#row=3", "no such file", kind=FileNotFoundError)
    refused(tmp_path, "is a folder")
    refused("/dev/zero", "not a regular file")
    for name in ("pipe.csv", "pipe.hea"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "not a regular file")
    write(tmp_path / "file.npy", b"x")
    refused(tmp_path / "file", "no such file, but file.npy: add the ending", kind=FileNotFoundError)
    refused(tmp_path / "file.npy" / "within.npy", "no such file", kind=FileNotFoundError)
    refused(tmp_path / ("x" * 300), "cannot be opened")
    with pytest.raises(RecordError, match="NUL"):
        read_ecg("rec\0.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(tmp_path):
    path = write(tmp_path / "rec.csv", "1,2\n")
    path.chmod(0)
    refused(path, "cannot be opened")


ENDINGS = (".npy", ".csv", ".txt", ".mat", ".hdf5", ".h5", ".edf", ".bdf", ".dcm", ".xml", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_files_are_refused(tmp_path, ending):
    refused(write(tmp_path / f"rec{ending}", b""), "empty")


@pytest.mark.parametrize(
    "head",
    [
        b"\x93NUMPY\x01\x00",
        b"1,2\n3,4\n",
        b"MATLAB 5.0 MAT-file" + bytes(200),
        b"0       " + b" " * 300,
        b"\xffBIOSEMI" + b" " * 300,
        bytes(128) + b"DICM",
        b"<RestingECG>",
        b"<AnnotatedECG>",
    ],
)
def test_huge_files_are_refused_by_their_size(tmp_path, head):
    path = write(tmp_path / "rec", head.ljust(4096))
    os.truncate(path, 2**31 + 1)
    refused(path, str(2**31 + 1), "Cut it", **SAID)


def test_text_of_hundreds_of_megabytes_is_refused(tmp_path):
    path = write(tmp_path / "rec.csv", b"1,2\n3,4\n".ljust(4096))
    os.truncate(path, 2**28 + 1)
    refused(path, str(2**28 + 1), "Save it as .npy")


def test_huge_wfdb_files_are_refused_by_their_size(tmp_path, millivolts):
    header = write_wfdb(tmp_path, millivolts * 1000).with_suffix(".hea")
    text = header.read_text().replace(f" {NUM_SAMPLES}", f" {2**28}")
    header.write_text("\n".join(line.replace(" 16 ", " 16 ") for line in text.splitlines()))
    os.truncate(header.with_suffix(".dat"), 2**28 * 24)
    refused(header, str(2**28 * 24), "Cut it")
    os.truncate(header, 2**30)
    refused(header, str(2**30), "header")


XML = '<?xml version="1.0"?>\n<!-- <ECG> -->\n<!DOCTYPE {0} SYSTEM "x.dtd" [<!ENTITY a "b>">]>\n<{0} xmlns="urn:x">\n'


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        (b"ISHNE1.0" + bytes(600), "ISHNE", "convert"),
        (b"@ MFR Standard 12 leads ECG", "MFER", "convert"),
        (b"\x12\x34" + struct.pack("<I", 64) + b"\x99\x99\x00\x00" + bytes(54), "SCP-ECG", "convert"),
        (bytes(16) + b"SCPECG" + bytes(30), "SCP-ECG", "convert"),
        (XML.format("restingecgdata"), "Philips Sierra", "export"),
        (XML.format("p:restingecgdata").encode("utf-16"), "Philips Sierra", "export"),
        (XML.format("restingecgdata").encode("utf-16-be"), "Philips Sierra", "export"),
        (XML.format("CardiologyXML"), "CardioSoft", "export"),
        (XML.format("com.xiriuz.sema.xml.schillerEDI.SchillerEDI"), "Schiller", "export"),
        (XML.format("ECG"), "Mortara", "export"),
        (XML.format("html"), "'html'", "RestingECG"),
        ("<<<", "root element ''", "RestingECG"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip", "unpack"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS", "git lfs pull"),
        (b"PAR1" + bytes(40), "Parquet", "table"),
        (b"%PDF-1.7 \x00", "PDF", "samples"),
        (b"\x00\x01\x02\xff" * 50, "no known format", "WFDB, EDF"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path, content, name, remedy):
    refused(write(tmp_path / "rec", content), name, remedy)


def test_a_contec_file_is_told_by_its_ending(tmp_path):
    refused(write(tmp_path / "0001.ECG", b"\x00\x01\x02\xff" * 50), "Contec", "export")


def test_archives_of_arrays_are_refused(tmp_path, millivolts):
    np.savez(tmp_path / "rec.npz", millivolts)
    refused(tmp_path / "rec.npz", ".npz", "numpy.save", **SAID)
    with zipfile.ZipFile(tmp_path / "rec.npy", "w") as archive:
        archive.writestr("x", "y")
    refused(tmp_path / "rec.npy", "zip archive", **SAID)


def test_the_bytes_decide_and_not_the_ending(tmp_path, millivolts):
    np.save(tmp_path / "rec.npy", millivolts)
    os.rename(tmp_path / "rec.npy", tmp_path / "rec.csv")
    assert read(tmp_path / "rec.csv", **SAID).signal.shape == millivolts.shape
    write(tmp_path / "rec.npy", table_text(millivolts))
    assert read(tmp_path / "rec.npy", sampling_rate=250, units="mV").signal.shape == millivolts.shape
    # Blanks behind a zero, as in a header of EDF.
    text = "\n".join("0       0.5" for _ in range(30))
    assert read(
        write(tmp_path / "rec.txt", text), sampling_rate=9, units="mV", lead_names=["I", "II"]
    ).signal.shape == (
        2,
        30,
    )


def test_a_wfdb_header_with_a_large_ending_is_refused_by_its_ending_also_in_a_folder(tmp_path, millivolts):
    """As in copies that were made by way of an old Windows or a camera's card."""
    write_wfdb(tmp_path, millivolts)
    (tmp_path / "rec.hea").rename(tmp_path / "rec.HEA")
    refused(tmp_path / "rec.HEA", "rename it to rec.hea", **SAID)
    assert list(records_below(tmp_path)) == ["rec.HEA"]


def test_a_name_may_have_a_hash(tmp_path, millivolts):
    path = write(tmp_path / "a#row=1.csv", table_text(millivolts))
    assert read(path, sampling_rate=250, units="mV").signal.shape == millivolts.shape
    refused(tmp_path / "a#row=1.csv#row=0", "one record", "#")


@pytest.mark.parametrize(
    ("package", "name", "content"), [("h5py", "rec.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))], ids=["h5py"]
)
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, package, name, content):
    monkeypatch.setitem(sys.modules, package, None)
    refused(write(tmp_path / name, content), package, "pip install 'ecg-hf[readers]'", kind=ImportError)


# From channels to a record


def channels(values, unit="mV", scale=None, names=LEAD_NAMES):
    return [Channel(name, row, unit, scale) for name, row in zip(names, values, strict=True)]


def test_values_are_rounded_to_the_nearest_microvolt_and_symmetrically():
    step = 0.0025
    digital = np.arange(-2000, 2001)
    record = record_of([Channel("I", digital, "mV", step)], 500, Said())
    assert record.signal.dtype == np.int16
    error = record.signal[0] - digital * step * 1000
    assert np.abs(error).max() <= 0.5 + 1e-9 and abs(error.mean()) < 0.01


@pytest.mark.parametrize(("scale", "dtype"), [(0.001, np.int16), (0.00488, np.int16), (0.0009, np.float32)])
def test_steps_below_a_microvolt_are_kept(scale, dtype):
    digital = np.arange(-1000, 1001)
    record = record_of([Channel("I", digital, "mV", scale)], 500, Said())
    assert record.signal.dtype == dtype
    assert np.abs(record.signal[0] - digital * scale * 1000).max() <= max(0.5 * scale * 1000, 0.5) * (1 + 1e-6)
    whole = whole_microvolts(record)
    assert whole.dtype == np.int16
    np.testing.assert_allclose(whole[0], digital * scale * 1000, atol=0.51)


def test_the_largest_voltage_is_that_of_int16():
    for sign in (1, -1):
        record = record_of(channels(np.full((1, 3), sign * 32.767), names=["I"]), 500, Said())
        np.testing.assert_array_equal(whole_microvolts(record), sign * 32767)
        for value in (32.7675, 33, 1e300, 3e38):
            with pytest.raises(RecordError, match=r"lead I reaches .* mV, beyond"):
                record_of(channels(np.full((1, 3), sign * value), names=["I"]), 500, Said())


@pytest.mark.parametrize(
    ("found", "said", "part"),
    [
        (channels(np.zeros((2, 4)), names=["I", "lead i"]), Said(), "lead I is there twice"),
        (channels(np.zeros((1, 4)), names=["V7"]), Said(), "it has V7"),
        ([], Said(), "no channel"),
        (channels(np.zeros((1, 4)), names=["I"]), Said(lead_names=("II",)), "no lead II"),
        (channels(np.zeros((1, 4)), names=["I"], unit=None), Said(), "no unit of voltage"),
        (channels(np.zeros((1, 4)), names=["I"], unit="mmHg"), Said(), "'mmHg'"),
        (channels(np.zeros((1, 4)), names=["I"], unit="mV"), Said(units="uV"), "`units` says uV"),
        (channels(np.zeros((1, 0)), names=["I"]), Said(), "one at least"),
        ([Channel("I", np.zeros(3), "mV"), Channel("II", np.zeros(4), "mV")], Said(), "I 3, II 4"),
        (channels(np.array([[0, np.nan, np.inf]]), names=["I"]), Said(), "2 of 3"),
    ],
)
def test_channels_that_make_no_record_are_refused(found, said, part):
    with pytest.raises(RecordError, match=part):
        record_of(found, 500, said)


def test_channels_that_are_not_taken_may_be_damaged():
    found = [
        Channel("I", np.zeros(4), "mV"),
        Channel("V1", np.full(3, np.nan), None),
        Channel("V1", np.empty(0), None),
        Channel("Resp", np.empty(0), "Ohm"),
    ]
    record = record_of(found, 500, Said(wanted=frozenset({"I", "II"})))
    assert (record.lead_names, record.other_channels) == (("I",), ("Resp",))


@pytest.mark.parametrize(
    ("stated", "said", "part"),
    [
        (None, None, "does not state"),
        (0, None, "above 0"),
        (float("inf"), None, "above 0"),
        (500, 250, "expected 250"),
    ],
)
def test_rates_are_stated_by_the_file_or_the_caller(stated, said, part):
    with pytest.raises(RecordError, match=part):
        record_of(channels(np.zeros((1, 4)), names=["I"]), stated, Said(said))


# WFDB


def test_a_wfdb_record_is_read_by_any_of_its_names(tmp_path, millivolts):
    path = write_wfdb(tmp_path, millivolts * 1000)
    for name in (path, path.with_suffix(".hea"), path.with_suffix(".dat"), str(path)):
        record = read(name)
        assert (record.sampling_rate, record.lead_names, record.signal.dtype) == (250, LEAD_NAMES, np.int16)
        np.testing.assert_array_equal(record.signal, np.rint(millivolts * 1000))
    (tmp_path / "rec").mkdir()
    np.testing.assert_array_equal(read(path).signal, record.signal)


def test_fractions_of_a_microvolt_are_kept_and_read_record_rounds_as_before(tmp_path):
    digital = np.random.default_rng(0).integers(-9000, 9000, (12, NUM_SAMPLES))
    path = write_wfdb(tmp_path, digital, gain=2000.0)
    record = read(path)
    assert record.signal.dtype == np.float32
    np.testing.assert_array_equal(record.signal, digital / 2)
    rounded = read_record(path).signal
    assert rounded.dtype == np.int16
    np.testing.assert_array_equal(rounded, np.rint(digital / 2))
    np.testing.assert_array_equal(whole_microvolts(record), rounded)


def test_names_of_leads_are_folded_alike_in_all_formats(tmp_path, millivolts):
    names = ["Lead I", "ECG II", "MDC_ECG_LEAD_III", "lead avr", "ekg_aVL", "AVF (Einthoven)", *LEAD_NAMES[6:]]
    wfdb_record = read(write_wfdb(tmp_path, millivolts * 1000, leads=names))
    text = write(tmp_path / "rec.csv", table_text(millivolts, header=names))
    for record in (wfdb_record, read(text, sampling_rate=250, units="mV")):
        assert record.lead_names == LEAD_NAMES and not record.other_channels
        np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))
    recording = wfdb_recording(wfdb.rdrecord(str(tmp_path / "rec")))
    extractor = ECGTransformerFeatureExtractor(sampling_rate=250, num_samples=NUM_SAMPLES)
    assert np.array_equal(
        extractor(**recording)["input_values"],
        extractor(millivolts, sampling_rate=250, lead_names=LEAD_NAMES)["input_values"],
    )


def test_lead_names_choose_and_order_the_leads_of_a_wfdb_record(tmp_path, millivolts):
    path = write_wfdb(tmp_path, millivolts[:8] * 1000, leads=["V1", "I", "Resp", "II", "V2", "V3", "V4", "V5"])
    with pytest.warns(UserWarning, match="left out, as none of the twelve leads: Resp"):
        record = read_ecg(path, lead_names=["lead II", "v1"])
    assert (record.lead_names, record.other_channels) == (("II", "V1"), ("Resp",))
    np.testing.assert_array_equal(record.signal, np.rint(millivolts[[3, 0]] * 1000))
    assert record.signal.flags.c_contiguous
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_leads(path, Said(wanted=frozenset({"I", "II", "aVR"}))).lead_names == ("I", "II")
    refused(path, "no lead aVR", "it has I", lead_names=["I", "aVR"])
    refused(path, "none of the leads aVR", lead_names=["aVR"])


def write_edf(folder, digital, leads):
    """Write int (leads, samples) in µV with edfio; a channel that is called Resp has another rate."""
    signals = [
        edfio.EdfSignal(row[::10] if name == "Resp" else row, 25 if name == "Resp" else 250, label=name, **EDF)
        for name, row in zip(leads, np.rint(digital), strict=True)
    ]
    edfio.Edf(signals, data_record_duration=0.8).write(folder / "rec.edf")
    return folder / "rec.edf"


@pytest.mark.parametrize("write_file", [write_wfdb, write_edf])
@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (["ECG"], ["I"]),
        (["ECG1", "ECG2"], ["II", "V5"]),
        (["ch 2", "Resp", "ch 1"], ["V1", "II"]),
    ],
)
def test_channels_that_tell_no_lead_are_named_by_the_caller(tmp_path, millivolts, write_file, channels, said):
    """As single leads of wearables, the challenge of 2017 (ECG) and AFDB (ECG1, ECG2) have them."""
    if write_file is write_wfdb:
        channels = [name for name in channels if name != "Resp"]
    path = write_file(tmp_path, millivolts[: len(channels)] * 1000, leads=channels)
    others = tuple(name for name in channels if name == "Resp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if others else "error")
        record = read_ecg(path, lead_names=said)
    assert (record.lead_names, record.other_channels) == (tuple(said), others)
    rows = [row for row, name in enumerate(channels) if name != "Resp"]
    np.testing.assert_array_equal(np.rint(record.signal), np.rint(millivolts[rows] * 1000))
    refused(path, f"it has {', '.join(channels)}. Where these are no names of leads, such as ECG, say by `lead_names`")
    refused(path, "it has", lead_names=["I", "II", "III"])


def test_a_modified_lead_is_none_of_the_twelve_whatever_is_said(tmp_path, millivolts):
    path = write_wfdb(tmp_path, millivolts[:2] * 1000, leads=["MLII", "V5"])
    refused(path, "no lead II", lead_names=["II", "V5"])


def test_what_contradicts_a_wfdb_header_is_refused(tmp_path, millivolts):
    path = write_wfdb(tmp_path, millivolts * 1000)
    assert read(path, units="mV", sampling_rate=250.0).sampling_rate == 250
    refused(path, "1000 µV", "1 µV", units="uV")
    refused(path, "250 Hz", "500", sampling_rate=500)
    refused(f"{path}#row=0", "one record")


def test_damaged_wfdb_records_are_refused(tmp_path, millivolts):
    path = write_wfdb(tmp_path, millivolts * 1000)
    os.truncate(path.with_suffix(".dat"), 100)
    for name in (path, path.with_suffix(".hea"), path.with_suffix(".dat")):
        refused(name, "truncated")
    path.with_suffix(".dat").unlink()
    refused(path, "rec.dat", "does not exist", kind=FileNotFoundError)
    write(path.with_suffix(".dat"), b"\x00\x01\xff" * 300)
    path.with_suffix(".hea").unlink()
    refused(path.with_suffix(".dat"), "header", "does not exist", kind=FileNotFoundError)


def test_a_challenge_mat_needs_its_header(tmp_path):
    scipy.io.savemat(tmp_path / "rec.mat", {"val": np.ones((12, 9), np.int16)}, format="4")
    refused(tmp_path / "rec.mat", "MATLAB 4", "rec.hea does not exist", kind=FileNotFoundError)
    lines = [f"rec.mat 16+24 1000/mV 16 0 1 9 0 {name}" for name in LEAD_NAMES]
    write(tmp_path / "rec.hea", "\n".join(["rec 12 500 9", *lines]))
    np.testing.assert_array_equal(read(tmp_path / "rec.mat").signal, np.ones((12, 9)))
    # Samples alone, in a file of this ending.
    write(tmp_path / "rec.hea", "\n".join(["rec 12 500 9", *(line.replace("+24", "") for line in lines)]))
    np.ones((9, 12), "<i2").tofile(tmp_path / "rec.mat")
    np.testing.assert_array_equal(read(tmp_path / "rec.mat").signal, np.ones((12, 9)))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real records are not there")
def test_real_wfdb_records():
    paths = sorted((SHARED / "data" / "challenge2021").glob("*.mat"))
    assert len(paths) > 20
    for path in paths:
        expected = wfdb.rdrecord(str(path)[:-4])
        record = read(path)
        np.testing.assert_allclose(record.signal, expected.p_signal.T * 1000, atol=0.5)
        np.testing.assert_array_equal(read_record(path).signal, whole_microvolts(record))
    ptb = SHARED / "data" / "ptb" / "s0010_re"
    with pytest.warns(UserWarning, match="vx, vy, vz"):
        record = read_ecg(ptb)
    assert (record.signal.dtype, record.sampling_rate, record.lead_names) == (np.float32, 1000, LEAD_NAMES)
    physical = wfdb.rdrecord(str(ptb), channel_names=[name.lower() for name in LEAD_NAMES]).p_signal.T * 1000
    np.testing.assert_allclose(record.signal, physical, atol=1e-3)


# NumPy


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("transposed", [False, True])
def test_arrays_of_every_layout(tmp_path, millivolts, dtype, order, transposed):
    values = np.asarray(millivolts.T if transposed else millivolts, dtype, order)
    record = read(save(tmp_path / "rec.npy", values), **SAID)
    assert (record.sampling_rate, record.lead_names) == (250, LEAD_NAMES)
    assert record.signal.dtype == np.float32 and record.signal.dtype.isnative
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i8", "|i1", "<u2"])
def test_arrays_of_integers_need_a_unit(tmp_path, dtype):
    values = np.arange(24).reshape(12, 2).astype(dtype)
    path = save(tmp_path / "rec.npy", values)
    record = read(path, **SAID | {"units": "uV"})
    assert record.signal.dtype == np.int16
    np.testing.assert_array_equal(record.signal, values)
    np.testing.assert_array_equal(read(path, **SAID).signal, values.astype(np.int64) * 1000)
    refused(path, "does not state `units`", **SAID | {"units": None})


@pytest.mark.parametrize("missing", ["sampling_rate", "units", "lead_names"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_nothing_is_guessed_of_an_array(tmp_path, missing, dtype):
    path = save(tmp_path / "rec.npy", np.zeros((12, 50), dtype))
    refused(path, f"does not state `{missing}`,", "rec.json", **{k: v for k, v in SAID.items() if k != missing})
    refused(path, "`sampling_rate`, `units`, `lead_names`")


def test_values_of_an_array_are_rounded_to_the_nearest_microvolt(tmp_path):
    path = save(tmp_path / "rec.npy", np.array([[-1.0006, -0.9994, 0.0006, 0.0014]]))
    record = read(path, **SAID | {"lead_names": ["I"]})
    np.testing.assert_array_equal(whole_microvolts(record), [[-1001, -999, 1, 1]])
    noise = np.random.default_rng(0).uniform(-5, 5, (1, 100_000))
    whole = whole_microvolts(read(save(path, noise), **SAID | {"lead_names": ["I"]}))
    assert abs((whole - noise * 1000).mean()) < 0.01
    np.testing.assert_array_equal(whole_microvolts(read(save(path, -noise), **SAID | {"lead_names": ["I"]})), -whole)


@pytest.mark.parametrize("unit", ["V", "mV", "uV", "µV", "μV", "nV", "MV", "millivolts"])
def test_units_of_an_array(tmp_path, millivolts, unit):
    per_millivolt = {"V": 1e-3, "nV": 1e6}.get(unit, 1.0 if unit.casefold().startswith("m") else 1e3)
    path = save(tmp_path / "rec.npy", millivolts * per_millivolt)
    np.testing.assert_array_equal(whole_microvolts(read(path, **SAID | {"units": unit})), np.rint(millivolts * 1000))


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.zeros((12, 9), complex), "complex128"),
        (np.zeros((12, 9), bool), "bool"),
        (np.full((12, 9), "a"), "str"),
        (np.zeros((12, 9), [("a", "f4")]), "void"),
        (np.zeros((12, 9), "m8[s]"), "timedelta64"),
        (np.array([[object()] * 9] * 12), "Python objects"),
        (np.zeros((12, 12)), "12 x 12"),
        (np.zeros((15, 9)), "15 x 9"),
        (np.zeros((11, 9)), "11 x 9"),
        (np.zeros(9), "9 values"),
        (np.zeros((1, 12, 9)), "1 x 12 x 9"),
        (np.float64(3), "values"),
        (np.zeros((12, 0)), ""),
        (np.full((12, 9), np.nan), "missing samples (NaN): 9 of 9"),
        (np.full((12, 9), 1000.0), "is its unit really mV"),
        (np.full((12, 9), -32768, np.int16), "lead I has missing samples (-32768, WFDB's marker): 9 of 9"),
    ],
)
def test_arrays_that_are_no_record_are_refused(tmp_path, values, part):
    refused(save(tmp_path / "rec.npy", values), part, **SAID)


def test_damaged_arrays_are_refused(tmp_path, millivolts):
    content = save(tmp_path / "rec.npy", millivolts).read_bytes()
    for length in (6, 7, 8, 10, 64, 127, 128, 200, len(content) - 1):
        refused(write(tmp_path / "rec.npy", content[:length]), "NumPy", **SAID)
    refused(write(tmp_path / "rec.npy", content.replace(b"'descr'", b"'decsr'")), "header is damaged", **SAID)
    refused(write(tmp_path / "rec.npy", content.replace(b"<f8", b"<q9")), "NumPy", **SAID)
    for place in range(10, 70):
        damaged = content[:place] + b"[" + content[place + 1 :]
        refused(write(tmp_path / "rec.npy", damaged), "NumPy", **SAID)
    huge = content.replace(b"(12, 200), }    ", b"(12, 1000000000)}")
    assert huge != content
    refused(write(tmp_path / "rec.npy", huge), "NumPy", **SAID)


def test_a_single_lead(tmp_path):
    for values in (np.arange(9.0), np.arange(9.0)[None], np.arange(9.0)[:, None]):
        record = read(save(tmp_path / "rec.npy", values), **SAID | {"lead_names": ["V2"]})
        assert record.lead_names == ("V2",)
        np.testing.assert_array_equal(record.signal, [np.arange(9) * 1000])


# The JSON beside a file


def test_a_json_beside_the_file_states_what_it_lacks(tmp_path, millivolts):
    names = ["Lead V1", "VX", "I", "II"]
    path = save(tmp_path / "rec.1.npy", millivolts[:4])
    fields = {"sampling_rate": 360.5, "units": "mV", "lead_names": names, "patient": "Eve Example"}
    write(tmp_path / "rec.1.json", "\ufeff" + json.dumps(fields))
    with pytest.warns(UserWarning, match="VX"):
        record = read_ecg(path)
    assert (record.sampling_rate, record.lead_names) == (360.5, ("V1", "I", "II"))
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[[0, 2, 3]] * 1000))
    with pytest.warns(UserWarning, match="VX"):
        assert read_ecg(path, lead_names=["II", "V1"]).lead_names == ("II", "V1")
    refused(path, "360.5 Hz, expected 500", sampling_rate=500)
    refused(path, "`units` says uV", units="uV")
    refused(path, "no lead V6", lead_names=["V6"])


@pytest.mark.parametrize("leads", ["leads", "lead_order", "ch_names", "sig_name"])
@pytest.mark.parametrize("rate", ["fs", "sfreq", "sample_rate"])
@pytest.mark.parametrize("kind", ["json", "hdf5"])
def test_what_is_stated_under_another_name_is_not_overlooked(tmp_path, millivolts, leads, rate, kind):
    fields = {leads: list(LEAD_NAMES[::-1]), rate: 250, "unit": "mV"}
    if kind == "json":
        path = save(tmp_path / "rec.npy", millivolts[::-1])
        write(tmp_path / "rec.json", json.dumps(fields))
    else:
        path = tmp_path / "rec.h5"
        with h5py.File(path, "w") as file:
            file["ecg"] = millivolts[::-1]
            file["ecg"].attrs.update(fields)
    for said in ({}, {"lead_names": LEAD_NAMES}):
        record = read(path, **said)
        order = slice(None) if said else slice(None, None, -1)
        assert record.lead_names == LEAD_NAMES[order]
        np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[order] * 1000))
    refused(path, "250 Hz, expected 500", sampling_rate=500)
    refused(path, "`units` says uV", units="uV")


def test_a_field_that_may_be_something_else_states_nothing(tmp_path, millivolts):
    path = save(tmp_path / "rec.npy", millivolts)
    write(
        tmp_path / "rec.json",
        json.dumps({"leads": 12, "ch_names": ["a", "b"], "unit": "ICU", "fs": "GE", "bad": ["V1"]}),
    )
    refused(path, "does not state `sampling_rate`, `units`, `lead_names`")
    np.testing.assert_array_equal(whole_microvolts(read(path, **SAID)), np.rint(millivolts * 1000))


def test_a_json_may_state_a_part(tmp_path, millivolts):
    path = save(tmp_path / "rec.npy", millivolts)
    write(tmp_path / "rec.json", '{"units": "mV"}')
    refused(path, "does not state `sampling_rate`, `lead_names`")
    assert read(path, sampling_rate=100, lead_names=LEAD_NAMES).sampling_rate == 100


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "must be an object"),
        ('{"sampling_rate": "fast"}', "`sampling_rate` must be a number"),
        ('{"sampling_rate": true}', "`sampling_rate` must be a number"),
        ('{"sampling_rate": 1' + "0" * 400 + "}", "`sampling_rate` must be a number"),
        ('{"sampling_rate": 0}', "above 0"),
        ('{"sampling_rate": NaN}', "above 0"),
        ('{"units": 3}', "`units` must be"),
        ('{"units": "mmHg"}', "mmHg"),
        ('{"lead_names": "I II"}', "`lead_names` must be"),
        ('{"lead_names": [1]}', "`lead_names` must be"),
        ('{"lead_names": []}', "`lead_names` must be"),
    ],
)
def test_a_damaged_json_is_refused(tmp_path, millivolts, content, part):
    path = save(tmp_path / "rec.npy", millivolts)
    write(tmp_path / "rec.json", content)
    said = {name: value for name, value in SAID.items() if f'"{name}"' not in str(content)}
    refused(path, part, **said)


def test_a_json_that_contradicts_its_file_is_refused(tmp_path, millivolts):
    path = write(tmp_path / "rec.csv", table_text(millivolts, header=[f"{name} (mV)" for name in LEAD_NAMES]))
    beside = tmp_path / "rec.json"
    write(beside, json.dumps({"lead_names": LEAD_NAMES[::-1], "units": "mv", "sampling_rate": 250}))
    assert read(path).lead_names == LEAD_NAMES
    write(beside, json.dumps({"lead_names": LEAD_NAMES[:3]}))
    refused(path, "other leads", sampling_rate=250)
    write(beside, json.dumps({"units": "uV"}))
    refused(path, "lead I is in mV", "says uV", sampling_rate=250)
    with h5py.File(tmp_path / "rec.h5", "w") as file:
        file["ecg"] = millivolts
        file.attrs.update({"units": "mV"})
    refused(tmp_path / "rec.h5", "its `units` is another", "rec.json", **SAID)


def test_a_json_that_is_a_pipe_is_not_opened(tmp_path, millivolts):
    path = save(tmp_path / "rec.npy", millivolts)
    os.mkfifo(tmp_path / "rec.json")
    refused(path, "regular file", **SAID)


# Text


@pytest.mark.parametrize(
    ("separator", "decimal"),
    [(",", "."), (" ,", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), (" ", "."), ("  ", "."), (" ", ",")],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_of_every_spelling(tmp_path, millivolts, separator, decimal, newline, encoding):
    names = [name.lower() for name in LEAD_NAMES[::-1]]
    text = "# Patient: Eve Exämple\n\n" + table_text(millivolts[::-1], separator, names, decimal) + "\n"
    path = write(tmp_path / "rec.csv", text.replace("\n", newline).encode(encoding))
    record = read(path, sampling_rate=250, units="mV")
    assert record.lead_names == LEAD_NAMES[::-1]
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[::-1] * 1000))
    assert read(path, sampling_rate=250, units="mV", lead_names=["II", "I"]).lead_names == ("II", "I")


def test_text_without_a_header_is_named_by_the_caller(tmp_path, millivolts):
    expected = np.rint(millivolts * 1000)
    columns = write(tmp_path / "columns.txt", "ECG of Eve\n" + table_text(millivolts, header=None))
    rows = write(tmp_path / "rows.txt", table_text(millivolts.T, "\t", header=None))
    for path in (columns, rows):
        np.testing.assert_array_equal(whole_microvolts(read(path, **SAID)), expected)
        refused(path, "does not state `lead_names`", sampling_rate=250, units="mV")
    channels = write(tmp_path / "channels.txt", table_text(millivolts, ";", [f"ch{i}" for i in range(12)]))
    np.testing.assert_array_equal(whole_microvolts(read(channels, **SAID)), expected)
    square = write(tmp_path / "square.txt", table_text(millivolts[:, :12], header=None))
    refused(square, "rows or columns", **SAID)


def test_units_may_stand_with_the_names(tmp_path, millivolts):
    header = [f"{name} (uV)" if name != "I" else "I [mV]" for name in LEAD_NAMES]
    scaled = millivolts * np.array([1, *[1000] * 11])[:, None]
    path = write(tmp_path / "rec.csv", table_text(scaled, header=header))
    below = write(
        tmp_path / "below.csv", ",".join(LEAD_NAMES) + "\n" + table_text(scaled, header=["mV"] + ["'uV'"] * 11)
    )
    for each in (path, below):
        np.testing.assert_array_equal(whole_microvolts(read(each, sampling_rate=9)), np.rint(millivolts * 1000))
        refused(each, "lead II is in uV", sampling_rate=9, units="mV")
    refused(write(path, table_text(millivolts)), "no unit of voltage", sampling_rate=9)


@pytest.mark.parametrize(
    "spelling", ["{} (mV)", "{} [microvolts]", "{}_mV", "lead {} uV", "{}/mV", "ECG {} (millivolt)"]
)
def test_a_unit_may_stand_with_a_name_in_many_spellings(tmp_path, millivolts, spelling):
    factor = 1000 if "micro" in spelling or "uV" in spelling else 1
    names = ["time_s", *(spelling.format(name) for name in LEAD_NAMES[::-1])]
    values = np.vstack([np.arange(NUM_SAMPLES) / 250, millivolts[::-1] * factor])
    path = write(tmp_path / "rec.csv", table_text(values, header=names))
    for said in ({}, {"lead_names": LEAD_NAMES}):
        record = read(path, sampling_rate=250, **said)
        assert record.lead_names == (LEAD_NAMES if said else LEAD_NAMES[::-1])
        order = slice(None) if said else slice(None, None, -1)
        np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[order] * 1000))
    refused(path, "column of time", sampling_rate=500)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("I (mV)", "{1:.3f}"),
        ("Lead I [mV]", "{1:.3f}"),
        ("Time (s)  I (mV)", "{0} {1:.3f}"),
        ("ECG (mV)", "{1:.3f}"),
        (",ECG (mV),HR", "{0},{1:.3f},60"),
        ("'Elapsed time','ECG'\n'hh:mm:ss.mmm','mV'", "'0:0{0:.3f}',{1:.3f}"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*channels left out")
def test_a_header_of_one_lead_must_agree_with_the_caller(tmp_path, millivolts, header, row):
    """The last one is what `rdsamp` writes of the challenge of 2017."""
    text = "\n".join([header, *(row.format(place / 250, value) for place, value in enumerate(millivolts[0]))])
    path, said = write(tmp_path / "rec.csv", text), {"sampling_rate": 250, "lead_names": ["I"]}
    record = read_ecg(path, **said)
    np.testing.assert_array_equal(whole_microvolts(record), [np.rint(millivolts[0] * 1000)])
    refused(path, "`units` says uV", units="uV", **said)
    if "ECG" not in header:
        refused(path, "no lead II", **said | {"lead_names": ["II"]})


def test_leads_in_no_unit_are_not_named_by_the_caller_in_another_order(tmp_path, millivolts):
    path = write(
        tmp_path / "rec.csv", table_text(millivolts[::-1], header=[f"{lead} (adu)" for lead in LEAD_NAMES[::-1]])
    )
    refused(path, "'V6 (adu)'", "'adu' is no unit of voltage", **SAID)
    both = [*LEAD_NAMES[:6], *(f"{lead} (filtered)" for lead in LEAD_NAMES[:6])]
    with pytest.warns(UserWarning, match="left out"):
        record = read_ecg(write(path, table_text(millivolts, header=both)), sampling_rate=250, units="mV")
    assert record.lead_names == LEAD_NAMES[:6]


@pytest.mark.parametrize("spelling", ["ECG.{}", "{}..mV.", "{}_filtered", "lead{}", "Ableitung {}"])
@pytest.mark.parametrize("has_times", [False, True])
def test_names_in_another_spelling_are_not_overruled_by_another_order(tmp_path, millivolts, spelling, has_times):
    """`I..mV.` is what R makes of `I (mV)`."""

    def table(order):
        values, header = millivolts[order], [spelling.format(lead) for lead in np.array(LEAD_NAMES)[order]]
        times = np.arange(NUM_SAMPLES)[None] / 250
        return table_text(np.vstack([times, values]) if has_times else values, header=["t"] * has_times + header)

    path = write(tmp_path / "rec.csv", table(slice(None, None, -1)))
    refused(path, f"{spelling.format('V6')!r}", "lead V6", "names of their leads alone", **SAID)
    record = read(write(path, table(slice(None))), **SAID)
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))


@pytest.mark.parametrize(
    ("name", "per_second"), [("time", 1), ("Time (s)", 1), ("t [ms]", 1e3), ("ms", 1e3), ("time", 1e3), ("time", 250)]
)
def test_a_column_of_time_checks_the_rate(tmp_path, millivolts, name, per_second):
    values = np.vstack([3 + np.arange(NUM_SAMPLES) / 250 * per_second, millivolts])
    path = write(tmp_path / "rec.csv", table_text(values, header=[name, *LEAD_NAMES]))
    np.testing.assert_array_equal(
        whole_microvolts(read(path, sampling_rate=250, units="mV")), np.rint(millivolts * 1000)
    )
    unnamed = write(tmp_path / "unnamed.csv", table_text(values, header=None))
    np.testing.assert_array_equal(whole_microvolts(read(unnamed, **SAID)), np.rint(millivolts * 1000))
    refused(path, "does not state its sampling rate", units="mV")
    for rate in (240, 500, 125):
        if per_second != 250:
            refused(path, "column of time", f"{rate} Hz", sampling_rate=rate, units="mV")
            refused(unnamed, "column of time", **SAID | {"sampling_rate": rate})
    values[0, 50:] += per_second
    refused(write(path, table_text(values, header=[name, *LEAD_NAMES])), "of time", sampling_rate=250, units="mV")


@pytest.mark.parametrize("header", [None, ["timestamp", "ecg"], ["sample", "ch1"]])
def test_numbers_of_samples_are_no_lead(tmp_path, millivolts, header):
    values = np.vstack([np.arange(NUM_SAMPLES), millivolts[1]])
    path = write(tmp_path / "rec.csv", table_text(values, header=header))
    refused(path, "first column grows", "lead I:", **SAID | {"lead_names": ["I", "II"]})
    with contextlib.nullcontext() if header is None else pytest.warns(UserWarning, match=f"left out.*{header[0]}"):
        record = read_ecg(path, **SAID | {"lead_names": ["II"]})
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[1:2] * 1000))


def test_a_lead_without_values_is_missing(tmp_path, millivolts):
    text = table_text(np.where(np.arange(12)[:, None] == 3, np.nan, millivolts)).replace("nan", "")
    names = tuple(name for name in LEAD_NAMES if name != "aVR")
    path = write(tmp_path / "rec.csv", text)
    for kwargs in ({}, {"lead_names": names}):
        record = read(path, sampling_rate=250, units="mV", **kwargs)
        assert record.lead_names == names and len(record.signal) == 11
    refused(path, "no lead aVR", **SAID)
    unnamed = write(tmp_path / "unnamed.csv", text.split("\n", 1)[1])
    record = read(unnamed, **SAID)
    assert record.lead_names == names
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(np.delete(millivolts, 3, 0) * 1000))
    write(tmp_path / "unnamed.json", json.dumps({"lead_names": LEAD_NAMES}))
    assert read(unnamed, sampling_rate=250, units="mV").lead_names == names
    refused(unnamed, "no lead aVR", **SAID)
    trailing = write(tmp_path / "trailing.csv", table_text(millivolts, header=None).replace("\n", ",\n"))
    assert read(trailing, **SAID).lead_names == LEAD_NAMES


@pytest.mark.parametrize("time", [None, "0,004"])
def test_decimal_commas_between_commas_are_refused_by_the_separator(tmp_path, millivolts, time):
    names = [*([] if time is None else ["time"]), *LEAD_NAMES]
    header, *lines = table_text(millivolts, decimal=",").split("\n")
    text = "\n".join([",".join(names), *(line if time is None else f"{time},{line}" for line in lines)])
    for said in (SAID, {"sampling_rate": 250, "units": "mV"}):
        refused(write(tmp_path / "rec.csv", text), f"line 1 names {len(names)} columns", "semicolons or tabs", **said)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
@pytest.mark.parametrize("comment", ["# ", "#", "% "])
def test_names_of_leads_may_stand_in_a_comment_at_the_top(tmp_path, millivolts, comment, separator):
    """As `numpy.savetxt` and MATLAB write them."""
    top = f"{comment}Eve Example\n{comment}{separator.join(LEAD_NAMES[::-1])}\n"
    path = write(tmp_path / "rec.txt", top + table_text(millivolts[::-1], separator, None))
    record = read(path, sampling_rate=250, units="mV")
    assert record.lead_names == LEAD_NAMES[::-1]
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[::-1] * 1000))
    assert read(path, **SAID).lead_names == LEAD_NAMES
    other = write(tmp_path / "other.txt", f"{comment}Lead I\n" + table_text(millivolts[:2], separator, None))
    assert read(other, **SAID | {"lead_names": ["V1", "V2"]}).lead_names == ("V1", "V2")


def test_a_title_may_hold_a_number(tmp_path, millivolts):
    """As the text of LabChart, here of two channels."""
    title = "Interval=\t0.004 s\nExcelDateTime=\t4.4027e+04\t15/07/2020 12:15\nTimeFormat=\tStartOfBlock\n"
    rows = np.vstack([np.arange(NUM_SAMPLES) / 250, millivolts[:2]])
    text = title + table_text(rows, "\t", ["ChannelTitle=", "Lead I", "Lead II"])
    record = read_leads(write(tmp_path / "rec.txt", text), Said(250, "mV"))
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts[:2] * 1000))


@pytest.mark.parametrize("row_names", [False, True])
def test_columns_that_r_counts_are_no_chest_leads(tmp_path, millivolts, row_names):
    header, *lines = table_text(millivolts, header=[f'"V{place}"' for place in range(1, 13)]).splitlines()
    if row_names:
        header, lines = f'"",{header}', [f'"{place}",{line}' for place, line in enumerate(lines, 1)]
    path = write(tmp_path / "rec.csv", "\n".join([header, *lines]))
    np.testing.assert_array_equal(whole_microvolts(read(path, **SAID)), np.rint(millivolts * 1000))
    refused(path, "does not state `lead_names`", sampling_rate=250, units="mV")
    eight = [*LEAD_NAMES[:2], *LEAD_NAMES[6:]]
    values = millivolts[[LEAD_NAMES.index(lead) for lead in eight]]
    write(path, table_text(values, header=[f"V{place}" for place in range(1, 9)]))
    np.testing.assert_array_equal(whole_microvolts(read(path, **SAID | {"lead_names": eight})), np.rint(values * 1000))
    refused(path, "does not state `lead_names`", sampling_rate=250, units="mV")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-0,125\n0,130\n1,013", {"lead_names": ["I"]}),
        ("I\n-0,125\n0,130\n1,013", {}),
        ("I (mV)\n-0,125\n0,130\n1,013", {"units": None}),
        ("-0,125, 0,130, 1,013, 0,100", {"lead_names": ["I"]}),
        # A watch's export: a name and its value in each line, then one column.
        ("Name,X\nLead,Lead I\nUnit,\u00b5V\n\n-21,311\n-20,045\n-18,7", {"units": "uV"}),
        ('"-0,125","0,130","1,013"\n"0,225","0,130","0,100"', {"lead_names": ["I", "II"]}),
    ],
)
def test_decimal_commas_between_commas_are_refused(tmp_path, text, said):
    path = write(tmp_path / "rec.csv", text)
    refused(path, "with decimal commas", "Write points", **{"sampling_rate": 250, "units": "mV"} | said)


@pytest.mark.parametrize("separator", [";", "\t", " "])
@pytest.mark.parametrize("name", ["time", "Zeit"])
def test_times_may_have_a_decimal_comma_beside_whole_microvolts(tmp_path, millivolts, separator, name):
    microvolts = np.rint(1000 * millivolts[:2]).astype(int)
    times = [f"{row / 250:.4f}".replace(".", ",") for row in range(NUM_SAMPLES)]
    rows = [separator.join([time, *map(str, row)]) for time, row in zip(times, microvolts.T, strict=True)]
    path = write(tmp_path / "rec.csv", "\n".join([separator.join([name, "I", "II"]), *rows]))
    with contextlib.nullcontext() if name == "time" else pytest.warns(UserWarning, match="left out, .*: Zeit"):
        np.testing.assert_array_equal(read_ecg(path, sampling_rate=250, units="uV").signal, microvolts)
    if name == "time":
        refused(path, "do not fit 500 Hz", sampling_rate=500, units="uV")


def test_zeros_in_front_of_other_columns_are_read(tmp_path):
    path = write(tmp_path / "rec.csv", "beat,I,II\n007,0,10\n008,-5,12\n009,-7,14")
    with pytest.warns(UserWarning, match="left out, .*: beat"):
        assert read_ecg(path, sampling_rate=250, units="uV").signal.tolist() == [[0, -5, -7], [10, 12, 14]]


@pytest.mark.parametrize(("separator", "mark"), [(";", ","), (";", "."), ("\t", ",")])
def test_thousands_beside_whole_numbers_are_no_fractions(tmp_path, millivolts, separator, mark):
    microvolts = np.rint(np.transpose(3000 * millivolts)).astype(int)
    text = "\n".join([separator.join(LEAD_NAMES), *(separator.join(f"{v:,}" for v in row) for row in microvolts)])
    said = {"sampling_rate": 250, "units": "uV"}
    refused(write(tmp_path / "rec.csv", text.replace(",", mark)), "mark behind the thousands", **said)
    assert read(write(tmp_path / "rec.csv", text.replace(",", "")), **said).lead_names == LEAD_NAMES


def test_other_columns_are_left_out_with_a_note(tmp_path, millivolts):
    path = write(tmp_path / "rec.csv", table_text(millivolts[:3], header=["index", "I", "Resp"]))
    with pytest.warns(UserWarning, match="index, Resp"):
        assert read_ecg(path, sampling_rate=250, units="mV").lead_names == ("I",)
    refused(write(path, table_text(millivolts[:2], header=["I", "i"])), "twice", sampling_rate=250, units="mV")


@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), ("\t", ".")])
def test_other_columns_may_hold_text(tmp_path, millivolts, separator, decimal):
    """As PhysioNet's export has the time, loggers the date, and annotated files the beats."""
    times = ["'hh:mm:ss.mmm'", *(f"'0:{row / 250:06.3f}'" for row in range(NUM_SAMPLES))]
    beats = ["", *("N" if row % 50 == 7 else "" for row in range(NUM_SAMPLES))]
    header, *lines = table_text(millivolts, separator, [f"'{lead}'" for lead in LEAD_NAMES], decimal).splitlines()
    lines = [separator.join(["'mV'"] * 12), *lines]
    rows = [separator.join(cells) for cells in zip(times, lines, beats, strict=True)]
    path = write(tmp_path / "rec.csv", "\n".join([separator.join(["'Elapsed time'", header, "beat"]), *rows]))
    with pytest.warns(UserWarning, match="left out, as none of the twelve leads: Elapsed time, beat"):
        record = read_ecg(path, sampling_rate=250)
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I,II\n1,2\n1,Eve\n1,2", ["line 3, column 2 is not a number", "commas"]),
        ('I;II\n"1,5";2\n"1";"Eve"\n1,5;2', ["line 3, column 2"]),
        ("I,II\n1,2\n1\n1,2", ["line 3 has 1 cells", "commas", "expected 2"]),
        ("I,II\n1,2\n1,2\n1,2\n1", ["line 5 has 1 cells"]),
        ("I,II\n1,2\n1,\n1,2", ["lead II has missing samples (NaN): 1 of 3"]),
        ("I,II\nnan,nan\n1,2\n1,2", ["lead I has missing samples (NaN): 1 of 3"]),
        ("I,II\n1,2\n1,inf\n1,2", ["lead II has missing samples"]),
        ("I,II\n1,2\n1,1_0\n1,2", ["line 3, column 2"]),
        ("I;II\n1,5;2,5\n1.5;2.5\n1,5;2,5", ["a point", "a comma", "semicolons"]),
        ("I;II\n1.000,5;2\n1;2\n1;2", ["a point"]),
        ("I,II\n", ["no line of numbers"]),
        ("# nothing\n", ["no line of numbers"]),
        ("500\n1,2\n1,2\n1,2", ["line 1 has 1 numbers", "expected 2"]),
        ("0,1,2\n1,2,3\n4,5,6\n4,5,6", ["only counts the columns"]),
        ("1,2,3\n1,2,2\n4,5,6\n4,5,6", ["only counts the columns"]),
        ("I,II\n40,1\n1,1", ["lead I reaches 40 mV"]),
        # As R's write.table, and with a separator behind the numbers alone.
        ("II,I\n1,.1,.2\n2,.1,.2", ["line 1 names 2 columns, and the lines below have 3 cells", "commas"]),
        ('"time" "I"\n0 1 2\n1 1 2', ["line 1 names 2 columns", "3 cells", "blanks"]),
        ("II,I\n.1,.2,\n.1,.2,", ["line 1 names 2 columns", "give each column a name"]),
    ],
)
def test_text_that_is_no_record_is_refused(tmp_path, text, parts):
    message = refused(write(tmp_path / "rec.csv", text), *parts, sampling_rate=250, units="mV")
    assert "Eve" not in message


def test_numbers_may_stand_in_quotes(tmp_path):
    path = write(tmp_path / "rec.csv", '"I";"II"\n"0,5"; "1"\n0,5;1,25\n')
    np.testing.assert_array_equal(read(path, sampling_rate=9, units="mV").signal, [[500, 500], [1000, 1250]])


def test_text_in_mv_is_exact(tmp_path):
    """Decimal commas never make 0,435 into 435."""
    path = write(tmp_path / "rec.csv", "\ufeffI;II\r\n0,435;-0,001\r\n-1,2;32,767\r\n")
    np.testing.assert_array_equal(read(path, sampling_rate=100, units="mV").signal, [[435, -1200], [-1, 32767]])


# MATLAB


def write_cpsc(path, values, **options):
    """As CPSC 2018 has it: the struct ECG with sex, age and data."""
    scipy.io.savemat(path, {"ECG": {"sex": "Female", "age": 57, "data": values}}, **options)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_struct_of_cpsc(tmp_path, millivolts, compressed, transposed):
    path = write_cpsc(tmp_path / "A0001.mat", millivolts.T if transposed else millivolts, do_compression=compressed)
    np.testing.assert_array_equal(whole_microvolts(read(path, **SAID)), np.rint(millivolts * 1000))
    # What the challenge says of its files counts where nobody else says anything.
    record = read(path)
    assert (record.sampling_rate, record.lead_names) == (500, LEAD_NAMES)
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))
    assert read(path, sampling_rate=250).sampling_rate == 250
    # Fewer names than it has channels are the leads to take.
    few = read(path, lead_names=["V2", "i"])
    assert few.lead_names == ("V2", "I")
    np.testing.assert_array_equal(whole_microvolts(few), np.rint(millivolts[[7, 0]] * 1000))
    refused(write_cpsc(tmp_path / "b.mat", millivolts[:8]), "`sampling_rate`, `units`, `lead_names`")


def test_a_matrix_in_a_matlab_file(tmp_path, millivolts):
    path = tmp_path / "rec.mat"
    scipy.io.savemat(path, {"x": (millivolts * 1000).round().astype(np.int16), "fs": 250, "name": "Eve"})
    record = read(path, **SAID | {"units": "uV"})
    assert record.signal.dtype == np.int16
    np.testing.assert_array_equal(record.signal, np.rint(millivolts * 1000))
    # A header beside it does not make it a file of the PhysioNet challenges.
    write(tmp_path / "rec.hea", "rec 1 500 2\n")
    assert read(path, **SAID | {"units": "uV"}).sampling_rate == 250


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("names", [("fs", "units", "leads"), ("sampling_rate", "unit", "lead_names")])
def test_a_matlab_file_may_state_rate_unit_and_leads(tmp_path, millivolts, names, compressed):
    path, (rate, unit, leads) = tmp_path / "rec.mat", names
    variables = {rate: 250.0, unit: "mV", leads: np.array(LEAD_NAMES[::-1], dtype=object), "ecg": millivolts[::-1]}
    scipy.io.savemat(path, variables | {"note": "Größe", "more": {"a": 1}}, do_compression=compressed)
    np.testing.assert_array_equal(whole_microvolts(read(path)), np.rint(millivolts[::-1] * 1000))
    record = read(path, **SAID)
    assert record.lead_names == LEAD_NAMES
    np.testing.assert_array_equal(whole_microvolts(record), np.rint(millivolts * 1000))
    refused(path, "250 Hz, expected 500", sampling_rate=500)
    refused(path, "`units` says uV", units="uV")
    write(tmp_path / "rec.json", '{"sampling_rate": 500}')
    refused(path, "its `sampling_rate` is another than that of rec.json")


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"a": np.zeros((12, 9)), "b": np.zeros((12, 9))}, "found a (12, 9), b (12, 9)"),
        ({"a": "text"}, "one matrix of numbers"),
        ({}, "no variable"),
        ({"ECG": {"sex": 1}}, "no field data"),
        ({"ECG": {"data": {"x": 1}}}, "no matrix of numbers"),
        ({"ECG": {"data": "text"}}, "no matrix of numbers"),
        ({"a": np.zeros((12, 9), complex)}, "complex"),
        ({"a": np.zeros((15, 9))}, "15 x 9"),
    ],
)
def test_matlab_files_that_are_no_record_are_refused(tmp_path, variables, part):
    scipy.io.savemat(tmp_path / "rec.mat", variables)
    refused(tmp_path / "rec.mat", part, **SAID)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_matlab_files_are_refused(tmp_path, millivolts, compressed):
    content = write_cpsc(tmp_path / "rec.mat", millivolts, do_compression=compressed).read_bytes()
    for length in (30, 128, 130, 136, 140, 200, 1000, len(content) - 8):
        refused(write(tmp_path / "rec.mat", content[:length]), **SAID)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(126, 420)] ^= 1 << rng.integers(8)
        write(tmp_path / "rec.mat", bytes(damaged))
        try:
            read_ecg(tmp_path / "rec.mat", **SAID)
        except RecordError:
            pass


def test_a_packed_matlab_file_with_a_changed_byte_is_refused(tmp_path, millivolts):
    """The checksum at the end of what is packed is compared, so that no other voltages are read."""
    content = write_cpsc(tmp_path / "rec.mat", millivolts, do_compression=True).read_bytes()
    for place in np.random.default_rng(0).integers(160, len(content) - 1, 100):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        refused(write(tmp_path / "rec.mat", bytes(damaged)), "MATLAB", **SAID)


def test_a_small_matlab_file_of_a_huge_matrix_is_refused(tmp_path):
    """The size of what is packed is looked at before it is unpacked."""
    import zlib

    inner = struct.pack("<II", 14, 2**31 + 8) + bytes(1000)
    packed = zlib.compress(inner)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path = write(tmp_path / "rec.mat", header + struct.pack("<II", 15, len(packed)) + packed)
    refused(path, "unpacks to", "Cut it", **SAID)


@pytest.mark.skipif(not (SHARED / "data" / "cpsc2018").is_dir(), reason="the real records are not there")
def test_real_records_of_cpsc():
    paths = sorted((SHARED / "data" / "cpsc2018").glob("*.mat"))
    assert paths
    for path in paths:
        expected = scipy.io.loadmat(path)["ECG"][0, 0]["data"]
        record = read(path, **SAID | {"sampling_rate": 500})
        np.testing.assert_allclose(record.signal, expected * 1000, atol=2e-3)
        # Leads are where the names say.
        np.testing.assert_allclose(record.signal[2], record.signal[1] - record.signal[0], atol=5)
        np.testing.assert_allclose(record.signal[3], -(record.signal[0] + record.signal[1]) / 2, atol=5)


# HDF5


def write_code15(path, values, ids):
    """As CODE-15 % has it: (records, samples, leads) float32 in mV, and an id for each."""
    with h5py.File(path, "w") as file:
        file["tracings"] = values.transpose(0, 2, 1).astype(np.float32)
        file["exam_id"] = ids
    return path


def test_records_of_code15_are_chosen_by_row_or_id(tmp_path, millivolts):
    several = np.stack([millivolts, millivolts[::-1], -millivolts])
    path = write_code15(tmp_path / "exams_part0.hdf5", several, np.array([590673, 7, 3000000000]))
    for part, row in (("row=0", 0), ("row=2", 2), ("exam_id=7", 1), ("exam_id=3000000000", 2)):
        record = read(f"{path}#{part}", **SAID)
        np.testing.assert_array_equal(whole_microvolts(record), np.rint(several[row] * 1000))
    refused(path, "3 records", "as exams_part0.hdf5#row=0 or exams_part0.hdf5#exam_id=ID; of several, give", **SAID)
    for part, message in (
        ("row=3", "0 to 2"),
        ("row=-1", "0 to 2"),
        ("row=x", "0 to 2"),
        ("exam_id=8", "0 times"),
        ("patient=8", "no data set patient"),
        ("tracings=8", "no data set tracings"),
        ("5", "name one"),
    ):
        refused(f"{path}#{part}", message, **SAID)
    refused(f"{path}#row=0", "`sampling_rate`, `units`, `lead_names`", "SaMi-Trop has 400 Hz and mV")
    write(tmp_path / "exams_part0.json", json.dumps(SAID))
    assert read(f"{path}#row=0").sampling_rate == 250


def test_the_form_of_code15_has_the_rate_and_leads_of_its_description(tmp_path):
    values = np.random.default_rng(0).normal(0, 0.3, (3, 12, 4096))
    values[0, :, :600] = values[0, :, 3400:] = values[2] = 0  # an exam of 7 s, and the row behind the last exam
    path = write_code15(tmp_path / "exams_part0.hdf5", values, [5, 6, 0])
    # The zeros that fill an exam up are no part of it, as for `load_code15`: else it had other windows, and scores.
    for exam_id, expected in ((6, values[1]), (5, values[0, :, 600:3400]), (0, values[2])):
        record = read(f"{path}#exam_id={exam_id}")
        assert (record.sampling_rate, record.lead_names) == (400, LEAD_NAMES)
        np.testing.assert_array_equal(whole_microvolts(record), np.rint(expected.astype(np.float32) * 1000))
    assert read(f"{path}#row=0", sampling_rate=500).sampling_rate == 500
    # CODE-test has no ids, and another order of leads.
    with h5py.File(path, "a") as file:
        del file["exam_id"]
    refused(f"{path}#row=0", "`sampling_rate`, `units`, `lead_names`")


def test_ids_may_be_text_and_must_be_unique(tmp_path, millivolts):
    path = write_code15(tmp_path / "a.h5", np.stack([millivolts] * 3), ["x1", "x2", "x1"])
    assert read(f"{path}#exam_id=x2", **SAID).lead_names == LEAD_NAMES
    refused(f"{path}#exam_id=x1", "2 times", **SAID)


def test_one_record_of_float16_as_sph_has_it(tmp_path, millivolts):
    with h5py.File(tmp_path / "A00001.h5", "w") as file:
        file["ecg"] = millivolts.astype(np.float16)
    record = read(tmp_path / "A00001.h5", **SAID)
    np.testing.assert_allclose(record.signal, millivolts * 1000, atol=1)
    refused(f"{tmp_path}/A00001.h5#row=0", "one record", **SAID)


def test_attributes_state_rate_unit_and_leads(tmp_path, millivolts):
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as file:
        file["ecg"] = millivolts
        file["ecg"].attrs.update({"units": "mV", "lead_names": list(LEAD_NAMES)})
        file.attrs["sampling_rate"] = np.int64(250)
    np.testing.assert_array_equal(whole_microvolts(read(path)), np.rint(millivolts * 1000))
    assert read(path, lead_names=["V6", "I"]).lead_names == ("V6", "I")
    refused(path, "250 Hz, expected 500", sampling_rate=500)
    with h5py.File(path, "a") as file:
        file.attrs["sampling_rate"] = "fast"
    refused(path, "`sampling_rate` must be a number")


def test_hdf5_files_that_are_no_record_are_refused(tmp_path, millivolts):
    path = tmp_path / "rec.h5"

    def written(fill, **options):
        with h5py.File(path, "w", **options) as file:
            fill(file)
        return path

    refused(written(lambda file: None), "unknown layout", "found nothing", **SAID)
    refused(written(lambda file: file.create_dataset("x", data=[1])), "found x", **SAID)
    refused(written(lambda file: file.create_group("ecg")), "unknown layout", "found ecg (a group)", **SAID)
    refused(written(lambda file: file.create_dataset("ecg", data=["a"])), "1 axes", **SAID)
    refused(written(lambda file: file.create_dataset("ecg", data=[["a"]])), "type", **SAID)
    refused(written(lambda file: file.create_dataset("ecg", data=np.zeros((15, 9)))), "15 x 9", **SAID)
    refused(written(lambda file: file.create_dataset("ecg", shape=(12, 2**40), dtype="f4")), "above", **SAID)
    chunks = {"shape": (2**20, 12, 100), "dtype": "f4", "chunks": (2**19, 12, 100)}
    refused(f"{written(lambda file: file.create_dataset('ecg', **chunks))}#row=0", "chunks", **SAID)


def test_no_path_in_an_hdf5_file_is_followed(tmp_path, millivolts):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["ecg"] = millivolts
    millivolts.tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["ecg"] = h5py.ExternalLink("other.h5", "ecg")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(millivolts.shape, "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "ecg", millivolts.shape)
        file.create_virtual_dataset("ecg", layout)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset(
            "ecg", millivolts.shape, "f8", external=[(str(tmp_path / "raw.bin"), 0, millivolts.nbytes)]
        )
    for name in ("link", "virtual", "external"):
        refused(tmp_path / f"{name}.h5", "in the file itself", **SAID)


def test_damaged_hdf5_files_are_refused(tmp_path, millivolts):
    content = write_code15(tmp_path / "a.h5", millivolts[None], [5]).read_bytes()
    for length in (8, 100, 1000, len(content) - 100):
        refused(write(tmp_path / "a.h5", content[:length]), "HDF5", **SAID)


def test_a_matlab_7_3_file_of_another_layout_is_refused(tmp_path):
    with h5py.File(tmp_path / "rec.mat", "w", userblock_size=512) as file:
        file["val"] = np.zeros((9, 12))
    with open(tmp_path / "rec.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    refused(tmp_path / "rec.mat", "unknown layout", "-v7", **SAID)
