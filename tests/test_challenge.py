"""Folders in the form of the PhysioNet/CinC Challenges: codes, ages, sexes, splits, and what the card says of them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from conftest import SHARED

from ecg_hf import cli, load_challenge
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.seen_data import saw
from ecg_hf.tables.snomed import code_of, diagnoses, label_of, names_in_words

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

SHIPPED = Path(__file__).parents[1] / "hub_cards/ecg-transformer-ptbxl-100hz"
REAL = SHARED / "data/challenge2021"

AF, LBBB, CLBBB, RBBB, NSR = "164889003", "164909002", "733534002", "59118001", "426783006"
NO_CODE_OF_THE_TABLE = "271594007"


def write_record(folder, name, comments, rate=500, samples=None, seed=0):
    """A record as the Challenges have it: header, and int16 µV in a MATLAB 4 file -> the signal (12, samples)."""
    folder.mkdir(parents=True, exist_ok=True)
    signal = np.random.default_rng([seed, *name.encode()]).integers(-900, 900, (12, samples or 2 * rate), np.int16)
    scipy.io.savemat(folder / f"{name}.mat", {"val": signal}, format="4")
    lines = [f"{name} 12 {rate} {signal.shape[1]}"]
    for lead, row in zip(LEAD_NAMES, signal, strict=True):
        checksum = int(row.sum(dtype=np.int64).astype(np.int16))
        lines.append(f"{name}.mat 16+24 1000/mV 16 0 {row[0]} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, *comments]) + "\n")
    return signal


def write_folder(folder, count=24):
    """Georgia's names; AF or sinus rhythm in turns."""
    for number in range(count):
        code = (AF, NSR)[number % 2]
        write_record(folder / "georgia", f"E{number:05}", [f"#Age: {40 + number}", "#Sex: Female", f"#Dx: {code}"])
    return folder


def records_of(splits) -> dict:
    return {row["ecg_id"]: row for split in splits.values() for row in split}


def labels_by_name(splits) -> dict:
    names = label_names_of(splits["train"])
    return {
        ecg_id: {name for name, value in zip(names, row["labels"], strict=True) if value}
        for ecg_id, row in records_of(splits).items()
    }


def load(folder, *args, **options):
    return load_challenge(folder, *args, cache_dir=folder.parent / "cache", **options)


# ---- The table of codes ----


def verhoeff_remainder(code: str) -> int:
    """0 for a number whose last digit checks the others: the dihedral group of order 10, as SNOMED CT prescribes."""
    remainder = 0
    for place, digit in enumerate(map(int, reversed(code))):
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        if remainder < 5:
            remainder = (remainder + digit) % 5 + (5 if digit >= 5 else 0)
        else:
            remainder = (remainder - digit) % 5 + (0 if digit >= 5 else 5)
    return remainder


def test_each_code_has_the_check_digit_of_snomed_ct():
    assert verhoeff_remainder(AF) == 0 and verhoeff_remainder("164889004") != 0
    assert [code for code in diagnoses() if verhoeff_remainder(code)] == []


def test_the_table_has_the_codes_of_both_challenges():
    known = diagnoses().values()
    assert len(known) == 136 and sum(item.scored_2021 for item in known) == 30
    assert sum(item.scored_2020 for item in known) == 27
    assert len({label_of(item.code) for item in known if item.scored_2021}) == 26
    assert len({item.abbreviation.casefold() for item in known}) == len({item.name for item in known}) == 136
    assert {item.counted_as for item in known} <= diagnoses().keys()
    pairs = {(item.code, item.counted_as) for item in known if item.counted_as != item.code}
    assert pairs == {
        (RBBB, "713427006"),
        ("63593006", "284470004"),
        ("17338001", "427172004"),
        (LBBB, CLBBB),
    }


def test_a_label_has_a_full_name():
    assert code_of("af") == code_of(AF) == AF and code_of("NORM") is None
    assert names_in_words(["AF", "CRBBB", NO_CODE_OF_THE_TABLE]) == {
        "AF": "atrial fibrillation",
        "CRBBB": "complete right bundle branch block or right bundle branch block",
    }
    assert names_in_words(["CRBBB"], join_equivalent=False) == {"CRBBB": "complete right bundle branch block"}


