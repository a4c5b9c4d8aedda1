"""Pre-training does not see PTB-XL's validation and test folds, unless asked to; and the cards say what was seen."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from test_post_training import LABELS, make_trainer
from test_pretraining import own_records, run_cli, write_wfdb
from test_scripts import flags
from transformers import AutoModel, HfArgumentParser

from ecg_hf import ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel
from ecg_hf.pretraining.run import RecordArguments, load_training_records

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def folds_of(folder) -> dict[int, int]:
    return pd.read_csv(folder / "ptbxl_database.csv")["strat_fold"].value_counts().to_dict()


def paths_table(folder, path, wanted=range(1, 11)):
    """A table of the records of some folds of a PTB-XL folder."""
    table = pd.read_csv(folder / "ptbxl_database.csv")
    names = table.loc[table["strat_fold"].isin(list(wanted)), "filename_lr"]
    path.write_text("file\n" + "\n".join(str(folder / name) for name in names) + "\n")
    return {"train_table": path, "record_column": "file", "data_dir": os.path.commonpath([folder, path])}


def challenge_copy(folder, target, wanted=range(1, 11), rate=500, diagnoses=True):
    """Records as PhysioNet/CinC 2021 has those of PTB-XL: HR and the ecg_id, 500 Hz, diagnoses."""
    table = pd.read_csv(folder / "ptbxl_database.csv")
    rng = np.random.default_rng(0)
    for ecg_id in table.loc[table["strat_fold"].isin(list(wanted)), "ecg_id"]:
        name = f"HR{ecg_id:05}"
        write_wfdb(target, name, rng.normal(0, 0.2, (12, 10 * rate)), rate)
        if diagnoses:
            with open(target / f"{name}.hea", "a") as file:
                file.write("# Age: 60\n# Dx: 426783006\n")
    return target


@pytest.fixture(scope="module")
def copies(simulated_folder, tmp_path_factory):
    """All records of `simulated_folder` as PhysioNet/CinC 2021 has them; writing them takes eight seconds."""
    return challenge_copy(simulated_folder, tmp_path_factory.mktemp("copies"))


def places(kind, folder, copies, tmp_path) -> dict:
    """The same records of PTB-XL, given in another way."""
    if kind == "below":
        shutil.copytree(folder, tmp_path / "data/ptb-xl")
        own_records(tmp_path / "data/own", 3)
        return {"data_dir": tmp_path / "data"}
    if kind == "above":
        return {"data_dir": folder / "records100/00000"}
    if kind == "table":
        return paths_table(folder, tmp_path / "table.csv")
    if kind == "table beside":
        shutil.copytree(folder / "records100", tmp_path / "data/signals")
        (tmp_path / "data/tables").mkdir()
        shutil.copy(folder / "ptbxl_database.csv", tmp_path / "data/tables")
        return {"data_dir": tmp_path / "data"}
    if kind == "links":
        (tmp_path / "data").mkdir()
        for path in (folder / "records100/00000").iterdir():
            (tmp_path / "data" / path.name).symlink_to(path)
        return {"data_dir": tmp_path / "data"}
    if kind == "challenge":
        return {"data_dir": copies, "probe_data_dir": folder}
    shutil.copytree(folder / "records100", tmp_path / "data")  # "signals alone"
    return {"data_dir": tmp_path / "data"}


def record_arguments(**values) -> RecordArguments:
    return HfArgumentParser(RecordArguments).parse_args_into_dataclasses(flags(**values))[0]


KINDS = ["below", "above", "table", "table beside", "links", "challenge", "signals alone"]


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_the_test_folds_are_refused_wherever_they_are_found(simulated_folder, copies, tmp_path, kind):
    given = places(kind, simulated_folder, copies, tmp_path)
    folds = folds_of(simulated_folder)
    message = rf"{folds[10]} of fold 10, {folds[9]} of fold 9\. .*--allow_test_folds true"
    if kind == "signals alone":
        message = r"160 of a fold that no table tells.*--allow_test_folds true"
    if kind == "above":
        message = "is a part of PTB-XL.*--allow_test_folds true"
    with pytest.raises(ValueError, match=message):
        load_training_records(record_arguments(cache_dir=tmp_path / "cache", **given), 2.5)
    with pytest.raises(ValueError, match=message):
        run_cli(None, tmp_path / "cache", tmp_path / "run", **given, max_steps=1)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["below", "table", "challenge", "signals alone"])
def test_the_card_says_that_the_test_folds_were_seen_or_that_it_is_not_known(
    simulated_folder, simulated_splits, copies, tmp_path, kind, caplog
):
    given = places(kind, simulated_folder, copies, tmp_path)
    quick = {"max_steps": 1, "per_device_train_batch_size": 8, "probe_every": 0}
    asked = {**given, **quick, "allow_test_folds": "true"}
    if kind == "signals alone":
        asked["probe_every"] = 1
    run_cli(None, tmp_path / "cache", tmp_path / "run", **asked)
    assert ("`probe_every` is without effect: the probe reads PTB-XL's" in caplog.text) == (kind == "signals alone")
    provenance = AutoModel.from_pretrained(tmp_path / "run").config.provenance
    known = {9, 10} <= set(provenance["ptbxl_folds"])
    assert known == (kind != "signals alone")
    assert ("unknown" in provenance["ptbxl_folds"]) == (kind in ("below", "signals alone"))
    card = (tmp_path / "run/README.md").read_text()
    assert ("among them those of its validation or test fold" if known else "pre-training used its records:") in card
    expected = "**Yes.** It was pre-trained on" if known else "**It may have.** It was pre-trained on"
    assert expected in post_trained_card(simulated_splits, tmp_path / "run", tmp_path / "post")
    if kind != "below":
        return
    # From encoder to encoder it is not forgotten.
    again = {**quick, "data_dir": simulated_folder, "model_name_or_path": tmp_path / "run"}
    run_cli(None, tmp_path / "cache", tmp_path / "again", **again)
    assert expected in post_trained_card(simulated_splits, tmp_path / "again", tmp_path / "post again")


def post_trained_card(splits, base, output) -> str:
    """The card of a model that was post-trained in Python, from `base`, on records that count as PTB-XL's."""
    real = {}
    for name, records in splits.items():
        real[name] = records.remove_columns("device").add_column("device", ["AT-60"] * len(records))
        real[name].info.dataset_name = "ptbxl"
    real["train"] = real["train"].select(range(32))
    feature_extractor = ECGTransformerFeatureExtractor.from_pretrained(base)
    with pytest.warns(UserWarning, match="has no trained head"):
        model = ECGTransformerForMultiLabel.from_pretrained(base)
    model.replace_head(dict(enumerate(LABELS)))
    make_trainer(real, output, model, feature_extractor, stages=["probe"]).post_train()
    return (output / "README.md").read_text()


