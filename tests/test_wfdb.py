import numpy as np
import pytest
import wfdb

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


def read_error(path, **kwargs):
    """The error of reading `path`; it names the record."""
    with pytest.raises(RecordError) as caught:
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


@pytest.mark.parametrize("ending", ["", ".hea", ".dat"])
def test_the_path_may_have_its_ending(tmp_path, microvolts, ending):
    write(tmp_path, microvolts)
    np.testing.assert_array_equal(read_record(f"{tmp_path}/rec{ending}").signal, microvolts)


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
        (200, 512, "mV", 5),
        (204.8, -7, "mV", 1000 / 204.8),
    ],
)
def test_every_gain_baseline_and_unit_gives_the_same_microvolts(tmp_path, microvolts, gain, baseline, units, step):
    per_microvolt = {"mV": gain / 1e3, "uV": gain, "V": gain / 1e6}[units]
    digital = np.rint(microvolts * per_microvolt + baseline)
    signal = read_record(write(tmp_path, digital, gain=gain, baseline=baseline, units=units)).signal
    assert signal.dtype == np.int16
    # Half a step of the file, and the half µV of int16 where the steps are no whole µV.
    assert np.abs(signal - microvolts.astype(float)).max() <= step / 2 + (0 if step % 1 == 0 else 0.5)


def test_units_left_out_are_millivolts_and_the_baseline_is_the_adc_zero(tmp_path, microvolts):
    path = write(tmp_path, microvolts + 100)
    edit_header(path, "1000.0(0)/mV 16 0 ", "1000 16 100 ")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


ENCODERS = {
    "24": lambda samples: samples.astype("<i4").view("u1").reshape(-1, 4)[:, :3],
    "32": lambda samples: samples.astype("<i4"),
    "61": lambda samples: samples.astype(">i2"),
    "160": lambda samples: (samples.astype("i4") + 2**15).astype("<u2"),
    "80": lambda samples: (samples + 2**7).astype("u1"),
    "212": lambda samples: np.stack(
        [samples[::2] & 255, (samples[::2] >> 8 & 15) | (samples[1::2] >> 4 & 240), samples[1::2] & 255], axis=1
    ).astype("u1"),
}


