"""Where an answer comes from: integrated gradients, attention roll-out, their pictures, and whether they tell of the
model."""

import importlib.util
import json
import os
import pathlib
import warnings

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from recorded import CUT
from small_models import small_extractor, small_model
from test_conversion import convert
from test_inference import microvolts, write_record
from torch.overrides import TorchFunctionMode

import ecg_hf
from ecg_hf import cli
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.inference.attribution_check import with_random_weights
from ecg_hf.inference.rollout import token_field
from ecg_hf.inference.windows import classifier_of, cut_windows
from ecg_hf.plotting import plot_ecg

LABELS = ["NORM", "MI", "STTC"]
CHECK = pathlib.Path(__file__).parents[1] / "training" / "check_attribution.py"


def model_of(**fields):
    return small_model(fields.pop("labels", LABELS), **{"initializer_range": 0.3, **fields}).eval()


def recording(seconds=4.3, leads=LEAD_NAMES, sampling_rate=100, seed=0) -> dict:
    """Noise in limb leads that agree."""
    generator = np.random.default_rng(seed)
    signal = 0.3 * generator.normal(size=(12, round(seconds * sampling_rate)))
    one, two = signal[:2]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    rows = [LEAD_NAMES.index(name) for name in leads]
    return {"signal": signal[rows], "sampling_rate": sampling_rate, "lead_names": list(leads)}


CLASSES = {"problem_type": "single_label_classification"}
TARGETS = {"problem_type": "regression", "target_mean": [60.0, 5.0, 1.0], "target_std": [20.0, 0.5, 1.0]}
LEAD_TOKENS = {"lead_layout": "tokens", "use_lead_separators": True, "use_cls_token": False, "pooling": "mean"}
CONV = {"stride": 10, "kernel_size": 13, "channels": 16, "padding": 3}
STEM = {
    "patch_size": None,
    "conv_layers": [CONV, {**CONV, "stride": 2, "kernel_size": 3, "padding": 0}],
    "use_cls_token": False,
    "pooling": "mean",
}
IN_TIME = {
    **STEM,
    "lead_layout": "time",
    "position_embedding_type": "convolution",
    "position_conv_kernel_size": 4,
    "position_conv_groups": 4,
}
KINDS = {
    "leads in one token": {},
    "mean over windows of probabilities": {"window_aggregation": "mean_probability", "temperature": 1.7},
    "the highest window of one label": {"window_aggregation": ["max_probability", "mean_logit", "mean_logit"]},
    "a class": CLASSES,
    "a value": TARGETS,
    "lead tokens": LEAD_TOKENS,
    "convolutions": STEM,
    "leads in time": IN_TIME,
}


@pytest.mark.parametrize("kind", KINDS)
def test_attributions_of_all_samples_sum_to_the_change_of_the_output(kind):
    model = model_of(**KINDS[kind])
    extractor = small_extractor(window_stride=100, lead_tokens=model.config.lead_layout == "tokens")
    given = recording()
    found = ecg_hf.explain(model, extractor, given, LABELS, steps=48)
    with torch.no_grad():
        outputs = [
            model.aggregate_windows(model(**extractor(**{**given, "signal": signal}, check_leads=False)).logits[None])[
                0
            ]
            for signal in (given["signal"], 0 * given["signal"])
        ]
    answers = {
        answer["label"]: answer
        for answer in ecg_hf.ECGClassificationPipeline(model=model, feature_extractor=extractor)(given)
    }
    for place, attribution in enumerate(found):
        assert attribution.label == LABELS[place]
        assert attribution.finding == pytest.approx(answers[LABELS[place]], abs=1e-6)
        assert attribution.values.shape == attribution.signal.shape == (12, 430)
        change = float(outputs[0][place] - outputs[1][place])
        assert attribution.output - attribution.baseline_output == pytest.approx(change, abs=1e-4)
        assert attribution.values.sum() == pytest.approx(
            change, abs=0.01 * float(np.abs(attribution.values).sum()) + 1e-5
        )
        assert attribution.is_complete
        assert attribution.completeness_error == pytest.approx(attribution.values.sum() - change, abs=1e-3)
    assert found[0].quantity == {"a class": "log-probability", "a value": "value"}.get(kind, "logit")
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("extractor_fields", [{}, {"window_stride": 100}, {"num_windows": 2}, {"cover_end": False}])
def test_what_windows_see_is_found_at_its_place_in_the_record(extractor_fields):
    """The only part of the record that is not 0 mV is the only one that can contribute."""
    given = recording(12.3)
    where = slice(1150, 1180)
    given["signal"][:] = 0
    given["signal"][7, where] = 1
    model, extractor = model_of(), small_extractor(**extractor_fields)
    (found,) = ecg_hf.explain(model, extractor, given, "MI")
    seen = np.zeros(1230, dtype=bool)
    for start in extractor(**given, check_leads=False, return_window_starts=True)["window_starts"]:
        seen[start : start + 250] = True
    places = np.argwhere(found.values)
    assert set(places[:, 0]) <= {7}
    assert set(places[:, 1]) == set(np.flatnonzero(seen[where]) + where.start)
    assert {segment.lead for segment in found.segments(1)} <= {"V2"}
    np.testing.assert_allclose(found.signal, given["signal"], atol=1e-6)


