"""What a run is not resumed with: other records, another base; and not while it is still going."""

import pytest
import torch
from safetensors.torch import save_file
from small_models import stopped_at
from test_post_training import make_trainer, small_model
from test_pretraining import make_trainer as make_pre_trainer
from transformers import TrainerCallback

from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.runs.folder import checkpoint_problem

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

QUICK = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}


def make_tuner(splits, folder, **keywords):
    return make_trainer(splits, folder, stages=["finetune"], eval_strategy="steps", eval_steps=1, **QUICK, **keywords)


def altered(dataset, column):
    """The same records, in which the values v of one column have become 1 - v."""
    return dataset.map(lambda row: {column: [1 - value for value in row[column]]}, features=dataset.features)


def test_a_second_trainer_of_the_same_process_is_refused_too(simulated_splits, tmp_path):
    class Second(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            with pytest.raises(BlockingIOError, match="is still going"):
                make_trainer(simulated_splits, tmp_path / "run", num_train_epochs=1).post_train(True)
            seen.append(True)

    seen = []
    trainer = make_trainer(simulated_splits, tmp_path / "run", num_train_epochs=1)
    trainer.add_callback(Second())
    trainer.post_train()
    assert seen
    make_trainer(simulated_splits, tmp_path / "run", num_train_epochs=1).post_train(True)  # finished: not locked


def test_a_base_with_another_configuration_is_not_resumed(simulated_splits, tmp_path):
    trainer = make_tuner(simulated_splits, tmp_path / "run")
    with stopped_at(trainer, 1):
        trainer.post_train()
    changed = make_tuner(simulated_splits, tmp_path / "run", model=small_model(layer_norm_eps=1e-3))
    with pytest.raises(ValueError, match="`model.layer_norm_eps` was .*, now 0.001"):
        changed.post_train(resume_from_checkpoint=True)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_signals_or_labels_of_the_same_records_are_not_mixed_in(simulated_splits, tmp_path, split):
    trainer = make_tuner(simulated_splits, tmp_path / "run")
    with stopped_at(trainer, 1):
        trainer.post_train()
    for column in ("signal", "labels"):
        splits = {**simulated_splits, split: altered(simulated_splits[split], column)}
        with pytest.raises(ValueError, match=f"`data.{split}` was .*, now .*; the {split} records, or"):
            make_tuner(splits, tmp_path / "run").post_train(resume_from_checkpoint=True)


def test_other_signals_of_the_same_records_are_not_mixed_into_pre_training(
    simulated_folder, simulated_cache, tmp_path
):
    records = load_training_records(RecordArguments(data_dir=str(simulated_folder), cache_dir=simulated_cache), 2.5)
    trainer = make_pre_trainer(records, tmp_path / "run", **QUICK)
    with stopped_at(trainer, 1):
        trainer.pretrain()
    with pytest.raises(ValueError, match="`data.train` was .*, now"):
        make_pre_trainer(altered(records, "signal"), tmp_path / "run", **QUICK).pretrain(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "state, problem",
    [
        ('{"global_step": 3, "log_history": []}', None),
        ("{}", "its `trainer_state.json` has no `global_step`"),
        ("[]", "it has a damaged file"),
        ('{"global_st', "it has a damaged file"),
    ],
)
def test_a_checkpoint_with_a_damaged_state_is_passed_over(tmp_path, state, problem):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, tmp_path / name)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(state)
    found = checkpoint_problem(tmp_path, 1)
    assert found is None if problem is None else found.startswith(problem)