@pytest.mark.parametrize("sample_format", ENCODERS)
def test_other_formats_are_read(tmp_path, microvolts, sample_format):
    digital = microvolts % 200 - 100 if sample_format == "80" else microvolts // 2
    path = write(tmp_path, digital)
    edit_header(path, "rec.dat 16 ", f"rec.dat {sample_format} ")
    ENCODERS[sample_format](digital.T.reshape(-1)).tofile(f"{path}.dat")
    np.testing.assert_array_equal(read_record(path).signal, digital)
    with open(f"{path}.dat", "r+b") as file:
        file.truncate(NUM_SAMPLES * 12 // 2)
    assert "rec.dat is truncated" in read_error(path)


def test_a_compressed_format_is_read(tmp_path, microvolts):
    path = write(tmp_path, microvolts[:8], leads=LEAD_NAMES[:8], sample_format="516")
    np.testing.assert_array_equal(read_record(path).signal, microvolts[:8])
    edit_header(path, f" {NUM_SAMPLES}", " 1000000000")
    assert f"has {NUM_SAMPLES} samples for each lead, the header says 1000000000" in read_error(path)
    path.with_suffix(".dat").write_bytes(bytes(100))
    assert "rec.dat is not a readable FLAC file" in read_error(path)


def test_leads_may_lie_in_several_files(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat", "limb.dat", 6)
    edit_header(path, "rec.dat", "chest.dat")
    microvolts[:6].T.tofile(tmp_path / "limb.dat")
    microvolts[6:].T.tofile(tmp_path / "chest.dat")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


def test_a_byte_offset_is_skipped(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat 16 ", "rec.dat 16+24 ")
    signal_file = path.with_suffix(".dat")
    signal_file.write_bytes(b"\xff" * 24 + signal_file.read_bytes())
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize("sample_format", ["16", "32"])
@pytest.mark.parametrize(
    "times",
    ["10:20:30 01/02/2020", "01/02/2020 10:20:30", "05-Feb-2020 10:20:30", "2020", "1/2/20", "10:20", "?? never"],
)
def test_a_date_in_any_form_does_not_matter(tmp_path, microvolts, sample_format, times):
    path = write(tmp_path, microvolts, sample_format=sample_format)
    edit_record_line(path, f"rec 12 100 {NUM_SAMPLES} {times}")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


def test_a_fractional_sampling_rate_is_kept(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    edit_record_line(path, f"rec 12 257.5/100(0) {NUM_SAMPLES}")
    assert read_record(path).sampling_rate == 257.5


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
    assert f"12 leads of {NUM_SAMPLES} samples make {len(content)}" in error


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


@pytest.mark.parametrize("name", ["../rec.dat", "/etc/passwd", "sub/rec.dat", "..", "..\\rec.dat", "C:rec.dat"])
def test_a_header_that_names_a_file_outside_its_folder_is_refused(tmp_path, microvolts, name):
    path = write(tmp_path, microvolts)
    edit_header(path, "rec.dat", name)
    assert f"{name!r}, which is not in the record's own folder" in read_error(path)


@pytest.mark.parametrize("sample_format", ["16", "212"])
def test_a_header_that_claims_a_billion_samples_is_refused_before_anything_is_allocated(
    tmp_path, microvolts, monkeypatch, sample_format
):
    path = write(tmp_path, microvolts)
    edit_record_line(path, "rec 12 100 1000000000")
    edit_header(path, "rec.dat 16 ", f"rec.dat {sample_format} ")
    monkeypatch.setattr(np, "fromfile", None)
    monkeypatch.setattr(wfdb, "rdrecord", None)
    assert "12 leads of 1000000000 samples make" in read_error(path)


def test_samples_marked_as_invalid_are_named_by_lead_and_count(tmp_path, microvolts):
    microvolts[8, 100:111] = -(2**15)
    microvolts[0, 7] = -(2**15)
    assert "(NaN): 1 in lead I, 11 in lead V3" in read_error(write(tmp_path, microvolts))


def test_samples_marked_as_invalid_are_found_in_other_formats(tmp_path):
    digital = np.zeros((2, 10), dtype=int)
    digital[1, 4:6] = -(2**7)
    assert "(NaN): 2 in lead II" in read_error(write(tmp_path, digital, leads=["I", "II"], sample_format="80"))


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


def test_a_header_that_is_not_utf8_is_an_error(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    header = path.with_suffix(".hea")
    header.write_bytes(header.read_bytes() + "# Größe\n".encode("latin-1"))
    assert "the header is not UTF-8 text" in read_error(path)
    edit = header.read_bytes().decode("latin-1")
    header.write_text(edit, encoding="utf-8")
    np.testing.assert_array_equal(read_record(path).signal, microvolts)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "must begin with"),
        ("rec", "must begin with name, number of leads, sampling rate and number of samples"),
        ("rec 12 100", "must begin with"),
        ("rec twelve 100 250", "must begin with"),
        ("rec 12 0 250", "must be positive"),
        ("rec 12 nan 250", "must be positive"),
        ("rec 12 100 0", "must be positive"),
        ("rec 12 100 -250", "must be positive"),
        ("rec 13 100 250", "announces 13 leads and describes 12"),
        ("rec/2 12 100 250", "several segments"),
    ],
)
def test_a_record_line_that_cannot_be_read_is_an_error(tmp_path, microvolts, line, problem):
    path = write(tmp_path, microvolts)
    edit_record_line(path, line)
    assert problem in read_error(path)


def test_an_empty_header_is_an_error(tmp_path, microvolts):
    path = write(tmp_path, microvolts)
    path.with_suffix(".hea").write_text("\n# nothing\n")
    assert "the header is empty" in read_error(path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" 0 V2\n", " 0 Vx\n", "'Vx' is not the name of a lead; these are I, II, III, aVR"),
        (" 0 V2\n", "\n", "'' is not the name of a lead"),
        (" 0 V2\n", " 0 V1\n", "a lead is named twice"),
        ("rec.dat 16 ", "rec.dat 17 ", "lead I has the format '17'; known are 8, 16,"),
        ("rec.dat 16 ", "rec.dat 16x2 ", "lead I has another rate than the record"),
        ("rec.dat 16 ", "rec.dat 16:5 ", "is shifted in time (format '16:5')"),
        ("1000.0(0)/mV", "0(0)/mV", "lead I has no gain ('0(0)/mV')"),
        ("1000.0(0)/mV", "1000.0(0)/mmHg", "lead I is in 'mmHg'; the units must be V, mV or uV"),
        ("/mV 16 0 ", "/mV 16 x ", "a line that cannot be read: 'rec.dat 16"),
    ],
)
def test_a_signal_line_that_cannot_be_read_is_an_error(tmp_path, microvolts, old, new, problem):
    path = write(tmp_path, microvolts)
    edit_header(path, old, new)
    assert problem in read_error(path)
