"""What a user of `datasets` hands to the trainers: formats, transforms, streams, lists, dictionaries of splits."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from small_models import small_extractor, small_model
from test_post_training import arguments
from test_targets import CLASSES, REGRESSION, SINGLE, model_for, records
from transformers import TrainingArguments

from ecg_hf import (
    ECGTransformerForPreTraining,
    ECGTransformerModel,
    PostTrainer,
    PreTrainer,
    PreTrainingArguments,
    name_labels,
)
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ptbxl.label_order import label_names_of

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


@pytest.fixture(scope="module")
def splits() -> dict[str, datasets.Dataset]:
    """Three labels, of records with ids and patients that are numbers; four records of each patient."""
    found = {}
    for seed, (name, count) in enumerate({"train": 40, "validation": 24, "test": 80}.items(), start=1):
        plain = records(SINGLE, count, seed)
        numbers = {"ecg_id": [1000 * seed + row for row in range(count)]}
        numbers["patient_id"] = [1000 * seed + row // 4 for row in range(count)]
        for column, values in numbers.items():
            plain = plain.remove_columns([column]).add_column(column, values)
        found[name] = plain
    return found


def trainer_of(splits, folder, model=None, **fields) -> PostTrainer:
    return PostTrainer(
        model=model or small_model(CLASSES),
        args=arguments(folder, **fields),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=splits.get("test"),
        feature_extractor=small_extractor(),
    )


def pre_trainer_of(dataset, folder, **kwargs) -> PreTrainer:
    args = PreTrainingArguments(
        str(folder), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], disable_tqdm=True, use_cpu=True
    )
    model = small_model(CLASSES, model_class=ECGTransformerForPreTraining)
    return PreTrainer(model=model, args=args, train_dataset=dataset, feature_extractor=small_extractor(), **kwargs)


def test_the_format_of_a_data_set_changes_no_result(splits, tmp_path):
    trainer_of(splits, tmp_path / "plain", stages=["probe"]).post_train()
    formatted = {
        "train": splits["train"].with_format("torch", columns=["signal"]),
        "validation": splits["validation"].with_format("pandas"),
        "test": splits["test"].with_format("torch"),
    }
    trainer_of(formatted, tmp_path / "formatted", stages=["probe"]).post_train()
    for name in ("test_predictions.csv", "splits.csv"):
        tables = [pd.read_csv(tmp_path / run / name) for run in ("plain", "formatted")]
        pd.testing.assert_frame_equal(*tables)
    plain, other = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("plain", "formatted"))
    # Over 20 patients, not over 80 records: cells of torch are equal to no other.
    assert plain["test"]["intervals"] == other["test"]["intervals"]
    assert plain["data"] == other["data"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_cannot_be_read_as_it_is_stored_is_refused(splits, tmp_path, split):
    name = {"train": "train_dataset", "validation": "eval_dataset", "test": "test_dataset"}[split]
    dataset = splits[split]
    for other in (dataset.to_iterable_dataset(), list(dataset), torch.utils.data.Subset(dataset, range(8))):
        with pytest.raises(ValueError, match=f"`{name}` must be a `datasets.Dataset`.* got {type(other).__name__}"):
            trainer_of({**splits, split: other}, tmp_path / "run")
    with pytest.raises(ValueError, match=f"`{name}` has a transform .*which is not applied"):
        trainer_of({**splits, split: dataset.with_transform(lambda rows: rows)}, tmp_path / "run")


def test_what_cannot_be_read_as_it_is_stored_is_refused_by_evaluation_too(splits, tmp_path):
    trainer, dataset = trainer_of(splits, tmp_path / "run"), splits["test"]
    for use in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="has a transform .*which is not applied"):
            use(dataset.with_transform(lambda rows: rows))
        for other in (dataset.to_iterable_dataset(), list(dataset), torch.utils.data.Subset(dataset, range(8))):
            with pytest.raises(ValueError, match=f"must be a `datasets.Dataset`.* got {type(other).__name__}"):
                use(other)
    with pytest.raises(ValueError, match="one data set, got a dictionary of train, validation, test: give one"):
        trainer.predict(splits)


def test_several_sets_are_evaluated_at_once_and_undefined_metrics_are_nan(splits, tmp_path):
    trainer = trainer_of(splits, tmp_path / "run")
    one_class = splits["test"].filter(lambda labels: labels[0] == 1, input_columns="labels")
    metrics = trainer.evaluate({"all": splits["test"], "slow": one_class})
    assert metrics["eval_all_macro_auroc"] == trainer.evaluate(splits["test"])["eval_macro_auroc"]
    assert np.isnan(metrics["eval_slow_macro_auroc"]) and np.isfinite(metrics["eval_slow_loss"])


def test_true_resumes_fine_tuning_from_its_last_checkpoint(splits, tmp_path):
    whole = trainer_of(splits, tmp_path / "whole", stages=["finetune"])
    whole.train(resume_from_checkpoint=False)
    stopped = trainer_of(splits, tmp_path / "stopped", stages=["finetune"])
    with pytest.raises(ValueError, match="no complete checkpoint in .*finetune"):
        stopped.train(resume_from_checkpoint=True)
    stopped.train()
    again = trainer_of(splits, tmp_path / "stopped", stages=["finetune"])
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == whole.state.global_step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_model_that_is_trained_on_loses_what_was_fitted_to_its_old_outputs(splits, tmp_path, caplog):
    model = small_model(CLASSES, temperature=3.0, thresholds=[0.9] * 3, window_aggregation="mean_probability")
    with caplog.at_level("WARNING"):
        trainer_of(splits, tmp_path / "run", model, stages=["probe"]).post_train()
    assert "The temperature 3 of the model was fitted to its weights" in caplog.text
    fresh = small_model(CLASSES, window_aggregation="mean_probability")
    trainer_of(splits, tmp_path / "fresh", fresh, stages=["probe"]).post_train()
    predictions = [pd.read_csv(tmp_path / run / "test_predictions.csv") for run in ("run", "fresh")]
    pd.testing.assert_frame_equal(*predictions)
    settings = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("run", "fresh")]
    assert settings[0]["temperature"] == 1.0 and settings[0]["thresholds"] == settings[1]["thresholds"]
    assert settings[0]["window_aggregation"] == "mean_probability"  # a rule, which fits any weights
    # Without training records it is the model that is judged.
    judged = small_model(CLASSES, temperature=3.0)
    PostTrainer(model=judged, args=arguments(tmp_path / "judged"), feature_extractor=small_extractor())
    assert judged.config.temperature == 3.0


@pytest.mark.parametrize(
    ("marker", "said"),
    [(-100, "the only ones below 0"), (-1, "the only ones below 0"), (300, "all others 89 at most")],
)
def test_a_marker_of_unknown_labels_among_numbers_is_named(marker, said, tmp_path, caplog):
    """An age is none of these, of which the last stands for all over 89 in PTB-XL; an axis may be -100 or -1."""
    marked = [[float(marker), float(marker)] if row % 5 == 0 else [50.0 + row, 7 * row - 200.0] for row in range(40)]
    train, validation = (records(REGRESSION, 40, seed) for seed in (1, 2))
    train = train.remove_columns(["labels"]).add_column("labels", marked)
    trainer = trainer_of(
        {"train": train, "validation": validation}, tmp_path / "run", model_for(REGRESSION), dry_run=True
    )
    with caplog.at_level("WARNING"):
        trainer.post_train()
    assert f"`train`, age: 8 values are {marker}, {said}, and are learned and judged as numbers" in caplog.text
    assert "`train`, st:" not in caplog.text and "`validation`, age" not in caplog.text


def test_all_splits_are_named_at_once_and_names_are_checked(splits):
    plain = datasets.DatasetDict({name: datasets.Dataset.from_list(list(split)) for name, split in splits.items()})
    named = name_labels(plain, CLASSES)
    assert [label_names_of(split) for split in named.values()] == [CLASSES] * 3
    with pytest.raises(ValueError, match="`names` has a name twice: a, a, b"):
        name_labels(plain, ["a", "a", "b"])
    one = datasets.Dataset.from_dict({"labels": [[0.0], [1.0]]})
    assert label_names_of(name_labels(one, "LBBB")) == ["LBBB"]


def test_pre_training_refuses_what_it_does_not_read(splits, tmp_path):
    dataset = splits["train"]
    with pytest.raises(ValueError, match="`eval_dataset` is not supported: pre-training has no evaluation records"):
        pre_trainer_of(dataset, tmp_path / "run", eval_dataset=splits["validation"])
    with pytest.raises(ValueError, match="`train_dataset` must be a `datasets.Dataset`.* got list"):
        pre_trainer_of(list(dataset), tmp_path / "run")
    with pytest.raises(ValueError, match="`train_dataset` has a transform"):
        pre_trainer_of(dataset.with_transform(lambda rows: rows), tmp_path / "run")
    with pytest.raises(ValueError, match="lacks the columns patient_id: add them"):
        pre_trainer_of(dataset.remove_columns(["patient_id"]), tmp_path / "run")


def test_parts_of_another_kind_are_refused_at_once(splits, tmp_path):
    encoder = small_model(CLASSES, model_class=ECGTransformerModel)
    for model in (encoder, small_model(CLASSES, model_class=ECGTransformerForPreTraining), "folder"):
        message = f"with a `classifier`, got {type(model).__name__}: load it by `AutoModelForSequenceClassification"
        with pytest.raises(ValueError, match=message):
            trainer_of(splits, tmp_path / "run", model)
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=f"has weights of {half}, whose rounding swallows.*`model.float"):
            trainer_of(splits, tmp_path / "run", small_model(CLASSES).to(half))
    with pytest.raises(ValueError, match=r"its `lead_names` is \['I', .* the model's \['V6', "):
        trainer_of(splits, tmp_path / "run", small_model(CLASSES, lead_names=list(LEAD_NAMES[::-1])))
    frozen = small_model(CLASSES).requires_grad_(False)
    with pytest.raises(ValueError, match="all weights are frozen"):
        trainer_of(splits, tmp_path / "run", frozen)
    misspelt = small_model(CLASSES)
    misspelt.config.problem_type = "multilabel"
    with pytest.raises(ValueError, match="`problem_type` must be one of multi_label_classification"):
        trainer_of(splits, tmp_path / "run", misspelt)
    parts = {"model": small_model(CLASSES), "train_dataset": splits["train"], "eval_dataset": splits["validation"]}
    with pytest.raises(ValueError, match="`feature_extractor` must be that of an ECG Transformer, got str"):
        PostTrainer(args=arguments(tmp_path / "run"), feature_extractor="folder", **parts)
    with pytest.raises(TypeError, match="`args` must be PostTrainingArguments, got TrainingArguments"):
        PostTrainer(args=TrainingArguments(str(tmp_path)), feature_extractor=small_extractor(), **parts)
    # A model of 16 bits may be judged.
    judged = small_model(CLASSES).bfloat16()
    trainer = PostTrainer(model=judged, args=arguments(tmp_path / "run"), feature_extractor=small_extractor())
    assert trainer.predict(splits["test"]).predictions.shape == (80, 3)


def test_parts_of_another_kind_are_refused_by_pre_training(splits, tmp_path):
    args = PreTrainingArguments(str(tmp_path / "run"), per_device_train_batch_size=8, report_to=[], use_cpu=True)
    parts = {"args": args, "train_dataset": splits["train"], "feature_extractor": small_extractor()}
    with pytest.raises(ValueError, match="with a `projection_head`, got ECGTransformerModel.*AutoModelForPreTraining"):
        PreTrainer(model=small_model(CLASSES, model_class=ECGTransformerModel), **parts)
    reverse = list(LEAD_NAMES[::-1])
    with pytest.raises(ValueError, match=r"its `lead_names` is \['I', .* the model's \['V6', "):
        PreTrainer(model=small_model(CLASSES, model_class=ECGTransformerForPreTraining, lead_names=reverse), **parts)
