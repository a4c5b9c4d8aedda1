"""The simulated folder is PTB-XL's in form, and its ECGs show what their statements say."""

import ast
import csv
import filecmp
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks, resample_poly

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ptbxl.labels import STATEMENTS
from ecg_hf.synthetic import SIMULATED_STATEMENTS, Patient, ptbxl_folder, simulate_ecg, simulate_ptbxl

RATE = 500  # Hz
BEFORE, AFTER = 200, 300  # samples of a median beat on either side of the R peak


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return simulate_ptbxl(tmp_path_factory.mktemp("simulated") / "ptbxl", 100, sampling_rates=(100, 500))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "ptbxl_database.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def simulate(*statements: str, seed: int = 0, **options) -> np.ndarray:
    """mV at 500 Hz; the same seed is the same patient, however many statements."""
    patient = Patient.draw(np.random.default_rng(seed))
    return simulate_ecg(statements, rng=np.random.default_rng([seed, 1]), patient=patient, **options) / 1000


def smooth(leads: np.ndarray, samples: int) -> np.ndarray:
    return uniform_filter1d(leads, samples, axis=1, mode="nearest")


def r_peaks(signal: np.ndarray) -> np.ndarray:
    """Samples where the leads together change fastest, one for each beat."""
    slopes = np.square(np.diff(smooth(signal, 9), axis=1)).sum(axis=0)
    steepness = np.sqrt(np.convolve(slopes, np.hanning(75), mode="same"))
    peaks = find_peaks(steepness, height=0.45 * np.quantile(steepness, 0.99), distance=0.25 * RATE)[0]
    return peaks[(peaks > 50) & (peaks < len(steepness) - 50)]


def rr_intervals(signal: np.ndarray) -> np.ndarray:
    return np.diff(r_peaks(signal)) / RATE


def median_beat(signal: np.ndarray, peaks: np.ndarray) -> dict[str, np.ndarray]:
    """mV for each lead from 0.4 s before to 0.6 s after the R peak, the PR segment at 0."""
    inside = [peak for peak in peaks if BEFORE <= peak < signal.shape[1] - AFTER]
    beat = np.median([signal[:, peak - BEFORE : peak + AFTER] for peak in inside], axis=0)
    beat -= np.median(beat[:, BEFORE - 40 : BEFORE - 30], axis=1, keepdims=True)
    return dict(zip(LEAD_NAMES, beat, strict=True))


def sinus_beat(*statements: str, seed: int) -> dict[str, np.ndarray]:
    """The median beat of a patient in sinus rhythm, aligned by the same patient's beats without the statements."""
    return median_beat(simulate(*statements, "SR", seed=seed), r_peaks(simulate("SR", seed=seed)))


def qrs_duration(beat: dict[str, np.ndarray]) -> float:
    """s from the first to the last fast change."""
    slopes = np.sqrt(np.square(np.diff(smooth(list(beat.values()), 5), axis=1)).mean(axis=0))
    fast = np.flatnonzero(slopes[BEFORE - 45 : BEFORE + 75] > 0.008)
    return (fast[-1] - fast[0]) / RATE


def qrs(beat: dict[str, np.ndarray], lead: str) -> np.ndarray:
    return beat[lead][BEFORE - 30 : BEFORE + 40]


def st_level(beat: dict[str, np.ndarray], lead: str) -> float:
    return beat[lead][BEFORE + 45 : BEFORE + 55].mean()


# ---------------------------------------------------------------------------------------------------------- the folder


def test_folder_has_the_layout_of_ptbxl(folder):
    rows = table(folder)
    assert [row["ecg_id"] for row in rows] == [str(i) for i in range(1, 101)]
    assert (rows[0]["filename_lr"], rows[0]["filename_hr"]) == (
        "records100/00000/00001_lr",
        "records500/00000/00001_hr",
    )
    names = [row[column] for column in ("filename_lr", "filename_hr") for row in rows]
    assert (folder / "RECORDS").read_text().splitlines() == names
    signals = [name + ending for name in names for ending in (".dat", ".hea")]
    tables = ["RECORDS", "ptbxl_database.csv", "scp_statements.csv", "simulation.json"]
    assert files(folder) == sorted(signals + tables)


