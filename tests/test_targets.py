"""One of several classes and regression, through the same stages as several labels; and models of fewer leads."""

import json
import re

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from huggingface_hub import ModelCard
from sklearn import metrics as sklearn_metrics
from small_models import small_config, small_extractor, small_model
from test_post_training import arguments
from transformers import AutoModelForSequenceClassification, pipeline

from ecg_hf import ECGTransformerForMultiLabel, PostTrainer, cli, name_labels
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.target_metrics import (
    regression_intervals,
    regression_metrics,
    single_label_intervals,
    single_label_metrics,
)

SINGLE, REGRESSION = "single_label_classification", "regression"
CLASSES = ["slow", "fast", "flutter"]  # not in alphabetical order
NAN = float("nan")


# ---- Simulated records ----


def beats(rate, amplitude, rng, lead_names=LEAD_NAMES, seconds=5.0) -> np.ndarray:
    """(leads, samples) int16 in µV at 100 Hz: pulses at `rate` per minute, of `amplitude` in mV in the mean lead."""
    time = np.arange(int(100 * seconds)) / 100
    phase = (time * rate / 60 + rng.random()) % 1 - 0.5
    pulse = np.exp(-((phase * 60 / rate / 0.04) ** 2))
    size = np.array([0.6, 1.0, 0.5, 0.7, 0.9, 1.1, 1.3, 1.4])[:, None]  # of I, II and V1 to V6
    one, two, *chest = 1000 * (amplitude * size * pulse + rng.normal(0, 0.03, (8, len(time))))
    # Einthoven and Goldberger
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    signal = np.stack([*limbs, *chest]).round().astype(np.int16)
    return signal[[LEAD_NAMES.index(name) for name in lead_names]]


def records(kind, count, seed, lead_names=LEAD_NAMES, unknown=0) -> datasets.Dataset:
    """Records of patients with two each; the class is the rate, and the targets are the amplitude in two units."""
    rng = np.random.default_rng(seed)
    signals, labels = [], []
    for _ in range(count):
        amplitude, index = rng.uniform(0.4, 1.6), int(rng.integers(3))
        signals.append(beats((60, 90, 140)[index], amplitude if kind == REGRESSION else 1.0, rng, lead_names))
        labels.append([50 * amplitude, -amplitude / 1000] if kind == REGRESSION else np.eye(3)[index].tolist())
    for place in range(unknown):
        labels[3 * place] = [NAN, labels[3 * place][1]] if kind == REGRESSION else [-100.0] * 3
    dataset = datasets.Dataset.from_dict(
        {
            "ecg_id": [f"{seed}-{number}" for number in range(count)],
            "patient_id": [f"{seed}-{number // 2}" for number in range(count)],
            "signal": [signal.ravel() for signal in signals],
            "sampling_rate": [100.0] * count,
            "lead_names": [list(lead_names)] * count,
            "labels": labels,
        }
    )
    return name_labels(dataset, ["age", "st"] if kind == REGRESSION else CLASSES)


def splits_of(kind, **fields) -> dict[str, datasets.Dataset]:
    return {
        "train": records(kind, 120, 1, unknown=6, **fields),
        "validation": records(kind, 48, 2, **fields),
        "test": records(kind, 60, 3, unknown=3, **fields),
    }


def model_for(kind, **fields) -> ECGTransformerForMultiLabel:
    labels = ["age", "st"] if kind == REGRESSION else CLASSES
    # Random features that differ enough between records to learn from.
    return small_model(labels, problem_type=kind, pooling="mean", initializer_range=0.1, **fields)


