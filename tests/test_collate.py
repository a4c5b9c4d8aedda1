"""A plain Trainer and a plain loop on the rows of `load_ptbxl`, with `ECGCollator`."""

import pickle

import numpy as np
import pytest
import torch
from small_models import LABELS, small_extractor, small_model
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from ecg_hf import ECGCollator
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES


def row(signal, **fields):
    return {"signal": signal, "sampling_rate": 100, "lead_names": list(LEAD_NAMES), **fields}


def test_a_plain_trainer_trains_and_evaluates(simulated_splits, tmp_path):
    args = TrainingArguments(
        str(tmp_path), remove_unused_columns=False, max_steps=2, per_device_train_batch_size=8, report_to=[],
        use_cpu=True, learning_rate=0.01, dataloader_num_workers=1,
    )  # fmt: skip
    trainer = Trainer(
        small_model(),
        args,
        train_dataset=simulated_splits["train"],
        eval_dataset=simulated_splits["validation"],
        data_collator=ECGCollator(small_extractor(), crop="random"),
    )
    before = trainer.model.classifier.weight.clone()
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(trainer.model.classifier.weight, before)
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    output = trainer.predict(simulated_splits["test"])
    assert output.predictions.shape == output.label_ids.shape == (len(simulated_splits["test"]), len(LABELS))


def test_columns_that_the_trainer_dropped_are_asked_for(simulated_splits, tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True)
    trainer = Trainer(
        small_model(), args, train_dataset=simulated_splits["train"], data_collator=ECGCollator(small_extractor())
    )
    with pytest.raises(ValueError, match="lacks `signal`, it has labels.*remove_unused_columns=False"):
        trainer.train()


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_a_plain_loop_gets_the_windows_of_the_extractor(simulated_splits, form):
    dataset = simulated_splits["test"].with_format(form)
    extractor = small_extractor()
    (batch, *_) = DataLoader(dataset, batch_size=4, collate_fn=ECGCollator(extractor))
    assert set(batch) == {"input_values", "labels"} and batch["input_values"].shape == (4, 12, 250)
    assert batch["labels"].dtype == torch.float32
    for place, item in enumerate(simulated_splits["test"].select(range(4))):
        signal = np.array(item["signal"], dtype=np.int16).reshape(12, -1)[:, 375:625]
        expected = extractor(signal, sampling_rate=100, lead_names=item["lead_names"], units="uV")["input_values"]
        assert torch.equal(batch["input_values"][place], expected[0])
        assert batch["labels"][place].tolist() == item["labels"]
    assert torch.isfinite(small_model()(**batch).loss)


def test_the_window_is_the_one_that_was_asked_for():
    signal = np.tile(np.arange(1000) / 1000, (12, 1))
    rows = [row(signal)] * 20
    starts = {}
    for crop in ("first", "centre", "random"):
        torch.manual_seed(0)
        values = ECGCollator(small_extractor(std=1.0), crop=crop)(rows)["input_values"]
        starts[crop] = {round(float(value) * 1000) for value in values[:, 0, 0]}
    assert starts["first"] == {0} and starts["centre"] == {375} and len(starts["random"]) > 10
    with pytest.raises(ValueError, match="`crop` must be one of first, centre, random, got `last`"):
        ECGCollator(small_extractor(), crop="last")


def test_units_follow_the_type_unless_they_are_said():
    microvolts = np.random.default_rng(0).integers(-1000, 1000, size=(12, 250))
    expected = ECGCollator(small_extractor())([row(microvolts)])["input_values"]
    assert torch.equal(ECGCollator(small_extractor())([row(microvolts.reshape(-1) / 1000)])["input_values"], expected)
    said = ECGCollator(small_extractor(), units="uV")([row(microvolts.astype(float))])["input_values"]
    assert torch.equal(said, expected)
    rows = [row(microvolts), row(microvolts / 1000), row(microvolts.astype(float), units="uV")]
    mixed = ECGCollator(small_extractor())(rows)["input_values"]
    torch.testing.assert_close(mixed, expected.expand(3, -1, -1), atol=1e-6, rtol=0)
    stored = ECGCollator(small_extractor())([row((microvolts / 1000).astype(np.int16), units="mV")])["input_values"]
    assert (
        stored.abs().max()
        == ECGCollator(small_extractor(), units="mV")([row((microvolts / 1000).astype(np.int16))])["input_values"]
        .abs()
        .max()
    )
    with pytest.raises(ValueError, match="`units` must be one of mV, uV, got `V`"):
        ECGCollator(small_extractor())([row(microvolts, units="V")])


def test_a_row_without_labels_among_others_is_named():
    signal = np.zeros((12, 250))
    with pytest.raises(ValueError, match="Row 1 of the batch lacks `labels`"):
        ECGCollator(small_extractor())([row(signal, labels=[0, 1]), row(signal)])