def test_tables_and_headers_have_the_form_of_the_real_ones(folder, ptbxl_100hz):
    def first_line(path):
        return path.read_text(encoding="utf-8").split("\n", 1)[0]

    def header_form(path):
        return re.sub(r"(?<=16 0 )-?\d+ \d+ ", "FIRST CHECKSUM ", path.read_text())

    assert first_line(folder / "ptbxl_database.csv") == first_line(ptbxl_100hz / "ptbxl_database.csv")
    real_columns = first_line(ptbxl_100hz / "scp_statements.csv")
    assert real_columns.startswith(first_line(folder / "scp_statements.csv"))
    header = "records100/00000/00001_lr.hea"
    assert header_form(folder / header) == header_form(ptbxl_100hz / header)


def test_cells_have_the_form_of_ptbxl(folder):
    row = table(folder)[0]
    forms = {
        "patient_id": r"\d+\.0",
        "age": r"\d+\.0",
        "sex": r"[01]",
        "height": r"\d+\.0",
        "recording_date": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
        "second_opinion": r"True|False",
        "strat_fold": r"\d+",
        "heart_axis": "",
    }
    assert {name: row[name] for name, form in forms.items() if not re.fullmatch(form, row[name])} == {}
    assert len(row) == 28


def test_likelihoods_are_zero_for_rhythm_and_form_and_graded_for_diagnoses(folder):
    likelihoods = defaultdict(set)
    for row in table(folder):
        for code, likelihood in ast.literal_eval(row["scp_codes"]).items():
            likelihoods["d" in STATEMENTS[code].kinds].add(likelihood)
    assert likelihoods == {False: {0.0}, True: {0.0, 50.0, 80.0, 100.0}}


def test_scp_statements_holds_the_whole_table(folder):
    with (folder / "scp_statements.csv").open(newline="") as file:
        rows = {row.pop(""): row for row in csv.DictReader(file)}
    assert list(rows) == list(STATEMENTS)
    assert rows["NDT"] == {
        "description": "non-diagnostic T abnormalities",
        "diagnostic": "1.0",
        "form": "1.0",
        "rhythm": "",
        "diagnostic_class": "STTC",
        "diagnostic_subclass": "STTC",
    }


