import sys

import numpy as np
import pytest
from matplotlib.image import imread

from ecg_hf.plotting import plot_ecg, plot_label_metrics, plot_learning_curves

LEAD_NAMES = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
MM_PER_INCH = 25.4


def simulate(seconds=10, sampling_rate=100, leads=12):
    """Each lead is a spike per second, as high in mV as the lead's number from 1 divided by 10."""
    signal = np.zeros((leads, int(seconds * sampling_rate)))
    signal[:, sampling_rate // 2 :: sampling_rate] = (np.arange(leads)[:, None] + 1) / 10
    return signal


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def traces(figure, num_samples):
    """The traces of `num_samples` samples, each (2, samples): mm from the left and from the bottom."""
    return [line.get_xydata().T for line in figure.axes[0].lines if len(line.get_xydata()) == num_samples]


def log_of(stage, aurocs):
    for epoch, auroc in enumerate(aurocs, start=1):
        yield {"stage": stage, "epoch": epoch - 0.5, "loss": 0.5 / epoch, "learning_rate": 0.001}
        yield {"stage": stage, "epoch": epoch, "loss": 0.4 / epoch, "learning_rate": 0.001}
        yield {
            "stage": stage,
            "epoch": epoch,
            "eval_loss": 0.6 / epoch,
            "eval_macro_auroc": auroc,
            "eval_macro_auprc": auroc / 2,
        }


def test_standard_ecg_is_printed_in_three_rows_and_a_rhythm_strip():
    figure = plot_ecg(simulate(), sampling_rate=100, lead_names=LEAD_NAMES, title="Record 1")
    assert texts(figure)[:13] == "I aVR V1 V4 II aVL V2 V5 III aVF V3 V6 II".split()
    assert texts(figure)[13:] == ["Record 1", "25 mm/s    10 mm/mV    100 Hz"]
    assert len(traces(figure, 250)) == 12
    assert len(traces(figure, 1000)) == 1


@pytest.mark.parametrize("sampling_rate", [100, 500])
def test_picture_is_to_scale(sampling_rate):
    figure = plot_ecg(simulate(sampling_rate=sampling_rate), sampling_rate=sampling_rate, lead_names=LEAD_NAMES)
    [axes] = figure.axes
    width, height = figure.get_size_inches() * MM_PER_INCH
    assert (*axes.get_xlim(), *axes.get_ylim()) == pytest.approx((0, width, 0, height))
    assert tuple(axes.get_position().bounds) == (0, 0, 1, 1)

    [(x, y)] = traces(figure, 10 * sampling_rate)
    assert x[sampling_rate] - x[0] == pytest.approx(25)
    assert y.max() - y.min() == pytest.approx(2)  # lead II has 0.2 mV
    pulse_x, pulse_y = traces(figure, 6)[0]
    assert np.ptp(pulse_y) == pytest.approx(10)
    assert pulse_x[3] - pulse_x[2] == pytest.approx(5)


def test_each_lead_shows_its_own_quarter_of_the_record():
    signal = simulate()
    signal[:, 900] = 1.5  # after the first three quarters
    figure = plot_ecg(signal, sampling_rate=100, lead_names=LEAD_NAMES)
    heights = [np.ptp(y) for _, y in traces(figure, 250)]
    assert [height > 14 for height in heights] == [False, False, False, True] * 3


def test_leads_are_found_by_name_whatever_their_order_and_spelling():
    signal, names = simulate(), [name.upper() for name in LEAD_NAMES]
    straight = plot_ecg(signal, sampling_rate=100, lead_names=LEAD_NAMES)
    reordered = plot_ecg(signal[::-1], sampling_rate=100, lead_names=names[::-1])
    assert texts(reordered) == texts(straight)
    for one, other in zip(traces(straight, 250), traces(reordered, 250), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("seconds", "lead_names"), [(5, LEAD_NAMES), (10, LEAD_NAMES[:3]), (10, LEAD_NAMES + ["II"]), (0.01, ["V1"])]
)
def test_other_records_have_one_row_for_each_lead(seconds, lead_names):
    signal = simulate(seconds, leads=len(lead_names))
    figure = plot_ecg(signal, sampling_rate=100, lead_names=lead_names)
    assert texts(figure)[: len(lead_names)] == lead_names
    assert len(traces(figure, signal.shape[1])) == len(lead_names)


@pytest.mark.parametrize("seconds", [5, 10])
def test_rows_do_not_touch_and_stay_on_the_paper(seconds):
    signal = simulate(seconds)
    signal[:, 100::250] = 2.4
    signal[:, 110::250] = -2.4
    figure = plot_ecg(signal, sampling_rate=100, lead_names=LEAD_NAMES)
    rows = {}
    for _, y in traces(figure, seconds * 100) + (traces(figure, 250) if seconds == 10 else []):
        rows.setdefault(round(float(np.median(y)), 6), []).extend([y.min(), y.max()])
    extents = [(min(ends), max(ends)) for _, ends in sorted(rows.items())]
    assert len(extents) == (12 if seconds == 5 else 4)
    assert extents[0][0] > 0
    assert extents[-1][1] < figure.axes[0].get_ylim()[1]
    assert all(above[0] > below[1] for below, above in zip(extents, extents[1:], strict=False))


def test_missing_samples_are_a_gap():
    signal = simulate()
    signal[0] = np.nan
    signal[1, 100:200] = np.nan
    figure = plot_ecg(signal, sampling_rate=100, lead_names=LEAD_NAMES)
    [(_, rhythm)] = traces(figure, 1000)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(rhythm)), np.arange(100, 200))


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (simulate().T, r"\(12 leads, samples\).*got \(1000, 12\): are the axes swapped\?"),
        (simulate()[:3], r"\(12 leads, samples\).*got \(3, 1000\)\."),
        (simulate()[:, :0], r"got \(12, 0\)"),
        ((simulate() * 1000).astype(np.int16), "floats in mV, got int16"),
        (simulate() * 1000, "reaches 1200: divide it by 1000"),
        (simulate(61), "61 s long, the maximum is 60 s"),
    ],
)
def test_bad_signals_are_refused(signal, message):
    with pytest.raises(ValueError, match=message):
        plot_ecg(signal, sampling_rate=100, lead_names=LEAD_NAMES)


