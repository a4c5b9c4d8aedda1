"""What is wrong with the records or arguments of a run is said before it begins, once."""

import io

import datasets
import numpy as np
import pandas as pd
import pytest
from small_models import small_extractor, small_model
from test_post_training import arguments, make_trainer
from test_scripts import QUICK, flags

from ecg_hf import PostTrainer, cli
from ecg_hf.evaluation import EvaluationArguments
from ecg_hf.plotting import plot_learning_curves
from ecg_hf.post_training.checks import warn_of_leaks
from ecg_hf.post_training.evaluation import splits_table
from ecg_hf.post_training.run import TaskArguments
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.runs import trainer
from ecg_hf.runs.columns import is_unknown
from ecg_hf.synthetic import simulate_ptbxl

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def with_labels(dataset, value, record=0, label=0):
    labels = np.array(dataset["labels"])
    labels[record, label] = value
    return dataset.remove_columns("labels").add_column("labels", labels.tolist())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_refused_at_construction(simulated_splits, tmp_path, split):
    name = {"train": "train_dataset", "validation": "eval_dataset", "test": "test_dataset"}[split]
    with pytest.raises(ValueError, match=f"`{name}` has no records: give some"):
        make_trainer({**simulated_splits, split: simulated_splits[split].select([])}, tmp_path / "run")


@pytest.mark.parametrize(("fold", "split"), [(9, "validation"), (10, "test")])
def test_a_folder_without_a_fold_is_refused_by_its_name(tmp_path, fold, split):
    folder = simulate_ptbxl(tmp_path / "ptbxl", 100, seed=2, sampling_rates=(100,))
    table = pd.read_csv(folder / "ptbxl_database.csv")
    table[table["strat_fold"] != fold].to_csv(folder / "ptbxl_database.csv", index=False)
    places = {"data_dir": folder, "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    with pytest.raises(ValueError, match=rf"no record of the split {split} \(fold {fold} of PTB-XL\)"):
        cli.train(flags(**{**QUICK, **places}))
    assert not (tmp_path / "run").exists()
    if split == "test":
        cli.train(flags(**{**QUICK, **places, "evaluate_test": False, "stages": "probe"}))
        with pytest.raises(ValueError, match="no record of the split test"):
            cli.evaluate(
                flags(model_name_or_path=tmp_path / "run", **{**places, "output_dir": tmp_path / "evaluation"})
            )


def test_evaluation_records_must_be_one_data_set(simulated_splits, tmp_path):
    several = {"a": simulated_splits["validation"], "b": simulated_splits["test"]}
    with pytest.raises(ValueError, match="`eval_dataset` must be one data set, got a dictionary of a, b"):
        make_trainer({**simulated_splits, "validation": several}, tmp_path / "run")
    off = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = PostTrainer(
        model=small_model(),
        args=arguments(tmp_path / "run", **off),
        train_dataset=simulated_splits["train"],
        feature_extractor=small_extractor(),
    )
    with pytest.raises(ValueError, match="`eval_dataset` is missing: epochs and thresholds are chosen on it"):
        trainer.post_train()
    assert not (tmp_path / "run" / "_stages").exists()


@pytest.mark.parametrize("make", [arguments, EvaluationArguments])
@pytest.mark.parametrize("value", [1, 0, -5])
def test_too_few_resamples_are_refused(tmp_path, make, value):
    places = {"model_name_or_path": "m"} if make is EvaluationArguments else {}
    with pytest.raises(ValueError, match=f"`num_bootstrap_resamples` must be at least 2, got {value}"):
        make(output_dir=str(tmp_path), num_bootstrap_resamples=value, **places)


@pytest.mark.parametrize("name", ["max_train_records", "max_eval_records"])
def test_limits_below_one_record_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        TaskArguments(**{name: 0})
    if name == "max_train_records":
        from ecg_hf.pretraining.run import RecordArguments

        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got -1"):
            RecordArguments(data_dir="d", **{name: -1})


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [2, 0.5, -1, float("nan")])
def test_labels_of_other_values_are_refused_with_record_and_label(simulated_splits, tmp_path, split, value):
    ecg_id = simulated_splits[split][3]["ecg_id"]
    splits = {**simulated_splits, split: with_labels(simulated_splits[split], value, record=3, label=1)}
    with pytest.raises(ValueError, match=rf"Labels must be 0, 1, or -100.*; record {ecg_id} of `{split}` has .* HYP"):
        make_trainer(splits, tmp_path / "run").post_train()
    assert not (tmp_path / "run" / "_stages").exists()


