"""Predictions of training records by networks that have not seen their patients (`task_specific.py --cross_fit`)."""

import pandas as pd
import pytest
import task_specific
from task_specific import cross_fit

from ecg_hf.post_training.mixing import read_teachers


def flags(data, output_dir, *more):
    given = {"data_dir": data, "cache_dir": output_dir.parent / "cache", "output_dir": output_dir, "num_epochs": 1}
    return [*(str(part) for name, value in given.items() for part in (f"--{name}", value)), "--use_cpu", *more]


def test_each_training_record_is_predicted_by_the_network_without_its_patient(tmp_path, simulated_folder, monkeypatch):
    learned = []

    class Noted(task_specific.TrainingWindows):
        def __init__(self, dataset, *args):
            learned.append(set(dataset["ecg_id"]))
            super().__init__(dataset, *args)

    monkeypatch.setattr(task_specific, "TrainingWindows", Noted)
    task_specific.main(flags(simulated_folder, tmp_path / "run", "--cross_fit", "2"))
    records = pd.read_csv(simulated_folder / "ptbxl_database.csv", index_col="ecg_id")
    predicted = pd.read_csv(tmp_path / "run" / "predictions_train.csv")
    assert set(records.loc[predicted["ecg_id"], "strat_fold"]) == set(range(1, 9))
    assert sorted(predicted["ecg_id"]) == sorted(set.union(*learned)) and predicted["ecg_id"].is_unique
    for index, of_network in enumerate(learned):
        left_out = pd.read_csv(tmp_path / "run" / f"part-{index + 1}" / "predictions_left_out.csv")["ecg_id"]
        assert set(left_out) == set(predicted["ecg_id"]) - of_network
        assert not set(records.loc[left_out, "patient_id"]) & set(records.loc[sorted(of_network), "patient_id"])
    labels = [name.removeprefix("prob_") for name in predicted if name.startswith("prob_")]
    teachers = read_teachers([tmp_path / "run" / "predictions_train.csv"], list(predicted["ecg_id"]), labels)
    assert teachers.shape == (len(predicted), len(labels))


def test_a_cross_fit_that_was_stopped_goes_on_with_the_parts_it_lacks(tmp_path, simulated_folder):
    settings = {"data_dir": simulated_folder, "cache_dir": str(tmp_path / "cache"), "use_cpu": True, "num_epochs": 1}
    results = cross_fit(tmp_path / "run", 2, **settings)
    predictions, weights = tmp_path / "run" / "predictions_train.csv", tmp_path / "run" / "part-1" / "model.pt"
    first, made_at = predictions.read_bytes(), weights.stat().st_mtime_ns
    (tmp_path / "run" / "part-2" / "all_results.json").unlink()
    resumed = cross_fit(tmp_path / "run", 2, **settings)
    assert weights.stat().st_mtime_ns == made_at and resumed["part-1"] == results["part-1"]
    assert predictions.read_bytes() == first
    with pytest.raises(ValueError, match="part-1` holds a finished run of other settings"):
        cross_fit(tmp_path / "run", 4, **settings)


@pytest.mark.parametrize("num_parts", [1, 9])
def test_parts_are_those_of_the_training_folds(tmp_path, num_parts, capsys):
    with pytest.raises(SystemExit):
        task_specific.main(flags("nowhere", tmp_path / "run", "--cross_fit", str(num_parts)))
    assert "`cross_fit` must lie between 2 and 8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_splits_are_not_chosen_beside_a_cross_fit(tmp_path, capsys):
    with pytest.raises(SystemExit):
        task_specific.main(flags("nowhere", tmp_path / "run", "--cross_fit", "2", "--predict", "test"))
    assert "`--cross_fit` predicts train and validation" in capsys.readouterr().err
