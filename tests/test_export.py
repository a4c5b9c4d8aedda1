"""Export to ONNX: the file gives what the model gives, at any batch, and says what it is."""

import importlib
import json

import numpy as np
import pytest
import torch
from recorded import checkpoint as checkpoint_file
from small_models import LABELS, small_extractor, small_model
from transformers import AutoFeatureExtractor

from ecg_hf import ECGTransformerConfig, ECGTransformerForMultiLabel, ECGTransformerModel, cli, load_ptbxl
from ecg_hf.conversion import convert_checkpoint
from ecg_hf.inference import export as export_module
from ecg_hf.metrics import multilabel_metrics
from ecg_hf.runs.windows import EvaluationWindows

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

RANDOM = {
    "Dropout",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def save(folder, model, extractor=None) -> str:
    model.save_pretrained(folder)
    (extractor or small_extractor()).save_pretrained(folder)
    return str(folder)


def export(model: str, output, *flags: object) -> dict:
    return cli.export(["--model", model, "--output", str(output), *map(str, flags)])


def session(path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def converted(file: str, heads: int | None):
    """With a head of large weights, so that the probabilities of windows differ."""
    model, extractor = convert_checkpoint(checkpoint_file(file), num_attention_heads=heads)
    torch.manual_seed(0)
    model.config.drop_path_rate = 0.5
    model.replace_head(dict(enumerate(LABELS)))
    model.classifier.weight.data.normal_(std=1.0)
    return model, extractor


def own(**fields):
    extractor = small_extractor(return_attention_mask=True)
    return small_model(drop_path_rate=0.5, temperature=1.7, initializer_range=0.3, **fields), extractor


def three_leads():
    """Single-lead tokens of three leads."""
    model, extractor = convert_checkpoint(
        checkpoint_file("ecg_jepa_kim/checkpoint_finetuned.pth"), num_attention_heads=4
    )
    names = extractor.lead_names[:3]
    fields = model.config.to_dict()
    config = ECGTransformerConfig(**{**fields, "lead_names": names, "num_leads": 3, "drop_path_rate": 0.5})
    torch.manual_seed(0)
    model = ECGTransformerForMultiLabel(config)
    model.replace_head(dict(enumerate(LABELS)))
    model.classifier.weight.data.normal_(std=1.0)
    extractor.lead_names = names
    return model, extractor


KINDS = {
    "own": own,
    "three_lead_tokens": three_leads,
    "st_mem": lambda: converted("st_mem/checkpoint_finetuned.pth", None),
    "ecg_fm": lambda: converted("ecg_fm/checkpoint_finetuned.pt", None),
    "hubert_ecg": lambda: converted("hubert_ecg/checkpoint_finetune_linear.pt", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_gives_the_models_probabilities_at_any_batch(kind, tmp_path):
    model, extractor = KINDS[kind]()
    report = export(save(tmp_path / "model", model, extractor), tmp_path / "m.onnx")
    leads, samples = len(extractor.lead_names), extractor.num_samples
    assert f"{leads} leads and {samples} samples at {extractor.sampling_rate:g} Hz are fixed" in report["text"]
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert not RANDOM & {node.op_type for node in graph.node}
    loaded, model = session(tmp_path / "m.onnx"), model.eval()
    first, *others = loaded.get_inputs()
    assert first.shape == ["batch", leads, samples]
    assert [entry.name for entry in others] == ["attention_mask"][: extractor.return_attention_mask]
    assert ("all 1 where the feature extractor gives none" in report["text"]) == bool(others)
    for batch in (1, 2, 7):
        values = torch.randn(batch, leads, samples, generator=torch.Generator().manual_seed(10 + batch))
        inputs = {"input_values": values}
        if others:
            inputs["attention_mask"] = (
                torch.arange(samples) < torch.linspace(0.4, 1, batch)[:, None] * samples
            ).long()
        with torch.no_grad():
            expected = (model(**inputs).logits / model.config.temperature).sigmoid().numpy()
        [found] = loaded.run(["probabilities"], {name: tensor.numpy() for name, tensor in inputs.items()})
        assert found.shape == (batch, 5) and np.ptp(expected) > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-4)
    if others:
        inputs["attention_mask"] = torch.ones(batch, samples, dtype=torch.long)
        with torch.no_grad():
            expected = (model(values).logits / model.config.temperature).sigmoid().numpy()
        [found] = loaded.run(["probabilities"], {name: tensor.numpy() for name, tensor in inputs.items()})
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert report["files"][0]["difference"] < 1e-4


@pytest.mark.parametrize(
    ("kind", "function"), [("single_label_classification", "softmax"), ("regression", "identity")]
)
def test_other_kinds_of_targets_have_their_own_outputs(kind, function, tmp_path):
    fields = {"target_mean": [50.0] * 5, "target_std": [10.0] * 5} if kind == "regression" else {"temperature": 1.7}
    model = small_model(problem_type=kind, initializer_range=0.3, **fields).eval()
    export(save(tmp_path / "model", model), tmp_path / "m.onnx")
    values = torch.randn(3, 12, 250)
    with torch.no_grad():
        logits = model(values).logits
    expected = (logits / 1.7).softmax(dim=-1) if function == "softmax" else logits
    [found] = session(tmp_path / "m.onnx").run(None, {"input_values": values.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-5)


def test_one_label_stays_one_column(tmp_path):
    export(save(tmp_path / "model", small_model(["AFIB"])), tmp_path / "m.onnx")
    for batch in (1, 4):
        [found] = session(tmp_path / "m.onnx").run(None, {"input_values": np.zeros((batch, 12, 250), np.float32)})
        assert found.shape == (batch, 1)


@pytest.fixture(scope="module")
def both_files(tmp_path_factory):
    """A model, the folder of its files in float32 and int8, and what was said of them."""
    folder = tmp_path_factory.mktemp("both")
    model = small_model(thresholds=[0.1, 0.2, 0.3, 0.4, 0.5], label_names={LABELS[0]: "a name"})
    return model, folder, export(save(folder / "model", model), folder / "m.onnx", "--int8")


def test_the_file_says_what_it_is(both_files):
    model, folder, report = both_files
    for name in ("m.onnx", "m.int8.onnx"):
        entries = session(folder / name).get_modelmeta().custom_metadata_map
        assert json.loads(entries["labels"]) == list(LABELS)
        assert json.loads(entries["label_names"]) == {LABELS[0]: "a name"}
        assert json.loads(entries["thresholds"]) == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert (entries["problem_type"], entries["window_aggregation"]) == (model.config.problem_type, "mean_logit")
        assert json.loads(entries["lead_names"]) == model.config.lead_names
        assert (entries["sampling_rate"], entries["num_samples"]) == ("100", "250")
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.to_dict() == small_extractor().to_dict()
    float32, int8 = report["files"]
    assert int8["path"] == str(folder / "m.int8.onnx") and float32["difference"] < 1e-4 < int8["difference"] < 0.2
    assert f"{int8['difference']:.1e}" in report["text"]
    assert "AUROC was not measured: give records" in report["text"]


def test_int8_has_smaller_weights(tmp_path):
    model = small_model(hidden_size=128, intermediate_size=512, num_attention_heads=4)
    report = export(save(tmp_path / "model", model), tmp_path / "m.onnx", "--int8")
    float32, int8 = (file["megabytes"] for file in report["files"])
    assert int8 < float32 / 2


def test_a_window_has_the_same_output_in_any_batch_but_in_int8_only_nearly(both_files):
    _, folder, _ = both_files
    windows = np.random.default_rng(0).normal(size=(8, 12, 250)).astype(np.float32)
    windows[0] *= 20  # the guide says what a large value costs the others
    for name, most in (("m.onnx", 1e-5), ("m.int8.onnx", 0.1)):
        [together] = session(folder / name).run(None, {"input_values": windows})
        [alone] = session(folder / name).run(None, {"input_values": windows[-1:]})
        assert np.abs(together[-1] - alone[0]).max() < most


def test_auroc_of_each_file_stands_beside_it(simulated_folder, simulated_cache, tmp_path):
    model, extractor = own(window_aggregation="mean_probability")
    flags = ["--data_dir", simulated_folder, "--cache_dir", simulated_cache, "--split", "train", "--int8"]
    report = export(save(tmp_path / "model", model, extractor), tmp_path / "m.onnx", *flags)
    dataset = load_ptbxl(simulated_folder, "superdiagnostic", 100, cache_dir=simulated_cache)["train"]
    batch = EvaluationWindows(dataset, extractor).__getitems__(range(len(dataset)))
    mask = batch["window_mask"]
    with torch.no_grad():
        flat = model.eval()(batch["input_values"].flatten(0, 1)).logits
        scores = model.aggregate_windows(flat.unflatten(0, mask.shape), mask)
    expected = multilabel_metrics(batch["labels"].numpy(), scores.numpy())["macro_auroc"]
    assert report["macro_auroc"] == pytest.approx(expected, abs=1e-4)
    float32, int8 = (file["macro_auroc"] for file in report["files"])
    assert float32 == pytest.approx(expected, abs=1e-4) and int8 == pytest.approx(expected, abs=0.05)
    assert report["text"].count("macro AUROC") == 3 and "train records" in report["text"]


# Bad input


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_one_sentence(package, tmp_path, monkeypatch):
    original = importlib.import_module

    def absent(name, *arguments):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return original(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError) as caught:
        export("nowhere", tmp_path / "m.onnx")
    assert str(caught.value) == f"`ecg-hf export` needs the package {package}: pip install 'ecg-hf[export]'."


def test_a_file_that_differs_from_the_model_is_not_written(tmp_path, monkeypatch):
    folder = save(tmp_path / "model", small_model())
    monkeypatch.setattr(export_module, "MAX_DIFFERENCE", 0.0)
    (tmp_path / "out").mkdir()
    with pytest.raises(export_module.ExportError, match="differ by up to .* the limit is 0. Nothing was written"):
        export(folder, tmp_path / "out" / "m.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_are_no_numbers_are_not_exported(tmp_path):
    model = small_model()
    model.classifier.weight.data[0] = float("nan")
    folder = save(tmp_path / "model", model)
    with pytest.raises(export_module.ExportError, match="differ by up to nan"):
        export(folder, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_arguments_that_do_not_fit_are_refused(tmp_path, simulated_folder):
    folder = save(tmp_path / "model", small_model())
    with pytest.raises(ValueError, match=r"must be one of .onnx, got `.pt`"):
        export(folder, tmp_path / "m.pt")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        export(folder, tmp_path / "absent" / "m.onnx")
    with pytest.raises(ValueError, match="`split` must be one of train, validation, test, got `dev`"):
        export(folder, tmp_path / "m.onnx", "--split", "dev")
    for flag, value in {"split": "test", "task": "form", "cache_dir": "cache"}.items():
        with pytest.raises(ValueError, match=f"`--{flag}` is of records, and none are given"):
            export(folder, tmp_path / "m.onnx", f"--{flag}", value)
    with pytest.raises(ValueError, match="The records have no label|have the labels"):
        other = save(tmp_path / "other", small_model(["A", "B"]))
        export(other, tmp_path / "m.onnx", "--data_dir", simulated_folder, "--cache_dir", tmp_path / "cache")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="preprocessor_config.json is of another model"):
        export(folder, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.filterwarnings("ignore:.*no trained head")
def test_an_encoder_is_refused(tmp_path):
    folder = save(tmp_path / "model", small_model(None, ECGTransformerModel))
    with pytest.raises(ValueError, match="has no trained head: post-train it before it is exported"):
        export(folder, tmp_path / "m.onnx")
