"""Evaluations between epochs: windows without overlap, and all of them at the end."""

import json

import pytest
import torch
from small_models import small_extractor
from test_post_training import make_trainer

from ecg_hf.runs.windows import EvaluationWindows

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

FIELDS = {"eval_overlap": False, "stages": ["finetune"], "num_train_epochs": 3}


def epochs_of(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.fixture(scope="module")
def runs(simulated_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    trainers = {
        overlap: make_trainer(simulated_splits, folder / str(overlap), **FIELDS | {"eval_overlap": overlap})
        for overlap in (False, True)
    }
    for trainer in trainers.values():
        trainer.post_train()
    return folder, trainers


def test_the_figures_of_epochs_are_of_fewer_windows_and_say_so(runs):
    folder, trainers = runs
    marks = {overlap: [entry.get("windows") for entry in epochs_of(trainer)] for overlap, trainer in trainers.items()}
    assert marks == {False: ["without overlap"] * 3, True: [None] * 3}
    for overlap in trainers:
        assert f"eval_overlap: {str(overlap).lower()}" in (folder / str(overlap) / "recipe.yaml").read_text()
    losses = {overlap: [entry["eval_loss"] for entry in epochs_of(trainer)] for overlap, trainer in trainers.items()}
    assert losses[False] != losses[True] and losses[False] == pytest.approx(losses[True], rel=0.02)


def test_the_same_epoch_is_chosen_and_final_figures_are_of_all_windows(runs):
    folder, trainers = runs
    assert trainers[False].state.best_global_step == trainers[True].state.best_global_step
    results = [json.loads((folder / str(overlap) / "all_results.json").read_text()) for overlap in (False, True)]
    for name in results[0]:
        if "seconds" not in name:
            assert results[0][name] == results[1][name], name
    predictions = [(folder / str(overlap) / "test_predictions.csv").read_text() for overlap in (False, True)]
    assert predictions[0] == predictions[1]


def test_the_figures_of_an_epoch_are_those_of_windows_without_overlap(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path, **FIELDS | {"num_train_epochs": 1})
    trainer.post_train()
    windows = EvaluationWindows(simulated_splits["validation"], small_extractor(window_stride=250))
    batch = windows.__getitems__(range(len(windows)))
    _, (_, losses), _ = trainer.prediction_step(trainer.model.eval(), batch, False)
    assert epochs_of(trainer)[0]["eval_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("fields", [{"window_stride": None}, {"window_stride": None, "num_windows": 5}])
def test_windows_that_do_not_overlap_or_have_a_number_stay(simulated_splits, tmp_path, fields):
    trainer = make_trainer(simulated_splits, tmp_path, feature_extractor=small_extractor(**fields), **FIELDS)
    assert trainer.epoch_extractor is trainer.processing_class


def test_outside_of_training_all_windows_are_evaluated(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path, **FIELDS)
    batch = next(iter(trainer.get_eval_dataloader()))
    assert batch["window_mask"].shape[1] == 7
    trainer.is_in_train = True
    assert next(iter(trainer.get_eval_dataloader()))["window_mask"].shape[1] == 4
    assert torch.equal(
        next(iter(trainer.get_feature_dataloader(trainer.eval_dataset)))["window_mask"], batch["window_mask"]
    )


def test_each_record_has_its_row_where_the_last_batch_is_not_full(simulated_splits, tmp_path):
    records = simulated_splits["validation"].select(range(11))
    fields = {"per_device_eval_batch_size": 4, "dataloader_drop_last": True}  # which is about training batches
    in_parts = make_trainer(simulated_splits, tmp_path / "parts", **fields).predict(records)
    at_once = make_trainer(simulated_splits, tmp_path / "once", per_device_eval_batch_size=11).predict(records)
    assert in_parts.predictions.shape == (11, 5)
    assert in_parts.predictions == pytest.approx(at_once.predictions, abs=1e-5)
    assert in_parts.metrics["test_loss"] == pytest.approx(at_once.metrics["test_loss"], rel=1e-5)
