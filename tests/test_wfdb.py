import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import wfdb
from conftest import SHARED

from ecg_hf import read_ecg
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.wfdb_ecg_transformer import RecordError, read_record
from ecg_hf.synthetic import simulate_ptbxl

NUM_SAMPLES = 250


@pytest.fixture
def microvolts():
    """Random signals in µV, int16 (12, samples)."""
    return np.random.default_rng(0).integers(-3000, 3000, (12, NUM_SAMPLES)).astype(np.int16)


def write(folder, digital, *, name="rec", leads=LEAD_NAMES, sample_format="16", gain=1000.0, baseline=0, units="mV"):
    """Write `digital` (leads, samples) with wfdb and return the record's path."""
    count = len(digital)
    wfdb.wrsamp(
        name,
        fs=100,
        units=[units] * count,
        sig_name=list(leads),
        d_signal=digital.T.astype(np.int64),
        fmt=[sample_format] * count,
        adc_gain=[gain] * count,
        baseline=[baseline] * count,
        write_dir=str(folder),
    )
    return folder / name


def edit_header(path, old, new, count=-1):
    header = path.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new, count))


def edit_record_line(path, line):
    header = path.with_suffix(".hea")
    header.write_text("\n".join([line, *header.read_text().splitlines()[1:]]))


def write_by_hand(folder, record_line, lines, name="rec", **files):
    """Write a header of these lines, and signal files of the arrays' bytes."""
    (folder / f"{name}.hea").write_text("\n".join([record_line, *lines]), encoding="utf-8")
    for file_name, samples in files.items():
        samples.tofile(folder / f"{file_name}.dat")
    return folder / name


def read_error(path, **kwargs):
    """The error of reading `path`; it names the record."""
    with warnings.catch_warnings(), pytest.raises(RecordError) as caught:
        warnings.simplefilter("error", UserWarning)
        read_record(path, **kwargs)
    assert str(path) in str(caught.value)
    return str(caught.value)


def assert_same_as_wfdb(path):
    record = read_record(path)
    expected = wfdb.rdrecord(str(path), physical=False, return_res=16)
    assert record.signal.dtype == np.int16 and record.signal.flags.c_contiguous
    np.testing.assert_array_equal(record.signal, expected.d_signal.T)
    assert record.sampling_rate == expected.fs
    assert [name.upper() for name in record.lead_names] == [name.upper() for name in expected.sig_name]