def test_pictures_are_saved_whole_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would now fail
    title = "$x_ is no formula$"
    figure = plot_ecg(simulate(), sampling_rate=100, lead_names=LEAD_NAMES, path=tmp_path / "ecg.png", title=title)
    plot_learning_curves(list(log_of("probe", [0.7, 0.8])), tmp_path / "curves.png")
    plot_learning_curves(list(log_of("probe", [0.7, 0.8])), str(tmp_path / "curves.svg"))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "curves.svg", "ecg.png"]
    height, width, _ = imread(tmp_path / "ecg.png").shape
    assert (width, height) == pytest.approx(figure.get_size_inches() * 150, abs=1)
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_failed_saving_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def fail(figure, file, **kwargs):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        plot_learning_curves(list(log_of("probe", [0.7])), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_learning_curves_show_both_stages_side_by_side(tmp_path):
    log = [*log_of("probe", [0.7, 0.8, 0.8]), *log_of("finetune", [0.85, 0.91, 0.9])]
    parts = [{**entry, "epoch": entry["epoch"] / 7} for entry in log_of("probe", [0.7, 0.8, 0.8])]  # within an epoch
    assert "best epoch 0.29:" in plot_learning_curves(parts, tmp_path / "parts.png").axes[0].get_title()
    log.append({"epoch": 3, "train_runtime": 3.0, "train_loss": 0.2})
    figure = plot_learning_curves(log, tmp_path / "curves.png")

    grid = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["loss", "macro AUROC", "macro AUPRC"]
    assert [axes.get_title() for axes in grid[0]] == [
        "Linear probe\nbest epoch 2: AUROC 0.800, AUPRC 0.400",  # the earlier of equals
        "Fine-tuning\nbest epoch 2: AUROC 0.910, AUPRC 0.455",
    ]
    training, validation, best = grid[0, 1].lines
    np.testing.assert_allclose(training.get_xydata()[:3], [[0.5, 0.5], [1, 0.4], [1.5, 0.25]])
    np.testing.assert_allclose(validation.get_xydata(), [[1, 0.6], [2, 0.3], [3, 0.2]])
    assert set(best.get_xdata()) == {2}
    np.testing.assert_allclose(grid[1, 1].lines[0].get_ydata(), [0.85, 0.91, 0.9])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "validation", "best epoch"]


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        (None, "best epoch 2: AUROC 0.900, AUPRC 0.450"),
        ("eval_macro_auprc", "best epoch 2: AUPRC 0.45"),
        ("loss", "best epoch 3: loss 0.2"),
        ("f_max", None),
    ],
)
def test_learning_curves_of_one_stage_mark_the_epoch_that_the_metric_chooses(tmp_path, metric, title):
    log = list(log_of("finetune", [float("nan"), 0.9, 0.8]))
    figure = plot_learning_curves(log, tmp_path / "curves.png", metric)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title() == ("Fine-tuning" if title is None else f"Fine-tuning\n{title}")


def test_learning_curves_without_validation_have_the_loss_only(tmp_path):
    log = [entry for entry in log_of("finetune", [0.85, 0.9]) if "loss" in entry]
    figure = plot_learning_curves(log, tmp_path / "curves.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
    assert figure.axes[0].get_title() == "Fine-tuning"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([], "None of the 0 entries"),
        ([{"train_loss": 0.3, "epoch": 1}], "None of the 1 entries .* has any of loss, eval_loss"),
        ([{"loss": 0.3, "epoch": 1}], "Entry 0 .* needs `stage` and `epoch`, has .'epoch', 'loss'."),
    ],
)
def test_a_log_that_cannot_be_drawn_is_refused(tmp_path, log, message):
    with pytest.raises(ValueError, match=message):
        plot_learning_curves(log, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_labels_are_drawn_from_top_to_bottom_with_figures_and_counts(tmp_path):
    per_label = {
        "MI": {
            "auroc": 0.93,
            "auroc_interval": [0.9, 0.95],
            "auprc": 0.8,
            "auprc_interval": [0.7, 0.9],
            "num_positive": 20,
            "num_known": 100,
        },
        "$X_1$": {
            "auroc": None,
            "auroc_interval": None,
            "auprc": None,
            "auprc_interval": None,
            "num_positive": 0,
            "num_known": 100,
        },
    }
    figure = plot_label_metrics(per_label, tmp_path / "labels.png", "test")
    auroc, auprc = figure.axes
    assert [label.get_text() for label in auroc.get_yticklabels()] == ["MI  (20)", "$X_1$  (0)"]
    assert auroc.get_ylim()[0] > auroc.get_ylim()[1]
    assert [[text.get_text() for text in axes.texts] for axes in (auroc, auprc)] == [["0.930"], ["0.800"]]
    assert auprc.lines[1].get_xdata() == [0.2], "the AUPRC of chance"
    assert imread(tmp_path / "labels.png").size


def test_shades_over_an_ecg_are_those_asked_for(tmp_path):
    """A palette made the darkest blue of an attribution grey."""
    from PIL import Image

    plot_ecg(np.zeros((12, 1000)), sampling_rate=100, lead_names=LEAD_NAMES, path=tmp_path / "ecg.png")
    assert Image.open(tmp_path / "ecg.png").mode == "RGBA"