def test_the_training_folds_of_ptbxl_pass_in_every_form(simulated_folder, simulated_splits, tmp_path):
    table = paths_table(simulated_folder, tmp_path / "table.csv", range(1, 9))
    two_folds = challenge_copy(simulated_folder, tmp_path / "copies", range(3, 5))
    for number, given in enumerate((table, {"data_dir": two_folds, "probe_data_dir": simulated_folder})):
        output = tmp_path / f"run{number}"
        run_cli(None, tmp_path / "cache", output, **given, max_steps=1, per_device_train_batch_size=8, probe_every=0)
        provenance = AutoModel.from_pretrained(output).config.provenance
        assert provenance["ptbxl_folds"] == ([*range(1, 9)], [3, 4])[number]
        assert "No: it was pre-trained on" in post_trained_card(simulated_splits, output, tmp_path / f"post{number}")
    # Copies that were resampled, or have lost their diagnoses, are known by name, leads and length.
    for number, changed in enumerate(({"rate": 250}, {"diagnoses": False})):
        altered = challenge_copy(simulated_folder, tmp_path / f"changed{number}", range(9, 10), **changed)
        with pytest.raises(ValueError, match="of a fold that no table tells"):
            load_training_records(RecordArguments(data_dir=str(altered), cache_dir=tmp_path / "cache"), 2.5)


def test_all_folds_of_ptbxl_are_read_when_asked_for(simulated_folder, tmp_path):
    asked = {"data_dir": simulated_folder, "allow_test_folds": "true", "max_steps": 1}
    assert run_cli(None, tmp_path / "cache", tmp_path / "run", **asked)["num_records"] == 160