@pytest.mark.parametrize("name, rate", [("records100/00000/00007_lr", 100), ("records500/00000/00007_hr", 500)])
def test_wfdb_reads_the_records_and_confirms_the_checksums(folder, name, rate):
    record = wfdb.rdrecord(str(folder / name), physical=False, return_res=16)
    assert (record.fs, record.sig_len, set(record.units)) == (rate, 10 * rate, {"mV"})
    assert [lead.upper() for lead in LEAD_NAMES] == record.sig_name
    assert record.checksum == record.calc_checksum()
    assert record.init_value == record.d_signal[0].tolist()
    assert all(0 <= checksum < 65536 for checksum in record.checksum)
    millivolts = wfdb.rdrecord(str(folder / name)).p_signal
    np.testing.assert_allclose(millivolts, record.d_signal / 1000)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tmp_path):
    first, same, other = (
        simulate_ptbxl(tmp_path / name, 12, seed=seed) for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert filecmp.cmpfiles(first, same, files(first), shallow=False)[0] == files(first) == files(same)
    record = "records100/00000/00005_lr.dat"
    assert (first / record).read_bytes() != (other / record).read_bytes()


def test_more_records_extend_fewer(tmp_path):
    few, many = simulate_ptbxl(tmp_path / "few", 15), simulate_ptbxl(tmp_path / "many", 25)
    assert table(many)[:15] == table(few)
    signals = [name for name in files(few) if name.startswith("records")]
    assert filecmp.cmpfiles(few, many, signals, shallow=False)[0] == signals


def test_patients_have_one_person_and_one_fold_and_some_come_again(folder):
    visits = defaultdict(list)
    for row in table(folder):
        visits[row["patient_id"]].append((row["strat_fold"], row["age"], row["sex"], row["height"]))
    assert all(len(set(of_one_patient)) == 1 for of_one_patient in visits.values())
    assert 5 <= sum(len(of_one_patient) > 1 for of_one_patient in visits.values()) <= 30


@pytest.mark.parametrize("seed", range(3))
def test_100_records_show_every_statement_in_every_fold(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(ptbxl_folder, "simulate_ecg", lambda *args, **options: np.zeros((12, 1), np.int16))
    counts = Counter()
    for row in table(simulate_ptbxl(tmp_path / "ptbxl", 100, seed=seed)):
        counts.update((row["strat_fold"], code) for code in ast.literal_eval(row["scp_codes"]))
    assert counts.keys() == {(str(fold), code) for fold in range(1, 11) for code in SIMULATED_STATEMENTS}


@pytest.mark.parametrize("kind", ["d", "f", "r"])
def test_every_kind_of_statement_offers_several_classes(kind):
    assert sum(kind in STATEMENTS[code].kinds for code in SIMULATED_STATEMENTS) >= 6


def test_both_rates_are_the_same_ecg(folder):
    for row in table(folder)[:20]:
        fast = wfdb.rdrecord(str(folder / row["filename_hr"])).p_signal
        slow = wfdb.rdrecord(str(folder / row["filename_lr"])).p_signal
        difference = (resample_poly(fast, 1, 5) - slow)[20:-20]
        assert np.sqrt(np.square(difference).mean()) < 0.005  # mV


def test_a_foreign_folder_is_refused_by_name_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(FileExistsError, match="mine exists"):
        simulate_ptbxl(tmp_path / "mine", 2)
    assert files(tmp_path) == ["mine/thesis.txt"]


def test_a_folder_of_the_same_simulation_is_kept_and_one_of_another_is_refused(tmp_path):
    folder = simulate_ptbxl(tmp_path / "ptbxl", 2)
    written = (folder / "ptbxl_database.csv").stat().st_mtime_ns
    assert simulate_ptbxl(folder, 2) == folder
    assert (folder / "ptbxl_database.csv").stat().st_mtime_ns == written
    for other in ({"num_records": 3}, {"num_records": 2, "seed": 1}, {"num_records": 2, "sampling_rates": (500,)}):
        with pytest.raises(FileExistsError, match="not the simulation of"):
            simulate_ptbxl(folder, **other)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "ptbxl").mkdir()
    assert len(table(simulate_ptbxl(tmp_path / "ptbxl", 2))) == 2


def test_an_interrupted_simulation_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(ptbxl_folder, "simulate_ecg", full_disk)
    with pytest.raises(OSError, match="No space left"):
        simulate_ptbxl(tmp_path / "ptbxl", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message", [({"sampling_rates": (250,)}, "100 or 500"), ({"num_records": 0}, "at least 1")]
)
def test_impossible_folders_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_ptbxl(tmp_path / "ptbxl", **{"num_records": 2, **options})


# ------------------------------------------------------------------------------------------------------------ the ECGs


@pytest.mark.parametrize("rate, seconds", [(100, 10.0), (250, 7.3), (500, 10.0), (1000, 2.0)])
def test_shape_follows_rate_and_length(rate, seconds):
    signal = simulate_ecg(["NORM", "SR"], sampling_rate=rate, seconds=seconds, rng=np.random.default_rng(0))
    assert (signal.dtype, signal.shape) == (np.int16, (12, round(rate * seconds)))


def test_limb_leads_follow_from_two_of_them():
    lead = dict(zip(LEAD_NAMES, simulate("LVH", "AFIB", "PVC") * 1000, strict=True))
    for derived, implied in {
        "III": lead["II"] - lead["I"],
        "aVR": -(lead["I"] + lead["II"]) / 2,
        "aVL": lead["I"] - lead["II"] / 2,
        "aVF": lead["II"] - lead["I"] / 2,
    }.items():
        assert np.abs(lead[derived] - implied).max() <= 2  # µV, as in PTB-XL


def test_normal_beats_have_rising_r_waves_and_upright_t_waves():
    beats = [sinus_beat("NORM", seed=seed) for seed in range(20)]
    r = {lead: np.mean([qrs(beat, lead).max() for beat in beats]) for lead in LEAD_NAMES}
    s = {lead: np.mean([-qrs(beat, lead).min() for beat in beats]) for lead in LEAD_NAMES}
    assert r["V1"] < r["V2"] < r["V3"] < r["V4"]
    assert s["V1"] > r["V1"] and s["V5"] < r["V5"]
    assert np.mean([beat["V5"][BEFORE + 100 : BEFORE + 180].max() for beat in beats]) > 0.2
    assert np.mean([beat["aVR"][BEFORE + 100 : BEFORE + 180].min() for beat in beats]) < -0.1
    assert 0.08 < np.median([qrs_duration(beat) for beat in beats]) < 0.1


@pytest.mark.parametrize(
    "rhythm, slowest, fastest",
    [("SBRAD", 38, 60), ("SR", 58, 100), ("SARRH", 52, 90), ("STACH", 100, 145), ("AFIB", 55, 150), ("PACE", 59, 80)],
)
def test_heart_rate_is_that_of_the_rhythm(rhythm, slowest, fastest):
    rates = [60 / rr_intervals(simulate(rhythm, seed=seed)).mean() for seed in range(15)]
    assert slowest < min(rates) and max(rates) < fastest


def test_rr_intervals_tell_the_rhythms_apart():
    def variation(rhythm):
        intervals = [rr_intervals(simulate(rhythm, seed=seed)) for seed in range(15)]
        return np.array([rr.std() / rr.mean() for rr in intervals])

    assert variation("SR").max() < 0.04
    assert np.median(variation("PACE")) < 0.005
    assert variation("SARRH").min() > 0.05
    assert variation("AFIB").mean() > 0.15


def test_fibrillation_has_no_p_wave():
    def p_wave(rhythm):
        signals = [simulate(rhythm, seed=seed) for seed in range(20)]
        beats = [median_beat(signal, r_peaks(signal)) for signal in signals]
        return np.median([beat["II"][BEFORE - 90 : BEFORE - 30] for beat in beats], axis=0).max()

    assert p_wave("SR") > 0.05
    assert p_wave("AFIB") < 0.03


def test_a_premature_ventricular_beat_comes_early_and_a_pause_follows():
    regular, premature = (
        [rr_intervals(simulate("SR", *more, seed=seed)) for seed in range(12)] for more in ((), ("PVC",))
    )
    prematurity = [early.min() / usual.min() for early, usual in zip(premature, regular, strict=True)]
    pause = [late.max() / usual.max() for late, usual in zip(premature, regular, strict=True)]
    assert np.median(prematurity) < 0.8
    assert min(pause) > 1.15


def test_the_pacemaker_stimulus_is_a_spike_before_a_wide_complex():
    def spike(signal):
        return np.abs(np.diff(signal, n=2, axis=1)).max()

    paced, sinus = ([simulate(rhythm, seed=seed) for seed in range(10)] for rhythm in ("PACE", "SR"))
    assert min(map(spike, paced)) > 2 * max(map(spike, sinus))
    assert min(qrs_duration(median_beat(signal, r_peaks(signal))) for signal in paced) > 0.12


MEASURES = {
    # What a statement changes, and by how much at least in the mean of 16 patients, in mV or s.
    ("CLBBB", "QRS duration", +0.05): qrs_duration,
    ("CLBBB", "S in V1", +0.2): lambda beat: -qrs(beat, "V1").min(),
    ("CLBBB", "ST in V6", -0.05): lambda beat: beat["V6"][BEFORE + 75 : BEFORE + 85].mean(),
    ("CRBBB", "QRS duration", +0.03): qrs_duration,
    ("CRBBB", "late R in V1", +0.2): lambda beat: beat["V1"][BEFORE + 25 : BEFORE + 45].max(),
    ("CRBBB", "late S in V6", -0.1): lambda beat: beat["V6"][BEFORE + 25 : BEFORE + 45].min(),
    ("LAFB", "net QRS in aVF", -0.5): lambda beat: qrs(beat, "aVF").max() + qrs(beat, "aVF").min(),
    ("LAFB", "R in aVL", +0.2): lambda beat: qrs(beat, "aVL").max(),
    ("1AVB", "time of P", -0.05): lambda beat: beat["II"][: BEFORE - 35].argmax() / RATE,
    ("LNGQT", "time of T", +0.04): lambda beat: beat["V5"][BEFORE + 60 :].argmax() / RATE,
    ("IMI", "ST in III", +0.04): lambda beat: st_level(beat, "III"),
    ("IMI", "ST in aVF", +0.03): lambda beat: st_level(beat, "aVF"),
    ("IMI", "ST in aVL", -0.03): lambda beat: st_level(beat, "aVL"),
    ("IMI", "Q in aVF", -0.1): lambda beat: beat["aVF"][BEFORE - 25 : BEFORE].min(),
    ("ASMI", "R in V2", -0.1): lambda beat: qrs(beat, "V2").max(),
    ("ASMI", "ST in V2", +0.04): lambda beat: st_level(beat, "V2"),
    ("LVH", "Sokolow-Lyon", +0.4): lambda beat: qrs(beat, "V5").max() - qrs(beat, "V1").min(),
    ("LVH", "ST in V5", -0.03): lambda beat: st_level(beat, "V5"),
    ("LVH", "T in V6", -0.05): lambda beat: beat["V6"][BEFORE + 100 : BEFORE + 180].mean(),
    ("VCLVH", "Sokolow-Lyon", +0.6): lambda beat: qrs(beat, "V5").max() - qrs(beat, "V1").min(),
    ("QWAVE", "Q in aVF", -0.1): lambda beat: beat["aVF"][BEFORE - 25 : BEFORE].min(),
    ("ISC_", "ST in V5", -0.05): lambda beat: st_level(beat, "V5"),
    ("ISC_", "T in V5", -0.1): lambda beat: beat["V5"][BEFORE + 100 : BEFORE + 180].mean(),
    ("NST_", "ST in V5", -0.05): lambda beat: st_level(beat, "V5"),
    ("NDT", "T in V5", -0.1): lambda beat: beat["V5"][BEFORE + 100 : BEFORE + 180].mean(),
}


@pytest.mark.parametrize("statement, quantity, change", MEASURES)
def test_a_statement_changes_the_beat_as_in_the_clinic(statement, quantity, change):
    measure = MEASURES[statement, quantity, change]
    differences = [measure(sinus_beat(statement, seed=seed)) - measure(sinus_beat(seed=seed)) for seed in range(16)]
    assert np.mean(differences) / change > 1


def test_each_waveform_statement_is_tested():
    tested = {statement for statement, _, _ in MEASURES}
    rhythms = {code for code in SIMULATED_STATEMENTS if STATEMENTS[code].kinds == "r"}
    assert tested | rhythms | {"NORM", "PVC"} == set(SIMULATED_STATEMENTS)


def test_a_statement_that_is_not_simulated_is_named():
    with pytest.raises(ValueError, match="Cannot simulate WPW"):
        simulate("WPW", "SR")