def test_validation_records_that_cannot_choose_are_refused_before_training(simulated_splits, tmp_path, monkeypatch):
    labels = simulated_splits["validation"]["labels"]
    same = [index for index, value in enumerate(labels) if value == labels[0]]
    splits = {**simulated_splits, "validation": simulated_splits["validation"].select(same)}
    with pytest.raises(ValueError, match=f"no label of the {len(same)} validation records has both"):
        make_trainer(splits, tmp_path / "run").post_train()
    assert not (tmp_path / "run" / "_stages").exists()
    figures = []
    monkeypatch.setattr(trainer, "plot_learning_curves", lambda *args: figures.append(plot_learning_curves(*args)))
    chosen_by_loss = make_trainer(splits, tmp_path / "run", metric_for_best_model="loss", stages=["probe"])
    results = chosen_by_loss.post_train()
    assert figures[0].axes[0].get_title().endswith(f": loss {results['probe_eval_loss']:.4g}")


def test_a_batch_that_is_never_full_is_refused(simulated_splits, tmp_path):
    splits = {**simulated_splits, "train": simulated_splits["train"].select(range(31))}
    with pytest.raises(ValueError, match="31 training records do not fill a batch of 32, and `dataloader_drop_last`"):
        make_trainer(splits, tmp_path / "run", dataloader_drop_last=True).post_train()


def test_patients_on_both_sides_and_doubled_recordings_are_counted(simulated_splits, tmp_path, caplog):
    train, validation = simulated_splits["train"], simulated_splits["validation"]
    make_trainer(simulated_splits, tmp_path / "clean", stages=["probe"]).post_train()
    assert "patients are in" not in caplog.text and "more than one id" not in caplog.text
    leak = datasets.concatenate_datasets([validation, train.select([0, 1])])
    ids = {"ecg_id": [*validation["ecg_id"], 900001, 900002]}
    leak = leak.remove_columns("ecg_id").add_column("ecg_id", ids["ecg_id"])
    make_trainer({**simulated_splits, "validation": leak}, tmp_path / "leak", stages=["probe"]).post_train()
    patients = len(set(train.select([0, 1])["patient_id"]))
    assert f"{patients} patients are in train and in validation (such as " in caplog.text
    assert "2 recordings are there under more than one id, such as " in caplog.text
    assert f"{train[0]['ecg_id']} (train) and 900001 (validation)" in caplog.text


@pytest.mark.parametrize(
    ("known", "others", "shared"),
    [
        (["7", "x", ""], [8, None, 7], ["7"]),
        ([7, None, None], ["y", " ", "7"], ["7"]),
        ([7.0, float("nan"), 5.5], [float("nan"), 7.0, 9.5], ["7"]),
        (["7", "x", "y"], [None] * 3, []),
    ],
)
def test_patients_are_compared_whatever_the_types_of_their_columns(simulated_splits, caplog, known, others, shared):
    splits = {
        name: simulated_splits[name].select(range(3)).remove_columns("patient_id").add_column("patient_id", patients)
        for name, patients in {"train": known, "test": others}.items()
    }
    warn_of_leaks(splits, label_names_of(splits["train"]))
    found = [text.partition(":")[0] for text in caplog.messages if "patients are in" in text]
    assert found == [f"1 patients are in train and in test (such as {patient})" for patient in shared]
    written = pd.read_csv(io.StringIO(splits_table(splits).to_csv()), dtype=str, keep_default_na=False)["patient_id"]
    assert written.tolist() == ["" if is_unknown(patient) else str(patient) for patient in [*known, *others]]
