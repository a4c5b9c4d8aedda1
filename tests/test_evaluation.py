"""`ecg-hf evaluate`: its report against scikit-learn and pandas, what it chooses and writes, faults put on records."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState
from scipy.special import expit, logit
from sklearn import metrics as sklearn_metrics
from small_models import LABELS, small_extractor, small_model

from ecg_hf import ECGTransformerForMultiLabel, cli
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.evaluation import EvaluationArguments
from ecg_hf.evaluation.changes import Change, ChangedWindows, Recording, changes_for
from ecg_hf.evaluation.operating_points import choose_points, judge_points
from ecg_hf.intervals import draw_halves, wilson_interval
from ecg_hf.runs.windows import EvaluationWindows

CHANGES = {change.name: change for change in changes_for(LEAD_NAMES)}
TARGETS = {"sensitivity": 0.9, "specificity": 0.8}


def flags(**values) -> list[str]:
    return [
        str(part)
        for name, value in values.items()
        for part in (f"--{name}", *(value if isinstance(value, list) else [value]))
    ]


def save(folder, **fields):
    """A small model that is sure of its random answers."""
    model = small_model(**fields)
    with torch.no_grad():
        model.classifier.weight *= 100
    model.save_pretrained(folder)
    small_extractor().save_pretrained(folder)
    return folder


def evaluate(output, **values):
    metrics = cli.evaluate(flags(output_dir=output, num_bootstrap_resamples=50, use_cpu=True, **values))
    return metrics, json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)


def truth_and_scores(output):
    table = pd.read_csv(output / "predictions.csv")
    return (table[[f"{kind}_{label}" for label in LABELS]].to_numpy() for kind in ("true", "prob"))


@pytest.fixture(scope="module")
def folder(simulated_folder, tmp_path_factory):
    """The simulated records with a table in which some are noisy and some patients old."""
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "records100").symlink_to(simulated_folder / "records100")
    for name in ("scp_statements.csv", "RECORDS"):
        if (simulated_folder / name).exists():
            shutil.copy(simulated_folder / name, folder)
    table = pd.read_csv(simulated_folder / "ptbxl_database.csv", dtype=str, keep_default_na=False)
    table["age"] = [("300", "59.0", "", "60.0")[row % 4] for row in range(len(table))]
    table["baseline_drift"] = [(" , V1", "", " , V1", "NA")[row % 4] for row in range(len(table))]
    table["site"] = [("0.0", "1.0")[row == 3] for row in range(len(table))]
    table.to_csv(folder / "ptbxl_database.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "small", thresholds=[0.4] * len(LABELS))


@pytest.fixture(scope="module")
def evaluation(folder, model, simulated_cache, tmp_path_factory):
    """Of the training records, which are the most -> output folder, metrics, report."""
    output = tmp_path_factory.mktemp("evaluation") / "report"
    places = {"model_name_or_path": model, "data_dir": folder, "cache_dir": simulated_cache, "split": "train"}
    return output, *evaluate(output, **places, target_specificity=0.8)


def test_the_scores_are_those_of_scikit_learn_on_the_written_probabilities(evaluation):
    output, metrics, report = evaluation
    truth, scores = truth_and_scores(output)
    for name, score in (
        ("macro_auroc", sklearn_metrics.roc_auc_score),
        ("macro_auprc", sklearn_metrics.average_precision_score),
    ):
        expected = score(truth, scores, average="macro")
        assert metrics[name] == report["metrics"][name] == pytest.approx(expected, abs=1e-9)
        assert f"| {metrics['intervals'][name]['value']:.3f} [" in (output / "report.md").read_text()
    assert json.loads((output / "metrics.json").read_text()) == metrics == report["metrics"]
    brier = report["calibration"]["curves"]["before"]["brier_score"]["value"]
    assert brier == pytest.approx(np.mean((truth - scores) ** 2), abs=1e-9)


def test_each_operating_point_does_what_its_threshold_does(evaluation):
    output, _, report = evaluation
    truth, scores = truth_and_scores(output)
    points = report["operating_points"]
    assert points["chosen_on"] == "validation" and points["num_validation_records"] == 15
    assert list(points["rules"]) == ["max_f1", "sensitivity", "specificity", "stored"]
    assert [of["threshold"] for of in points["rules"]["stored"].values()] == [0.4] * len(LABELS)
    compared = 0
    for found in points["rules"].values():
        for column, label in enumerate(LABELS):
            if (of := found[label]) is None:
                continue
            called = scores[:, column] >= of["threshold"]
            for rate, score in (
                ("sensitivity", sklearn_metrics.recall_score(truth[:, column], called)),
                ("specificity", sklearn_metrics.recall_score(truth[:, column], called, pos_label=0)),
                ("ppv", sklearn_metrics.precision_score(truth[:, column], called, zero_division=np.nan)),
                ("f1", sklearn_metrics.f1_score(truth[:, column], called)),
            ):
                if of[rate] is None:
                    assert np.isnan(score)
                    continue
                assert of[rate]["value"] == pytest.approx(score, abs=1e-9)
                assert of[rate]["low"] is None or of[rate]["low"] <= score <= of[rate]["high"]
                compared += 1
    assert compared >= 60


@pytest.mark.parametrize("decimals", [1, 6])
def test_thresholds_are_the_best_of_all(decimals):
    rng = np.random.default_rng(decimals)
    scores = rng.random((300, 3)).round(decimals)
    labels = (rng.random(scores.shape) < scores).astype(float)
    labels[rng.random(scores.shape) < 0.2] = -100
    labels[:, 2] = 1
    points = choose_points(labels, scores, **TARGETS)
    assert {rule: thresholds[2] for rule, thresholds in points.items()} == dict.fromkeys(points)
    for column in range(2):
        known = labels[:, column] != -100
        truth, of_label = labels[known, column] == 1, scores[known, column]
        rates = {
            threshold: ((of_label >= threshold)[truth].mean(), (of_label < threshold)[~truth].mean())
            for threshold in [*np.unique(of_label), 2.0]
        }
        best = max(threshold for threshold, (sensitivity, _) in rates.items() if sensitivity >= 0.9)
        assert np.array_equal(of_label >= points["sensitivity"][column], of_label >= best)
        best = min(threshold for threshold, (_, specificity) in rates.items() if specificity >= 0.8)
        assert np.array_equal(of_label >= points["specificity"][column], of_label >= best)


def test_a_specificity_beyond_reach_has_no_threshold_and_rates_have_wilsons_interval():
    labels, scores = np.array([[1], [0], [0]]), np.array([[0.2], [1.0], [1.0]])
    assert choose_points(labels, scores, **TARGETS)["specificity"] == [None]
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0])[:, None]
    patients = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    found = judge_points(truth, truth.astype(float), [0.5], patients, 20, ["a"])["a"]
    expected = wilson_interval(1.0, 3, 0.95)  # three patients have a positive
    assert found["sensitivity"] == expected and expected["low"] < 0.5
    assert found["f1"] == {"value": 1.0, "low": None, "high": None} and found["true_positives"] == 4
    assert judge_points(truth, truth.astype(float), [None], patients, 20, ["a"]) == {"a": None}


# ---- Groups ----


def test_groups_are_those_of_the_table_and_have_scikit_learns_scores(evaluation, folder):
    output, _, report = evaluation
    table = pd.read_csv(folder / "ptbxl_database.csv").set_index("ecg_id")
    predictions = pd.read_csv(output / "predictions.csv").set_index("ecg_id")
    table = table.loc[predictions.index]
    groups = report["subgroups"]
    assert list(groups)[:4] == ["sex", "age", "device", "site"]
    counts = {group: of["num_records"] for group, of in groups["age"]["groups"].items()}
    counts |= groups["age"]["left_out"]
    expected = {"40-59": 59, "60-74": 60, "75 and over": 300}
    assert counts == {
        **{band: int((table.age == age).sum()) for band, age in expected.items()},
        "unknown": int(table.age.isna().sum()),
    }
    assert set(groups["sex"]["groups"]) == {"male", "female"}
    assert groups["site"]["left_out"] == {"1": 1}
    assert "Without a label that has 10 positives (records): 1 (1)." in (output / "report.md").read_text()
    affected = groups["baseline_drift"]["groups"]["affected"]
    rows = predictions[table.baseline_drift.notna()]
    kept = [label for label in LABELS if rows[f"true_{label}"].sum() >= 10]
    areas = [sklearn_metrics.roc_auc_score(rows[f"true_{label}"], rows[f"prob_{label}"]) for label in kept]
    assert affected["macro_auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert (affected["num_records"], affected["num_labels"]) == (len(rows), len(kept))
    whole = [sklearn_metrics.roc_auc_score(predictions[f"true_{x}"], predictions[f"prob_{x}"]) for x in kept]
    assert affected["all_records"]["macro_auroc"] == pytest.approx(np.mean(whole), abs=1e-9)
    assert affected["macro_auroc"]["low"] < affected["macro_auroc"]["value"] < affected["macro_auroc"]["high"]


def test_the_report_shows_its_figures_and_no_place_of_this_machine(evaluation, folder, model):
    output, _, report = evaluation
    text = (output / "report.md").read_text()
    names = ["labels", "precision_recall", "reliability", "subgroups"]
    assert sorted(path.name for path in (output / "figures").iterdir()) == sorted(
        f"{name}.{suffix}" for name in names for suffix in ("png", "svg")
    )
    assert [f"(figures/{name}.png)" in text for name in names] == [True] * 4
    assert report["model"] == "small" and "# Evaluation of small\n" in text and "training records" in text
    assert not any(str(place) in text + json.dumps(report) for place in (folder, model, output))


# ---- Temperature ----


def test_the_fitted_temperature_is_written_on_request_and_the_model_then_has_it(
    folder, model, simulated_cache, tmp_path, capsys
):
    own = shutil.copytree(model, tmp_path / "model")
    before = json.loads((own / "config.json").read_text())
    places = {"model_name_or_path": own, "data_dir": folder, "cache_dir": simulated_cache, "split": "validation"}
    _, report = evaluate(tmp_path / "fitted", **places, fit_temperature=True, update_model=True)
    printed = capsys.readouterr().out
    assert "macro" in printed and "AUROC" in printed and "{" not in printed
    assert f"The report is {tmp_path / 'fitted/report.md'}" in printed and "has the fitted temperature" in printed
    found = report["calibration"]
    fitted, curves = found["fitted_temperature"], found["curves"]
    assert fitted != 1 and curves["after"]["validation_loss"] < curves["before"]["validation_loss"]
    truth, scores = truth_and_scores(tmp_path / "fitted")
    loss = sklearn_metrics.log_loss(truth.ravel(), scores.ravel())
    assert curves["after"]["validation_loss"] == pytest.approx(loss, abs=1e-6)
    after = json.loads((own / "config.json").read_text())
    assert {name for name in after if after[name] != before.get(name)} == {"temperature", "thresholds"}
    assert after["temperature"] == fitted
    points = report["operating_points"]["rules"]["max_f1"]
    assert after["thresholds"] == [of["threshold"] for of in points.values()]
    assert ECGTransformerForMultiLabel.from_pretrained(own).config.temperature == fitted
    # The thresholds that it had are judged at the temperature that it had, 1.
    called = expit(fitted * logit(scores)) >= 0.4
    for column, of in enumerate(report["operating_points"]["rules"]["stored"].values()):
        assert of["true_positives"] == (called[:, column] & (truth[:, column] == 1)).sum()
        assert of["false_positives"] == (called[:, column] & (truth[:, column] == 0)).sum()
    # Judged again without the flag it gives the same probabilities, and nothing is written.
    written = (own / "config.json").read_bytes()
    _, again = evaluate(tmp_path / "again", **places)
    first, second = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("fitted", "again"))
    assert first == second and (own / "config.json").read_bytes() == written
    assert again["calibration"]["fitted_temperature"] == pytest.approx(fitted, rel=1e-3)
    # Before and after are alike then: what the temperature has changed is shown beside them.
    uncalibrated = again["calibration"]["curves"]["uncalibrated"]
    assert uncalibrated == curves["before"] and uncalibrated["temperature"] == 1 and "uncalibrated" not in curves
    assert "| uncalibrated | 1 |" in (tmp_path / "again/report.md").read_text()
    assert "**These are the validation records**" in (tmp_path / "again/report.md").read_text()


# ---- Robustness ----


def record(rate=500, seconds=10, names=LEAD_NAMES, seed=7):
    """Twelve leads that obey Einthoven's and Goldberger's equations."""
    rng = np.random.default_rng(0)
    one, two, *chest = rng.standard_normal((8, rate * seconds)).cumsum(axis=1) / 50
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    signal = dict(zip(LEAD_NAMES, [*limbs, *chest], strict=True))
    return Recording(np.array([signal[name] for name in names]), rate, names, seed)


def lead(recording, name):
    return recording.signal[list(recording.lead_names).index(name)]


@pytest.mark.parametrize("name", ["ra_la", "mains", "wander", "muscle_weak", "muscle_strong", "gain", "input_250_hz"])
def test_limb_leads_stay_consistent(name):
    changed = CHANGES[name].apply(record())
    np.testing.assert_allclose(lead(changed, "II") - lead(changed, "I"), lead(changed, "III"), atol=1e-9)
    np.testing.assert_allclose(-(lead(changed, "I") + lead(changed, "II")) / 2, lead(changed, "aVR"), atol=1e-9)


def test_exchanges_are_those_of_electrodes():
    original = record(names=tuple(reversed(LEAD_NAMES)))
    arms = CHANGES["ra_la"].apply(original)
    expected = {"II": "III", "III": "II", "aVR": "aVL", "aVL": "aVR", "aVF": "aVF", "V1": "V1"}
    for name, other in expected.items():
        np.testing.assert_array_equal(lead(arms, name), lead(original, other))
    np.testing.assert_array_equal(lead(arms, "I"), -lead(original, "I"))
    # Of fewer limb leads, too.
    for names in (("I", "II", "V1"), ("III", "I"), ("I", "aVR", "aVF"), ("aVL", "II", "I")):
        for name in names:
            fewer = CHANGES["ra_la"].apply(record(names=names))
            np.testing.assert_allclose(lead(fewer, name), lead(arms, name), atol=1e-9)
    chest = CHANGES["v1_v2"].apply(original)
    np.testing.assert_array_equal(lead(chest, "V1"), lead(original, "V2"))
    flat = CHANGES["without_V3"].apply(original)
    assert not lead(flat, "V3").any() and lead(flat, "V4").any() and lead(original, "V3").any()


def test_noise_has_the_amplitude_that_is_stated_and_depends_on_the_record_alone():
    def noise(name, **fields):
        original = record(**fields)
        return CHANGES[name].apply(original)._replace(signal=CHANGES[name].apply(original).signal - original.signal)

    for name, amplitude in (("muscle_weak", 0.02), ("muscle_strong", 0.1)):
        # Of the difference of two electrodes.
        assert lead(noise(name), "I").std() == pytest.approx(np.sqrt(2) * amplitude, rel=0.1)
        spectrum = np.abs(np.fft.rfft(lead(noise(name), "V1"))) ** 2
        assert spectrum[: 10 * 10].sum() < 0.02 * spectrum.sum()  # below 10 Hz
    for name, low, high in (("mains", 50, 50), ("wander", 0.1, 0.6)):
        spectrum = np.abs(np.fft.rfft(lead(noise(name), "V1")))
        assert low <= spectrum.argmax() / 10 <= high, name
        assert np.abs(noise(name).signal).max() <= 2 * (0.1 if name == "mains" else 0.5) + 1e-9
    for name in ("mains", "wander", "muscle_weak"):
        np.testing.assert_array_equal(noise(name).signal, noise(name).signal)
        assert np.abs(noise(name).signal - noise(name, seed=8).signal).max() > 0.001
    # A lead of another name has noise, too.
    assert lead(noise("mains", names=("V6",))._replace(lead_names=("MCL1",)), "MCL1").std() > 0


def test_rate_and_length_are_changed_as_stated():
    for rate in (250, 500):
        for original in (record(rate=100), record(rate=360)):
            changed = CHANGES[f"input_{rate}_hz"].apply(original)
            assert changed.sampling_rate == rate and changed.signal.shape == (12, 10 * rate)
    np.testing.assert_array_equal(CHANGES["input_500_hz"].apply(record()).signal, record().signal)
    assert CHANGES["first_seconds"].apply(record()).signal.shape == (12, 1250)
    np.testing.assert_allclose(CHANGES["gain"].apply(record()).signal, 2 * record().signal)


def test_changed_windows_are_those_of_changed_records(simulated_splits):
    rows = simulated_splits["test"].select(range(4))
    indices, extractor = range(4), small_extractor()
    plain = EvaluationWindows(rows, extractor).__getitems__(indices)
    same = ChangedWindows(rows, extractor, Change("none", "", lambda record: record)).__getitems__(indices)
    torch.testing.assert_close(same["input_values"], plain["input_values"], rtol=0, atol=1e-5)
    swapped = ChangedWindows(rows, extractor, CHANGES["v1_v2"]).__getitems__(indices)
    first, second = LEAD_NAMES.index("V1"), LEAD_NAMES.index("V2")
    order = list(range(12))
    order[first], order[second] = second, first
    torch.testing.assert_close(swapped["input_values"], plain["input_values"][:, :, order], rtol=0, atol=1e-5)


def test_faults_are_compared_on_the_same_records(folder, model, simulated_cache, tmp_path):
    places = {"model_name_or_path": model, "data_dir": folder, "cache_dir": simulated_cache, "split": "train"}
    _, report = evaluate(tmp_path / "report", **places, robustness=True, robustness_max_records=100)
    found = report["robustness"]
    assert found["num_records"] == 100 and found["left_out"] == []
    assert list(found["changes"]) == list(CHANGES)
    for change in found["changes"].values():
        for measure in ("macro_auroc", "macro_auprc"):
            of = change[measure]
            assert of["low"] <= of["value"] <= of["high"]
            assert -found["unchanged"][measure] <= of["value"] <= 1
    # The model resamples to its own rate: little is lost; without a lead the answers are others.
    assert abs(found["changes"]["input_500_hz"]["macro_auroc"]["value"]) < 0.02
    assert any(found["changes"][f"without_{name}"]["macro_auroc"]["value"] != 0 for name in LEAD_NAMES)
    text = (tmp_path / "report/report.md").read_text()
    assert "| RA and LA exchanged |" in text and "(figures/robustness.png)" in text


# ---- Own tables, other kinds of targets ----


@pytest.fixture(scope="module")
def own(simulated_folder, simulated_splits, tmp_path_factory):
    """Own tables of the simulated records, with decimal commas: 64 of training and validation, and 40 others."""
    table = tmp_path_factory.mktemp("own")
    rows = simulated_splits["train"].select(range(104)).remove_columns("signal")
    labels = np.array(rows["labels"]).astype(int)
    data = pd.DataFrame(labels, columns=LABELS)
    data.insert(0, "path", list(rows["filename"]))
    data["class"] = [LABELS[row.argmax()] for row in labels]
    data["Age"] = [f"{30 + row % 60},5" for row in range(len(data))]
    data.loc[64:67, "Age"] = ["-1", "999", "300", "0"]
    data["ward"] = [("A", "B", "C")[min(row % 12, 2)] for row in range(len(data))]
    data["split"] = [("train", "validation")[row % 2] for row in range(len(data))]
    data[:64].to_csv(table / "ecgs.csv", index=False, sep=";")
    data[64:].drop(columns="split").to_csv(table / "others.csv", index=False, sep=";")
    return {"data_dir": simulated_folder, "cache_dir": table / "cache"}, table


def test_own_columns_make_groups_and_without_validation_nothing_is_chosen(own, model, tmp_path):
    places, tables = own
    places = {**places, "model_name_or_path": model, "label_columns": LABELS, "test_table": tables / "others.csv"}
    _, report = evaluate(tmp_path / "report", **places, subgroup_columns=["ward", "Age"])
    groups = report["subgroups"]
    counts = {
        **{name: of["num_records"] for name, of in groups["ward"]["groups"].items()},
        **groups["ward"]["left_out"],
    }
    assert sum(counts.values()) == 40 and set(counts) == {"A", "B", "C"}
    ages = {
        **{name: of["num_records"] for name, of in groups["Age"]["groups"].items()},
        **groups["Age"]["left_out"],
    }
    # The first four have -1, 999, 300 and 0.
    years = [30 + row % 60 for row in range(68, 104)]
    assert ages == {
        "under 40": sum(age < 40 for age in years) + 1,
        "40-59": sum(40 <= age < 60 for age in years),
        "60-74": sum(60 <= age < 75 for age in years),
        "75 and over": sum(age >= 75 for age in years) + 1,
        "unknown": 2,
    }
    assert list(report["operating_points"]["rules"]) == ["stored"]
    assert report["calibration"]["fitted_temperature"] is None and list(report["calibration"]["curves"]) == ["before"]
    text = (tmp_path / "report/report.md").read_text()
    assert "No threshold was chosen" in text and "No temperature was fitted" in text
    for chosen in ({"fit_temperature": True}, {"target_specificity": 0.8}):
        with pytest.raises(ValueError, match=f"`--{next(iter(chosen))}` needs validation records"):
            evaluate(tmp_path / "other", **places, **chosen)
    with pytest.raises(ValueError, match="`subgroup_columns`: the table .* has no column `wing`; it has path"):
        evaluate(tmp_path / "other", **places, subgroup_columns=["wing"])
    assert not (tmp_path / "other").exists()


def test_a_label_that_validation_cannot_judge_keeps_its_threshold_at_the_new_temperature(
    own, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("ecg_hf.evaluation.run.draw_figures", lambda *arguments: [])
    places, tables = own
    data = pd.read_csv(tables / "ecgs.csv", sep=";", dtype=str)
    data.loc[data["split"] == "validation", "MI"] = ""
    data.to_csv(tmp_path / "ecgs.csv", index=False)
    model = save(tmp_path / "model", thresholds=[0.1, 0.2, 0.9, 0.3, 0.4], temperature=3.0)
    places = {**places, "table": tmp_path / "ecgs.csv", "label_columns": LABELS, "split_column": "split"}
    places |= {"model_name_or_path": model, "split": "validation", "fit_temperature": True, "update_model": True}
    _, report = evaluate(tmp_path / "report", **places)
    config = json.loads((model / "config.json").read_text())
    points = report["operating_points"]["rules"]["max_f1"]
    assert points["MI"] is None and config["temperature"] not in (1, 3)
    # A window whose logit is 3 logit(0.9) has that threshold as its probability before and after.
    expected = {name: of["threshold"] for name, of in points.items() if of is not None}
    expected["MI"] = expit(3 * logit(0.9) / config["temperature"])
    assert config["thresholds"] == pytest.approx([expected[name] for name in LABELS])
    assert "1 of 5 labels lack positive or negative validation records" in caplog.text
    assert "MI (0.9, now" in caplog.text


def test_ages_that_tables_hide_are_in_bands_and_text_among_ages_is_refused(own, model, tmp_path):
    places, tables = own
    data = pd.read_csv(tables / "others.csv", sep=";")
    data["age"] = ["> 89", "90+", ">= 90", "\u2265 90", "39.5", *["60"] * 35]
    data["AGE"] = ["75+"] * 38 + ["under 75", ""]
    data.to_csv(tables / "old.csv", index=False)
    places = {**places, "model_name_or_path": model, "label_columns": LABELS, "test_table": tables / "old.csv"}
    _, report = evaluate(tmp_path / "report", **places, subgroup_columns=["age", "AGE"])
    found = {
        name: {**groups["left_out"], **{group: of["num_records"] for group, of in groups["groups"].items()}}
        for name, groups in report["subgroups"].items()
    }
    assert found["age"] == {"75 and over": 4, "under 40": 1, "60-74": 35}
    assert found["AGE"] == {"75+": 38, "under 75": 1, "unknown": 1}
    data["age"] = ["adult", *data["age"][1:]]
    data.to_csv(tables / "old.csv", index=False)
    with pytest.raises(ValueError, match="`age` has years, and in 1 rows something else, such as 'adult': write ages"):
        evaluate(tmp_path / "other", **places, subgroup_columns=["age"])


def test_a_report_of_classes_leaves_thresholds_out(own, tmp_path, capsys):
    places, tables = own
    path = save(tmp_path / "model", labels=LABELS, problem_type="single_label_classification")
    places = {**places, "model_name_or_path": path, "table": tables / "ecgs.csv", "label_column": "class"}
    places |= {"split_column": "split", "split": "validation", "fit_temperature": True, "update_model": True}
    metrics, report = evaluate(tmp_path / "report", **places, compare_with=path)
    assert f"{path} has the fitted temperature.\n" in capsys.readouterr().out
    found = metrics["comparison"]  # with itself, but at the temperature that it had
    assert found["other"]["macro_auroc"] != metrics["macro_auroc"]
    difference = found["difference"]["macro_auroc"]["value"]
    assert found["other"]["macro_auroc"] + difference == pytest.approx(metrics["macro_auroc"], abs=1e-9)
    assert report["operating_points"] is None and report["metrics"]["accuracy"] == metrics["accuracy"]
    curves = report["calibration"]["curves"]
    assert curves["after"]["validation_loss"] < curves["before"]["validation_loss"]
    table = pd.read_csv(tmp_path / "report/predictions.csv")
    right = [row[f"prob_{row.true_class}"] for _, row in table.iterrows()]
    assert curves["after"]["validation_loss"] == pytest.approx(-np.log(right).mean(), abs=1e-5)
    text = (tmp_path / "report/report.md").read_text()
    assert "the most probable class is the answer" in text and "It was written into the checkpoint.\n" in text


def test_a_report_of_numbers_has_errors_by_group_and_under_faults(own, tmp_path, capsys):
    places, tables = own
    numbers = {"problem_type": "regression", "target_mean": [60.0], "target_std": [10.0]}
    path = save(tmp_path / "model", labels=["Age"], **numbers)
    places = {**places, "model_name_or_path": path, "table": tables / "ecgs.csv", "label_columns": ["Age"]}
    places |= {"split_column": "split", "split": "validation"}
    faults = {"robustness": True, "robustness_max_records": 30}
    other = save(tmp_path / "worse", labels=["Age"], **{**numbers, "target_mean": [70.0], "target_std": [30.0]})
    metrics, report = evaluate(tmp_path / "report", **places, subgroup_columns=["ward"], compare_with=other, **faults)
    assert report["operating_points"] is report["calibration"] is None
    rows = pd.read_csv(tmp_path / "report/predictions.csv")
    table = pd.read_csv(tables / "ecgs.csv", sep=";").set_index("path").loc[rows.ecg_id]
    errors = [np.abs(rows.true_Age - said).mean() for said in (rows.pred_Age, 70 + 3 * (rows.pred_Age - 60))]
    assert metrics["comparison"]["other"]["mae"] == pytest.approx(errors[1], rel=1e-5)
    difference = metrics["comparison"]["difference"]["mae"]
    assert difference["value"] == pytest.approx(errors[0] - errors[1], rel=1e-4)
    assert difference["low"] < difference["value"] < difference["high"]
    rows = rows[(table.ward == "C").to_numpy()]
    expected = np.abs(rows.true_Age - rows.pred_Age).mean()
    assert report["subgroups"]["ward"]["groups"]["C"]["mae"]["value"] == pytest.approx(expected, rel=1e-6)
    assert report["robustness"]["changes"]["v1_v2"]["mae"]["value"] != 0
    text = (tmp_path / "report/report.md").read_text()
    assert "numbers have no probabilities" in text and "more is worse" in text
    assert "## Compared with worse" in text and "lower is better" in text
    assert "mean absolute error" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`--fit_temperature` is for probabilities"):
        evaluate(tmp_path / "other", **places, fit_temperature=True)
    with pytest.raises(ValueError, match="`--target_sensitivity` is for the thresholds of several labels; .* numbers"):
        evaluate(tmp_path / "other", **places, target_sensitivity=0.8)


def test_two_checkpoints_are_compared_in_pairs(folder, model, simulated_cache, evaluation, tmp_path, capsys):
    other = save(tmp_path / "other", labels=LABELS[::-1], temperature=2.0)  # the same labels in another order
    places = {"data_dir": folder, "cache_dir": simulated_cache, "split": "train", "report": False}
    cli.evaluate(flags(model_name_or_path=other, output_dir=tmp_path / "its", use_cpu=True, **places))
    capsys.readouterr()
    places |= {"report": True, "model_name_or_path": model, "compare_with": other}
    metrics, report = evaluate(tmp_path / "report", **places)
    found = metrics["comparison"]
    assert found["model"] == "other"

    truth, ours = truth_and_scores(evaluation[0])
    _, theirs = truth_and_scores(tmp_path / "its")
    records = pd.read_csv(folder / "ptbxl_database.csv").set_index("ecg_id")
    patients = records.patient_id.loc[pd.read_csv(tmp_path / "report/predictions.csv").ecg_id].to_numpy()
    halves = np.concatenate(list(draw_halves(np.unique(patients, return_inverse=True)[1], 50, seed=0)))
    num_patients = len(np.unique(patients))
    margin = 1.96 * np.sqrt((num_patients // 2) / (num_patients - num_patients // 2))
    printed = capsys.readouterr().out
    for name, score in (
        ("macro_auroc", sklearn_metrics.roc_auc_score),
        ("macro_auprc", sklearn_metrics.average_precision_score),
    ):
        value = score(truth, ours) - score(truth, theirs)
        assert value != 0 and found["other"][name] == pytest.approx(score(truth, theirs), abs=1e-9)
        of_halves = [[score(truth, scores, sample_weight=half) for half in halves] for scores in (ours, theirs)]
        error = margin * np.std(np.subtract(*of_halves), ddof=1)
        low, high = value - error, value + error
        assert found["difference"][name] == pytest.approx({"value": value, "low": low, "high": high}, abs=1e-9)
        assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" in printed
        assert f"| {value:+.3f} [{low:+.3f}, {high:+.3f}] |" in (tmp_path / "report/report.md").read_text()
    del metrics["comparison"]
    assert metrics == evaluation[1]  # the figures of the model itself are those without another


def test_checkpoints_of_other_labels_or_kinds_are_not_compared(own, model, tmp_path):
    places, tables = own
    places = {**places, "label_columns": LABELS, "table": tables / "ecgs.csv", "split_column": "split"}
    places |= {"split": "validation", "model_name_or_path": model}
    numbers = {"problem_type": "regression", "target_mean": [0.0] * len(LABELS), "target_std": [1.0] * len(LABELS)}
    for fields, message in (
        ({"labels": LABELS[:-1]}, "other` gives the labels .*: compare checkpoints with the same labels"),
        ({"labels": LABELS, **numbers}, "other` is of the kind regression, .* of multi_label_classification"),
    ):
        with pytest.raises(ValueError, match=f"`--compare_with .*{message}"):
            evaluate(tmp_path / "report", **places, compare_with=save(tmp_path / "other", **fields))
    with pytest.raises(OSError, match="nowhere"):
        evaluate(tmp_path / "report", **places, compare_with=tmp_path / "nowhere")
    assert not (tmp_path / "report").exists()


# ---- Bad input ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_sensitivity": 0}, "`target_sensitivity` must lie between 0 and 1, got 0"),
        ({"target_specificity": 1.0}, "`target_specificity` must lie between 0 and 1, got 1.0"),
        ({"update_model": True}, "`--update_model` writes what `--fit_temperature` finds"),
        ({"robustness_max_records": 5}, "`--robustness_max_records` is for `--robustness`"),
        ({"robustness": True, "robustness_max_records": 0}, "`robustness_max_records` must be at least 1, got 0"),
        ({"report": False, "robustness": True}, "`--robustness` is for the report"),
        ({"report": False, "subgroup_columns": ["sex"]}, "`--subgroup_columns` is for the report"),
        ({"report": False, "target_sensitivity": 0.8}, "`--target_sensitivity` is for the report"),
        ({"split": "tset"}, "`split` must be one of train, validation, test"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EvaluationArguments(model_name_or_path="m", output_dir="o", **values)


def test_what_cannot_be_done_is_refused_before_anything_is_written(folder, model, simulated_cache, tmp_path):
    places = {"model_name_or_path": model, "data_dir": folder, "cache_dir": simulated_cache}
    with pytest.raises(ValueError, match="have no column `weather`; they have .*device.*others of ptbxl_database.csv"):
        evaluate(tmp_path / "report", **places, subgroup_columns=["weather"])
    places["model_name_or_path"] = "owner/name"
    with pytest.raises(ValueError, match="`owner/name` has no config.json here: download the checkpoint"):
        evaluate(tmp_path / "report", **places, fit_temperature=True, update_model=True)
    assert not (tmp_path / "report").exists()


def test_of_several_processes_the_first_prints(monkeypatch, capsys):
    class Run:
        evaluate = staticmethod(lambda *arguments: {"loss": 0.5})
        summary = staticmethod(lambda metrics, arguments: f"loss {metrics['loss']}")

    monkeypatch.setattr(cli, "_load", lambda name: Run)
    given = flags(model_name_or_path="x", data_dir="x", output_dir="x")
    for is_first, printed in ((True, "loss 0.5\n"), (False, "")):
        monkeypatch.setattr(PartialState, "is_main_process", is_first)
        cli.evaluate(given)
        assert capsys.readouterr().out == printed


def test_without_a_report_there_are_metrics_and_predictions_alone(
    folder, model, simulated_cache, evaluation, tmp_path, capsys
):
    places = {"model_name_or_path": model, "data_dir": folder, "cache_dir": simulated_cache, "split": "train"}
    given = flags(output_dir=tmp_path, num_bootstrap_resamples=50, use_cpu=True, report=False, **places)
    cli.evaluate(given)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions.csv"}
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (evaluation[0] / name).read_bytes()
    assert f"metrics.json and predictions.csv are in {tmp_path}" in capsys.readouterr().out