# ---- Headers ----


@pytest.mark.parametrize(
    ("comments", "age", "sex", "dx"),
    [
        (["#Age: 60", "#Sex: Male", f"#Dx: {AF}"], 60.0, 0, [AF]),
        (["# Age: 60.5", "# Sex: Female", f"# Dx: {AF},{LBBB}"], 60.5, 1, [AF, LBBB]),
        (["# age: NaN", "# sex: Unknown", f"#dx:{AF}, {LBBB} ,{AF}"], None, None, [AF, LBBB]),
        (["#Age: -1", "#Sex: F", f"#Dx: {AF}", "#Rx: Unknown"], None, 1, [AF]),
        (["#Age: 300", "#Sex:", f"#Dx: {AF};{LBBB}"], None, None, [AF, LBBB]),
        ([f"#Dx: {AF}"], None, None, [AF]),
    ],
)
def test_age_sex_and_codes_in_any_spelling(tmp_path, comments, age, sex, dx):
    write_folder(tmp_path / "set")
    write_record(tmp_path / "set", "E09999", comments)
    row = records_of(load(tmp_path / "set"))["E09999"]
    assert (row["age"], row["sex"], row["dx"], row["patient_id"]) == (age, sex, dx, None)


def test_a_header_of_windows_with_other_letters(tmp_path):
    folder = write_folder(tmp_path / "set")
    header = folder / "georgia/E00000.hea"
    header.write_bytes(header.read_text().replace("\n", "\r\n").encode() + "#Hx: Übelkeit".encode("latin-1"))
    assert records_of(load(folder))["georgia/E00000"]["age"] == 40


def test_records_without_codes_are_left_out_and_named(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "E09001", ["#Age: 60", "#Dx: Unknown"])
    write_record(folder, "E09002", ["#Age: 60"])
    write_record(folder, "E09003", ["#Age: 60", "#Dx: atrial fibrillation"])
    assert len(records_of(load(folder))) == 24
    assert "1 records are left out, since their headers state no code: E09001." in caplog.text
    assert "headers have no line `#Dx`: E09002." in caplog.text
    assert "have something else than SNOMED CT codes in `#Dx`: E09003." in caplog.text
    assert "fibrillation" not in caplog.text


@pytest.mark.parametrize(("rate", "samples"), [(257, 257 * 30), (500, 2500), (500, 72000), (1000, 38400)])
def test_signals_of_all_rates_and_lengths(tmp_path, rate, samples):
    folder = write_folder(tmp_path / "set")
    signal = write_record(folder, "X1", [f"#Dx: {AF}"], rate, samples)
    row = records_of(load(folder))["X1"]
    assert row["sampling_rate"] == rate and row["lead_names"] == list(LEAD_NAMES)
    assert np.array_equal(np.reshape(row["signal"], (12, -1)), signal)


def test_folders_are_read_through_links_and_each_once(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "again").symlink_to(folder / "georgia")
    (folder / "georgia/back").symlink_to(folder)
    assert len(records_of(load(folder))) == 24


def test_a_broken_record_is_skipped_up_to_a_share(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    (folder / "georgia/E00003.mat").write_bytes(b"")
    with pytest.raises(ValueError, match="More than 1% of the 24 records cannot be used(?s:.*)E00003"):
        load(folder)
    assert len(records_of(load(folder, max_skipped=0.1))) == 23
    assert "E00003" in caplog.text


def test_headers_are_read_once(tmp_path, monkeypatch):
    from ecg_hf.tables import challenge

    folder = write_folder(tmp_path / "set")
    load(folder)
    opened = []
    monkeypatch.setattr(challenge, "open", lambda path, *args: opened.append(path) or open(path, *args), raising=False)
    load(folder)
    assert len(opened) == len(set(opened)) == 24


# ---- Labels ----


def test_equivalent_codes_are_one_label_or_two(tmp_path):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "X1", [f"#Dx: {LBBB}"])
    write_record(folder, "X2", [f"#Dx: {CLBBB},{RBBB}"])
    joined, parted = load(folder), load(folder, join_equivalent=False)
    assert label_names_of(joined["train"]) == ["AF", "CLBBB", "CRBBB", "NSR"]
    assert (labels_by_name(joined)["X1"], labels_by_name(joined)["X2"]) == ({"CLBBB"}, {"CLBBB", "CRBBB"})
    assert label_names_of(parted["train"]) == ["AF", "CLBBB", "LBBB", "NSR", "RBBB"]
    assert (labels_by_name(parted)["X1"], labels_by_name(parted)["X2"]) == ({"LBBB"}, {"CLBBB", "RBBB"})