def test_a_lead_that_the_model_does_not_read_contributes_nothing():
    model = model_of()
    with torch.no_grad():
        model.base_model.embeddings.patch_embeddings.projection.weight[:, LEAD_NAMES.index("V3")] = 0
    (found,) = ecg_hf.explain(model, small_extractor(), recording(), "MI")
    silent = [name for name, row in zip(found.lead_names, found.values, strict=True) if not row.any()]
    assert silent == ["V3"]


@pytest.mark.parametrize(
    ("leads", "expected", "fields"),
    [
        (("V1", "I", "II"), ("I", "II", "III", "aVR", "aVL", "aVF", "V1"), {}),  # with the four that follow
        (("V1", "I"), ("I", "V1"), LEAD_TOKENS),
        (("II",), ("II",), {"lead_names": ["II"], "num_leads": 1}),
    ],
)
@pytest.mark.parametrize("method", ["integrated_gradients", "attention_rollout"])
def test_records_and_models_of_fewer_leads(leads, expected, fields, method):
    model = model_of(**fields)
    tokens = model.config.lead_layout == "tokens"
    extractor = small_extractor(lead_names=model.config.lead_names, lead_tokens=tokens)
    given = recording(10, leads, sampling_rate=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing leads
        (found,) = ecg_hf.explain(model, extractor, given, "MI", method)
    assert (found.lead_names, found.values.shape, found.sampling_rate) == (expected, (len(expected), 1000), 100)
    assert found.values.any(axis=1).all()
    trace = dict(zip(given["lead_names"], given["signal"], strict=True))[expected[0]]
    assert np.corrcoef(found.signal[0], trace.reshape(-1, 5).mean(axis=1))[0, 1] > 0.6  # of noise, its slow part


# Roll-out


def by_hand(model, windows, first_of) -> np.ndarray:
    """(tokens,) of the first window, by the product of the matrices."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(windows.values[:1], output_attentions=True).attentions
    product = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        product = (attention[0].mean(dim=0).numpy() + np.eye(len(product))) / 2 @ product
    return first_of(product)


@pytest.mark.parametrize(
    ("fields", "first_of"),
    [
        ({"pooling": "cls"}, lambda product: product[0, 1:]),
        ({"pooling": "norm_mean"}, lambda product: product[1:, 1:].mean(axis=0)),
        ({"pooling": "register", "num_registers": 2}, lambda product: product[0, 3:]),
        ({"pooling": "cls", "num_registers": 2, "keep_registers": False}, lambda product: product[2, 3:]),
    ],
)
def test_roll_out_is_the_product_of_the_attention_of_all_layers(fields, first_of):
    model, extractor = model_of(**fields), small_extractor()
    given = recording(2.5)
    found = ecg_hf.explain(model, extractor, given, ["MI", "NORM"], "attention_rollout")
    assert model.config._attn_implementation == "sdpa"
    with classifier_of(model, extractor) as pipe:
        tokens = by_hand(model, cut_windows(pipe, given), first_of)
    for attribution in found:
        np.testing.assert_allclose(
            attribution.values, np.tile(np.repeat(tokens / tokens.sum() / 300, 25), (12, 1)), atol=1e-7
        )
        assert attribution.completeness_error is None and attribution.is_complete
        assert {segment.lead for segment in attribution.segments()} == {"all"}


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "attention"},
        {"pooling": "attention", "num_registers": 2, "keep_registers": False},
        LEAD_TOKENS,
        STEM,
        IN_TIME,
    ],
)
@pytest.mark.parametrize("seconds", [1.3, 6])
def test_roll_out_of_other_models_is_within_the_record_and_sums_to_one(fields, seconds):
    model = model_of(**fields)
    tokens = model.config.lead_layout == "tokens"
    extractor = small_extractor(lead_tokens=tokens, return_attention_mask=True)
    (found,) = ecg_hf.explain(model, extractor, recording(seconds), "MI", "attention_rollout")
    assert found.values.shape == (12, 100 * seconds)
    assert (found.values >= 0).all()
    assert found.values.sum() == pytest.approx(1)
    assert found.resolves_leads == (model.config.lead_layout != "channels")


def test_pooling_by_attention_takes_its_own_weights():
    """A query that sees one token alone."""
    model = model_of(pooling="attention", num_hidden_layers=1, use_cls_token=False)
    tokens = torch.eye(10, 16)
    with torch.no_grad():
        model.base_model.pooler.k_proj.weight.copy_(torch.eye(16))
        model.base_model.pooler.k_proj.bias.zero_()
        model.base_model.pooler.q_proj.bias.copy_(1000 * tokens[3])
    weights = model.base_model.pooler.weights(tokens[None])
    assert weights[0, 0, 0].argmax() == 3 and weights[0, 0, 0, 3] > 0.99


def test_tokens_of_convolutions_are_made_of_their_receptive_field():
    model = model_of(**STEM)
    first, step, size = token_field(model.config)
    values = torch.rand(1, 12, 250, requires_grad=True)
    tokens = model.base_model.embeddings.patch_embeddings(values)
    for token in (0, 1, 7):
        (gradient,) = torch.autograd.grad(tokens[0, token].square().sum(), values, retain_graph=True)
        used = np.flatnonzero(gradient[0].abs().sum(dim=0).numpy())
        assert (used[0], used[-1]) == (max(0, first + token * step), first + token * step + size - 1)


# Public checkpoints


@pytest.mark.parametrize(
    ("file", "steps", "has_full_attention"),
    [
        ("st_mem/checkpoint_finetuned.pth", 4, True),
        ("ecg_fm/checkpoint_finetuned.pt", 4, True),
        ("hubert_ecg/checkpoint_finetune_linear.pt", 4, True),
        ("ecg_jepa_kim/checkpoint_finetuned.pth", 8, False),
        ("ecg_jepa_weimann/checkpoint_finetuned_attn.pt", 8, True),
        ("mtecg/checkpoint_gap.pth", 8, True),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_family_of_public_checkpoints_is_explained_or_refused_by_name(file, steps, has_full_attention):
    model, extractor = convert(file)
    given, label = CUT.recording(file.split("/")[0]), model.config.labels[0]
    (found,) = ecg_hf.explain(model, extractor, given, label, steps=steps)
    assert found.values.shape == found.signal.shape == (len(model.config.lead_names), 10 * model.config.sampling_rate)
    assert np.isfinite(found.values).all() and found.values.any()
    if steps > 4:  # the others normalise in their first layer
        assert found.is_complete
    if has_full_attention:
        (found,) = ecg_hf.explain(model, extractor, given, label, "attention_rollout")
        assert found.values.sum() == pytest.approx(1)
    else:
        with pytest.raises(ValueError, match="full attention.*`same_lead_or_time`: use integrated_gradients"):
            ecg_hf.explain(model, extractor, given, label, "attention_rollout")


# Arguments


def test_labels_by_default_are_those_of_the_answer():
    def labels(**fields):
        model = model_of(**fields)
        return [found.label for found in ecg_hf.explain(model, small_extractor(), recording(), steps=2)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two steps are few
        model = model_of()
        answers = ecg_hf.ECGClassificationPipeline(model=model, feature_extractor=small_extractor())(recording())
        ranked = [answer["label"] for answer in answers]
        between = [0.5 * (answers[0]["score"] + answers[1]["score"])] * 3
        assert labels(thresholds=[1e-6] * 3) == ranked
        assert labels(thresholds=between) == ranked[:1]
        assert labels(thresholds=[1 - 1e-6] * 3) == ranked[:1]
        assert labels(**TARGETS) == LABELS
        assert len(labels(**CLASSES)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["MI", "AFIB"]}, "`labels` must be one of NORM, MI, STTC, got `AFIB`"),
        ({"labels": []}, "`labels` is empty"),
        ({"method": "saliency"}, "`method` must be one of integrated_gradients, attention_rollout"),
        ({"steps": 1}, "`steps` must be a whole number and at least 2, got 1"),
        ({"steps": 4.5}, "`steps` must be a whole number and at least 2, got 4.5"),
        ({"record": recording(60.1)}, "60.1 s, the maximum is 60 s: explain a part"),
        ({"record": recording(0.1)}, "shorter than a tenth"),
        ({"record": {**recording(), "signal": np.zeros((12, 430))}}, "flat in all leads"),
        ({"record": {**recording(), "lead_names": None}}, "lead_names"),
        ({"feature_extractor": small_extractor(sampling_rate=500)}, "made for another model"),
    ],
)
def test_what_cannot_be_explained_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ecg_hf.explain(
            **{"model": model_of(), "feature_extractor": small_extractor(), "record": recording(), **arguments}
        )


def test_a_model_without_a_trained_head_is_refused():
    model = model_of()
    model.head_is_random = True
    with pytest.raises(RuntimeError, match="no trained classification head"):
        ecg_hf.explain(model, small_extractor(), recording())


def test_too_few_steps_are_said_and_the_mode_of_the_model_is_kept():
    model = model_of(initializer_range=1.0).train()
    with pytest.warns(
        UserWarning, match=r"With 2 steps, integrated gradients of MI do not sum.*more `steps`, such as 8"
    ):
        (found,) = ecg_hf.explain(model, small_extractor(), recording(), "MI", steps=2)
    assert not found.is_complete
    assert model.training


def test_all_kinds_of_records_give_the_same(tmp_path):
    model, extractor = model_of(), small_extractor()
    signal = microvolts(3)
    path = write_record(tmp_path, "r", signal)
    as_dict = {"signal": signal, "sampling_rate": 500, "lead_names": list(LEAD_NAMES), "units": "uV"}
    maps = [
        ecg_hf.explain(model, extractor, record, "MI")[0].values for record in (path, as_dict, ecg_hf.read_ecg(path))
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_allclose(maps[2], maps[0], atol=1e-6)


# Windows of the extractor


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"window_stride": 70},
        {"num_windows": 3},
        {"cover_end": False},
        {"decimation": 2, "steps": ("leads", "resample", "windows", "decimate")},
    ],
)
@pytest.mark.parametrize("crops", [None, [[0.1, 0.9], [0.5, 0.3]]])
@pytest.mark.parametrize("rate", [100, 200])
def test_window_starts_say_where_windows_begin(fields, crops, rate):
    """The values of the records are their times in s, in mV."""
    extractor = small_extractor(**{"std": 1.0, "steps": ("leads", "resample", "windows"), **fields})
    records = [np.tile(np.arange(seconds * rate) / rate, (12, 1)) for seconds in (30.0, 7.3)]
    given = {"sampling_rate": rate, "lead_names": LEAD_NAMES, "crop_positions": crops, "check_leads": False}
    features = extractor(records, **given, return_window_starts=True, return_record_index=True)
    starts = features["window_starts"].numpy()
    middle = features["input_values"][:, 0, 125].numpy()
    np.testing.assert_allclose(middle, (starts + 125) / 100, atol=0.02, rtol=0.012)  # the ripple of `decimate`
    assert set(features["record_index"].tolist()) == {0, 1}
    assert "window_starts" not in extractor(records, **given)


# Pictures and the command


def test_marks_are_drawn_behind_one_row_of_each_lead():
    signal, marks = np.zeros((12, 1000)), np.zeros((12, 1000))
    marks[3, 500:600], marks[5, :100] = 2, -1
    figure = plot_ecg(
        signal, sampling_rate=100, lead_names=LEAD_NAMES, marks=marks, marks_unit="logit per second", note="Beware."
    )
    [axes] = figure.axes
    *rows, scale = axes.images
    assert len(rows) == 12
    colored = [np.flatnonzero(row.get_array()[0, :, 3]).tolist() for row in rows]
    assert colored == [[]] * 3 + [list(range(500, 600)), [], list(range(100))] + [[]] * 6
    red, blue = rows[3].get_array()[0, 550], rows[5].get_array()[0, 50]
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] > blue[3]
    left, right = rows[0].get_extent()[:2]
    [trace] = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 1000][:1]
    assert (left, right) == pytest.approx((trace[0], trace[-1] + 0.25))
    texts = [text.get_text() for text in axes.texts]
    assert {"Beware.", "-2", "2 logit per second"} <= set(texts)
    assert figure.get_size_inches()[1] * 25.4 == axes.get_ylim()[1]


@pytest.mark.parametrize("marks", [np.zeros((12, 99)), np.full((12, 100), np.nan)])
def test_marks_of_another_shape_are_refused(marks):
    with pytest.raises(ValueError, match=r"`marks` must be finite, one for each sample \(12, 100\)"):
        plot_ecg(np.zeros((12, 100)), sampling_rate=100, lead_names=LEAD_NAMES, marks=marks)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("explained")
    model_of(
        labels=["NORM", "A/B", "a b"], thresholds=[0.5, 1e-6, 1e-6], label_names={"NORM": "normal ECG"}
    ).save_pretrained(folder)
    small_extractor().save_pretrained(folder)
    return str(folder)


def test_the_command_draws_each_label_and_prints_the_strongest_segments(checkpoint, tmp_path, capsys):
    path = write_record(tmp_path, "r", microvolts(1, seconds=4))
    command = ["explain", path, "--model", checkpoint, "--output_dir", str(tmp_path / "new" / "out")]
    cli.main([*command, "--label", "a b", "A/B", "--json", "--format", "svg"])
    answer = json.loads(capsys.readouterr().out)
    assert [each["label"] for each in answer["explanations"]] == ["a b", "A/B"]
    assert [os.path.basename(each["picture"]) for each in answer["explanations"]] == ["r-a_b.svg", "r-A_B-1.svg"]
    assert "not a medical device" in answer["note"]
    for each in answer["explanations"]:
        assert "not a medical device" in pathlib.Path(each["picture"]).read_text()
        shares = [abs(segment["share"]) for segment in each["segments"]]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
        assert all(0 <= segment["start"] < segment["end"] <= 4 for segment in each["segments"])
        assert {segment["lead"] for segment in each["segments"]} <= set(LEAD_NAMES)
        assert abs(each["completeness_error"]) < 0.05

    cli.main([*command, "--method", "attention_rollout", "--label", "NORM"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NORM  normal ECG, ") and "(threshold 0.500)" in lines[0]
    assert lines[1].split()[0] == "all"
    assert lines[-1].strip() == str(tmp_path / "new" / "out" / "r-NORM.png")
    assert imread(lines[-1].strip()).std() > 0.02
    assert sorted(os.listdir(tmp_path / "new" / "out")) == ["r-A_B-1.svg", "r-NORM.png", "r-a_b.svg"]


def test_records_of_one_file_have_pictures_of_their_own(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("ecg_hf.inference.explain.plot_attribution", lambda found, path, title: path.write_text(title))
    with h5py.File(tmp_path / "several.h5", "w") as file:
        file["ecg"] = np.stack([recording(3, seed=seed)["signal"] for seed in range(2)])
        file.attrs.update({"sampling_rate": 100, "units": "mV", "lead_names": list(LEAD_NAMES)})
    for row in range(2):
        options = ["--output_dir", str(tmp_path / "out"), "--label", "NORM", "--steps", "2"]
        cli.main(["explain", f"{tmp_path}/several.h5#row={row}", "--model", checkpoint, *options])
    titles = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert titles == {f"several.h5_row_{row}-NORM.png": f"several.h5#row={row}" for row in range(2)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"record": "."}, "is a folder: give one ECG file"),
        ({"record": "table.csv"}, "a table of 2 records: give one ECG file"),
        ({"record": "absent"}, "absent"),
        ({"--label": "AFIB"}, "`labels` must be one of NORM, A/B, a b, got `AFIB`"),
        ({"--output_dir": "table.csv"}, "is a file: give the name of a folder"),
        ({"--method": "attention_rollout", "--steps": "9"}, "`--steps` is for integrated_gradients"),
        ({"--format": "pdf"}, "png"),
        ({"--device": "abacus"}, "abacus"),
    ],
)
def test_the_command_refuses_in_one_line(changed, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path, "r", microvolts(1, seconds=3))
    write_record(tmp_path, "s", microvolts(2, seconds=3))
    (tmp_path / "table.csv").write_text("path\nr\ns\n")
    given = {"record": "r", "--model": checkpoint, "--output_dir": "out", **changed}
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", given.pop("record"), *[part for pair in given.items() for part in pair]])
    error = capsys.readouterr().err
    assert stop.value.code in (1, 2) and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


# The check


@pytest.fixture(scope="module")
def checked():
    records = [recording(2.5, seed=seed) for seed in range(12)]
    return records, ecg_hf.check_attribution(model_of(), small_extractor(), records, steps=16, seed=3)


def test_integrated_gradients_of_a_small_model_pass_the_check(checked):
    _, found = checked
    assert found["passed"] and found["records"] == 12 and found["incomplete"] == 0
    assert found["rank_correlation"]["mean"] <= found["rank_correlation"]["limit"] == 0.3
    occlusion = found["occlusion"]
    assert occlusion["marked"] - occlusion["random"] == pytest.approx(occlusion["difference"]["value"])
    assert 0 < occlusion["difference"]["low"] < occlusion["difference"]["value"] < occlusion["difference"]["high"]


class WithoutFloat64(TorchFunctionMode):
    """As on Apple's GPUs: of tensors that `cpu()` did not fetch, none can become float64."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.cpu:
            self.fetched.append(result)
        elif isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            if not any(args[0] is each for each in self.fetched):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_a_check_computes_where_there_is_no_float64(checked):
    records, found = checked
    with WithoutFloat64():
        again = ecg_hf.check_attribution(model_of(), small_extractor(), records, steps=16, seed=3)
    assert again == found


def test_a_map_that_is_the_same_with_random_weights_does_not_pass(checked):
    records, _ = checked
    model = with_random_weights(model_of(), seed=5)
    found = ecg_hf.check_attribution(model, small_extractor(), records, steps=8, seed=5)
    assert found["rank_correlation"]["mean"] == pytest.approx(1)
    assert not found["passed"]


def test_a_map_of_chance_does_not_pass(checked, monkeypatch):
    records, _ = checked

    def shuffled(*arguments):
        (found,) = ecg_hf.inference.attribution.explain(*arguments)
        np.random.default_rng(0).shuffle(found.values.reshape(-1))
        return [found]

    monkeypatch.setattr("ecg_hf.inference.attribution_check.explain", shuffled)
    found = ecg_hf.check_attribution(model_of(), small_extractor(), records, steps=16, seed=3)
    assert found["occlusion"]["difference"]["low"] < 0 and not found["passed"]


def test_a_check_needs_two_records_and_leaves_the_random_numbers_alone(checked):
    model = model_of()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="at least two records, got 1"):
        ecg_hf.check_attribution(model, small_extractor(), checked[0][:1], steps=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_script_checks_validation_records_of_different_patients(simulated_folder, simulated_cache, tmp_path):
    model_of(labels=["NORM", "MI", "STTC", "CD", "HYP"]).save_pretrained(tmp_path / "model")
    small_extractor().save_pretrained(tmp_path / "model")
    spec = importlib.util.spec_from_file_location("check_attribution", CHECK)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    flags = [
        "--max_records",
        "3",
        "--steps",
        "8",
        "--cache_dir",
        str(simulated_cache),
        "--output",
        str(tmp_path / "c.json"),
    ]
    found = script.main(["--model", str(tmp_path / "model"), "--data_dir", str(simulated_folder), *flags])
    assert found["records"] == 3 and found["split"] == "validation"
    assert json.loads((tmp_path / "c.json").read_text()) == found
