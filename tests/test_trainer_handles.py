"""What users of the library's Trainer do with these trainers: data sets in other formats, a part of the labels known,
`train`, `evaluate` and `push_to_hub` by themselves."""

import numpy as np
import pytest
import torch
from small_models import LABELS, small_config, small_extractor, small_model
from test_post_training import arguments, make_trainer

from ecg_hf import (
    ECGTransformerForPreTraining,
    PostTrainer,
    PreTrainer,
    PreTrainingArguments,
    name_labels,
)
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES, PROBLEM_TYPES
from ecg_hf.ecg_transformer.layers_ecg_transformer import attention_mask_of

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_a_batch_of_which_nothing_is_known_has_the_loss_nought(kind):
    """A Trainer counts what is known, here nothing, and divides by it."""
    model = small_model(problem_type=kind)
    labels = torch.full((4, len(LABELS)), float("nan") if kind == "regression" else -100.0)
    for count in (torch.tensor(0), 0, None):
        loss = model(torch.randn(4, 12, 250), labels=labels, num_items_in_batch=count).loss
        loss.backward()
        assert loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_records_of_which_few_are_labelled_can_be_learned(simulated_splits, tmp_path):
    known = range(0, 60, 20)
    rows = [[float(n)] * 5 if place in known else [-100.0] * 5 for place, n in enumerate([0, *[1] * 59])]
    train = simulated_splits["train"].select(range(60)).remove_columns("labels").add_column("labels", rows)
    splits = {**simulated_splits, "train": name_labels(train, LABELS)}
    trainer = make_trainer(splits, tmp_path / "run", per_device_train_batch_size=4, stages=["finetune"])
    results = trainer.post_train()
    assert np.isfinite(results["finetune_eval_loss"])


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_the_format_of_a_data_set_changes_nothing(kind, simulated_splits, tmp_path):
    plain = {
        name: split.map(lambda _, row: {"patient_id": row // 2}, with_indices=True)
        for name, split in simulated_splits.items()
    }
    for name, form in (("plain", None), ("formatted", kind)):
        splits = {split: records.with_format(form) for split, records in plain.items()}
        make_trainer(splits, tmp_path / name, stages=["probe"]).post_train()
    for file in ("test_predictions.csv", "metrics.json"):
        assert (tmp_path / "formatted" / file).read_text() == (tmp_path / "plain" / file).read_text()


def test_a_transform_is_refused_since_records_are_read_without_it(simulated_splits, tmp_path):
    splits = {**simulated_splits, "train": simulated_splits["train"].with_transform(lambda rows: rows)}
    with pytest.raises(ValueError, match="`train_dataset` has a transform, which would not be applied"):
        make_trainer(splits, tmp_path / "run")
    trainer = make_trainer(simulated_splits, tmp_path / "run")
    with pytest.raises(ValueError, match="`dataset` has a transform"):
        trainer.predict(splits["train"])


@pytest.mark.parametrize(
    "other", [{"lead_names": LEAD_NAMES[::-1]}, {"sampling_rate": 500, "num_samples": 250}], ids=["leads", "rate"]
)
def test_a_feature_extractor_of_another_model_is_refused(other, simulated_splits, tmp_path):
    expected = f"made for another model: its `{next(iter(other))}` is"
    with pytest.raises(ValueError, match=expected):
        make_trainer(simulated_splits, tmp_path / "run", feature_extractor=small_extractor(**other))
    with pytest.raises(ValueError, match=expected):
        PreTrainer(
            model=small_model(model_class=ECGTransformerForPreTraining),
            args=PreTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none"),
            train_dataset=simulated_splits["train"],
            feature_extractor=small_extractor(**other),
        )
    assert not (tmp_path / "run").exists()


def test_attention_that_knows_no_patterns_is_refused_by_a_model_that_has_one():
    config = small_config(
        LABELS, lead_layout="tokens", attention_pattern="same_lead_or_time", use_cls_token=False, pooling="mean"
    )
    hidden_states = torch.zeros(2, 120, 16)
    config._attn_implementation = "sdpa"
    assert attention_mask_of(config, hidden_states, None, 10) is not None
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match="`flash_attention_2` cannot be restricted to tokens of the same lead or time"
    ):
        attention_mask_of(config, hidden_states, None, 10)


def test_train_takes_what_the_library_takes(simulated_splits, tmp_path):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(simulated_splits, tmp_path / "run", max_steps=2, **steps)
    with pytest.raises(ValueError, match="There is no complete checkpoint in "):
        trainer.train(resume_from_checkpoint=True)
    trainer.train(resume_from_checkpoint=False)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train(resume_from_checkpoint=True)  # it was trained to its end
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())


def test_records_that_rank_nothing_are_evaluated_all_the_same(simulated_splits, tmp_path):
    trainer = PostTrainer(
        model=small_model(),
        args=arguments(tmp_path / "run"),
        eval_dataset=simulated_splits["validation"],
        feature_extractor=small_extractor(),
    )
    metrics = trainer.evaluate(simulated_splits["test"].select([0]))
    assert np.isfinite(metrics["eval_loss"]) and np.isnan(metrics["eval_macro_auroc"])
    both = trainer.evaluate({"here": simulated_splits["test"], "there": simulated_splits["validation"]})
    assert {"eval_here_macro_auroc", "eval_there_macro_auroc"} <= both.keys()


def test_publishing_beside_other_work_is_refused(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run")
    with pytest.raises(ValueError, match="`blocking` must be true"):
        trainer.push_to_hub("Trained", False)
