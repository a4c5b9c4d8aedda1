import json
import re
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHARED
from coverage_simulation import coverage, half_sample_limits
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from small_models import small_extractor, small_model
from transformers import Trainer, TrainingArguments

import ecg_hf.intervals
from ecg_hf import ECGTransformerConfig, ECGTransformerForMultiLabel, PostTrainer, PostTrainingArguments
from ecg_hf.curves import precision_recall_curves
from ecg_hf.metrics import (
    ECGMultiLabelMetric,
    bootstrap_metrics,
    calibration_metrics,
    choose_thresholds,
    compute_metrics,
    macro_auprc,
    macro_auroc,
    multilabel_metrics,
    weighted_auroc_and_auprc,
)
from ecg_hf.target_metrics import regression_metrics


def simulate(num_records=300, num_labels=6, *, ties=False, unknown=0.0, seed=0):
    """Labels of falling prevalence (0.5 to 0.02) and scores that know something about them."""
    rng = np.random.default_rng(seed)
    prevalence = np.geomspace(0.5, 0.02, num_labels)
    labels = (rng.random((num_records, num_labels)) < prevalence).astype(np.float32)
    labels[:2] = [[1], [0]]
    scores = rng.normal(size=labels.shape) + labels
    if ties:
        scores = np.round(scores)
    labels[2:][rng.random((num_records - 2, num_labels)) < unknown] = -100
    return labels, scores


def reference(metric, labels, scores, weights=None):
    """scikit-learn on the known records of each label."""
    weights = np.ones(len(labels)) if weights is None else weights
    values = []
    for label, score in zip(labels.T, scores.T, strict=True):
        known = label != -100
        values.append(metric(label[known], score[known], sample_weight=weights[known]))
    return np.array(values)


def reference_f_max(labels, scores):
    """The definition, threshold by threshold."""
    known, positive = labels != -100, labels == 1
    best = 0.0
    for threshold in np.unique(scores[known]):
        called = (scores >= threshold) & known
        hits = (called & positive).sum(axis=1)
        with_call, with_positive = called.any(axis=1), positive.any(axis=1)
        precision = np.mean(hits[with_call] / called.sum(axis=1)[with_call])
        recall = np.mean(hits[with_positive] / positive.sum(axis=1)[with_positive])
        if precision + recall:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 1 / 3])
def test_metrics_equal_scikit_learn_label_by_label(ties, unknown):
    labels, scores = simulate(ties=ties, unknown=unknown)
    names = ["NORM", "MI", "STTC", "CD", "HYP", "AFIB"]

    metrics = multilabel_metrics(labels, scores, names)

    auroc = reference(roc_auc_score, labels, scores)
    auprc = reference(average_precision_score, labels, scores)
    assert list(metrics["per_label"]) == names
    for index, of_label in enumerate(metrics["per_label"].values()):
        assert of_label["auroc"] == pytest.approx(auroc[index], abs=1e-12)
        assert of_label["auprc"] == pytest.approx(auprc[index], abs=1e-12)
        assert of_label["num_positive"] == (labels[:, index] == 1).sum()
        assert of_label["num_known"] == (labels[:, index] != -100).sum()
    assert metrics["macro_auroc"] == macro_auroc(labels, scores) == pytest.approx(auroc.mean(), abs=1e-12)
    assert metrics["macro_auprc"] == macro_auprc(labels, scores) == pytest.approx(auprc.mean(), abs=1e-12)
    assert metrics["f_max"] == pytest.approx(reference_f_max(labels, scores), abs=1e-12)
    assert metrics["num_undefined"] == 0


def test_classes_with_one_value_are_left_out_and_counted():
    labels = np.array([[0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]])
    scores = np.random.default_rng(0).normal(size=labels.shape)

    metrics = multilabel_metrics(labels, scores)

    defined = slice(0, 2)
    expected_auroc = roc_auc_score(labels[:, defined], scores[:, defined], average="macro")
    expected_auprc = average_precision_score(labels[:, defined], scores[:, defined], average="macro")
    assert metrics["macro_auroc"] == pytest.approx(expected_auroc, abs=1e-12)
    assert metrics["macro_auprc"] == pytest.approx(expected_auprc, abs=1e-12)
    assert metrics["num_undefined"] == 2
    assert metrics["per_label"]["2"] == {"auroc": None, "auprc": None, "num_positive": 0, "num_known": 6}
    assert metrics["per_label"]["3"] == {"auroc": None, "auprc": None, "num_positive": 6, "num_known": 6}


