"""Reliability and precision-recall curves, against scikit-learn, and what their figures show."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from scipy.spatial import KDTree
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve

from ecg_hf import card_curves
from ecg_hf.curves import (
    ReliabilityCurve,
    plot_precision_recall,
    plot_reliability,
    precision_recall_curves,
    reliability_curve,
)
from ecg_hf.metrics import calibration_metrics
from ecg_hf.plotting import save_figure


def made_up(num_labels=3, num_records=400):
    """Labels with unknown cells, and probabilities with ties, none of them at the edge of one of 10 or 20 bins."""
    rng = np.random.default_rng(0)
    scores = (rng.integers(0, 100, (num_records, num_labels)) + 0.5) / 100
    labels = (rng.random(scores.shape) < scores**2).astype(float)
    labels[rng.random(scores.shape) < 0.2] = -100
    return labels, scores


@pytest.mark.parametrize("num_bins", [1, 10, 20])
def test_reliability_is_that_of_scikit_learn(num_bins):
    labels, scores = made_up()
    known = labels != -100
    curve = reliability_curve(labels, scores, num_bins)
    share, mean = calibration_curve(labels[known], scores[known], n_bins=num_bins)
    np.testing.assert_allclose(curve.share_positive, share)
    np.testing.assert_allclose(curve.mean_probability, mean)
    assert curve.count.sum() == known.sum()
    if num_bins == 10:
        expected = calibration_metrics(labels, scores, 2)["calibration_error"]["value"]
        assert curve.calibration_error == pytest.approx(expected, abs=1e-12)


def test_an_empty_bin_is_empty_and_a_single_label_may_be_a_vector():
    curve = reliability_curve([1, 0, -100], [0.95, 0.05, 0.5])
    assert curve.count.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert np.isnan(curve.share_positive[1:-1]).all() and curve.calibration_error == pytest.approx(0.05)


def test_precision_and_recall_are_those_of_scikit_learn():
    labels, scores = made_up()
    labels[:, 2] = 0
    curves = precision_recall_curves(labels, scores, ["a", "b", "c"])
    assert curves["c"] is None
    for column, name in enumerate("ab"):
        known = labels[:, column] != -100
        truth, of_label = labels[known, column], scores[known, column]
        curve = curves[name]
        assert curve.average_precision == pytest.approx(average_precision_score(truth, of_label), abs=1e-12)
        precision, recall, _ = precision_recall_curve(truth, of_label)
        np.testing.assert_allclose(curve.recall, recall[::-1])
        np.testing.assert_allclose(curve.precision[1:], precision[-2::-1])
        assert (curve.num_positive, curve.num_known) == (truth.sum(), known.sum())


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_say_what_they_show(tmp_path, suffix):
    labels, scores = made_up(num_labels=15)
    labels[:, 14] = 0
    after = reliability_curve(labels, scores**2)
    path = tmp_path / f"figure.{suffix}"
    figure = plot_reliability({"before": reliability_curve(labels, scores), "after": after}, path, "$ of $")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend[0] == "perfect" and legend[2] == f"after: calibration error {after.calibration_error:.3f}"
    first = path.read_bytes()
    plot_reliability({"before": reliability_curve(labels, scores), "after": after}, path, "$ of $")
    assert path.read_bytes() == first and (suffix == "svg" or imread(path).std() > 0)
    figure = plot_precision_recall(precision_recall_curves(labels, scores))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == 13 and legend[-1] == "and 3 more labels, not drawn"
    known = int((labels[:, 0] != -100).sum())
    assert any(text.endswith(f"({int((labels[:, 0] == 1).sum())} of {known})") for text in legend)
    assert [*tmp_path.iterdir()] == [path]


def test_curves_of_a_run_know_classes_as_they_are_written(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(card_curves, "save_curves", lambda figures, folder: drawn.update(figures))
    classes = ["01", "1", "None"]
    scores = {f"prob_{name}": np.full(7, 1 / 3) for name in classes}
    table = pd.DataFrame({"ecg_id": range(7), **scores, "true_class": [*classes, *classes, None]})
    table.to_csv(tmp_path / "test_predictions.csv", index=False)
    card_curves.draw_curves(tmp_path, "test", classes)
    legend = [text.get_text() for text in drawn["precision_recall"].axes[0].get_legend().get_texts()]
    assert len(legend) == 3 and all(text.endswith("(2 of 6)") for text in legend)


@pytest.mark.parametrize("counts", [(6200, 950, 270), (150_000, 900, 470), (9, 3, 1), (40, 38, 33), (1, 1, 1)])
def test_numbers_at_the_bars_are_not_written_over_one_another(counts):
    share = np.array([0.1, 0.5, 0.9])
    figure = plot_reliability({"all": ReliabilityCurve(share, share, np.array(counts))})
    figure.draw_without_rendering()
    axes = figure.axes[1]
    labels = [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)]
    low, high = axes.get_ylim()
    assert low < 1, "the lowest bar seems empty"
    shown = [label for label in labels if label.get_text() and low <= label.get_position()[1] <= high]
    boxes = sorted((box.y0, box.y1) for box in (label.get_window_extent() for label in shown))
    assert len(boxes) > 1 and all(top < bottom for (_, top), (bottom, _) in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1, 0]], [[0.5]], r"one shape.*got \(1, 2\) and \(1, 1\)"),
        ([], [], "one shape"),
        ([-100], [0.5], "None of the labels of 1 records is known"),
        ([2], [0.5], "0, 1 or -100"),
        ([1], [float("nan")], "must be finite, but 1 of 1"),
        ([1], [1.5], r"lie in \[0, 1\], but 1 of 1"),
    ],
)
def test_what_is_no_label_or_probability_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        reliability_curve(labels, scores)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        reliability_curve([1], [0.5], 0)
    with pytest.raises(ValueError, match="2 different names, got"):
        precision_recall_curves([[1, 0]], [[0.1, 0.2]], ["a", "a"])
    with pytest.raises(ValueError, match="0 curves to draw"):
        plot_precision_recall(precision_recall_curves([[1], [1]], [[0.1], [0.2]]))
    with pytest.raises(ValueError, match="0 curves to draw"):
        plot_reliability({})


def test_pictures_are_small_and_lose_nothing_that_is_seen(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((20_000, 12)) < 0.3).astype(int)
    curves = precision_recall_curves(labels, labels + rng.normal(size=labels.shape))
    figure = plot_precision_recall(curves)
    drawn = {line.get_label().partition(":")[0]: line for line in figure.axes[0].lines}
    for name, curve in curves.items():
        points = np.stack(drawn[name].get_data(), axis=1)
        assert len(points) < len(curve.recall) / 10
        distances, _ = KDTree(points).query(np.stack([curve.recall, curve.precision], axis=1), p=np.inf)
        assert distances.max() <= 1 / 125 and points[-1][0] == 1
    save_figure(figure, tmp_path / "figure.svg", tmp_path / "figure.png")
    assert (tmp_path / "figure.svg").stat().st_size < 130_000 and (tmp_path / "figure.png").stat().st_size < 80_000
    assert "precision (PPV)" in (tmp_path / "figure.svg").read_text()  # as text, which a page can be searched for
