"""Averaged weights, mixed records and teachers in fine-tuning."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import LABELS, small_extractor, small_model, stopped_at
from transformers import TrainerCallback

from ecg_hf import PostTrainer, PostTrainingArguments, name_labels
from ecg_hf.runs.timing import passing_cache, step_seconds
from ecg_hf.runs.windows import TrainingWindows

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def make_trainer(splits, folder, model=None, **fields) -> PostTrainer:
    defaults = {
        "stages": ["finetune"],
        "num_train_epochs": 3,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 5,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return PostTrainer(
        model=model or small_model(),
        args=PostTrainingArguments(output_dir=str(folder), **{**defaults, **fields}),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        feature_extractor=small_extractor(window_stride=125),
    )


class Recorder(TrainerCallback):
    """The weights that the optimizer has made, after each step."""

    def __init__(self, model):
        self.model, self.steps = model, []

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.steps.append({name: value.detach().clone() for name, value in self.model.named_parameters()})


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def averages(steps: list[dict], first: dict, decay: float) -> list[dict]:
    """The average after each step, in float64, written anew."""
    now, averages = {name: value.double() for name, value in first.items()}, []
    for step, weights in enumerate(steps, start=1):
        rate = min(decay, (1 + step) / (10 + step))
        now = {name: rate * value + (1 - rate) * weights[name].double() for name, value in now.items()}
        averages.append(now)
    return averages


def close(first: dict, second: dict) -> bool:
    return all(torch.allclose(first[name].double(), second[name], atol=1e-6) for name in second)


def test_the_average_is_what_is_saved_and_evaluated_and_the_steps_are_those_without_it(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run", ema_decay=0.5)
    first = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    recorder = Recorder(trainer.model)
    trainer.add_callback(recorder)
    trainer.post_train()
    expected = averages(recorder.steps, first, 0.5)
    folder = tmp_path / "run" / "_stages" / "finetune"
    for step in (3, 6, 9):
        assert close(weights_of(folder / f"checkpoint-{step}"), expected[step - 1])
        trained = load_file(folder / f"checkpoint-{step}" / "trained.safetensors")
        assert all(torch.equal(trained[name], value) for name, value in recorder.steps[step - 1].items())
    best = trainer.state.best_global_step
    assert close(weights_of(tmp_path / "run"), expected[best - 1])
    plain = make_trainer(simulated_splits, tmp_path / "plain")
    without = Recorder(plain.model)
    plain.add_callback(without)
    plain.post_train()
    assert all(
        torch.equal(value, other[name])
        for weights, other in zip(recorder.steps, without.steps, strict=True)
        for name, value in weights.items()
    )
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["ema_decay"] == 0.5


def test_without_a_choice_of_the_best_the_last_average_is_kept(simulated_splits, tmp_path):
    fields = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "num_train_epochs": 1}
    trainer = make_trainer(simulated_splits, tmp_path / "run", ema_decay=0.9, **fields)
    first = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    recorder = Recorder(trainer.model)
    trainer.add_callback(recorder)
    trainer.post_train()
    assert close(weights_of(tmp_path / "run"), averages(recorder.steps, first, 0.9)[-1])


@pytest.fixture(scope="module")
def teachers(simulated_splits, tmp_path_factory):
    """Tables of two teachers in the form of `ecg-hf evaluate`, their rows in another order than the records."""
    random, paths = np.random.default_rng(0), []
    ids = np.asarray(simulated_splits["train"]["ecg_id"])
    for index in range(2):
        table = pd.DataFrame(random.random((len(ids), len(LABELS))), columns=[f"prob_{label}" for label in LABELS])
        table.insert(0, "ecg_id", ids)
        paths.append(tmp_path_factory.mktemp("teachers") / f"{index}.csv")
        table.sample(frac=1, random_state=index).to_csv(paths[-1], index=False)
    return paths


def test_a_stopped_run_with_all_three_is_resumed_bit_for_bit(simulated_splits, teachers, tmp_path):
    settings = {"ema_decay": 0.9, "mixup_alpha": 0.4, "teacher_predictions": [str(path) for path in teachers]}
    make_trainer(simulated_splits, tmp_path / "alone", **settings).post_train()
    trainer = make_trainer(simulated_splits, tmp_path / "run", **settings)
    with stopped_at(trainer, 5):
        trainer.post_train()
    make_trainer(simulated_splits, tmp_path / "run", **settings).post_train(resume_from_checkpoint=True)
    one, other = (weights_of(tmp_path / name) for name in ("run", "alone"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="`recipe.mixup_alpha` was 0.4, now 0.2"):
        make_trainer(simulated_splits, tmp_path / "run", **{**settings, "mixup_alpha": 0.2}).post_train(True)
    with pytest.raises(ValueError, match="teacher"):
        settings["teacher_predictions"] = settings["teacher_predictions"][:1]
        make_trainer(simulated_splits, tmp_path / "run", **settings).post_train(True)


def test_targets_are_the_mean_of_labels_and_teachers(simulated_splits, teachers, tmp_path):
    train = simulated_splits["train"]
    settings = {"teacher_predictions": [str(path) for path in teachers], "distillation_weight": 0.25}
    trainer = make_trainer({**simulated_splits, "train": train}, tmp_path / "run", **settings)
    keys = [(0, index) for index in (3, 0, 7)]
    batch = trainer.training_windows(train).__getitems__(keys)
    plain = TrainingWindows(train, trainer.processing_class, trainer.args.seed).__getitems__(keys)
    tables = [pd.read_csv(path).set_index("ecg_id") for path in teachers]
    for row, (_, index) in enumerate(keys):
        record = train[index]
        mean = np.mean([table.loc[record["ecg_id"]].to_numpy() for table in tables], axis=0)
        expected = 0.75 * np.asarray(record["labels"]) + 0.25 * mean
        np.testing.assert_allclose(batch["labels"][row].numpy(), expected, atol=1e-6)
    assert torch.equal(batch["input_values"], plain["input_values"])
    assert trainer.recipe["distillation_weight"] == 0.25 and trainer.recipe["teacher_predictions"] == [
        "0.csv",
        "1.csv",
    ]


def test_mixed_windows_are_means_of_two_with_their_targets_and_unknown_stays_unknown(simulated_splits, tmp_path):
    def hidden(record, index):
        return {"labels": [-100.0, *record["labels"][1:]] if index == 2 else record["labels"]}

    train = simulated_splits["train"].map(hidden, with_indices=True)
    trainer = make_trainer({**simulated_splits, "train": train}, tmp_path / "run", mixup_alpha=0.5)
    keys = [(1, index) for index in range(12)]
    windows = trainer.training_windows(train)
    batch, again = windows.__getitems__(keys), windows.__getitems__(keys)
    plain = TrainingWindows(train, trainer.processing_class, trainer.args.seed).__getitems__(keys)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    flat = plain["input_values"].flatten(1).double().T
    num_mixed = 0
    for row in range(len(keys)):
        # The window as a combination of the plain ones: of at most two, with shares that add up to 1.
        shares = torch.linalg.lstsq(flat, batch["input_values"][row].flatten().double()[:, None]).solution[:, 0]
        used = (shares.abs() > 1e-3).nonzero().flatten().tolist()
        assert 1 <= len(used) <= 2 and shares.sum().item() == pytest.approx(1, abs=1e-4)
        num_mixed += len(used) == 2
        expected = (shares[used, None] * plain["labels"][used].double()).sum(0)
        unknown = (plain["labels"][used] == -100).any(0)
        assert torch.equal(batch["labels"][row] == -100, unknown)
        torch.testing.assert_close(batch["labels"][row][~unknown].double(), expected[~unknown], atol=1e-3, rtol=0)
    assert num_mixed >= 6


def test_a_dry_run_counts_the_preparation_of_mixed_records(simulated_splits, tmp_path):
    splits = {name: name_labels(dataset, LABELS[::-1]) for name, dataset in simulated_splits.items()}
    trainer = make_trainer(splits, tmp_path / "run", mixup_alpha=0.5)
    trainer.processing_class = small_extractor(bandpass=[0.5, 40])
    with passing_cache(trainer):
        _, preparing = step_seconds(trainer)
    assert preparing > 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", "does not exist"),
        ("label", "lacks 1 columns that the labels need, such as prob_"),
        ("record", "lacks 1 of .* training records"),
        ("twice", "has several rows of record"),
        ("logit", "must hold probabilities from 0 to 1"),
        ("empty", "must hold probabilities from 0 to 1"),
        ("text", "teacher.csv` must hold probabilities from 0 to 1"),
        ("parquet", "teacher.csv` is no CSV table as `ecg-hf evaluate` writes them"),
        ("no content", "teacher.csv` is no CSV table as `ecg-hf evaluate` writes them"),
    ],
)
def test_tables_of_teachers_that_do_not_fit_are_refused(simulated_splits, teachers, tmp_path, fault, message):
    table = pd.read_csv(teachers[0])
    if fault == "label":
        table = table.drop(columns=f"prob_{LABELS[0]}")
    elif fault == "record":
        table = table.iloc[1:]
    elif fault == "twice":
        table = pd.concat([table, table.iloc[:1]])
    elif fault in ("logit", "empty"):
        table.iloc[3, 1] = 2.5 if fault == "logit" else np.nan
    elif fault == "text":
        table[f"prob_{LABELS[0]}"] = "high"
    path = tmp_path / "teacher.csv"
    if fault == "parquet":
        table.to_parquet(path)
    elif fault == "no content":
        path.touch()
    elif fault != "absent":
        table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        make_trainer(simulated_splits, tmp_path / "run", teacher_predictions=[str(path)]).post_train()
    assert not (tmp_path / "run" / "_stages" / "finetune").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ema_decay": 1.0}, "`ema_decay` must lie in"),
        ({"mixup_alpha": -0.1}, "`mixup_alpha` must be 0 or more"),
        ({"distillation_weight": 0.3}, "no effect without `teacher_predictions`"),
        ({"distillation_weight": 0.0}, "must lie in"),
        ({"ema_decay": 0.9, "stages": ["probe"]}, "`ema_decay` is for the stage `finetune`"),
        ({"mixup_alpha": 0.2, "stages": ["probe"]}, "`mixup_alpha` is for the stage `finetune`"),
    ],
)
def test_settings_without_meaning_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        PostTrainingArguments(output_dir=str(tmp_path), **fields)


def test_one_of_several_classes_cannot_be_mixed(simulated_splits, tmp_path):
    model = small_model(problem_type="single_label_classification")
    with pytest.raises(ValueError, match="`mixup_alpha` is for multi_label_classification"):
        make_trainer(simulated_splits, tmp_path / "run", model=model, mixup_alpha=0.2)