@pytest.mark.parametrize("function", [multilabel_metrics, macro_auroc, macro_auprc, bootstrap_metrics])
@pytest.mark.parametrize("labels", [[[0, 1], [0, 1]], [[0, -100], [-100, 1]], np.zeros((0, 2))])
def test_all_classes_undefined_is_an_error(function, labels):
    with pytest.raises(ValueError, match="none of the 2 labels has both a known positive and a known negative"):
        function(labels, np.full(np.shape(labels), 0.5))


def test_equal_scores_give_chance_whatever_the_order_of_the_records():
    labels = np.zeros((10_000, 1))
    labels[1234] = 1
    scores = np.full((10_000, 1), 0.5)
    rng = np.random.default_rng(0)
    for order in (np.arange(10_000), np.arange(10_000)[::-1], *(rng.permutation(10_000) for _ in range(5))):
        metrics = multilabel_metrics(labels[order], scores[order])
        assert metrics["macro_auprc"] == 0.0001
        assert metrics["macro_auroc"] == 0.5


def test_bfloat16_scores_equal_scikit_learn_and_are_bit_equal_over_orders():
    labels, scores = simulate(2000)
    scores = torch.tensor(scores).to(torch.bfloat16).float().numpy()
    metrics = multilabel_metrics(labels, scores)
    assert metrics["macro_auroc"] == pytest.approx(reference(roc_auc_score, labels, scores).mean(), abs=1e-12)
    assert metrics["macro_auprc"] == pytest.approx(
        reference(average_precision_score, labels, scores).mean(), abs=1e-12
    )
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels))
        assert multilabel_metrics(labels[order], scores[order]) == metrics


def test_partly_tied_scores_equal_scikit_learn():
    scores = np.array([[0.5], [0.5], [0.5], [0.1]])
    for positive in range(4):
        labels = np.eye(4)[:, [positive]]
        assert macro_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert macro_auprc(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("dtype", [bool, int, np.float64])
def test_a_single_label_of_any_dtype(dtype):
    labels, scores = simulate(9, 1)
    metrics = multilabel_metrics(labels.astype(dtype), scores)
    assert metrics == multilabel_metrics(labels, scores)
    assert len(choose_thresholds(labels.astype(dtype), 1 / (1 + np.exp(-scores)))) == 1


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1, 0], [0, 1]], [[0.1, np.nan], [np.inf, 0.2]], "2 of 4 values, in 2 of 2 records"),
        ([[1, 0], [0, 0.5]], [[0.1, 0.2], [0.3, 0.4]], "0, 1 or -100.*1 of 4.*first 0.5"),
        ([[1, np.nan], [0, 1]], [[0.1, 0.2], [0.3, 0.4]], "1 of 4.*first nan"),
        ([[1, 0]], [[0.1], [0.2]], r"same shape, got \(1, 2\) and \(2, 1\)"),
        ([1, 0], [0.1, 0.2], r"shape \(records, labels\), got \(2,\)"),
        ([[1, 0], [1]], [[0.1, 0.2], [0.1]], "`labels` must be an array of numbers"),
    ],
)
@pytest.mark.parametrize("function", [multilabel_metrics, choose_thresholds, bootstrap_metrics])
def test_bad_values_are_refused(function, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        function(labels, scores)


@pytest.mark.parametrize("function", [multilabel_metrics, precision_recall_curves])
def test_masked_labels_are_unknown_and_masked_scores_refused(function):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (40, 3)), rng.random((40, 3))
    mask = rng.random(labels.shape) < 0.3
    expected = function(np.where(mask, -100, labels), scores)
    assert repr(function(np.ma.masked_array(labels, mask), scores)) == repr(expected) != repr(function(labels, scores))
    with pytest.raises(ValueError, match=f"must be finite, but {mask.sum()} of 120 "):
        function(labels, np.ma.masked_array(scores, mask))