def trainer_of(kind, output_dir, splits=None, model=None, extractor=None, **fields) -> PostTrainer:
    splits = splits_of(kind) if splits is None else splits
    defaults = {"probe_num_train_epochs": 400, "probe_learning_rate": 0.01}
    defaults |= {"num_train_epochs": 8, "learning_rate": 5e-4, "per_device_train_batch_size": 16}
    return PostTrainer(
        model=model or model_for(kind),
        args=arguments(output_dir, **{**defaults, **fields}),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=splits["test"],
        feature_extractor=extractor or small_extractor(std=0.3, window_stride=125),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of both stages for each kind: {kind: (folder, results)}."""
    finished = {}
    for kind in (SINGLE, REGRESSION):
        folder = tmp_path_factory.mktemp("runs") / kind
        finished[kind] = folder, trainer_of(kind, folder).post_train()
    return finished


# ---- Losses and windows ----


def test_the_loss_of_one_of_several_classes_is_the_cross_entropy_of_known_records():
    model = small_model(CLASSES, problem_type=SINGLE).eval()
    inputs = {"input_values": torch.randn(4, 12, 250)}
    logits = model(**inputs).logits
    classes = torch.tensor([2, 0, -100, 1])
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 3]].double(), classes[[0, 1, 3]])
    one_hot = torch.nn.functional.one_hot(classes.clamp(min=0), 3).float()
    one_hot[2] = -100
    for labels in (classes, one_hot):
        torch.testing.assert_close(model(**inputs, labels=labels).loss.double(), expected)
        # A Trainer counts the cells that are not -100.
        count = (labels != -100).sum()
        torch.testing.assert_close(model(**inputs, labels=labels, num_items_in_batch=count).loss.double(), expected)
    assert model(**inputs, labels=torch.full((4,), -100)).loss == 0
    torch.testing.assert_close(model(**inputs, labels=classes.int()).loss.double(), expected)
    with pytest.raises(
        ValueError, match=r"shape \(4, 3\), or the integer indices \(4,\), got \(4,\) of torch.float32"
    ):
        model(**inputs, labels=classes.float())


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (
            "multi_label_classification",
            [[0, 1, -1.0]],
            "from 0 to 1, or -100 for unknown; 1 of 3 are not, the first -1",
        ),
        ("multi_label_classification", [[0, np.nan, np.nan]], "2 of 3 are not, the first nan"),
        ("multi_label_classification", [[0, 80, 2]], "2 of 3 are not, the first 80"),
        (SINGLE, [-1], "from 0 to 2, or -100 for unknown; 1 of 1 are not, the first -1"),
        (SINGLE, [3], "from 0 to 2"),
        (SINGLE, [[0.5, 1.5, -1]], "from 0 to 1, .*; 2 of 3"),
    ],
)
def test_labels_that_mean_nothing_are_not_learned(kind, labels, message):
    """A record whose label is unknown has -1 in many public tables, and NaN in a frame."""
    model = small_model(CLASSES, problem_type=kind).eval()
    with pytest.raises(ValueError, match=f"`labels` must be .*{message}"):
        model(torch.randn(1, 12, 250), labels=torch.tensor(labels))
    known = [[0.25, 1, 0]] if kind != SINGLE else [2]
    assert model(torch.randn(1, 12, 250), labels=torch.tensor(known)).loss > 0


def test_the_loss_of_probabilities_of_classes_is_their_cross_entropy():
    model = small_model(CLASSES, problem_type=SINGLE).eval()
    inputs = {"input_values": torch.randn(3, 12, 250)}
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [-100.0] * 3])
    logarithms = model(**inputs).logits.double().log_softmax(dim=1)
    expected = -(labels[:2] * logarithms[:2]).sum() / 2
    torch.testing.assert_close(model(**inputs, labels=labels).loss.double(), expected)


def test_a_regression_gives_values_in_the_unit_of_the_target_and_learns_standardised_ones():
    model = small_model(["age", "st"], problem_type=REGRESSION).eval()
    inputs = {"input_values": torch.randn(3, 12, 250)}
    standardised = model(**inputs).logits
    model.config.target_mean, model.config.target_std = [60.0, -0.5], [15.0, 0.1]
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, standardised * torch.tensor([15.0, 0.1]) + torch.tensor([60.0, -0.5]))
    labels = torch.tensor([[70.0, NAN], [NAN, NAN], [40.0, -0.4]])
    errors = (((logits - labels) / torch.tensor([15.0, 0.1])) ** 2)[[0, 2, 2], [0, 0, 1]]
    loss = model(**inputs, labels=labels).loss
    torch.testing.assert_close(loss, errors.mean())
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.to(torch.bfloat16)(**inputs).logits.dtype == torch.float32
    with pytest.raises(ValueError, match=r"`labels` must have shape \(3, 2\), got \(3,\) .* Give each record a list"):
        model(**inputs, labels=labels[:, 0])


@pytest.mark.parametrize("kind", [SINGLE, REGRESSION])
def test_the_graph_of_a_model_is_whole(kind):
    scale = {"target_mean": [1.0, 2.0], "target_std": [3.0, 4.0]} if kind == REGRESSION else {}
    model = small_model(["a", "b"], problem_type=kind, **scale).eval()
    inputs = {"input_values": torch.randn(2, 12, 250)}
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss)
    exported = torch.export.export(model, (), inputs).module()
    torch.testing.assert_close(exported(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("rule", ["mean_logit", "mean_probability"])
def test_the_classes_of_a_record_are_the_mean_of_those_of_its_windows(rule):
    model = small_model(CLASSES, problem_type=SINGLE, window_aggregation=rule, temperature=2.0)
    logits = torch.tensor([[[1.0, -2.0, 3.0], [3.0, 0.0, -6.0], [9.0, 9.0, 90.0]]]).repeat(2, 1, 1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    aggregated = model.aggregate_windows(logits, mask).exp().numpy()
    for record, windows in enumerate((2, 3)):
        scaled = logits[record, :windows].double().numpy() / 2
        p = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
        mean = p.mean(axis=0) if rule == "mean_probability" else np.exp(np.log(p).mean(axis=0))
        np.testing.assert_allclose(aggregated[record], mean / mean.sum(), rtol=1e-5)


def test_the_values_of_a_record_are_the_mean_of_those_of_its_windows():
    model = small_model(["age"], problem_type=REGRESSION)
    logits = torch.tensor([[[60.0], [70.0], [1e6]]])
    assert model.aggregate_windows(logits, torch.tensor([[True, True, False]])).tolist() == [[65.0]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": SINGLE, "thresholds": [0.5, 0.5]}, "`thresholds` are for `problem_type` `multi_label"),
        ({"problem_type": REGRESSION, "thresholds": [0.5, 0.5]}, "`thresholds` are for"),
        ({"problem_type": REGRESSION, "temperature": 2.0}, "`temperature` must be 1 .*regression.*got 2.0"),
        ({"problem_type": SINGLE, "window_aggregation": "max_probability"}, "must be one of mean_logit, mean_prob"),
        ({"problem_type": SINGLE, "window_aggregation": ["mean_logit"] * 2}, "must be one of mean_logit, mean_prob"),
        ({"problem_type": REGRESSION, "window_aggregation": "mean_probability"}, "must be one of mean_logit with"),
        ({"target_mean": [0.0, 0.0], "target_std": [1.0, 1.0]}, "belong together and to `problem_type` `regression`"),
        ({"problem_type": REGRESSION, "target_mean": [0.0, 0.0]}, "belong together"),
        ({"problem_type": REGRESSION, "target_mean": [0.0], "target_std": [1.0]}, "`target_mean` has 1 values"),
        ({"problem_type": REGRESSION, "target_mean": [0.0, NAN], "target_std": [1.0, 1.0]}, "finite, got nan for b"),
        ({"problem_type": REGRESSION, "target_mean": [0.0, 0.0], "target_std": [1.0, 0.0]}, "above 0.*got 0.0 for b"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        small_config(["a", "b"], **fields)


def test_a_head_serves_its_own_kind_of_targets_alone(tmp_path):
    model = small_model(["a", "b"], problem_type=REGRESSION, target_mean=[1.0, 2.0], target_std=[3.0, 4.0])
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    inputs = {"input_values": torch.randn(2, 12, 250)}
    assert torch.equal(model.eval()(**inputs).logits, loaded.eval()(**inputs).logits)
    with pytest.raises(RuntimeError, match=r"`model\.replace_head\(id2label\)`"):
        ECGTransformerForMultiLabel.from_pretrained(tmp_path / "model", problem_type=SINGLE)
    with pytest.warns(UserWarning, match="replaced by a random one"):
        other = ECGTransformerForMultiLabel.from_pretrained(
            tmp_path / "model", problem_type=SINGLE, ignore_mismatched_sizes=True
        )
    assert other.head_is_random and other.config.problem_type == SINGLE and other.config.target_mean is None
    loaded.replace_head({0: "x", 1: "y", 2: "z"}, problem_type=SINGLE)
    assert (loaded.config.problem_type, loaded.config.target_std) == (SINGLE, None)
    loaded.replace_head({0: "x", 1: "y"})
    assert loaded.config.problem_type == SINGLE
    with pytest.raises(ValueError, match="`problem_type` must be one of multi_label_classification, single_label"):
        loaded.replace_head({0: "x"}, problem_type="ranking")


# ---- Metrics ----


@pytest.fixture
def classes_and_scores():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 300)
    return classes, 0.7 * rng.dirichlet(np.ones(4), 300) + 0.3 * np.eye(4)[classes]


def test_metrics_of_classes_are_those_of_scikit_learn(classes_and_scores):
    classes, scores = classes_and_scores
    labels = np.concatenate([np.eye(4)[classes], np.full((5, 4), -100.0)])  # unknown records change nothing
    metrics = single_label_metrics(labels, np.concatenate([scores, scores[:5]]), ["a", "b", "c", "d"])
    predicted = scores.argmax(axis=1)
    assert metrics["accuracy"] == sklearn_metrics.accuracy_score(classes, predicted)
    assert metrics["macro_auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(classes, scores, multi_class="ovr"))
    expected = sklearn_metrics.average_precision_score(np.eye(4)[classes], scores)
    assert metrics["macro_auprc"] == pytest.approx(expected)
    assert metrics["confusion_matrix"] == sklearn_metrics.confusion_matrix(classes, predicted).tolist()
    for name, average in (("precision", None), ("recall", None)):
        of_classes = getattr(sklearn_metrics, f"{name}_score")(classes, predicted, average=average)
        np.testing.assert_allclose([values[name] for values in metrics["per_label"].values()], of_classes)


def test_metrics_of_values_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.normal([1e6, 0.001], [15, 0.0001], (200, 2))
    values = truth + rng.normal(0, [5, 0.0001], (200, 2))
    truth[::7, 0] = np.nan
    metrics = regression_metrics(truth, values, ["a", "b"])
    for index, of_target in enumerate(metrics["per_label"].values()):
        known = ~np.isnan(truth[:, index])
        pair = truth[known, index], values[known, index]
        assert of_target["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(*pair))
        assert of_target["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(*pair))
        assert of_target["r2"] == pytest.approx(sklearn_metrics.r2_score(*pair))
        assert of_target["num_known"] == known.sum()
    assert metrics["r2"] == pytest.approx(np.mean([of["r2"] for of in metrics["per_label"].values()]))
    constant = regression_metrics(np.full((9, 1), 0.1), rng.random((9, 1)))
    assert np.isnan(constant["r2"]) and constant["per_label"]["0"]["r2"] is None


def test_intervals_are_over_patients_and_contain_the_value(classes_and_scores):
    classes, scores = classes_and_scores
    labels, patients = np.eye(4)[classes], np.arange(300) // 10
    few = single_label_intervals(labels, scores, 400, groups=patients, label_names=list("abcd"))
    many = single_label_intervals(labels, scores, 400)
    # Thirty patients of ten equal records tell less than three hundred.
    copies = np.arange(300) // 10 * 10
    equal = single_label_intervals(labels[copies], scores[copies], 400, groups=patients)
    for interval in (few["accuracy"], many["accuracy"], few["macro_auroc"]):
        assert interval["low"] < interval["value"] < interval["high"]
    assert equal["accuracy"]["high"] - equal["accuracy"]["low"] > many["accuracy"]["high"] - many["accuracy"]["low"]
    right = single_label_intervals(labels, labels, 50)["accuracy"]
    assert right["value"] == 1 and 0.97 < right["low"] < 1
    with pytest.warns(UserWarning, match="Too few patients"):
        assert single_label_intervals(labels, scores, 50, groups=np.arange(300) % 5)["accuracy"]["low"] is None


def test_the_interval_of_an_error_has_the_width_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    truth = rng.normal(60, 15, (900, 1))
    values = truth + rng.normal(0, 5, (900, 1))
    errors = np.abs(truth - values)
    interval = regression_intervals(truth, values, 2000)["mae"]
    half_width = 1.96 * errors.std() / np.sqrt(900)
    assert (interval["high"] - interval["low"]) / 2 == pytest.approx(half_width, rel=0.1)
    # Copies of a record under one patient tell nothing new.
    copied = regression_intervals(np.repeat(truth, 3, 0), np.repeat(values, 3, 0), 2000, groups=np.arange(2700) // 3)
    assert copied["mae"]["high"] - copied["mae"]["low"] == pytest.approx(2 * half_width, rel=0.1)
    with pytest.warns(UserWarning, match="Too few patients"):
        assert regression_intervals(truth[:9], values[:9], 50)["r2"]["low"] is None
    # Nor do patients count of whom no value is known.
    truth[9:] = np.nan
    with pytest.warns(UserWarning, match="Too few patients for intervals: 9"):
        assert regression_intervals(truth, values, 50)["mae"]["low"] is None
    both = regression_intervals(np.c_[truth, values], np.c_[values, values], 50, label_names=["few", "many"])
    assert [of_target["mae"]["low"] for of_target in both["per_label"].values()] == [None, 0]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1, 1, 0]], [[0.2, 0.3, 0.5]], "exactly one 1 .*the first is row 0"),
        ([[-100, 1, 0]], [[0.2, 0.3, 0.5]], "exactly one 1"),
        ([[0, 1, 0]], [[0.2, 1.3, 0.5]], "sum to 1 in each row: apply the softmax"),
        ([[0, 1, 0]], [[NAN, 0.5, 0.5]], "finite, but those of 1 of 1 records"),
        ([[0, 1, 0]], [[0.5, 0.5]], r"one shape \(records, classes\), got \(1, 3\) and \(1, 2\)"),
        ([[-100, -100, -100]], [[0.2, 0.3, 0.5]], "no record of a known class"),
    ],
)
def test_classes_and_scores_that_are_none_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        single_label_metrics(labels, scores)


def test_values_that_are_none_are_refused():
    with pytest.raises(ValueError, match="some are infinite"):
        regression_metrics([[np.inf]], [[1.0]])
    with pytest.raises(ValueError, match="no known value among 1 records"):
        regression_metrics([[NAN]], [[1.0]])
    for names in (["age"], ["age", "age"]):  # of two, the second would stand for both
        with pytest.raises(ValueError, match="`label_names` must be 2 different names"):
            regression_metrics([[1.0, 2.0]], [[1.0, 2.0]], names)
        with pytest.raises(ValueError, match="`label_names` must be 2 different names"):
            regression_intervals([[1.0, 2.0]], [[1.0, 2.0]], 10, label_names=names)


# ---- The story of a run ----


def test_a_run_on_classes_learns_them_and_says_so(runs):
    folder, results = runs[SINGLE]
    assert json.loads((folder / "all_results.json").read_text()) == results
    names = {f"{split}_{name}" for split in ("eval", "test") for name in ("accuracy", "macro_auroc", "macro_auprc")}
    assert names | {"test_accuracy_low", "probe_eval_accuracy", "finetune_eval_loss"} <= results.keys()
    assert results["test_accuracy"] > 0.8 and results["test_macro_auroc"] > 0.9
    assert results["test_accuracy_low"] < results["test_accuracy"] < results["test_accuracy_high"]
    table = pd.read_csv(folder / "test_predictions.csv")
    assert list(table) == ["ecg_id", *(f"prob_{name}" for name in CLASSES), "true_class", "pred_class"]
    scores = table.filter(like="prob_").to_numpy()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert table["pred_class"].tolist() == [CLASSES[index] for index in scores.argmax(axis=1)]
    known = table["true_class"].notna()
    assert (~known).sum() == 3
    assert (table["true_class"] == table["pred_class"])[known].mean() == pytest.approx(results["test_accuracy"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert np.sum(metrics["test"]["confusion_matrix"]) == 57 and metrics["test"]["num_records"] == 60
    assert metrics["test"]["per_label"]["flutter"]["auroc_interval"] is not None
    assert metrics["stages"]["probe"].keys() == {"loss", "accuracy", "macro_auroc", "macro_auprc", "num_undefined"}
    assert json.loads((folder / "config.json").read_text())["thresholds"] is None


def test_a_run_on_values_learns_them_in_their_own_units(runs):
    folder, results = runs[REGRESSION]
    # Guessing the mean would have an error of a quarter of the range, 60, and of 1.2 / 1000; R² would be 0.
    assert results["test_r2"] > 0.7 and results["test_mae"] < 0.5 * 7.5
    assert results["test_mae_low"] < results["test_mae"] < results["test_mae_high"]
    assert {"probe_eval_mae", "eval_rmse", "finetune_eval_r2", "test_rmse_high"} <= results.keys()
    config = json.loads((folder / "config.json").read_text())
    labels = np.array(splits_of(REGRESSION)["train"]["labels"])
    np.testing.assert_allclose(config["target_mean"], np.nanmean(labels, axis=0), rtol=1e-6)
    np.testing.assert_allclose(config["target_std"], np.nanstd(labels, axis=0), rtol=1e-6)
    table = pd.read_csv(folder / "test_predictions.csv")
    assert list(table) == ["ecg_id", "pred_age", "pred_st", "true_age", "true_st"]
    assert table["true_age"].isna().sum() == 3 and table["true_st"].notna().all()
    errors = [(table[f"pred_{name}"] - table[f"true_{name}"]).abs().mean() for name in ("age", "st")]
    assert np.mean(errors) == pytest.approx(results["test_mae"], rel=1e-5) and errors[1] < 1e-4 * 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["per_label"]["age"]["num_known"] == 57
    low, high = metrics["test"]["per_label"]["st"]["r2_interval"]
    assert low < metrics["test"]["per_label"]["st"]["r2"] < high


@pytest.mark.parametrize("kind", [SINGLE, REGRESSION])
def test_the_default_metric_chooses_the_epoch_in_its_direction(kind, runs):
    folder, _ = runs[kind]
    recipe = (folder / "recipe.yaml").read_text()
    name, better = {SINGLE: ("macro_auroc", max), REGRESSION: ("mae", min)}[kind]
    assert f"metric_for_best_model: {name}\ngreater_is_better: {str(better is max).lower()}" in recipe
    logs = json.loads((folder / "log_history.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    for stage in ("probe", "finetune"):
        values = [entry[f"eval_{name}"] for entry in logs if entry["stage"] == stage and f"eval_{name}" in entry]
        assert len(set(values)) > 1
        assert metrics["stages"][stage][name] == pytest.approx(better(values), rel=1e-5)
    of_stages = {stage: metrics["stages"][stage][name] for stage in ("probe", "finetune")}
    assert metrics["kept_stage"] == better(reversed(of_stages), key=of_stages.get)


def test_the_card_has_the_words_of_the_kind(runs):
    card = ModelCard.load(runs[SINGLE][0] / "README.md")
    assert "for classification of 12-lead ECGs into one of 3 classes" in card.text
    assert "| slow | " in card.text and "by predicted class" in card.text and "threshold" not in card.text
    assert 'round(finding["score"], 3), finding["positive"]' in card.text
    assert {"accuracy", "roc_auc"} <= set(card.data.metrics) and "single-label-classification" in card.data.tags
    assert (runs[SINGLE][0] / "label_metrics.png").is_file()
    card = ModelCard.load(runs[REGRESSION][0] / "README.md")
    assert "for regression from 12-lead ECGs: it gives a number for each of its targets (age, st)." in card.text
    assert "| age | age | 57 | " in card.text and 'round(finding["value"], 2)' in card.text
    for word in ("AUROC", "threshold", "probability of", "calibration", "label_metrics"):
        assert word not in card.text, word
    assert card.data.metrics == ["mae", "rmse", "r_squared"]
    assert {result.task_type for result in card.data.eval_results} == {"ecg-regression"}
    for kind in (SINGLE, REGRESSION):
        assert (runs[kind][0] / "learning_curves.png").stat().st_size > 10_000
        assert "\n\n\n" not in (runs[kind][0] / "README.md").read_text()


@pytest.mark.parametrize("kind", [SINGLE, REGRESSION])
def test_the_pipeline_gives_the_predictions_of_the_run(kind, runs):
    folder, _ = runs[kind]
    classifier = pipeline("ecg-classification", model=str(folder))
    table = pd.read_csv(folder / "test_predictions.csv")
    answers = classifier(splits_of(kind)["test"].remove_columns("labels").select(range(8)))
    for row, answer in zip(table.to_dict("records"), answers, strict=False):
        if kind == REGRESSION:
            assert [finding["label"] for finding in answer] == ["age", "st"]
            assert answer[0].keys() == {"label", "name", "value"}
            np.testing.assert_allclose([f["value"] for f in answer], [row["pred_age"], row["pred_st"]], rtol=1e-4)
        else:
            assert sum(finding["score"] for finding in answer) == pytest.approx(1)
            assert [finding["positive"] for finding in answer] == [True, False, False]
            assert answer[0]["label"] == row["pred_class"] and "threshold" not in answer[0]
            assert {f["label"]: pytest.approx(f["score"], abs=1e-5) for f in answer} == {
                name: row[f"prob_{name}"] for name in CLASSES
            }
    if kind == REGRESSION:
        with pytest.raises(ValueError, match="`top_k` is 1, but the values of a regression have no order"):
            classifier(
                beats(60, 1.0, np.random.default_rng(0)) / 1000, sampling_rate=100, lead_names=LEAD_NAMES, top_k=1
            )
    else:
        assert len(classifier(splits_of(kind)["test"].select(range(1)), top_k=2)[0]) == 2


@pytest.mark.parametrize(("kind", "words"), [(SINGLE, "present  slow     "), (REGRESSION, "  age      ")])
def test_the_command_line_classifies_with_either(kind, words, runs, tmp_path, capsys):
    signal = beats(50, 1.0, np.random.default_rng(5)).T / 1000
    wfdb.wrsamp("one", 100, ["mV"] * 12, list(LEAD_NAMES), p_signal=signal, fmt=["16"] * 12, write_dir=str(tmp_path))
    cli.classify([str(tmp_path / "one"), "--model", str(runs[kind][0])])
    out = capsys.readouterr().out
    assert words in out
    if kind == REGRESSION:
        assert float(out.split("age")[1].split()[0]) == pytest.approx(50, abs=8)


def test_a_stopped_regression_goes_on_with_its_scale(tmp_path):
    splits = splits_of(REGRESSION)
    whole = trainer_of(REGRESSION, tmp_path / "whole", splits).post_train()
    trainer = trainer_of(REGRESSION, tmp_path / "run", splits)
    trainer.train_stage = lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.post_train()
    resumed = trainer_of(REGRESSION, tmp_path / "run", splits).post_train(resume_from_checkpoint=True)
    assert resumed["test_mae"] == whole["test_mae"] and resumed["test_r2"] == whole["test_r2"]
    other = {**splits, "train": splits["train"].select(range(100))}
    with pytest.raises(ValueError, match="target_mean"):
        trainer_of(REGRESSION, tmp_path / "run", other).post_train(resume_from_checkpoint=True)


def test_a_trained_regression_keeps_its_scale_where_it_learns_on(runs, tmp_path):
    folder, _ = runs[REGRESSION]
    model = ECGTransformerForMultiLabel.from_pretrained(folder)
    before = list(model.config.target_std)
    splits = splits_of(REGRESSION)
    splits["train"] = splits["train"].select(range(40))
    trainer = trainer_of(REGRESSION, tmp_path / "run", splits, model, stages=["finetune"], num_train_epochs=1)
    assert trainer.evaluate()["eval_r2"] > 0.7
    assert model.config.target_std == before


@pytest.mark.parametrize("kind", [SINGLE, REGRESSION])
def test_accumulated_steps_weigh_unknown_labels_as_one_batch_does(kind, tmp_path):
    """Batches of which one has only unknown classes: the mean is over the known of all."""
    splits = splits_of(kind)
    splits["train"] = splits["train"].select(range(16))
    weights = []
    for size, steps in ((16, 1), (4, 4)):
        fields = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 3}
        fields |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "drop_path_rate": 0.0}
        fields |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        trainer = trainer_of(kind, tmp_path / str(size), splits, stages=["finetune"], **fields)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    start = torch.cat([parameter.detach().flatten() for parameter in model_for(kind).parameters()])
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)
    assert (weights[0] - start).abs().max() > 1e-3


# ---- Bad input ----


def with_label(dataset, row, value):
    labels = [list(label) for label in dataset["labels"]]
    labels[row] = value
    changed = dataset.remove_columns("labels").add_column("labels", labels)
    return name_labels(changed, CLASSES if len(value) == 3 else ["age", "st"])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (SINGLE, [1.0, 1.0, 0.0], r"one-hot .*record 2-4 of `validation` has 1 for fast, and 1 values"),
        (SINGLE, [0.0, 0.0, 0.0], "record 2-4 of `validation` has 0"),
        (SINGLE, [0.2, 0.8, 0.0], "record 2-4 of `validation` has 0.2 for slow"),
        (SINGLE, [-100.0, 1.0, 0.0], "record 2-4 of `validation` has -100 for slow"),
        (REGRESSION, [50.0, float("inf")], "finite numbers, or NaN for unknown; record 2-4 .*has inf for st"),
    ],
)
def test_labels_of_another_kind_are_refused_with_record_and_label(kind, value, message, tmp_path):
    splits = splits_of(kind)
    splits["validation"] = with_label(splits["validation"], 4, value)
    with pytest.raises(ValueError, match=message):
        trainer_of(kind, tmp_path / "run", splits).post_train()
    assert not (tmp_path / "run" / "_stages").exists()


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        (SINGLE, "mae", "must be one of macro_auroc, accuracy, loss for .*single_label_classification`, got `mae`"),
        (REGRESSION, "macro_auroc", "must be one of mae, r2, loss for .*`regression`, got `macro_auroc`"),
        ("multi_label_classification", "accuracy", "must be one of macro_auroc, macro_auprc, f_max, loss for"),
    ],
)
def test_a_metric_of_other_targets_is_refused(kind, metric, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(
            kind, tmp_path / "run", splits_of(SINGLE if "label" in kind else kind), metric_for_best_model=metric
        )


def test_directions_are_those_of_the_metric():
    for metric, better in (("mae", False), ("r2", True), ("accuracy", True), ("eval_loss", False), (None, True)):
        assert arguments("run", metric_for_best_model=metric).greater_is_better is better
    with pytest.raises(ValueError, match="`greater_is_better` must be False for `mae`"):
        arguments("run", metric_for_best_model="mae", greater_is_better=True)


def test_records_that_cannot_choose_or_teach_are_refused(tmp_path):
    splits = splits_of(REGRESSION)
    same = {**splits, "validation": splits["validation"].map(lambda row: {"labels": [50.0, 0.001]})}
    with pytest.raises(
        ValueError, match="`r2` cannot choose an epoch: no target of the 48 validation records has two"
    ):
        trainer_of(REGRESSION, tmp_path / "run", same, metric_for_best_model="r2").post_train()
    unknown = {**splits, "train": splits["train"].map(lambda row: {"labels": [NAN, row["labels"][1]]})}
    with pytest.raises(ValueError, match="training records have no known value of age"):
        trainer_of(REGRESSION, tmp_path / "run", unknown)
    splits = splits_of(SINGLE)
    one = {**splits, "validation": splits["validation"].map(lambda row: {"labels": [1.0, 0.0, 0.0]})}
    with pytest.raises(ValueError, match="the known classes of the 48 validation records are fewer than two"):
        trainer_of(SINGLE, tmp_path / "run", one).post_train()


def test_models_of_a_search_must_know_the_scale(tmp_path):
    splits = splits_of(REGRESSION)
    fields = {"args": arguments(tmp_path, metric_for_best_model="mae"), "feature_extractor": small_extractor()}
    fields |= {"eval_dataset": splits["validation"]}
    with pytest.raises(ValueError, match="models of `model_init` need `config.target_mean` and `config.target_std`"):
        PostTrainer(model_init=lambda: model_for(REGRESSION), train_dataset=splits["train"], **fields)


@pytest.mark.parametrize(
    ("kind", "label", "undefined"),
    [
        (REGRESSION, [50.0, 0.001], {"test_r2"}),
        (REGRESSION, [NAN, NAN], {"test_r2", "test_mae", "test_rmse"}),
        (SINGLE, [-100.0, -100.0, -100.0], {"test_accuracy", "test_macro_auroc", "test_macro_auprc"}),
        ("multi_label_classification", [-100.0, -100.0, -100.0], {"test_macro_auroc", "test_macro_auprc"}),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_metrics_that_the_test_records_do_not_define_are_none_and_named(kind, label, undefined, tmp_path, caplog):
    splits = splits_of(kind)
    splits["test"] = splits["test"].map(lambda row: {"labels": label})
    results = trainer_of(kind, tmp_path / "run", splits, stages=["probe"], probe_num_train_epochs=2).post_train()
    ends = ("_low", "_high")
    assert {name for name in results if results[name] is None and not name.endswith(ends)} == undefined
    assert re.search(r"undefined, (no (target|label) of the records|the known classes of)", caplog.text)
    for name in ("all_results.json", "metrics.json"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()
    assert ("| undefined |" in (tmp_path / "run/README.md").read_text()) == (undefined == {"test_r2"})
