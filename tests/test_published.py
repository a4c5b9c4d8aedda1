"""What a run publishes: the weights of its better stage, and figures of all evaluation records."""

import json

import pandas as pd
import pytest
from test_post_training import make_trainer, same_weights, weights_of
from transformers import AutoModelForSequenceClassification

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


@pytest.mark.parametrize(("keep", "rate"), [(True, 0.1), (False, 0.1), (False, 0.0)])
def test_the_better_stage_is_kept(simulated_splits, tmp_path, caplog, keep, rate):
    folder = tmp_path / "run"
    fields = {} if keep else {"keep_best_stage": False}
    trainer = make_trainer(
        simulated_splits, folder, learning_rate=1.0, num_train_epochs=1, drop_path_rate=rate, **fields
    )
    results = trainer.post_train()
    assert same_weights(weights_of(folder), weights_of(folder / "_stages/probe")) == keep
    before, after = results["probe_eval_macro_auroc"], results["finetune_eval_macro_auroc"]
    assert after < before and f"validation macro AUROC {after:.4f} after {before:.4f}" in caplog.text
    assert "Fine-tuning ended worse than the probe that it began with" in caplog.text
    kept = "probe" if keep else "finetune"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert results["kept_stage"] == metrics["kept_stage"] == kept
    assert results["eval_macro_auroc"] == pytest.approx(metrics["stages"][kept]["macro_auroc"], abs=1e-6)
    assert metrics["stages"]["finetune"]["macro_auroc"] == after
    card = (folder / "README.md").read_text()
    assert f"macro AUROC {before:.3f}" in card and f"macro AUROC {after:.3f}" in card
    depth = " with stochastic depth" if rate else ""
    assert f"preview linear probing and then fine-tuning{depth}, following" in card
    assert ("but without its stochastic depth" in card) == (not rate)
    title = "Preview linear probing" if keep else f"Fine-tuning{depth}"
    better = ", the better of the two stages by that metric" if keep else ""
    assert f'The published weights are those after "{title}"{better}.' in card
    assert ("These are the weights after the first stage alone" in card.partition("## Model details")[0]) == keep
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.drop_path_rate == (0.0 if keep else rate)
    assert trainer.predict(simulated_splits["validation"]).metrics["test_macro_auroc"] == results["eval_macro_auroc"]


def test_the_card_of_plain_fine_tuning_does_not_claim_the_method(simulated_splits, tmp_path):
    make_trainer(simulated_splits, tmp_path / "run", stages=["finetune"], drop_path_rate=0, max_steps=1).post_train()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "It was post-trained by plain fine-tuning, without the preview linear probing and the stochastic" in card
    assert "**Fine-tuning** (" in card and "with stochastic depth" not in card


def test_the_metric_that_chooses_the_epoch_chooses_the_stage(simulated_splits, tmp_path):
    folder = tmp_path / "run"
    results = make_trainer(
        simulated_splits, folder, learning_rate=1.0, num_train_epochs=1, metric_for_best_model="loss"
    ).post_train()
    assert same_weights(weights_of(folder), weights_of(folder / "_stages/probe"))
    assert results["probe_eval_loss"] < results["finetune_eval_loss"] and results["kept_stage"] == "probe"


def test_dropping_the_last_batch_is_for_training_only(simulated_splits, tmp_path):
    validation = simulated_splits["validation"].select(range(15))
    trainer = make_trainer(
        {**simulated_splits, "train": simulated_splits["train"].select(range(70)), "validation": validation},
        tmp_path / "run",
        dataloader_drop_last=True,
        num_train_epochs=1,
    )
    untrained = make_trainer(simulated_splits, tmp_path / "untrained").evaluate(validation)
    assert trainer.evaluate()["eval_loss"] == untrained["eval_loss"]  # 15 records in batches of 8
    results = trainer.post_train()
    assert trainer.state.max_steps == 2  # 70 records in batches of 32
    assert len(pd.read_csv(tmp_path / "run" / "test_predictions.csv")) == len(simulated_splits["test"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validation"]["num_records"] == 15
    whole = make_trainer(simulated_splits, tmp_path / "other", model=trainer.model).evaluate(validation)
    assert whole["eval_macro_auroc"] == results["eval_macro_auroc"]
    assert whole["eval_loss"] == pytest.approx(metrics["stages"][results["kept_stage"]]["loss"], abs=1e-6)