def test_the_metric_and_those_of_other_targets_take_masked_labels_for_unknown():
    rng = np.random.default_rng(0)
    labels, scores, mask = rng.integers(0, 2, (40, 3)), rng.random((40, 3)), rng.random((40, 3)) < 0.3
    masked, metric = np.ma.masked_array(labels, mask), ECGMultiLabelMetric(keep_in_memory=True)
    found = metric.compute(references=masked, predictions=scores)
    assert found["macro_auroc"] == multilabel_metrics(np.where(mask, -100, labels), scores)["macro_auroc"]
    names = ["a", "b", "c"]
    expected = regression_metrics(np.where(mask, np.nan, labels), scores, names)
    assert regression_metrics(masked, scores, names) == expected


def test_label_names_must_be_one_for_each_label_and_different():
    labels, scores = simulate(num_labels=2)
    for names in (["MI"], ["MI", "MI"]):
        with pytest.raises(ValueError, match="2 different names"):
            multilabel_metrics(labels, scores, names)


def decide_f1(labels, decisions):
    known = labels != -100
    hits = np.sum(decisions & (labels == 1))
    return 2 * hits / (np.sum(decisions & known) + np.sum(labels == 1))


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_have_the_best_f1_and_survive_rounding(ties):
    labels, scores = simulate(ties=ties, unknown=0.2)
    probabilities = 1 / (1 + np.exp(-scores))
    thresholds = choose_thresholds(labels, probabilities)
    for label, probability, threshold in zip(labels.T, probabilities.T, thresholds, strict=True):
        decisions = probability >= threshold
        best = max(decide_f1(label, probability >= candidate) for candidate in probability)
        assert decide_f1(label, decisions) == best
        np.testing.assert_array_equal(probability.astype(np.float32) >= threshold, decisions)


def test_threshold_lies_midway_and_the_highest_of_equal_ones_is_taken():
    labels = np.array([[1, 1], [0, 0], [1, 1], [0, 1]])
    # First label: F1 is 2/3 when one is called and 4/5 when three are. Second: 6/7 only if all are called.
    probabilities = np.array([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4], [0.1, 0.2]])
    assert choose_thresholds(labels, probabilities) == pytest.approx([0.3, 0.1])
    # Calling one (F1 = 2/3) is as good as calling four (F1 = 4/6).
    assert choose_thresholds([[1], [0], [0], [1]], [[0.8], [0.6], [0.4], [0.2]]) == pytest.approx([0.7])


def test_threshold_between_neighbouring_floats_keeps_the_decisions():
    low, high = 0.5, np.nextafter(0.5, 1)
    [threshold] = choose_thresholds([[1], [0]], [[high], [low]])
    assert low < threshold <= high


def test_undecidable_labels_get_half_and_are_named():
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    with pytest.warns(UserWarning, match="2 of 3 labels .* get the threshold 0.5: MI, HYP"):
        thresholds = choose_thresholds(labels, np.array([[0.8, 0.1, 0.9], [0.2, 0.3, 0.9]]), ["NORM", "MI", "HYP"])
    assert thresholds == pytest.approx([0.5, 0.5, 0.5])


def test_thresholds_refuse_logits():
    with pytest.raises(ValueError, match=r"1 of 2 scores lie outside \[0, 1\]"):
        choose_thresholds([[1], [0]], [[2.5], [0.1]])


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_areas_equal_scikit_learn_on_repeated_records(ties):
    labels, scores = simulate(80, 4, ties=ties, unknown=0.1)
    counts = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), size=50)

    auroc, auprc = weighted_auroc_and_auprc(labels, scores, counts)

    for resample, count in enumerate(counts):
        repeated = np.repeat(np.arange(80), count)
        for index, (label, score) in enumerate(zip(labels[repeated].T, scores[repeated].T, strict=True)):
            label, score = label[label != -100], score[label != -100]
            if len(np.unique(label)) < 2:
                assert np.isnan(auroc[resample, index]) and np.isnan(auprc[resample, index])
            else:
                assert auroc[resample, index] == pytest.approx(roc_auc_score(label, score), abs=1e-10)
                assert auprc[resample, index] == pytest.approx(average_precision_score(label, score), abs=1e-10)
    assert np.isnan(auroc).any()


