"""What `load_ecg_dataset` says of own records that are not what they seem, and that it says nothing of sound ones."""

import ast
import logging
import warnings

import numpy as np
import pandas as pd
import pytest
import wfdb
from conftest import SHARED
from small_models import small_model
from test_post_training import make_trainer
from test_scripts import QUICK, flags

from ecg_hf import cli, load_challenge, load_ecg_dataset
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.synthetic import simulate_ecg
from ecg_hf.tables.facts import beat_rates

COUNT = 60


@pytest.fixture(scope="module")
def signals():
    """60 simulated records (12, 1000) in µV at 100 Hz: the first of each three has atrial fibrillation."""
    rng = np.random.default_rng(0)
    return [simulate_ecg(["NORM", "AFIB"][: 2 - bool(row % 3)], sampling_rate=100, rng=rng) for row in range(COUNT)]


@pytest.fixture
def load(tmp_path, caplog):
    """Write signals and their table as files, load them, and give what was said; keywords are columns or arguments."""

    def loaded(signals, *, paths=None, rate=100, units="uV", split=None, columns=None, **arguments):
        paths = [f"{row:03}.npy" for row in range(len(signals))] if paths is None else paths
        for path, signal in zip(paths, signals, strict=True):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / path, signal)
        rows = range(len(signals))
        table = pd.DataFrame({"path": paths, "AF": [int(row % 3 == 0) for row in rows]})
        table["old"] = [row % 2 for row in rows]
        table["split"] = split or [("train", "train", "validation", "test")[row // 3 % 4] for row in rows]
        table = table.assign(**(columns or {}))
        table.to_csv(tmp_path / "table.csv", index=False)
        caplog.clear()
        given = {"label_columns": ["AF", "old"], "split_column": "split", "lead_names": list(LEAD_NAMES)}
        given |= {"sampling_rate": rate, "units": units, "cache_dir": tmp_path / "cache", **arguments}
        splits = load_ecg_dataset(tmp_path / "table.csv", **given)
        return splits, [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    return loaded


def exchanged(signal, one, other):
    order = list(range(12))
    order[LEAD_NAMES.index(one)], order[LEAD_NAMES.index(other)] = LEAD_NAMES.index(other), LEAD_NAMES.index(one)
    return signal[order]


# ---- Silence ----


def test_nothing_is_said_of_sound_records(load, signals):
    paths = [f"{'ab'[row // 6 % 2]}/{row:03}.npy" for row in range(COUNT)]
    assert load(signals, paths=paths)[1] == []


@pytest.mark.parametrize("rate", [250, 500, 1000])
def test_nothing_is_said_of_sound_records_at_other_rates(load, rate):
    rng = np.random.default_rng(1)
    signals = [simulate_ecg(["NORM"], sampling_rate=rate, rng=rng) for _ in range(24)]
    assert load(signals, rate=rate)[1] == []


def test_nothing_is_said_of_ptbxl(ptbxl_100hz, tmp_path, caplog):
    table = pd.read_csv(ptbxl_100hz / "ptbxl_database.csv").iloc[::43][:500]
    codes = [ast.literal_eval(text) for text in table["scp_codes"]]
    for code in ("NORM", "IMI", "AFIB", "SR"):
        table[code] = [int(code in given) for given in codes]
    table["split"] = ["test" if fold == 10 else "validation" if fold == 9 else "train" for fold in table["strat_fold"]]
    splits = load_ecg_dataset(
        table,
        record_column="filename_lr",
        label_columns=["NORM", "IMI", "AFIB", "SR"],
        patient_column="patient_id",
        split_column="split",
        data_dir=ptbxl_100hz,
        cache_dir=tmp_path / "cache",
    )
    assert sum(map(len, splits.values())) == 500 and caplog.messages == []


def test_nothing_is_said_of_challenge_records(tmp_path, caplog):
    folder = SHARED / "data" / "challenge2021"
    if not folder.is_dir():
        pytest.skip(f"the records of the challenge are not at {folder}")
    names = sorted(header.stem for header in folder.glob("*.hea"))
    table = pd.DataFrame({"path": names, "label": [row % 2 for row in range(len(names))]})
    splits = load_ecg_dataset(table, label_columns="label", data_dir=folder, cache_dir=tmp_path / "cache")
    assert sum(map(len, splits.values())) == len(names) == 25 and caplog.messages == []


def test_nothing_is_said_of_challenge_folders_but_that_25_records_lack_labels(tmp_path, caplog):
    folder = SHARED / "data" / "challenge2021"
    if not folder.is_dir():
        pytest.skip(f"the records of the challenge are not at {folder}")
    load_challenge(folder, cache_dir=tmp_path / "cache")
    said = [record.getMessage() for record in caplog.records if record.name == "ecg_hf.tables.guards"]
    assert len(said) == 2 and all("labels are the same in all" in text for text in said)


# ---- Leads ----


@pytest.mark.parametrize(
    ("fault", "mend"),
    [
        (lambda signal: exchanged(signal, "I", "II"), "exchanging I and II (3)"),
        (lambda signal: exchanged(signal, "aVR", "aVL"), "exchanging aVR and aVL (3)"),
        (lambda signal: np.concatenate([-signal[:1], signal[1:]]), "reversing I (3)"),
    ],
)
def test_contradicting_limb_leads_are_counted_and_named(load, signals, fault, mend):
    signals = [fault(signal) if row in (4, 5, 30) else signal for row, signal in enumerate(signals)]
    (message,) = load(signals)[1]
    assert f"The limb leads of 3 of {COUNT} records" in message and mend in message
    assert message.endswith("Records: 004.npy, 005.npy, 030.npy.")


def test_ten_records_are_named_at_most(load, signals):
    (message,) = load([exchanged(signal, "I", "II") for signal in signals])[1]
    assert message.endswith("007.npy, 008.npy, 009.npy and 50 more.")


def test_chest_leads_in_another_order_are_seen(load, signals):
    reversed_chest = [np.concatenate([signal[:6], signal[:5:-1]]) for signal in signals]
    (message,) = load(reversed_chest)[1]
    assert "The chest leads seem to be named in another order" in message and "smaller in V6 than in V1" in message


def test_a_lead_that_is_flat_is_named(load, signals):
    kept = (np.arange(12) != 7)[:, None].astype(np.int16)
    (message,) = load([signal * kept if row in (2, 40) else signal for row, signal in enumerate(signals)])[1]
    assert f"Leads are flat (constant) in 2 of {COUNT} records: V2 (2)." in message
    assert message.endswith("Records: 002.npy, 040.npy.")


def test_offsets_of_leads_are_counted_and_named(load, signals):
    off = (np.arange(12) == 7)[:, None].astype(np.int16) * 9000
    (message,) = load([signal - off if row in (2, 40) else signal for row, signal in enumerate(signals)])[1]
    assert f"2 of {COUNT} records (first: 002.npy) stay above or below 0 mV in some lead, by up to " in message
    assert message.endswith("Records: 002.npy, 040.npy.")


def test_records_that_are_all_zero_are_counted(load, signals):
    signals = [signal * 0 if row in (7, 9) else signal for row, signal in enumerate(signals)]
    splits, (message,) = load(signals, max_skipped=0.1)
    assert f"2 of {COUNT} records are skipped" in message and "(2 of them flat in all leads)" in message
    assert sum(map(len, splits.values())) == COUNT - 2


# ---- Units ----


@pytest.mark.parametrize(
    ("factor", "units", "remedy"),
    [
        (1e-3, "uV", 'give `units` "mV" instead of "uV"'),
        (1e-6, "mV", 'give `units` "V" instead of "mV"'),
        (25.0, "uV", 'give `units` "nV" instead of "uV"'),
    ],
)
def test_a_unit_that_cannot_be_is_refused(load, signals, factor, units, remedy):
    signals = [np.clip(signal * factor, -32767, 32767) for signal in signals[:24]]
    with pytest.raises(ValueError, match=remedy) as caught:
        load(signals, units=units)
    assert "mV from peak to peak" in str(caught.value) and "000.npy" in str(caught.value)


def test_values_that_are_a_thousand_times_too_large_are_refused_when_read(load, signals):
    with pytest.raises(ValueError, match="is its unit really mV"):
        load(signals, units="mV")


def test_a_unit_in_the_files_is_to_be_corrected_there(tmp_path, signals):
    form = {"fmt": ["16"] * 12, "adc_gain": [1000] * 12, "baseline": [0] * 12, "write_dir": str(tmp_path)}
    for row, signal in enumerate(signals[:24]):
        wfdb.wrsamp(f"r{row}", 100, ["uV"] * 12, list(LEAD_NAMES), p_signal=signal.T / 1000.0, **form)
    table = pd.DataFrame({"path": [f"r{row}" for row in range(24)], "AF": [0, 1] * 12})
    with pytest.raises(ValueError, match='the unit or the gain that their files state; 1000 times .* "mV" instead of'):
        load_ecg_dataset(table, label_columns="AF", data_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_a_few_records_of_another_unit_are_named(load, signals):
    signals = [signal // 1000 if row in (3, 8) else signal for row, signal in enumerate(signals)]
    messages = load(signals)[1]
    assert any(f"2 of {COUNT} records are no typical ECGs" in text and "003.npy, 008.npy" in text for text in messages)


# ---- Sampling rate ----


@pytest.mark.parametrize(("true", "stated"), [(100, 200), (250, 500), (500, 250), (500, 125)])
def test_a_rate_under_which_no_heart_beats_is_named(load, true, stated):
    rng = np.random.default_rng(2)
    signals = [simulate_ecg(["NORM"], sampling_rate=true, rng=rng) for _ in range(40)]
    messages = load(signals, rate=stated)[1]
    (message,) = [text for text in messages if "heart beats" in text]
    assert f"The records of {stated} Hz have a median of" in message and "(40 were looked at" in message
    assert f"{true} Hz (" in message.partition("would be normal: ")[2]


def test_the_beats_are_those_of_the_simulation():
    rng = np.random.default_rng(3)
    for code, lowest, highest in (("SR", 60, 96), ("STACH", 104, 140), ("SBRAD", 42, 56), ("PACE", 60, 78)):
        lead = np.stack([simulate_ecg([code], sampling_rate=250, rng=rng)[1] for _ in range(40)])
        beats = beat_rates(lead, 250.0)
        assert np.mean((beats > lowest - 2) & (beats < highest + 2)) > 0.95, code


RATES = {"late T waves": 45, "a child's heart": 150, "a heart of 220 /min": 220}


@pytest.mark.parametrize("fault", [*RATES, "high T waves at 100 Hz", "lower waves", "a spike"])
def test_fast_hearts_t_waves_lower_waves_and_spikes_change_no_rate(fault):
    """What doubles or halves the rate, or ends the beats, of detectors that are in use (see `findings`)."""
    rate, per_minute = 250, RATES.get(fault, 75)
    t_wave = (0.25, 0.4 if fault == "late T waves" else 0.27 * min(1, 75 / per_minute), 0.04)
    if fault == "high T waves at 100 Hz":
        rate, per_minute, t_wave = 100, 60, (0.45, 0.3, 0.04)
    time = np.arange(60 * rate) / rate
    waves = (
        (-0.12, -0.022, 0.008),
        (1.2, 0, 0.011),
        (-0.25, 0.024, 0.009),
        t_wave,
    )
    beats = np.arange(0.5, 60, 60 / per_minute)
    lead = sum(
        1000 * height * np.exp(-((time - beat - at) ** 2) / (2 * w * w)) for beat in beats for height, at, w in waves
    )
    if fault == "lower waves":
        lead[time > 20] /= 3
    if fault == "a spike":
        lead[20 * rate + 50 : 20 * rate + 60] += 10_000
    assert beat_rates(lead[None], rate) == pytest.approx([per_minute], abs=2)


def test_no_beats_are_found_where_there_are_none():
    noise = np.random.default_rng(4).normal(0, 50, (2, 30))
    for lead in (np.zeros((2, 1000)), np.full((2, 1000), 7), noise, noise[:, :1]):
        assert np.isnan(beat_rates(lead, 100.0)).all()


# ---- Leaks ----


def test_patients_in_two_splits_are_counted_and_named(load, signals):
    patients = [f"p{row // 3}" for row in range(COUNT)]
    assert load(signals, columns={"who": patients}, patient_column="who")[1] == []
    patients[-1] = "p0"  # of the training records, while the last is a test record
    (message,) = load(signals, columns={"who": patients}, patient_column="who")[1]
    assert message.startswith("1 patients are in train and in test (such as p0): figures of test are too good")


@pytest.mark.parametrize("other", ["P000", "p0", "'P0", "P00"])
def test_patients_of_two_splits_who_may_be_one_in_two_spellings_are_named(load, signals, other):
    patients = [f"P{row // 3}" for row in range(COUNT)]
    patients[-1] = other
    (message,) = load(signals, columns={"who": patients}, patient_column="who")[1]
    assert message.startswith("1 patients of train differ from those of test in upper and lower case")
    assert f"such as P0 and {other}" in message or f"such as {other} and P0" in message


def test_one_recording_under_several_ids_and_with_contradicting_labels(load, signals):
    signals = list(signals)
    signals[6], signals[50] = signals[0], signals[1]  # 6 is validation, and all labels but 50's `old` are the same
    columns = {"old": [0 if row == 50 else row % 2 for row in range(COUNT)]}
    columns["AF"] = [int(row % 3 == 0 and row != 50) for row in range(COUNT)]
    copies, contradictions = load(signals, columns=columns)[1]
    assert copies.startswith("2 recordings are there under more than one id")
    assert "000.npy (train) and 006.npy (validation)" in copies
    assert contradictions.startswith("1 recordings have labels that contradict each other")
    assert contradictions.partition("such as ")[2].startswith("001.npy (train) and 050.npy (train): old.")


def test_an_unknown_label_contradicts_nothing(load, signals):
    signals = [signals[0], *signals[:-1]]
    old = ["" if row < 2 else row % 2 for row in range(COUNT)]
    (message,) = load(signals, columns={"old": old, "AF": [int(row % 3 < 2) for row in range(COUNT)]})[1]
    assert "1 recordings are there" in message


# ---- Labels ----


def test_labels_without_positives_or_negatives_in_a_split(load, signals):
    split = [("train", "validation", "test")[row % 3] for row in range(COUNT)]
    train, validation, test = load(signals, split=split)[1]
    assert "1 of 2 labels are the same in all 20 records of train, and cannot be learned there: AF (no neg" in train
    assert "records of validation, and cannot be judged there: AF (no positives)" in validation
    assert "AF (no positives)" in test


def test_classes_and_numbers_that_do_not_differ_in_a_split(load, signals):
    split = ["train"] * 40 + ["test"] * 20
    rhythm = [("AF" if row % 3 == 0 else "SR") if row < 40 else "SR" for row in range(COUNT)]
    arguments = {"label_columns": None, "label_column": "rhythm", "problem_type": "single_label_classification"}
    (message,) = load(signals, split=split, columns={"rhythm": rhythm}, **arguments)[1]
    assert "2 of 2 classes are the same in all 20 records of test" in message
    assert "AF (no positives), SR (no negatives)" in message
    age = [50 + row if row < 40 else 7 for row in range(COUNT)]
    arguments = {"label_columns": "age", "problem_type": "regression"}
    (message,) = load(signals, split=split, columns={"age": age}, **arguments)[1]
    assert "1 of 1 targets are the same in all 20 records of test, and cannot be judged there: age (7)" in message


@pytest.mark.parametrize("kind", ["folder", "length", "rate"])
def test_labels_that_follow_the_source_are_named_with_their_shares(load, signals, kind):
    paths = [f"{'ab'[row % 2] if kind == 'folder' else 'a'}/{row:03}.npy" for row in range(COUNT)]
    arguments = {"paths": paths}
    if kind == "length":
        arguments["signals"] = [signal[:, : (1000, 700)[row % 2]] for row, signal in enumerate(signals)]
    if kind == "rate":  # all last 10 s
        long = [np.concatenate([signal, signal[:, :100]], axis=1) for signal in signals]
        arguments["signals"] = [(signals, long)[row % 2][row] for row in range(COUNT)]
        arguments |= {"rate": None, "columns": {"sampling_rate": [(100, 110)[row % 2] for row in range(COUNT)]}}
    group = {"folder": "folder a", "length": "10 s", "rate": "100 Hz"}[kind]
    (message,) = load(**{"signals": signals, **arguments})[1]
    assert message.startswith("1 of 2 labels follow the source or the form of the records")
    assert f"`old` is positive in 0.00% of the 30 records of {group} and in 100.00% of the 30 others (p = " in message


def test_a_rare_label_in_one_of_two_folders_is_no_finding(load, signals):
    paths = [f"{'ab'[row // 6 % 2]}/{row:03}.npy" for row in range(COUNT)]
    split = ["train"] * COUNT
    columns = {"old": [int(row in (0, 2, 12, 24)) for row in range(COUNT)]}  # four of 30 in a, none of 30 in b
    assert load(signals, paths=paths, columns=columns, split=split)[1] == []


# ---- Once ----


def test_a_training_run_says_each_thing_once(load, signals, tmp_path, caplog):
    signals = list(signals)
    signals[6], signals[7] = signals[0], exchanged(signals[7], "I", "II")
    signals[8] = signals[8] * (np.arange(12) != 7)[:, None].astype(np.int16)
    columns = {"who": ["p0" if row in (0, 59) else f"p{row // 3}x" for row in range(COUNT)], "old": [0] * COUNT}
    splits, messages = load(signals, columns=columns, patient_column="who")
    assert len(messages) == 7  # limb leads, a flat one, patients, copies, and one label in each split
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(splits, tmp_path / "run", small_model(["AF", "old"]), stages=["probe"]).post_train()
    assert not [text for text in caplog.messages if "patients are in" in text or "recordings are there" in text]
    assert not [text for text in caplog.messages if "cannot be learned" in text]
    assert not [text for text in map(str, caught) if "limb leads" in text or "Flat leads" in text]
    # Other records than those that were looked at are looked at again.
    few = {name: split.select(range(len(split) - 1)) for name, split in splits.items()}
    make_trainer(few, tmp_path / "few", small_model(["AF", "old"]), stages=["probe"]).post_train()
    assert [text for text in caplog.messages if "recordings are there" in text]


def test_the_command_says_each_thing_once(load, signals, tmp_path, capsys, caplog):
    load([exchanged(signal, "I", "II") if row % 2 else signal for row, signal in enumerate(signals)])
    caplog.clear()
    table = {"table": tmp_path / "table.csv", "split_column": "split", "sampling_rate": 100, "units": "uV"}
    places = {"output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli.train(flags(**QUICK, **table, **places, label_columns="AF") + ["--lead_names", *LEAD_NAMES])
    told = [text for text in [*caplog.messages, *map(str, caught)] if "limb leads" in text]
    assert len(told) == 1 and f"30 of {COUNT} records" in told[0]


def test_records_are_measured_once(load, signals, tmp_path, caplog):
    _, first = load([exchanged(signal, "I", "II") for signal in signals])
    (facts,) = (tmp_path / "cache").rglob("*.npz")
    stamp = facts.stat().st_mtime_ns
    caplog.clear()
    arguments = {"split_column": "split", "lead_names": list(LEAD_NAMES), "sampling_rate": 100, "units": "uV"}
    table = tmp_path / "table.csv"
    load_ecg_dataset(table, label_columns=["AF", "old"], cache_dir=tmp_path / "cache", **arguments)
    assert caplog.messages == first and facts.stat().st_mtime_ns == stamp
    assert list((tmp_path / "cache").rglob("*.npz")) == [facts]