def test_a_plain_trainer_learns_classes_by_their_numbers(tmp_path):
    """As a `ClassLabel` column of `datasets` gives them, and as one-hot rows: the same losses and steps."""
    rng = np.random.default_rng(0)
    rows = [row(rng.normal(size=(12, 250)), labels=int(number)) for number in rng.integers(3, size=16)]
    one_hot = [{**of_row, "labels": np.eye(3)[of_row["labels"]]} for of_row in rows]
    losses = []
    for number, dataset in enumerate((rows, one_hot)):
        args = TrainingArguments(
            str(tmp_path / str(number)), remove_unused_columns=False, max_steps=2, per_device_train_batch_size=8,
            report_to=[], use_cpu=True,
        )  # fmt: skip
        model = small_model(["a", "b", "c"], problem_type="single_label_classification")
        trainer = Trainer(
            model, args, train_dataset=dataset, eval_dataset=dataset, data_collator=ECGCollator(small_extractor())
        )
        losses.append((trainer.train().training_loss, trainer.evaluate()["eval_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0][0] > 0.5


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", [1, 0, -100]),
        ("single_label_classification", 2),
        ("single_label_classification", [0, 0, 1]),
    ],
)
def test_small_batches_of_a_plain_trainer_add_up_to_a_large_one(tmp_path, problem_type, labels):
    rng = np.random.default_rng(0)
    rows = [row(rng.normal(size=(12, 250)), labels=labels) for _ in range(8)]
    steps = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = small_model(["a", "b", "c"], problem_type=problem_type)
        args = TrainingArguments(
            str(tmp_path / str(parts)), remove_unused_columns=False, max_steps=1, logging_steps=1, report_to=[],
            per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts, use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=rows, data_collator=ECGCollator(small_extractor()))
        trainer.train()
        steps.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert steps[1] == pytest.approx(steps[0], rel=1e-4) and steps[0][1] > 0.01


def test_short_records_and_lead_tokens_come_with_their_masks_and_leads():
    signal = np.random.default_rng(0).normal(size=(12, 400))
    extractor = small_extractor(return_attention_mask=True, lead_tokens=True)
    batch = ECGCollator(extractor)([row(signal), row(signal[:, :100])])
    assert set(batch) == {"input_values", "attention_mask", "lead_ids"}
    assert batch["attention_mask"].sum(dim=1).tolist() == [250, 100] and batch["lead_ids"].shape == (2, 12)


def test_a_record_that_is_refused_is_named():
    signal = np.zeros((12, 300))
    signal[3, 5] = np.nan
    with pytest.raises(ValueError, match=r"Among the records \[4, 9\], in this order: Record 1 has missing .*aVR 1"):
        ECGCollator(small_extractor())([row(np.ones((12, 300)), ecg_id=4), row(signal, ecg_id=9)])


def test_masked_samples_are_missing_and_masked_labels_refused():
    signal = np.ma.masked_array(np.ones((12, 300)), np.zeros((12, 300), bool))
    labels = np.ma.masked_array([0, 1], [False, True])
    with pytest.raises(ValueError, match="Row 1 of the batch has masked `labels`: fill them .* -100 .* NaN"):
        ECGCollator(small_extractor())([row(signal, labels=[0, 1]), row(signal, labels=labels)])
    signal[3, 5] = np.ma.masked
    with pytest.raises(ValueError, match="missing samples .*: lead aVR 1 of 300"):
        ECGCollator(small_extractor())([row(signal)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None], r"Row 1 of the batch has `labels` that are no numbers \(\[0, None\]\): .* -100 .* NaN"),
        (["0", "1"], "Row 1 of the batch has `labels` that are no numbers"),
        ([0], r"Row 1 of the batch has `labels` of the shape \(1,\), row 0 of \(2,\)"),
        (0, r"Row 1 of the batch has `labels` of the shape \(\), row 0 of \(2,\)"),
    ],
)
def test_labels_that_make_no_batch_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        ECGCollator(small_extractor())([row(np.ones((12, 300)), labels=each) for each in ([0, 1], labels)])


def test_a_plain_trainer_takes_the_mean_of_known_targets_as_the_guide_says(tmp_path):
    model = small_model(["age", "axis"], problem_type="regression")
    rng = np.random.default_rng(0)
    rows = [row(rng.normal(size=(12, 250)), labels=[place, float("nan")]) for place in range(4)]
    args = TrainingArguments(
        str(tmp_path), remove_unused_columns=False, max_steps=1, per_device_train_batch_size=2, report_to=[],
        gradient_accumulation_steps=2, use_cpu=True,
    )  # fmt: skip
    batch = ECGCollator(small_extractor())(rows)
    with torch.no_grad():
        expected = model.train()(**batch).loss.item()
    plain = Trainer(model, args, train_dataset=rows, data_collator=ECGCollator(small_extractor()))
    plain.model_accepts_loss_kwargs = False
    assert plain.train().training_loss == pytest.approx(expected, rel=1e-5)


def test_it_can_be_pickled():
    rows = [row(np.random.default_rng(0).normal(size=(12, 300)), labels=[0, 1])]
    collator = ECGCollator(small_extractor())
    again = pickle.loads(pickle.dumps(collator))
    assert torch.equal(again(rows)["input_values"], collator(rows)["input_values"])