def test_labels_that_are_asked_for_in_order(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "X1", [f"#Dx: {RBBB}"])
    splits = load(folder, ["rbbb", AF, "LQT"])
    assert label_names_of(splits["train"]) == ["CRBBB", "AF", "LQT"]
    # Sinus rhythm is not asked for: a finding that is not learned, so that the others are known to be absent.
    assert labels_by_name(splits)["georgia/E00001"] == set() and labels_by_name(splits)["X1"] == {"CRBBB"}
    assert "No record has the labels LQT." in caplog.text
    assert len(label_names_of(load(folder, "scored")["train"])) == 26


def test_an_unknown_code_stands_for_itself_and_rare_labels_can_be_left_out(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "X1", [f"#Dx: {NO_CODE_OF_THE_TABLE}"])
    assert label_names_of(load(folder)["train"]) == [NO_CODE_OF_THE_TABLE, "AF", "NSR"]
    assert f"1 codes are not in the table of the Challenges, and stand for themselves: {NO_CODE_OF_THE_TABLE}" in (
        caplog.text
    )
    common = load(folder, min_records=2)
    assert label_names_of(common["train"]) == ["AF", "NSR"] and labels_by_name(common)["X1"] == set()


# ---- Patients and PTB-XL ----


def test_patients_are_unknown_but_for_folders_of_patients(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    for number in range(3):
        write_record(folder / "patient007", f"s{number:04}_re", [f"#Dx: {AF}"])
    splits = load(folder)
    assert [row["patient_id"] for row in records_of(splits).values()].count("patient007") == 3
    assert sum("patient007" in split["patient_id"] for split in splits.values()) == 1
    assert caplog.text.count("The patients of 24 of the 27 records are not known") == 1


def test_records_of_ptbxl_are_counted(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "HR00021", [f"#Dx: {NSR}"], samples=5000)
    write_record(folder, "HR00022", [f"#Dx: {NSR}"], samples=2500)  # of another length than PTB-XL's
    load(folder)
    assert "1 of the 26 records are PTB-XL's, such as HR00021 (ecg_id 21)" in caplog.text


@pytest.mark.parametrize(
    ("records", "pretraining", "folds", "expected"),
    [
        ("PhysioNet/CinC Challenge 2021 (PTB-XL, Georgia)", "8 records of PTB-XL's folds 1 to 8", [1, 2], None),
        ("PhysioNet/CinC Challenge 2021 (Georgia)", "8 records of PTB-XL's folds 1 to 8", [1, 2], False),
        ("PhysioNet/CinC Challenge 2021 (PTB-XL, Georgia)", ["MIMIC-IV-ECG"], None, False),
        ("PhysioNet/CinC Challenge 2021 (Georgia)", ["PhysioNet/CinC Challenge 2021", "PTB-XL"], None, True),
        ("PhysioNet/CinC Challenge 2021 (PTB, Georgia)", ["PTB Diagnostic"], None, True),
        ("PhysioNet/CinC Challenge 2021 (Ningbo)", "12 own records", ["unknown"], None),
        ("own records in the form of the PhysioNet/CinC Challenge", "8 records of PTB-XL's folds 1 to 8", [1], None),
        ("CODE-15 %", ["MIMIC-IV-ECG", "CODE-15"], None, True),
        ("CODE-15 %", ["MIMIC-IV-ECG"], None, False),
    ],
)
def test_whether_an_encoder_has_seen_the_records(records, pretraining, folds, expected):
    provenance = {"pretraining_data": pretraining, **({} if folds is None else {"ptbxl_folds": folds})}
    assert saw(provenance, {"name": records, "ptbxl_folds": {"test": ["unknown"]}}) is expected


def test_the_data_have_a_name_and_a_licence_where_it_is_certain(tmp_path):
    folder = write_folder(tmp_path / "set")
    info = load(folder)["train"].info
    assert info.dataset_name == "PhysioNet/CinC Challenge 2021 (Georgia)" and info.license == "CC BY 4.0"
    write_record(folder, "ours1", [f"#Dx: {AF}"])
    info = load(folder)["train"].info
    assert info.dataset_name == "own records in the form of the PhysioNet/CinC Challenge"
    assert not info.license and not info.citation and not info.homepage


# ---- Bad input ----


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_challenge(tmp_path / "nowhere")
    write_record(tmp_path, "X1", ["#Age: 60"])
    with pytest.raises(ValueError, match="Of the 1 WFDB headers .* none has a line `#Dx:`"):
        load_challenge(tmp_path)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("AF", {}, '`labels` must be "dx", "scored" or a list'),
        (["AF", "NORM", 3], {}, "`labels`: 'NORM', 3 must be SNOMED CT codes or abbreviations"),
        (["LBBB", "CLBBB"], {}, "names CLBBB twice"),
        ([], {}, "`labels` is empty"),
        (["AF"], {"min_records": 2}, '`min_records` must be at least 1, and is for labels "dx"; got 2'),
        ("dx", {"min_records": 99}, "No label has 99 records; the most common one has 12"),
        ("dx", {"split_fractions": (1, 1, 1)}, "`split_fractions` must be three shares"),
        ("dx", {"lead_names": ["I", "X"]}, "`lead_names` must list some of"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(tmp_path, labels, options, message):
    with pytest.raises(ValueError, match=message):
        load(write_folder(tmp_path / "set"), labels, **options)


# ---- Commands ----


def flags(**values) -> list[str]:
    parts = []
    for name, value in values.items():
        parts += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return parts


QUICK = {
    "max_steps": 2,
    "probe_num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "disable_tqdm": True,
    "num_bootstrap_resamples": 10,
}
SPLIT = {"split_fractions": [0.5, 0.25, 0.25], "split_seed": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "form"}, "`--task` is for PTB-XL"),
        ({"label_columns": ["AF"]}, "`--label_columns` is for own records: give their table by `--table`"),
        ({"patient_column": "who"}, "`--patient_column` is for own records"),
        ({"validation_table": "v.csv"}, "`--validation_table` is for own records"),
        ({"sampling_rate": 500}, "`--sampling_rate` is stated by the records"),
        ({"units": "mV"}, "`--units` is stated by the records"),
        ({"skip_missing_records": True}, "`--skip_missing_records` is for PTB-XL"),
        ({"problem_type": "regression"}, "`problem_type` of records in a PhysioNet/CinC Challenge's form must be"),
    ],
)
def test_a_flag_without_a_meaning_for_the_folder_is_refused(tmp_path, given, message):
    folder = write_folder(tmp_path / "set", 4)
    with pytest.raises(ValueError, match=message):
        cli.train(flags(data_dir=folder, output_dir=tmp_path / "run", **given))