def test_weighted_areas_take_any_real_weight():
    labels, scores = simulate(ties=True)
    weights = np.random.default_rng(1).exponential(size=len(labels))
    auroc, auprc = weighted_auroc_and_auprc(labels, scores, weights[None])
    np.testing.assert_allclose(auroc[0], reference(roc_auc_score, labels, scores, weights), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        auprc[0], reference(average_precision_score, labels, scores, weights), rtol=0, atol=1e-10
    )
    for seed in range(5):  # equal scores, whose weights do not add up exactly
        order = np.random.default_rng(seed).permutation(len(labels))
        reordered = weighted_auroc_and_auprc(labels[order], scores[order], weights[None, order])
        np.testing.assert_array_equal(reordered, (auroc, auprc))


@pytest.mark.parametrize(
    ("weights", "message"), [(np.ones(300), r"shape \(weightings, 300\)"), (-np.ones((1, 300)), "non-negative")]
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_auroc_and_auprc(*simulate(), weights)


@pytest.mark.parametrize("num_records", [3000, 3001])  # so many that the halves do not fit into one chunk
def test_macro_interval_is_symmetric_on_the_logit_scale_with_the_deviation_of_half_samples(num_records):
    n_resamples, half = 120, num_records // 2
    labels, scores = simulate(num_records, 3, ties=True, seed=4)
    intervals = bootstrap_metrics(labels, scores, n_resamples, seed=7, confidence=0.9)

    generator = np.random.default_rng(7)
    halves = [generator.permutation(num_records) < half for _ in range(n_resamples)]
    for name, metric in (("macro_auroc", roc_auc_score), ("macro_auprc", average_precision_score)):
        value = reference(metric, labels, scores).mean()
        deviation = np.std([reference(metric, labels[drawn], scores[drawn]).mean() for drawn in halves], ddof=1)
        error = deviation * np.sqrt(half / (num_records - half)) / (value * (1 - value))
        low, high = expit(logit(value) + norm.ppf([0.05, 0.95]) * error)
        assert intervals[name] == pytest.approx({"value": value, "low": low, "high": high}, abs=1e-10)


def test_chunks_and_the_order_of_records_change_no_interval(monkeypatch):
    labels, scores = simulate(ties=True, unknown=0.1)
    patients = np.arange(len(labels)) // 2
    expected = bootstrap_metrics(labels, scores, 60, groups=patients, label_names=list("abcdef"))
    order = np.random.default_rng(0).permutation(len(labels))
    reordered = [values[order] for values in (labels, scores, patients)]
    assert expected == bootstrap_metrics(*reordered[:2], 60, groups=reordered[2], label_names=list("abcdef"))
    monkeypatch.setattr(ecg_hf.intervals, "WEIGHTS_PER_CHUNK", 7 * len(labels))
    assert expected == bootstrap_metrics(labels, scores, 60, groups=patients, label_names=list("abcdef"))


def test_resampling_patients_draws_all_their_records_together():
    labels, scores = simulate()
    by_record = bootstrap_metrics(labels, scores, 50)
    patients = np.array([f"patient {index:03}" for index in range(len(labels))])

    records = np.repeat(np.arange(len(labels)), 3)
    by_patient = bootstrap_metrics(labels[records], scores[records], 50, groups=patients[records])

    for name, interval in by_record.items():
        assert by_patient[name] == pytest.approx(interval, abs=1e-12)


def test_records_without_a_patient_are_patients_of_their_own():
    labels, scores = simulate()
    apart = bootstrap_metrics(labels, scores, 50)
    for unknown in (None, " "):
        assert bootstrap_metrics(labels, scores, 50, groups=[unknown] * len(labels)) == apart
    first = np.arange(len(labels)) // 3
    masked, listed = np.ma.masked_equal(first, 0), [None if patient == 0 else patient for patient in first]
    expected = bootstrap_metrics(labels, scores, 50, groups=listed)
    assert bootstrap_metrics(labels, scores, 50, groups=masked) == expected
    column = pd.Series(listed, dtype="Int64")
    assert bootstrap_metrics(labels, scores, 50, groups=column) == expected
    assert bootstrap_metrics(labels, scores, 50, groups=column.values) == expected
    with pytest.raises(ValueError, match="one id for each of the 300 records, got 2"):
        bootstrap_metrics(labels, scores, 50, groups=[1, 2])


def test_bootstrap_depends_on_the_seed_alone():
    labels, scores = simulate()
    assert bootstrap_metrics(labels, scores, 50) == bootstrap_metrics(labels, scores, 50)
    assert bootstrap_metrics(labels, scores, 50) != bootstrap_metrics(labels, scores, 50, seed=1)


def test_resamples_without_any_defined_label_are_left_out_with_a_warning():
    """And a value of 1 from one positive patient has Wilson's interval, which is far from [1, 1]."""
    labels = np.eye(20)[:, :1]
    scores = np.linspace(1, 0, 20)[:, None]
    with pytest.warns(UserWarning, match="of 200 resamples are excluded"):
        intervals = bootstrap_metrics(labels, scores, 200)
    z = norm.ppf(0.975)
    for name, trials in (("macro_auroc", 1 * 19 / (1 + (20 / 2 - 1) / 2)), ("macro_auprc", 1)):
        assert intervals[name] == pytest.approx({"value": 1.0, "low": trials / (trials + z**2), "high": 1.0})


@pytest.mark.parametrize(
    ("name", "value"), [("n_resamples", 0), ("n_resamples", 1), ("n_resamples", 50.5), ("confidence", 95)]
)
@pytest.mark.parametrize("function", [bootstrap_metrics, calibration_metrics])
def test_bad_bootstrap_options_are_refused(function, name, value):
    labels, scores = simulate()
    with pytest.raises(ValueError, match=f"`{name}`.*got {value}"):
        function(labels, 1 / (1 + np.exp(-scores)), **{name: value})


@pytest.mark.filterwarnings("ignore:Too few patients")
@pytest.mark.parametrize("num_patients", [20_000, 10])
def test_bootstrap_memory_is_bounded(num_patients):
    labels, scores = simulate(20_000, 71)
    patients = np.arange(20_000) % num_patients
    tracemalloc.start()
    bootstrap_metrics(labels, scores, 30, groups=patients)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize("size", [1, 128])
def test_metric_gives_the_same_numbers_batch_by_batch(size, tmp_path):
    labels, scores = simulate(unknown=0.1)
    metric = ECGMultiLabelMetric(cache_dir=str(tmp_path))
    for first in range(0, len(labels), size):
        metric.add_batch(references=labels[first : first + size], predictions=scores[first : first + size])

    expected = multilabel_metrics(labels, scores)
    del expected["per_label"]
    assert metric.compute() == expected


def test_metric_does_not_round_labels_or_pass_nan():
    metric = ECGMultiLabelMetric(keep_in_memory=True)
    with pytest.raises(ValueError, match="first 0.5"):
        metric.compute(references=[[0.5], [1]], predictions=[[0.1], [0.2]])
    metric = ECGMultiLabelMetric(keep_in_memory=True)
    with pytest.raises(ValueError, match="1 of 2 values, in 1 of 2 records, are NaN or infinite"):
        metric.compute(references=[[0], [1]], predictions=[[float("nan")], [0.2]])


def test_a_plain_trainer_reports_the_metrics(tmp_path):
    config = ECGTransformerConfig(
        num_samples=50,
        sampling_rate=100,
        patch_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = ECGTransformerForMultiLabel(config).eval()
    rng = np.random.default_rng(0)
    signals = torch.tensor(rng.normal(size=(40, 12, 50)), dtype=torch.float32)
    labels = (rng.random((40, 3)) < 0.4).astype(np.float32)
    labels[5, 1] = -100
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path), per_device_eval_batch_size=16, use_cpu=True, report_to=[], disable_tqdm=True
        ),
        eval_dataset=[{"input_values": signals[i], "labels": torch.tensor(labels[i])} for i in range(40)],
        compute_metrics=compute_metrics,
    )
    results = trainer.evaluate()
    with torch.no_grad():
        expected = multilabel_metrics(labels, model(signals).logits.numpy())
    for name in ("macro_auroc", "macro_auprc", "f_max", "num_undefined"):
        assert results[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-6)
    trainer.model.config.problem_type = "single_label_classification"
    classes = [{"input_values": signals[i], "labels": i % 3} for i in range(40)]
    with pytest.raises(ValueError, match="the labels are the numbers of classes: .*`ecg_hf.single_label_metrics`"):
        trainer.evaluate(classes)