def test_samples_are_those_of_wfdb(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    assert_same_as_wfdb(path)
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize(("fixture", "rate"), [("ptbxl_100hz", 100), ("ptbxl_500hz", 500)])
def test_real_records_are_those_of_wfdb(request, fixture, rate):
    folder = request.getfixturevalue(fixture)
    headers = sorted(folder.glob(f"records{rate}/*/*.hea"))
    for header in headers[:: max(1, len(headers) // 50)]:
        assert_same_as_wfdb(header.with_suffix(""))


def test_simulated_records_are_those_of_wfdb(tmp_path):
    simulate_ptbxl(tmp_path, 3, sampling_rates=(100, 500))
    headers = list(tmp_path.glob("records*/*/*.hea"))
    assert len(headers) == 6
    for header in headers:
        assert_same_as_wfdb(header.with_suffix(""))


@pytest.mark.parametrize("data_set", ["challenge2021", "ptb"])
@pytest.mark.filterwarnings("ignore:Record .*vx, vy, vz")
def test_records_of_other_data_sets_are_those_of_wfdb(data_set):
    headers = sorted((SHARED / "data" / data_set).glob("*.hea"))
    if not headers:
        pytest.skip(f"{data_set} is not at {SHARED / 'data'}")
    for header in headers:
        record = read_record(header)
        # The file of PTB's Frank leads is not there.
        expected = wfdb.rdrecord(str(header.with_suffix("")), channels=list(range(12)))
        assert (record.lead_names, record.sampling_rate) == (LEAD_NAMES, expected.fs)
        assert [name.casefold() for name in expected.sig_name] == [name.casefold() for name in LEAD_NAMES]
        assert np.abs(expected.p_signal.T * 1000 - record.signal).max() <= 0.5 + 1e-9
        assert record.other_channels == (("vx", "vy", "vz") if data_set == "ptb" else ())


@pytest.mark.parametrize("ending", ["", ".hea", ".dat", ".mat"])
@pytest.mark.parametrize("name", ["rec", "rec.1.a", "Größe_Ä(1)", "心電図"])
def test_the_path_may_have_its_ending_and_any_name(tmp_path, microvolts, name, ending):
    header = write(tmp_path, microvolts).with_suffix(".hea")
    text = header.read_text().replace("rec.dat", f"{name}.dat").replace("rec 12", f"{name} 12")
    header.unlink()
    (tmp_path / f"{name}.hea").write_text(text, encoding="utf-8")
    (tmp_path / "rec.dat").rename(tmp_path / f"{name}.dat")
    for path in (f"{tmp_path}/{name}{ending}", Path(tmp_path, f"{name}{ending}")):
        np.testing.assert_array_equal(read_record(path).signal, microvolts)


def test_lead_names_become_canonical_and_keep_the_files_order(tmp_path, microvolts):
    path = write(tmp_path, microvolts[:4], leads=["v1", "AVR", "avf", "II"])
    edit_header(path, " avf", "   avf  ")
    record = read_record(path)
    assert record.lead_names == ("V1", "aVR", "aVF", "II")
    np.testing.assert_array_equal(record.signal, microvolts[:4])


def test_flat_leads_are_read(tmp_path, microvolts):
    microvolts[3] = 0
    np.testing.assert_array_equal(read_record(write(tmp_path, microvolts)).signal, microvolts)


@pytest.mark.parametrize(
    ("gain", "baseline", "units", "step"),
    [
        (1000.0, 0, "mV", 1),
        (1, 0, "uV", 1),
        (1_000_000, 0, "V", 1),
        (0.001, 0, "nV", 1),
        (200, 512, "mV", 5),
        (204.8, -7, "mV", 1000 / 204.8),
    ],
)
def test_every_gain_baseline_and_unit_gives_the_same_microvolts(tmp_path, microvolts, gain, baseline, units, step):
    per_microvolt = {"mV": gain / 1e3, "uV": gain, "V": gain / 1e6, "nV": gain * 1e3}[units]
    digital = np.rint(microvolts * per_microvolt + baseline)
    signal = read_record(write(tmp_path, digital, gain=gain, baseline=baseline, units=units)).signal
    assert signal.dtype == np.int16
    # Half a step of the file, and the half µV of int16 where the steps are no whole µV.
    assert np.abs(signal - microvolts.astype(float)).max() <= step / 2 + (0 if step % 1 == 0 else 0.5)


def test_units_left_out_are_millivolts_and_the_baseline_is_the_adc_zero(tmp_path, microvolts):
    path = write(tmp_path, microvolts + 100)
    edit_header(path, "1000.0(0)/mV 16 0 ", "1000 16 100 ")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


def encode_310(samples):
    """Three samples of 10 bits in two words: bits 1 to 10 of each hold one, the upper five bits half of the third."""
    first, second, third = (samples & 1023).reshape(-1, 3).T
    words = np.stack([first << 1 | (third & 31) << 11, second << 1 | third >> 5 << 11], axis=1)
    return words.astype("<u2").view("u1")


def encode_311(samples):
    first, second, third = (samples & 1023).reshape(-1, 3).astype("u4").T
    return (first | second << 10 | third << 20).astype("<u4").view("u1")


def encode_212(samples):
    first, second = (samples & 4095).reshape(-1, 2).T
    return np.stack([first & 255, first >> 8 | second >> 8 << 4, second & 255], axis=1).astype("u1")


# Bytes of samples in the order of the file.
ENCODERS = {
    "16": lambda samples: samples.astype("<i2"),
    "24": lambda samples: samples.astype("<i4").view("u1").reshape(-1, 4)[:, :3],
    "32": lambda samples: samples.astype("<i4"),
    "61": lambda samples: samples.astype(">i2"),
    "160": lambda samples: (samples.astype("i4") + 2**15).astype("<u2"),
    "80": lambda samples: (samples + 2**7).astype("u1"),
    "212": encode_212,
    "310": encode_310,
    "311": encode_311,
}


def encode(path, digital, sample_format):
    """Write the record of `path` again in another format; a last group that is not full ends where its samples end."""
    samples = digital.T.reshape(-1).astype(np.int16)
    group = {"212": 2, "310": 3, "311": 3}.get(sample_format, 1)
    content = ENCODERS[sample_format](np.pad(samples, (0, -len(samples) % group))).tobytes()
    missing = {("212", 1): 1, ("310", 1): 2, ("311", 1): 2, ("311", 2): 1}.get(
        (sample_format, len(samples) % group), 0
    )
    path.with_suffix(".dat").write_bytes(content[: len(content) - missing])
    edit_header(path, "rec.dat 16 ", f"rec.dat {sample_format} ")


@pytest.mark.parametrize("sample_format", ENCODERS)
@pytest.mark.parametrize(("count", "num_samples"), [(12, 250), (1, 250), (1, 249), (1, 248), (7, 1)])
def test_other_formats_are_read(tmp_path, microvolts, sample_format, count, num_samples):
    limit = {"80": 100, "310": 500, "311": 500}.get(sample_format, 2000)
    digital = (microvolts % (2 * limit) - limit)[:count, :num_samples]
    path = write(tmp_path, digital, leads=LEAD_NAMES[:count])
    encode(path, digital, sample_format)
    np.testing.assert_array_equal(read_record(path).signal, digital)
    np.testing.assert_array_equal(read_record(path, lead_names=["I"]).signal, digital[:1])
    with open(f"{path}.dat", "r+b") as file:
        file.truncate(os.path.getsize(f"{path}.dat") - 1)
    error = read_error(path)
    assert "rec.dat is truncated" in error or "wfdb cannot decode" in error


def test_a_compressed_format_is_read(tmp_path, microvolts):
    path = write(tmp_path, microvolts[:8], leads=LEAD_NAMES[:8], sample_format="516")
    np.testing.assert_array_equal(read_record(path).signal, microvolts[:8])
    edit_header(path, f" {NUM_SAMPLES}", " 1000000000")
    assert f"truncated: it has {NUM_SAMPLES} samples, 1000000000 x 1 samples make" in read_error(path)
    edit_header(path, "8 100 1000000000", "8 100")
    np.testing.assert_array_equal(read_record(path, lead_names=["V1", "II"]).signal, microvolts[[1, 6]])
    edit_header(path, " 0 V2", " 0 V2\nrec.dat 516 1000 16 0 0 0 0 V3")
    edit_header(path, "8 100", "9 100")
    assert f"rec.dat announces 8 channels of {NUM_SAMPLES} samples; expected 9" in read_error(path)
    path.with_suffix(".dat").write_bytes(bytes(100))
    assert "rec.dat is not a FLAC file" in read_error(path)


def test_leads_may_lie_in_several_files(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat", "limb.dat", 6)
    edit_header(path, "rec.dat", "chest.dat")
    microvolts[:6].T.tofile(tmp_path / "limb.dat")
    microvolts[6:].T.tofile(tmp_path / "chest.dat")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize("sample_format", ["16", "212", "310"])
@pytest.mark.parametrize("length", [f" {NUM_SAMPLES}", ""])
def test_a_byte_offset_is_skipped(tmp_path, microvolts, sample_format, length):
    microvolts = microvolts % 500
    path = write(tmp_path, microvolts)
    encode(path, microvolts, sample_format)
    edit_header(path, f"rec.dat {sample_format} ", f"rec.dat {sample_format}x1+24 ")
    edit_record_line(path, f"rec 12 100{length}")
    signal_file = path.with_suffix(".dat")
    signal_file.write_bytes(b"\xff" * 24 + signal_file.read_bytes())
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize("length", [f" {NUM_SAMPLES}", " 0", ""])
@pytest.mark.parametrize("sample_format", ["16", "212", "310"])
@pytest.mark.parametrize(
    "times",
    [
        "",
        "10:20:30 01/02/2020",
        "01/02/2020 10:20:30",
        "05-Feb-2020 10:20:30",
        "2020-02-05T10:20:30",
        "5.2.2020",
        "1/2/20",
        "10:20",
    ],
)
def test_a_date_in_any_form_and_a_missing_length_do_not_matter(tmp_path, microvolts, sample_format, times, length):
    microvolts = microvolts % 500
    path = write(tmp_path, microvolts)
    encode(path, microvolts, sample_format)
    edit_record_line(path, f"rec 12 100{length} {times}")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize("times", ["2020", "?? never", "10:20:30 2020"])
def test_what_follows_the_length_is_no_matter(tmp_path, microvolts, times):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 100 {NUM_SAMPLES} {times}")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


def test_a_fractional_sampling_rate_is_kept(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 257.5/100(0) {NUM_SAMPLES}")
    assert read_record(path).sampling_rate == 257.5


def test_date_and_fractional_rate_leave_all_samples_where_they_are(tmp_path):
    """They are not in what vitaldb reads; findings/vitaldb_cuts_holes_into_fractional_rates.sh."""
    microvolts = np.random.default_rng(3).integers(-900, 900, (12, 15000)).astype(np.int16)
    path = write(tmp_path, microvolts)
    edit_record_line(path, "rec 12 249.89/62.4725(0) 15000 08:12:33.361 23/07/2180")
    record = read_record(path)
    assert record.sampling_rate == 249.89
    np.testing.assert_array_equal(record.signal, microvolts)


@pytest.mark.parametrize("length", ["", " 0"])
def test_a_length_that_the_files_do_not_tell_is_an_error(tmp_path, microvolts, length):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 100{length}")
    signal_file = path.with_suffix(".dat")
    content = signal_file.read_bytes()
    signal_file.write_bytes(content[:-6])
    assert "no number of samples, and its files do not agree on one: 249.75 in rec.dat" in read_error(path)
    signal_file.write_bytes(b"")
    assert "0 in rec.dat" in read_error(path)
    edit_header(path, "rec.dat", "limb.dat", 6)
    microvolts[:6].T.tofile(tmp_path / "limb.dat")
    microvolts[6:, 1:].T.tofile(signal_file)
    assert "250 in limb.dat, 249 in rec.dat" in read_error(path)


@pytest.mark.parametrize("ending", [".hea", ".dat"])
def test_a_missing_file_is_named(tmp_path, microvolts, ending):
    path = write(tmp_path, microvolts)
    path.with_suffix(ending).unlink()
    with pytest.raises(FileNotFoundError, match=f"rec{ending}"):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "problem"), [(-1, "truncated"), (-500, "truncated"), (1, "too long"), (24, "too long")]
)
def test_a_signal_file_of_another_size_is_an_error(tmp_path, microvolts, change, problem):
    path = write(tmp_path, microvolts)
    signal_file = path.with_suffix(".dat")
    content = signal_file.read_bytes()
    signal_file.write_bytes(content[:change] if change < 0 else content + bytes(change))
    error = read_error(path)
    assert f"rec.dat is {problem}: it has {len(content) + change} bytes" in error
    assert f"{NUM_SAMPLES} x 12 samples make {len(content)}" in error


def test_a_signal_file_without_its_ending_is_named(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat", "rec")
    with pytest.raises(FileNotFoundError, match="Record .*rec: .*/rec, which the header names for lead I, does not"):
        read_record(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("ending", [".hea", ".dat"])
def test_pipes_and_folders_are_not_read(tmp_path, microvolts, ending):
    path = write(tmp_path, microvolts)
    path.with_suffix(ending).unlink()
    os.mkfifo(path.with_suffix(ending))
    assert f"rec{ending}" in read_error(path) and "not a regular file" in read_error(path)
    path.with_suffix(ending).unlink()
    path.with_suffix(ending).mkdir()
    assert "not a regular file" in read_error(path)


def test_a_changed_sample_is_found_by_its_checksum(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    samples = np.fromfile(f"{path}.dat", "<i2")
    samples[2] += 5
    samples.tofile(f"{path}.dat")
    found, said = (int(microvolts[2].sum()) + change for change in (5, 0))
    error = read_error(path)
    assert f"lead III has the checksum {found % 65536}, the header says {said % 65536}" in error


def test_a_signed_checksum_is_the_same(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    checksum = int(microvolts[0].sum()) % 65536
    edit_header(path, f" {checksum} 0 I\n", f" {checksum - 65536} 0 I\n")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


def test_a_checksum_of_0_holds_the_place_of_none(tmp_path, microvolts):
    """As in the header of each record of the Challenge of 2017."""
    lines = ["A00001.mat 16+24 1000/mV 16 0 -127 0 0 ECG "]
    path = write_by_hand(tmp_path, "A00001 1 300 250 05:05:15 1/05/2000 ", lines, "A00001")
    path.with_suffix(".mat").write_bytes(bytes(24) + microvolts[0].tobytes())
    assert microvolts[0].sum() % 65536 != 0
    np.testing.assert_array_equal(read_ecg(f"{path}.mat", lead_names=["I"]).signal, microvolts[:1])


@pytest.mark.parametrize("name", ["../rec.dat", "/etc/passwd", "sub/rec.dat", "..", "..\\rec.dat", "C:rec.dat"])
def test_a_header_that_names_a_file_outside_its_folder_is_refused(tmp_path, microvolts, name):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat", name)
    assert f"{name!r}, which is not in the record's own folder" in read_error(path)


@pytest.mark.parametrize("sample_format", ["16", "212"])
def test_a_header_that_claims_too_many_samples_is_refused_before_anything_is_allocated(
    tmp_path, microvolts, monkeypatch, sample_format
):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 100 {10**12}")
    edit_header(path, "rec.dat 16 ", f"rec.dat {sample_format} ")
    monkeypatch.setattr(np, "fromfile", None)
    monkeypatch.setattr(wfdb, "rdrecord", None)
    assert f"truncated: it has 6000 bytes, {10**12} x 12 samples make" in read_error(path)


def test_samples_marked_as_invalid_are_named_by_lead_and_count(tmp_path, microvolts):
    microvolts[8, 100:111] = -(2**15)
    microvolts[0, 7] = -(2**15)
    assert "(NaN): lead I 1 of 250, lead V3 11 of 250" in read_error(write(tmp_path, microvolts))


def test_samples_marked_as_invalid_are_found_in_other_formats(tmp_path):
    digital = np.zeros((2, 10), dtype=int)
    digital[1, 4:6] = -(2**7)
    assert "(NaN): lead II 2 of 10" in read_error(write(tmp_path, digital, leads=["I", "II"], sample_format="80"))


@pytest.mark.parametrize("digital", [32_768, -32_768, 40_000])
def test_a_voltage_beyond_the_range_is_an_error(tmp_path, digital):
    signal = np.zeros((2, 10), dtype=int)
    signal[1, 3] = digital
    path = write(tmp_path, signal, leads=["I", "V6"], sample_format="24")
    assert f"lead V6 reaches {abs(digital) / 1000:g} mV, beyond the ±32.767 mV" in read_error(path)


def test_the_largest_voltage_is_kept(tmp_path):
    signal = np.array([[32_767, -32_767]])
    path = write(tmp_path, signal, leads=["I"], sample_format="24")
    np.testing.assert_array_equal(read_record(path).signal, signal)


def test_another_sampling_rate_than_asked_for_is_an_error(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    assert read_record(path, sampling_rate=100).sampling_rate == 100
    assert "the sampling rate is 100 Hz, expected 500 Hz" in read_error(path, sampling_rate=500)


@pytest.mark.parametrize("comment", ["# Größe", "# 80\u00a0% \u2026 \u201ebeat\u201c", "#\u0085 b"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1"])
def test_headers_may_be_utf8_or_latin1(tmp_path, microvolts, comment, encoding):
    path = write(tmp_path, microvolts, gain=1.0, units="uV")
    text = f"{comment}\n" + path.with_suffix(".hea").read_text().replace("uV", "µV") + f"{comment}\r\n"
    path.with_suffix(".hea").write_bytes(text.encode(encoding, errors="ignore"))
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("rec", "must begin with name[/segments], number of leads, sampling rate and length; it begins 'rec'"),
        ("rec twelve 100 250", "must begin with"),
        ("rec ١٢ 100 250", "must begin with"),
        (f"rec {'9' * 5000} 100 250", "must begin with"),
        ("rec/x 12 100 250", "must begin with"),
        ("rec 13 100 250", "announces 13 leads and describes 12"),
        ("rec 0 100 250", "announces 0 leads and describes 12"),
        ("rec/2 12 100 250", "announces 2 segments and describes 12"),
        ("rec 12 100 -250", "the number of samples '-250'; expected a whole number, or none"),
        ("rec 12 100 250.0", "the number of samples '250.0'"),
        ("rec 12 100 never", "the number of samples 'never'"),
    ],
)
def test_a_record_line_that_cannot_be_read_is_an_error(tmp_path, microvolts, line, problem):
    path = write(tmp_path, microvolts)
    path.with_suffix(".hea").write_text("\n".join([line, *path.with_suffix(".hea").read_text().splitlines()[1:]]))
    assert problem in read_error(path)


@pytest.mark.parametrize(
    "rate", ["hundred", "-100", "100,0", "100Hz", "0", "0.0", "nan", "inf", "1e999", "100(0)", "+"]
)
def test_a_sampling_rate_that_is_no_number_is_an_error(tmp_path, microvolts, rate):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 {rate} {NUM_SAMPLES}")
    assert f"the sampling rate {rate!r}; expected Hz above 0, such as 500" in read_error(path)


def test_a_missing_sampling_rate_is_not_guessed(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_record_line(path, "rec 12")
    assert "gives no sampling rate; write it in Hz after the number of leads" in read_error(path)


def test_an_empty_header_is_an_error(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    path.with_suffix(".hea").write_text("\n# nothing\n")
    assert "the header must begin with" in read_error(path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" 0 V2\n", " 0 V1\n", "a lead is named twice"),
        ("rec.dat 16 ", "rec.dat 17 ", "lead I has the format '17'; known are 8, 16,"),
        ("rec.dat 16 ", "rec.dat 16x0 ", "lead I has the format '16x0'"),
        ("1000.0(0)/mV", "0(0)/mV", "lead I has no gain ('0(0)/mV')"),
        ("1000.0(0)/mV", "0", "lead I has no gain ('0')"),
        ("1000.0(0)/mV", "1e-999/mV", "lead I has no gain"),
        ("1000.0(0)/mV", "1e999/mV", "lead I has no gain"),
        ("1000.0(0)/mV", "1e/mV", "lead I has the gain '1e/mV', which cannot be read"),
        ("1000.0(0)/mV", "nan/mV", "lead I has the gain 'nan/mV', which cannot be read"),
        ("1000.0(0)/mV", "1000(0.5)/mV", "lead I has the gain '1000(0.5)/mV', which cannot be read"),
        (
            "1000.0(0)/mV",
            f"1000({2**31})/mV",
            f"lead I has the baseline '{2**31}'; expected a whole number of at most",
        ),
        ("1000.0(0)/mV", f"1000({'9' * 5000})/mV", "lead I has the baseline '9999"),
        ("1000.0(0)/mV 16 0 ", f"1000.0/mV 16 {-(10**30)} ", "lead I has the baseline '-1000"),
        ("1000.0(0)/mV 16 0 ", "1000.0/mV 16 x ", "lead I has the baseline 'x'"),
        ("1000.0(0)/mV", "1000.0(0)/mmHg", "lead I is in 'mmHg'; the unit must be V, mV, uV or nV"),
        ("1000.0(0)/mV", "1000.0(0)/", "lead I is in ''; the unit must be"),
    ],
)
def test_a_signal_line_that_cannot_be_read_is_an_error(tmp_path, microvolts, old, new, problem):
    path = write(tmp_path, microvolts)
    edit_header(path, old, new)
    assert problem in read_error(path)


def test_a_checksum_that_is_no_number_is_an_error(tmp_path):
    lines = ["rec.dat 16 1000 16 0 0 x 0 I"]
    path = write_by_hand(tmp_path, "rec 1 100 3", lines, rec=np.zeros(3, "<i2"))
    assert "lead I has the checksum 'x'" in read_error(path)


def test_the_largest_baselines_are_exact(tmp_path):
    digital = np.array([-(2**31) + 5, -(2**31) + 1], "<i4")
    path = write_by_hand(tmp_path, "rec 1 100 2", [f"rec.dat 32 1000({-(2**31)}) 32 0 0 6 0 I"], rec=digital)
    np.testing.assert_array_equal(read_record(path).signal, [[5, 1]])


def test_values_go_to_the_nearest_microvolt(tmp_path):
    digital = np.array([-10006, -9994, 6, 14, -6, -14], "<i2")
    path = write_by_hand(tmp_path, "rec 1 100 6", ["rec.dat 16 10000/mV 16 0 0 0 0 I"], rec=digital)
    edit_header(path, " 0 0 0 I", f" 0 {digital.sum()} 0 I")
    np.testing.assert_array_equal(read_record(path).signal, [[-1001, -999, 1, 1, -1, -1]])


# Formats that wfdb decodes


@pytest.mark.parametrize("sample_format", ["508", "516", "524"])
def test_compressed_formats_are_those_of_wfdb(tmp_path, microvolts, sample_format):
    digital = microvolts[:7] % 200 - 100
    path = write(tmp_path, digital, leads=LEAD_NAMES[:7], sample_format=sample_format)
    np.testing.assert_array_equal(read_record(path).signal, digital)
    np.testing.assert_array_equal(read_record(path, lead_names=["V1", "III"]).signal, digital[[2, 6]])
    content = path.with_suffix(".dat").read_bytes()
    for damaged in (content[:-20], content[:60], content[:42] + bytes(len(content) - 42)):
        path.with_suffix(".dat").write_bytes(damaged)
        assert "rec.dat" in read_error(path)


def test_a_flac_file_that_claims_billions_of_samples_is_refused(tmp_path, microvolts):
    path = write(tmp_path, microvolts[:2], leads=["I", "II"], sample_format="516")
    edit_record_line(path, "rec 2 100")
    content = bytearray(path.with_suffix(".dat").read_bytes())
    # The number of samples is the last 36 bits before the checksum of 16 bytes that ends the first 42 bytes.
    content[22:26] = b"\xff" * 4
    path.with_suffix(".dat").write_bytes(content)
    assert "rec.dat announces 2 channels of 4294967295 samples; expected 2 of as many as its size" in read_error(path)


def test_first_differences_are_read_from_their_initial_value(tmp_path):
    differences = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
    expected = np.array([100, -300]) + differences.cumsum(axis=0)
    lines = [
        f"rec.dat 8 1000/mV 12 0 {initial} {total} 0 {lead}"
        for initial, total, lead in zip([100, -300], expected.sum(axis=0), ["I", "V6"], strict=True)
    ]
    path = write_by_hand(tmp_path, "rec 2 100", lines, rec=differences)
    np.testing.assert_array_equal(read_record(path).signal, expected.T)


def test_only_rare_formats_need_wfdb(tmp_path, microvolts, monkeypatch):
    common = write(tmp_path, microvolts % 500, name="common", sample_format="212")
    packed = write(tmp_path, microvolts % 500)
    encode(packed, microvolts % 500, "310")
    monkeypatch.setitem(sys.modules, "wfdb", None)
    np.testing.assert_array_equal(read_record(common).signal, microvolts % 500)
    with pytest.raises(ImportError, match="needs the package wfdb: pip install wfdb"):
        read_record(packed)


# Several samples in a frame


def write_frames(folder, leads, sample_format="16", **per_frame):
    """One file of these leads (name to samples), with `per_frame` samples in each frame (1 if not told)."""
    names = list(leads)
    widths = [per_frame.get(name, 1) for name in names]
    frames = np.concatenate(
        [leads[name].reshape(-1, width) for name, width in zip(names, widths, strict=True)], axis=1
    )
    lines = [
        f"rec.dat {sample_format}x{width} 1000/mV 16 0 0 {leads[name].sum() % 2**16} 0 {name}"
        for name, width in zip(names, widths, strict=True)
    ]
    return write_by_hand(folder, f"rec {len(names)} 100 {len(frames)}", lines, rec=frames)


@pytest.fixture
def leads(microvolts):
    return {name: samples for name, samples in zip(("I", "V2", "PLETH"), microvolts[:3, :240], strict=True)}


def test_all_samples_of_a_frame_are_read(tmp_path, leads):
    del leads["PLETH"]
    path = write_frames(tmp_path, leads, I=4, V2=4)
    record = read_record(path, sampling_rate=400)
    np.testing.assert_array_equal(record.signal, list(leads.values()))
    expected = wfdb.rdrecord(str(path), physical=False, smooth_frames=False)
    np.testing.assert_array_equal(record.signal, expected.e_d_signal)
    edit_record_line(path, "rec 2 100")
    np.testing.assert_array_equal(read_record(path).signal, record.signal)
    edit_header(path, f" {leads['V2'].sum() % 2**16} 0 V2", f" {(leads['V2'].sum() + 1) % 2**16} 0 V2")
    assert "lead V2 has the checksum" in read_error(path)


def test_wfdb_does_not_average_the_samples_of_a_frame(tmp_path, microvolts):
    digital = microvolts[:4, :240] % 500
    path = write(tmp_path, digital, leads=LEAD_NAMES[:4], sample_format="516")
    edit_header(path, "rec.dat 516 ", "rec.dat 516x2 ")
    for record_line in ("rec 4 100 120", "rec 4 100"):
        edit_record_line(path, record_line)
        record = read_record(path)
        assert record.sampling_rate == 200
        np.testing.assert_array_equal(record.signal, digital)


@pytest.mark.parametrize("sample_format", ["212", "310"])
def test_packed_samples_of_a_frame_lie_side_by_side(tmp_path, microvolts, sample_format):
    frames = microvolts[:2, :240].T.reshape(-1, 2, 2) % 500
    digital = frames.transpose(1, 0, 2).reshape(2, -1)
    path = write(tmp_path, digital, leads=["I", "II"])
    encode(path, frames.reshape(-1, 4).T, sample_format)
    edit_header(path, f"dat {sample_format} ", f"dat {sample_format}x2 ")
    edit_record_line(path, "rec 2 100 120")
    np.testing.assert_array_equal(read_record(path).signal, digital)
    np.testing.assert_array_equal(read_record(path, lead_names=["II"]).signal, digital[1:])


@pytest.mark.filterwarnings("ignore:Record .*PLETH")
def test_a_channel_that_is_not_used_may_have_another_rate(tmp_path, leads):
    leads["PLETH"] = leads["PLETH"][:60]
    record = read_record(write_frames(tmp_path, leads, I=4, V2=4))
    assert record.sampling_rate == 400
    np.testing.assert_array_equal(record.signal, [leads["I"], leads["V2"]])


def test_leads_of_different_rates_are_refused_by_name(tmp_path, leads):
    leads["V2"] = leads["V2"][:60]
    del leads["PLETH"]
    path = write_frames(tmp_path, leads, I=4)
    assert "its leads have different sampling rates: I 400 Hz, V2 100 Hz" in read_error(path)
    np.testing.assert_array_equal(read_record(path, lead_names=["V2"]).signal, [leads["V2"]])
    assert read_record(path, lead_names=["i"]).sampling_rate == 400


# Shifted leads


def test_shifted_leads_are_refused_as_shifted(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    lines = path.with_suffix(".hea").read_text().splitlines()
    shifted = [line.replace("dat 16 ", "dat 16:4 ") if line.endswith(" V5") else line for line in lines]
    path.with_suffix(".hea").write_text("\n".join(shifted))
    error = read_error(path)
    assert "lead V5 is shifted in time; write the record again" in error and "damaged" not in error
    others = [name for name in LEAD_NAMES if name != "V5"]
    np.testing.assert_array_equal(
        read_record(path, lead_names=others).signal, microvolts[[name != "V5" for name in LEAD_NAMES]]
    )
    # The file of a shifted channel may be longer by the shift.
    with open(f"{path}.dat", "ab") as file:
        file.write(bytes(4 * 24))
    assert read_record(path, lead_names=others).signal.shape == (11, NUM_SAMPLES)


# Channels that are not used


@pytest.mark.parametrize(
    "line",
    [
        "rec.dat 16 0 16 0 0 1 0 RESP",
        "rec.dat 16 1000/mmHg 16 0 0 1 0 ABP mean",
        f"rec.dat 16 1000({2**40})/mV 16 x y z 0 MLII",
        "rec.dat 16:3 none 16 0 0 1 0 vx",
        "lost.xyz 16 2000 16 0 0 1 0 vz",
        "../elsewhere 99 2000 16 0 0 1 0 V4R",
        "rec.dat 16",
    ],
)
def test_channels_that_are_no_leads_are_left_out_and_not_judged(tmp_path, microvolts, line):
    path = write(tmp_path, microvolts)
    own_file = not line.startswith("rec.dat")
    data = microvolts if own_file else np.concatenate([microvolts, np.full((1, NUM_SAMPLES), -(2**15), np.int16)])
    data.T.astype("<i2").tofile(f"{path}.dat")
    edit_record_line(path, f"rec 13 100 {NUM_SAMPLES}")
    with path.with_suffix(".hea").open("a") as header:
        header.write(f"\n{line}\n")
    name = line.split(maxsplit=8)[8] if len(line.split()) > 8 else "channel 12 without a name"
    with pytest.warns(UserWarning, match=f"Record .*rec: channels left out.*: {name}") as caught:
        record = read_record(path)
    assert len([warning for warning in caught if "Record" in str(warning.message)]) == 1
    assert (record.other_channels, record.lead_names) == ((name,), LEAD_NAMES)
    np.testing.assert_array_equal(record.signal, microvolts)


def test_leads_that_are_not_asked_for_are_not_judged_nor_named(tmp_path, microvolts):
    microvolts[11] = -(2**15)
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat 16 1000.0(0)/mV", "lost.dat 99 0/mmHg", 1)
    microvolts[1:].T.tofile(f"{path}.dat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = read_record(path, lead_names=[" v2", "AVR"])
    assert (record.lead_names, record.other_channels) == (("aVR", "V2"), ())
    np.testing.assert_array_equal(record.signal, microvolts[[3, 7]])


def test_a_record_without_leads_is_an_error_that_lists_what_it_has(tmp_path, microvolts):
    path = write(tmp_path, microvolts[:2], leads=["MLII", "RESP"])
    assert "it has none of the leads I II III V1" in read_error(path).replace("aVF aVL aVR ", "")
    assert "it has MLII, RESP" in read_error(path)
    path = write(tmp_path, microvolts[:2], leads=["V1", "V2"])
    assert "it has none of the leads V3 V4; it has V1, V2" in read_error(path, lead_names=["V3", "V4"])


@pytest.mark.parametrize("lead_names", [[], ["V7"], "II"])
def test_names_that_are_no_leads_cannot_be_asked_for(tmp_path, microvolts, lead_names):
    path = write(tmp_path, microvolts)
    with pytest.raises(ValueError, match="`lead_names` must list some of I II III"):
        read_record(path, lead_names=lead_names)


# Several segments


def write_segments(folder, microvolts):
    """A record of three segments, each with its own gain and baseline, the last with its own unit; the second in
    another order of leads."""
    for index, (gain, baseline, units) in enumerate([(1000.0, 0, "mV"), (500.0, 100, "mV"), (2.0, -7, "uV")]):
        steps = gain / 1000 if units == "mV" else gain
        digital = np.rint(microvolts[:, index * 80 : index * 80 + 80] // 2 * 2 * steps + baseline)
        names = LEAD_NAMES
        if index == 1:
            digital, names = digital[::-1], LEAD_NAMES[::-1]
        write(folder, digital, name=f"rec_{index}", leads=names, gain=gain, baseline=baseline, units=units)
    return write_by_hand(folder, "rec/3 12 100 240", ["rec_0 80", "rec_1 80", "rec_2 80"])


def test_segments_are_read_in_physical_units_and_put_together(tmp_path, microvolts):
    path = write_segments(tmp_path, microvolts)
    record = read_record(path)
    assert (record.sampling_rate, record.lead_names) == (100, LEAD_NAMES)
    np.testing.assert_array_equal(record.signal, microvolts[:, :240] // 2 * 2)
    edit_record_line(path, "rec/3 12 100")
    for index in range(3):
        edit_record_line(tmp_path / f"rec_{index}", f"rec_{index} 12 100 10:00:00")
    np.testing.assert_array_equal(read_record(path).signal, record.signal)


def test_a_variable_layout_is_read_where_its_segments_have_the_same_leads(tmp_path, microvolts):
    write_segments(tmp_path, microvolts)
    lines = ["rec_layout 0", "rec_0 80", "rec_2 80"]
    path = write_by_hand(tmp_path, "rec/3 12 100 160", lines)
    assert read_record(path).signal.shape == (12, 160)
    write(tmp_path, microvolts[:2, :80], name="rec_2", leads=["I", "II"])
    assert "segment rec_2 80 has I, II at 100 Hz, unlike the first one" in read_error(path)
    assert read_record(path, lead_names=["II"]).signal.shape == (1, 160)


def test_other_channels_of_segments_are_named_once(tmp_path, microvolts):
    path = write_segments(tmp_path, microvolts)
    write(tmp_path, microvolts[:, 80:160], name="rec_1", leads=[*LEAD_NAMES[:10], "PLETH", "V6"])
    write(tmp_path, microvolts[:, 160:240], name="rec_2", leads=["ABP", *LEAD_NAMES[1:10], "PLETH", "V5"])
    with pytest.warns(UserWarning, match="rec: channels left out, as none of the twelve leads: PLETH, ABP") as caught:
        record = read_record(path, lead_names=["V4", "II"])
    assert len([warning for warning in caught if "Record" in str(warning.message)]) == 1
    assert (record.lead_names, record.other_channels) == (("II", "V4"), ("PLETH", "ABP"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("rec_1 80", "~ 80", "a gap between its segments ('~ 80')"),
        ("rec_1 80", "../rec_1 80", "a segment in the record's own folder and a number of samples, got '../rec_1 80'"),
        ("rec_1 80", "rec_1", "a segment in the record's own folder and a number of samples, got 'rec_1'"),
        ("rec_1 80", "rec 80", "segment rec: it has segments itself"),
        ("rec_1 80", "rec_1 81", "segment rec_1: it has 80 samples, the record's header says 81"),
        ("100 240", "100 250", "its 3 segments have 240 samples, the header says 250"),
        ("12 100 240", "12 500 240", "segment rec_0: its sampling rate is 100 Hz, that of the record 500 Hz"),
        ("rec/3", "rec/4", "announces 4 segments and describes 3"),
    ],
)
def test_segments_that_do_not_fit_are_refused(tmp_path, microvolts, old, new, problem):
    path = write_segments(tmp_path, microvolts)
    edit_header(path, old, new)
    assert problem in read_error(path)


def test_what_is_wrong_with_a_segment_names_it(tmp_path, microvolts):
    path = write_segments(tmp_path, microvolts)
    edit_header(tmp_path / "rec_2", "rec_2.dat 16 ", "rec_2.dat 16x2 ")
    edit_record_line(tmp_path / "rec_2", "rec_2 12 100")
    edit_header(path, "rec_2 80", "rec_2 40")
    edit_header(path, "100 240", "100 200")
    assert "segment rec_2 40 has I, II, III" in read_error(path) and "at 200 Hz" in read_error(path)
    (tmp_path / "rec_2.dat").write_bytes(bytes(10))
    assert "segment rec_2: " in read_error(path) and "rec_2.dat is truncated" in read_error(path)
    (tmp_path / "rec_2.hea").unlink()
    with pytest.raises(FileNotFoundError, match="segment rec_2: its header .*rec_2.hea does not exist"):
        read_record(path)