def test_a_folder_of_nothing_known_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(FileNotFoundError, match="neither PTB-XL's table .* nor that of CODE-15 % .* nor WFDB headers"):
        cli.train(flags(data_dir=tmp_path / "set", output_dir=tmp_path / "run"))
    (tmp_path / "set/manifest.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match="holds shards of `ecg-hf prepare` .*, which are read with `--streaming"
    ):
        cli.train(flags(data_dir=tmp_path / "set", output_dir=tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        cli.train(flags(data_dir=tmp_path / "nowhere", output_dir=tmp_path / "run"))


def test_from_a_folder_to_a_card_and_an_evaluation(tmp_path):
    folder = write_folder(tmp_path / "set")
    write_record(folder, "HR00021", [f"#Dx: {NSR}"], samples=5000)
    shared = {"data_dir": folder, "cache_dir": tmp_path / "cache", **SPLIT}
    run = tmp_path / "run"
    cli.train(flags(model_name_or_path=SHIPPED, output_dir=run, labels=["AF", "NSR"], **shared, **QUICK))
    config = json.loads((run / "config.json").read_text())
    assert config["label_names"] == {"AF": "atrial fibrillation", "NSR": "sinus rhythm"}
    card = (run / "README.md").read_text()
    name = "PhysioNet/CinC Challenge 2021 (PTB-XL, Georgia)"
    assert f"\n{name} (https://physionet.org/content/challenge-2021" in card
    assert "licence: CC BY 4.0" in card and "The data: Reyna et al. 2021" in card
    assert "Not known: it was pre-trained on 17,418 records of PTB-XL's folds 1 to 8" in card
    assert str(tmp_path) not in card
    metrics = cli.evaluate(flags(model_name_or_path=run, output_dir=tmp_path / "evaluation", use_cpu=True, **shared))
    assert metrics["num_records"] == json.loads((run / "metrics.json").read_text())["test"]["num_records"]
    assert metrics["data"] == name
    all_records = {**shared, "split_fractions": [0, 0, 1], "use_cpu": True, "report": False}
    metrics = cli.evaluate(flags(model_name_or_path=run, output_dir=tmp_path / "all", **all_records))
    assert metrics["num_records"] == len(pd.read_csv(run / "splits.csv"))
    with open(tmp_path / "evaluation/predictions.csv", newline="") as file:
        assert {"prob_AF", "true_NSR"} <= set(next(csv.reader(file)))
    # The command on the card, with the reader's own paths.
    assert "--data_dir path/to/records --output_dir run" in card
    given = {"use_cpu": True, "disable_tqdm": True, "cache_dir": tmp_path / "cache"}
    again = flags(
        config=run / "recipe.yaml", model_name_or_path=SHIPPED, data_dir=folder, output_dir=tmp_path / "again"
    )
    cli.train([*again, *flags(**given)])
    scores = [(folder / "test_predictions.csv").read_text() for folder in (run, tmp_path / "again")]
    assert scores[0] == scores[1]


# ---- Real records ----


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the records of the Challenge are not at {REAL}")


@needs_real
def test_the_real_headers_say_what_is_in_them(tmp_path, caplog):
    rows = records_of(load_challenge(REAL, cache_dir=tmp_path))
    assert len(rows) == 25 and "5 of the 25 records are PTB-XL's" in caplog.text
    first = rows["E07501"]
    assert (first["age"], first["sex"], first["dx"]) == (65, 0, ["253352002", "427084000"])
    for name in ("E07501", "HR06001", "JS20001"):
        stored = scipy.io.loadmat(REAL / f"{name}.mat")["val"]
        assert np.array_equal(np.reshape(rows[name]["signal"], stored.shape), stored)


@needs_real
def test_a_few_steps_on_the_real_records_and_an_evaluation(tmp_path):
    shared = {"data_dir": REAL, "cache_dir": tmp_path / "cache", **SPLIT}
    run = tmp_path / "run"
    cli.train(flags(model_name_or_path=SHIPPED, output_dir=run, **shared, **QUICK))
    config = json.loads((run / "config.json").read_text())
    assert config["label_names"]["STach"] == "sinus tachycardia" and len(config["label_names"]) == 20
    metrics = cli.evaluate(flags(model_name_or_path=run, output_dir=tmp_path / "evaluation", use_cpu=True, **shared))
    assert 0 <= metrics["macro_auroc"] <= 1


@pytest.mark.skipif(not (SHARED / "data/ptb").is_dir(), reason="the record of PTB Diagnostic is not there")
def test_a_real_record_of_ptb_diagnostic_with_codes(tmp_path, caplog):
    folder = write_folder(tmp_path / "set")
    shutil.copytree(SHARED / "data/ptb", folder / "patient001")
    with open(folder / "patient001/s0010_re.hea", "a") as header:
        header.write("\n# age: 81\n# sex: female\n# Dx: 164865005\n")
    row = records_of(load(folder))["patient001/s0010_re"]
    assert (row["patient_id"], row["age"], row["sex"]) == ("patient001", 81, 1)
    assert row["sampling_rate"] == 1000 and row["lead_names"] == list(LEAD_NAMES)
    stored = np.fromfile(SHARED / "data/ptb/s0010_re.dat", "<i2").reshape(-1, 12).T / 2
    assert np.abs(np.reshape(row["signal"], stored.shape) - stored).max() <= 0.5