def test_no_warning_on_ordinary_input():
    labels, scores = simulate(unknown=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        multilabel_metrics(labels, scores)
        choose_thresholds(labels, 1 / (1 + np.exp(-scores)))
        bootstrap_metrics(labels, scores, 20)


# ---- Where there is no interval, and intervals of single labels ----


@pytest.mark.parametrize(("num_patients", "macro", "label"), [(1, False, False), (2, False, False), (3, False, True)])
def test_there_is_no_interval_from_one_patient_and_no_macro_interval_from_few(num_patients, macro, label):
    labels, scores = simulate()
    patients = np.arange(len(labels)) % num_patients
    with pytest.warns(UserWarning, match=f"Too few patients for intervals of the macro metrics: {num_patients}, and"):
        intervals = bootstrap_metrics(labels, scores, 50, groups=patients, label_names=list("abcdef"))
    values = multilabel_metrics(labels, scores, list("abcdef"))
    for metric in ("auroc", "auprc"):
        assert intervals[f"macro_{metric}"] == {"value": values[f"macro_{metric}"], "low": None, "high": None}
        of_label = intervals["per_label"]["a"][metric]
        assert of_label["value"] == values["per_label"]["a"][metric] and (of_label["low"] is not None) == label


def test_the_macro_interval_begins_at_twenty_patients():
    labels, scores = simulate(60)
    with pytest.warns(UserWarning, match="Too few patients .*: 19, and at least 20"):
        assert bootstrap_metrics(labels, scores, 50, groups=np.arange(60) % 19)["macro_auroc"]["low"] is None
    interval = bootstrap_metrics(labels, scores, 50, groups=np.arange(60) % 20)["macro_auroc"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_one_patient_gives_calibration_no_interval():
    labels = np.array([[1], [0], [1]])
    metrics = calibration_metrics(labels, labels * 0.8, 20, groups=["a", "a", "a"])
    assert metrics["brier_score"] == {"value": pytest.approx(0.08 / 3), "low": None, "high": None}


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_and_worst_scores_have_intervals_of_labels_and_none_of_the_mean(sign):
    labels, _ = simulate()
    intervals = bootstrap_metrics(labels, sign * labels, 50, label_names=list("abcdef"))
    assert intervals["macro_auroc"] == {"value": float(sign > 0), "low": None, "high": None}
    for of_label in intervals["per_label"].values():
        assert 0 <= of_label["auroc"]["low"] < of_label["auroc"]["high"] <= 1
        assert of_label["auroc"]["high" if sign > 0 else "low"] == of_label["auroc"]["value"]
        assert of_label["auprc"]["low"] < of_label["auprc"]["high"]


def test_many_labels_of_one_positive_have_intervals_with_a_width():
    labels, scores = np.eye(40)[:, :30], np.random.default_rng(0).normal(size=(40, 30))
    intervals = bootstrap_metrics(labels, scores, 200, label_names=[str(index) for index in range(30)])
    for interval in (intervals["macro_auroc"], intervals["macro_auprc"]):
        assert interval["low"] + 0.02 < interval["value"] < interval["high"] - 0.02
    for of_label in intervals["per_label"].values():
        for interval in of_label.values():
            assert (
                interval["low"] <= interval["value"] <= interval["high"] and interval["high"] - interval["low"] > 0.2
            )


def test_a_label_that_is_wholly_unknown_changes_no_other_interval():
    labels, scores = simulate()
    names = list("abcdef")
    expected = bootstrap_metrics(labels, scores, 50, label_names=names)
    unknown = np.full((len(labels), 1), -100)
    intervals = bootstrap_metrics(np.c_[labels, unknown], np.c_[scores, scores[:, 0]], 50, label_names=[*names, "g"])
    assert intervals["per_label"].pop("g") == {"auroc": None, "auprc": None} and intervals == expected


def test_records_of_which_nothing_is_known_change_no_interval():
    labels, scores = simulate(60)
    labels[25:], scores = -100, 1 / (1 + np.exp(-scores))
    patients = np.arange(60) % 40
    for function in (bootstrap_metrics, calibration_metrics):
        assert function(labels, scores, 50, groups=patients) == function(labels[:25], scores[:25], 50)
    with pytest.warns(UserWarning, match="Too few patients .*: 19, and at least 20"):
        assert bootstrap_metrics(labels, scores, 50, groups=patients % 19)["macro_auroc"]["low"] is None
    # Nor do they leave resamples without a known cell.
    labels[2:] = -100
    found = calibration_metrics(labels, scores, 200)["brier_score"]
    assert found["low"] <= found["value"] <= found["high"]
    with pytest.raises(ValueError, match="no known cell among 60 records"):
        calibration_metrics(np.full_like(labels, -100), scores, 50)


def test_a_label_that_is_known_of_two_patients_has_no_interval():
    labels, scores = simulate()
    labels[:, 0] = -100
    labels[[3, 4], 0] = 0, 1
    per_label = bootstrap_metrics(labels, scores, 50, label_names=list("abcdef"))["per_label"]
    assert per_label["a"]["auroc"]["low"] is None and per_label["b"]["auroc"]["low"] is not None


def test_intervals_of_published_predictions():
    """Of xresnet1d101 on PTB-XL's test fold. Bootstrap percentiles of macro AUPRC were [.371, .422], without .3706."""
    file = SHARED / "data" / "xresnet1d101_all_test.npz"
    if not file.is_file():
        pytest.skip(f"the published predictions are not at {file}")
    with np.load(file) as predictions:
        intervals = bootstrap_metrics(predictions["y"], predictions["p"])
    assert intervals["macro_auroc"] == pytest.approx({"value": 0.9254, "low": 0.913, "high": 0.936}, abs=1.2e-3)
    assert intervals["macro_auprc"] == pytest.approx({"value": 0.3706, "low": 0.343, "high": 0.399}, abs=1.2e-3)


def test_intervals_cover_the_mean_value_of_further_test_sets():
    """Macro 92 to 97 %, no label below 92 %, but for the simulation's error (two standard errors).

    Percentiles of patients drawn with replacement fail this: tests/coverage_simulation.py prints both.
    """
    num_sets = 400
    covered = coverage(half_sample_limits, num_sets)
    error = 2 * np.sqrt(0.92 * 0.08 / num_sets)
    assert covered.min() >= 0.92 - error
    assert covered[:, -1].max() <= 0.97 + error


# ---- What a run makes of them ----


def probe(splits, test_dataset, folder):
    """A short run -> its results and metrics, and the table of splits in its card."""
    trainer = PostTrainer(
        model=small_model(),
        args=PostTrainingArguments(
            output_dir=str(folder),
            stages=["probe"],
            probe_num_train_epochs=1,
            num_bootstrap_resamples=50,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=test_dataset,
        feature_extractor=small_extractor(),
    )
    results = trainer.post_train()
    card = (folder / "README.md").read_text(encoding="utf-8")
    return results, json.loads((folder / "metrics.json").read_text())["test"], card


def test_a_run_reports_intervals_and_what_they_are_of(simulated_splits, tmp_path):
    results, metrics, card = probe(simulated_splits, simulated_splits["train"], tmp_path / "run")
    for name in ("macro_auroc", "macro_auprc"):
        interval = metrics["intervals"][name]
        assert interval["low"] < interval["value"] == results[f"test_{name}"] < interval["high"]
        assert (interval["low"], interval["high"]) == (results[f"test_{name}_low"], results[f"test_{name}_high"])
        assert f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" in card
        assert f"95 % interval {interval['low']:.4f} to {interval['high']:.4f}" in card
    text = " ".join(card.split())
    assert "the mean value that test sets of this size would give (patients drawn anew, same model)" in text
    assert "not for the value in an infinite population" in text


def test_a_run_reports_no_interval_from_one_patient(simulated_splits, tmp_path):
    test = simulated_splits["test"]
    of_one = test.remove_columns("patient_id").add_column("patient_id", [7] * len(test))
    with pytest.warns(UserWarning, match="Too few patients .*: 1, and"):
        results, metrics, card = probe(simulated_splits, of_one, tmp_path / "run")
    assert results["test_macro_auroc"] == metrics["intervals"]["macro_auroc"]["value"]
    assert results["test_macro_auroc_low"] is None and results["test_macro_auroc_high"] is None
    for interval in metrics["intervals"].values():
        assert interval["low"] is None and interval["high"] is None
    for of_label in metrics["per_label"].values():
        assert of_label["auroc_interval"] is None and of_label["auprc_interval"] is None
    assert re.search(rf"^\| test \| {len(test)} \|( \d\.\d{{3}} \|){{4}}$", card, re.MULTILINE)
    assert f"macro AUROC, {len(test)} records" in card and "None" not in card


# ---- Calibration ----


def test_intervals_of_a_label_are_those_of_that_label_alone():
    labels, scores = simulate()
    intervals = bootstrap_metrics(labels, scores, 200, label_names=list("abcdef"))
    assert intervals["macro_auroc"] == bootstrap_metrics(labels, scores, 200)["macro_auroc"]
    alone = bootstrap_metrics(labels[:, :1], scores[:, :1], 200)
    assert intervals["per_label"]["a"] == {"auroc": alone["macro_auroc"], "auprc": alone["macro_auprc"]}


def test_an_undefined_label_has_no_interval():
    labels, scores = simulate()
    labels[:, 1] = 0
    per_label = bootstrap_metrics(labels, scores, 50, label_names=list("abcdef"))["per_label"]
    assert per_label["b"] == {"auroc": None, "auprc": None} and per_label["a"]["auroc"]["low"] > 0.5


def test_calibration_of_a_case_by_hand():
    labels = np.array([[1, -100], [0, 1], [1, 0]])
    scores = np.array([[0.9, 0.3], [0.15, 0.95], [0.12, 1.0]])
    metrics = calibration_metrics(labels, scores, 20)
    # Bins: 0.9, 0.95, 1.0 with labels 1, 1, 0; and 0.15, 0.12 with labels 0, 1. The unknown cell is in none.
    expected = (3 * abs(2.85 / 3 - 2 / 3) + 2 * abs(0.27 / 2 - 1 / 2)) / 5
    assert metrics["calibration_error"]["value"] == pytest.approx(expected)
    brier = (0.1**2 + 0.15**2 + 0.05**2 + 0.88**2 + 1) / 5
    assert metrics["brier_score"]["value"] == pytest.approx(brier)
    assert metrics["brier_score"]["low"] <= brier <= metrics["brier_score"]["high"]


def test_calibrated_probabilities_have_a_small_error_and_logits_are_refused():
    rng = np.random.default_rng(0)
    scores = rng.random((4000, 3))
    labels = (rng.random(scores.shape) < scores).astype(float)
    error = calibration_metrics(labels, scores, 100, groups=np.arange(4000) // 2)["calibration_error"]
    assert error["value"] < 0.03 and calibration_metrics(labels, scores**3, 5)["calibration_error"]["low"] > 0.1
    with pytest.raises(ValueError, match="must be probabilities"):
        calibration_metrics(labels, scores * 2)
