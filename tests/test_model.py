import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_models
import torch
import yaml
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

import ecg_hf
from ecg_hf import ECGTransformerConfig, ECGTransformerForMultiLabel, ECGTransformerModel
from ecg_hf.ecg_transformer import modeling_ecg_transformer
from ecg_hf.ecg_transformer.layers_ecg_transformer import drop_path
from ecg_hf.ecg_transformer.modeling_ecg_transformer import multilabel_loss

CODE_FOLDER = pathlib.Path(modeling_ecg_transformer.__file__).parent
CODE_FILES = {file.name for file in CODE_FOLDER.glob("[!_]*.py")}


def small_config(labels=("a", "b", "c"), **fields) -> ECGTransformerConfig:
    """Three blocks, with weights large enough that every part of the model shows in its outputs."""
    own = {"num_hidden_layers": 3, "num_samples": 100, "patch_size": 10, "initializer_range": 0.2}
    return small_models.small_config(labels, **{**own, **fields})


def small_model(**fields) -> ECGTransformerForMultiLabel:
    torch.manual_seed(0)
    return ECGTransformerForMultiLabel(small_config(**fields)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (6, 3), generator=generator).float()
    return {"input_values": torch.randn(6, 12, 100, generator=generator), "labels": labels}


# ---- Shapes and sizes ----


def test_default_is_the_encoder_of_mtecg():
    # 5,435,521 parameters with one class: the count of the authors' builder.
    config = ECGTransformerConfig(id2label={0: "a"}, label2id={"a": 0})
    assert sum(p.numel() for p in ECGTransformerForMultiLabel(config).parameters()) == 5_435_521


@pytest.mark.parametrize(("preset", "width", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)])
def test_presets_have_the_sizes_of_vit(preset, width, heads, whole_presets):
    config = ECGTransformerConfig.from_preset(preset, drop_path_rate=0.2)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (width, heads, 12)
    assert config.drop_path_rate == 0.2


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="tiny, small, base, ptbxl_100hz, got `huge`"):
        ECGTransformerConfig.from_preset("huge")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_outputs_have_the_documented_shapes(batch, pooling):
    output = small_model(pooling=pooling)(**batch, output_hidden_states=True)
    assert list(output) == ["loss", "logits", "last_hidden_state", "pooler_output", "hidden_states"]
    assert output.logits.shape == (6, 3)
    assert output.last_hidden_state.shape == (6, 11, 16)
    assert output.pooler_output.shape == (6, 16)
    assert len(output.hidden_states) == 4


def test_attentions_are_given_by_the_eager_implementation(batch):
    model = ECGTransformerForMultiLabel._from_config(small_config(), attn_implementation="eager").eval()
    attentions = model(**batch, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(6, 2, 11, 11)] * 3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 100, 12), r"\(batch, 12, 100\).*got \(2, 100, 12\): are the axes swapped"),
        ((2, 8, 100), r"\(batch, 12, 100\).*got \(2, 8, 100\)"),
        ((12, 100), "got"),
        ((2, 12, 101), "10 to 100 samples at 100 Hz, got 101"),
        ((2, 12, 9), "10 to 100 samples at 100 Hz, got 9"),
    ],
)
def test_wrong_input_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small_model()(torch.zeros(shape))


def test_shorter_input_uses_the_first_positions(batch):
    model = small_model()
    tokens = model.ecg_transformer.embeddings(batch["input_values"])[0]
    shorter = model.ecg_transformer.embeddings(batch["input_values"][:, :, :57])[0]
    assert torch.equal(shorter, tokens[:, :6])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_does_not_change_the_answer(batch, pooling, implementation):
    config = small_config(pooling=pooling)
    torch.manual_seed(0)
    model = ECGTransformerForMultiLabel._from_config(config, attn_implementation=implementation).eval()
    values = batch["input_values"].clone()
    alone = model(values[:, :, :60]).logits
    mask = torch.ones(6, 100, dtype=torch.long)
    values[:, :, 60:], mask[:, 60:] = 7.0, 0
    torch.testing.assert_close(model(values, attention_mask=mask).logits, alone, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(values, attention_mask=mask).logits, alone, atol=1e-6, rtol=1e-6)


def test_eager_and_sdpa_agree(batch):
    logits = []
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = ECGTransformerForMultiLabel._from_config(small_config(), attn_implementation=implementation).eval()
        logits.append(model(**batch).logits)
    torch.testing.assert_close(*logits, atol=1e-6, rtol=1e-6)


# ---- Loss ----


def test_unknown_labels_take_no_part_in_the_loss():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    labels = torch.tensor([[1.0, -100.0], [0.0, 1.0]])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    by_hand = np.array([[-np.log(p[0, 0]), 0.0], [-np.log(1 - p[1, 0]), -np.log(p[1, 1])]])
    np.testing.assert_allclose(multilabel_loss(logits, labels).numpy(), by_hand, rtol=1e-6)


def test_integer_and_float_labels_give_the_same_loss(batch):
    model = small_model()
    loss = model(**batch).loss
    assert torch.equal(loss, model(batch["input_values"], labels=batch["labels"].long()).loss)


def test_loss_is_the_mean_over_known_labels_or_the_sum_over_a_given_count(batch):
    model = small_model()
    batch["labels"][0, 0] = -100
    mean = model(**batch).loss
    torch.testing.assert_close(model(**batch, num_items_in_batch=34).loss * 34 / 17, mean)


def test_labels_of_another_shape_are_refused(batch):
    with pytest.raises(ValueError, match=r"`labels` must have shape \(6, 3\), got \(6, 2\)"):
        small_model()(batch["input_values"], labels=batch["labels"][:, :2])


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_gives_a_float32_loss(batch, how):
    model = small_model()
    expected = model(**batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = (model.to(torch.bfloat16) if how == "weights" else model)(**batch)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), expected.logits, atol=0.1, rtol=0.1)


# ---- Stochastic depth ----


def test_drop_rates_grow_linearly_from_zero():
    model = small_model(drop_path_rate=0.4)
    assert [layer.drop_path_rate for layer in model.ecg_transformer.layers] == [0.0, 0.2, 0.4]
    assert "drop_path_rate=0.2" in repr(model.ecg_transformer.layers[1])
    assert small_model(num_hidden_layers=1, drop_path_rate=0.4).ecg_transformer.layers[0].drop_path_rate == 0


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_impossible_drop_rate_is_refused(rate):
    with pytest.raises(Exception, match=r"`drop_path_rate` must lie in \[0, 1\)"):
        small_config(drop_path_rate=rate)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_expectation_of_dropped_branch_is_the_branch(batch_size, rate):
    torch.manual_seed(0)
    weight = torch.tensor(2.0, requires_grad=True)
    states = torch.arange(1.0, batch_size + 1)[:, None, None].expand(-1, 1, 4)
    repeats = 4000
    total = sum(drop_path(lambda rows, mask: weight * rows, states, None, rate) for _ in range(repeats))
    error = (total.detach() / repeats - 3.0 * states).abs() / states
    spread = 2.0 * (rate / (1 - rate) / repeats) ** 0.5  # of masking each row by itself
    assert error.max() < 4 * spread
    total.sum().backward()
    gradient = weight.grad / repeats
    assert abs(gradient - states.sum()) < 4 * spread * states.sum()


def test_dropped_rows_are_not_computed():
    torch.manual_seed(0)
    seen = []

    def branch(rows, mask):
        seen.append(len(rows))
        return rows

    for _ in range(400):
        drop_path(branch, torch.ones(10, 1, 4), None, 0.75)
    assert set(seen) == {2, 3}
    assert 2.4 < np.mean(seen) < 2.6


def test_every_parameter_has_a_gradient_when_no_row_is_kept(batch):
    model = small_model(drop_path_rate=0.99).train()
    torch.manual_seed(0)
    model(batch["input_values"][:1], labels=batch["labels"][:1]).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_drop_path_is_off_in_evaluation(batch):
    assert torch.equal(small_model(drop_path_rate=0.9)(**batch).logits, small_model()(**batch).logits)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_repeats_the_same_dropped_rows(batch, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = small_model(drop_path_rate=0.5).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(3)
        model(**batch).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# ---- Compilation and export ----


@pytest.mark.slow
def test_compiles_to_one_graph_in_training_and_evaluation(batch):
    model = small_model(drop_path_rate=0.5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    model.train()
    compiled(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
def test_exports_with_a_free_batch_size(batch):
    model = small_model(drop_path_rate=0.5)
    rows = torch.export.Dim("rows")
    program = torch.export.export(model, (batch["input_values"],), dynamic_shapes={"input_values": {0: rows}})
    for count in (1, 2, 5):
        values = batch["input_values"][:count]
        torch.testing.assert_close(program.module()(values).logits, model(values).logits, atol=1e-5, rtol=1e-5)
    assert not any("rand" in str(node.target) for node in program.graph.nodes)


# ---- Saving and loading ----


def test_saved_and_reloaded_gives_the_same_logits(batch, tmp_path):
    model = small_model(thresholds=[0.1, 1, np.float64(0.3)])
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForSequenceClassification):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is ECGTransformerForMultiLabel
        assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)
        assert loaded.config.thresholds == [0.1, 1, 0.3] and not loaded.head_is_random


def test_base_model_loads_from_its_own_and_from_a_classifier_folder(batch, tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "classifier")
    base = ECGTransformerModel.from_pretrained(tmp_path / "classifier").eval()
    base.save_pretrained(tmp_path / "base")
    assert type(AutoModel.from_pretrained(tmp_path / "base")) is ECGTransformerModel
    assert type(AutoModel.from_config(ECGTransformerConfig())) is ECGTransformerModel
    expected = model(**batch).pooler_output
    assert torch.equal(base(batch["input_values"]).pooler_output, expected)


def test_folder_holds_code_and_complete_auto_map(tmp_path):
    small_model().save_pretrained(tmp_path / "first")
    ECGTransformerForMultiLabel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")
    for name in ("first", "again"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["auto_map"] == {
            "AutoConfig": "configuration_ecg_transformer.ECGTransformerConfig",
            "AutoModel": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
            "AutoModelForSequenceClassification": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
            "AutoModelForPreTraining": "modeling_ecg_transformer.ECGTransformerForPreTraining",
            "AutoFeatureExtractor": "feature_extraction_ecg_transformer.ECGTransformerFeatureExtractor",
        }
        assert set(config["custom_pipelines"]) == {"ecg-classification"}
        assert {file.name for file in (tmp_path / name).glob("*.py")} == CODE_FILES
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "again"), "custom_pipelines")


def test_code_that_ships_imports_nothing_outside_its_folder():
    allowed = ("torch", "numpy", "scipy", "transformers", "huggingface_hub", ".", "wfdb")
    standard = sys.stdlib_module_names
    for file in CODE_FOLDER.glob("[!_]*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and len(words) > 1:
                module = words[1].split(".")[0] or "."
                assert module in allowed or module in standard, f"{file.name}: {line}"


def test_loading_overwrites_no_loaded_weight(tmp_path):
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    model.save_pretrained(tmp_path)
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path)
    assert all(torch.equal(value, torch.full_like(value, 0.5)) for value in loaded.state_dict().values())


def test_loading_fills_buffers_and_leaves_nothing_on_meta(tmp_path):
    torch.manual_seed(0)
    labels = {"id2label": {0: "a"}, "label2id": {"a": 0}}
    model = ECGTransformerForMultiLabel(ECGTransformerConfig.from_preset("ptbxl_100hz", **labels))
    model.save_pretrained(tmp_path)
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path)
    buffers = dict(loaded.named_buffers())
    assert buffers and all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    tensors = [value for module in loaded.modules() for value in vars(module).values() if torch.is_tensor(value)]
    assert not any(tensor.is_meta for tensor in [*tensors, *loaded.parameters(), *buffers.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["learned", "sincos", "convolution"])
def test_no_kind_of_positions_changes_by_saving_and_loading(tmp_path, positions, dtype):
    """Tables that are not stored must be computed anew: memory that was in use before holds other numbers."""
    convolution = {"position_conv_kernel_size": 4, "position_conv_groups": 2} if positions == "convolution" else {}
    model = small_model(position_embedding_type=positions, **convolution).eval().to(dtype)
    model.save_pretrained(tmp_path)
    memory = [torch.full_like(value, torch.nan) for value in [*model.buffers(), *model.parameters()] * 10]
    del memory
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path, dtype=dtype).eval()
    values = torch.randn(2, model.config.num_leads, model.config.num_samples).to(dtype)
    assert torch.equal(loaded(values).logits, model(values).logits)


def test_a_transposed_weight_is_saved_as_it_is(tmp_path):
    model = small_model(labels=tuple("abcdefghijklmnop"))
    model.classifier.weight = torch.nn.Parameter(model.classifier.weight.detach().T)
    model.save_pretrained(tmp_path)
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards_and_in_one_file_replace_each_other(tmp_path, variant):
    model = small_model()
    for size in ("5GB", "5KB", "8KB", "5GB"):
        with torch.no_grad():
            model.classifier.bias += 1
        model.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
        loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path, variant=variant)
        assert torch.equal(loaded.classifier.bias, model.classifier.bias)
        indices = [file for file in tmp_path.glob("model*") if "index" in file.name]
        assert len(indices) == (size != "5GB")


def test_missing_head_is_warned_about_and_marked(tmp_path):
    ECGTransformerModel(small_config()).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="has no trained head.*classifier.weight"):
        model = ECGTransformerForMultiLabel.from_pretrained(tmp_path)
    assert model.head_is_random


@pytest.mark.parametrize(
    ("lost", "message"),
    [("classifier.bias", "lacks classifier.bias"), ("ecg_transformer.norm.weight", "lacks ecg_transformer.norm")],
)
def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, lost, message):
    from safetensors.torch import load_file, save_file

    small_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(lost)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=message):
        ECGTransformerForMultiLabel.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_class", [ECGTransformerModel, ECGTransformerForMultiLabel])
def test_a_configuration_with_other_depth_is_refused(tmp_path, model_class):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="has no place for .*layers.2"):
        model_class.from_pretrained(tmp_path, num_hidden_layers=2)
    with pytest.raises(RuntimeError, match="lacks .*layers.3"):
        model_class.from_pretrained(tmp_path, num_hidden_layers=4)


def test_a_part_that_a_subclass_adds_begins_at_random_and_is_saved(tmp_path):
    class WithAge(ECGTransformerForMultiLabel):
        def __init__(self, config):
            super().__init__(config)
            self.age_head = torch.nn.Linear(config.hidden_size, 1)
            self.post_init()

    trained = small_model()
    trained.save_pretrained(tmp_path / "trained")
    model, info = WithAge.from_pretrained(tmp_path / "trained", output_loading_info=True)
    assert info["missing_keys"] == {"age_head.weight", "age_head.bias"} and not model.head_is_random
    assert torch.equal(model.classifier.weight, trained.classifier.weight)
    model.save_pretrained(tmp_path / "added")
    again = WithAge.from_pretrained(tmp_path / "added")
    assert torch.equal(again.age_head.weight, model.age_head.weight)


def test_a_new_head_takes_labels_and_drops_what_belonged_to_the_old_one():
    model = small_model(thresholds=[0.1, 0.2, 0.3], temperature=2.0)
    model.replace_head({0: "x"}, {"x": "full name"})
    assert model.config.label2id == {"x": 0} and model.config.label_names == {"x": "full name"}
    assert model.config.thresholds is None and model.config.temperature == 1.0
    assert model.head_is_random and model(torch.zeros(2, 12, 100)).logits.shape == (2, 1)


# ---- Other labels than those of a trained head ----

NEW_LABELS = {
    "fewer": ("x", "y"),
    "as_many": ("x", "y", "z"),
    "reordered": ("c", "b", "a"),
    "one_renamed": ("a", "b", "z"),
}


@pytest.fixture
def trained(tmp_path):
    """A checkpoint whose head has everything that only a trained head can have."""
    model = small_model(
        thresholds=[0.1, 0.2, 0.3],
        temperature=2.0,
        window_aggregation=["max_probability", "mean_logit", "mean_probability"],
        label_names={"a": "full name of a"},
    )
    model.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def ways_to_new_labels(path, labels):
    """Arguments of `from_pretrained`, from those that users found."""
    ids = dict(enumerate(labels))
    both = {"id2label": ids, "label2id": {name: index for index, name in ids.items()}}
    yield {"id2label": ids}
    yield {"id2label": {str(index): name for index, name in ids.items()}}
    yield {"label2id": both["label2id"]}
    yield both
    yield {"config": ECGTransformerConfig.from_pretrained(path, **both)}
    yield {"config": AutoConfig.from_pretrained(path, id2label=ids)}
    yield {"config": small_config(labels)}
    by_hand = ECGTransformerConfig.from_pretrained(path)
    by_hand.id2label = ids
    yield {"config": by_hand}
    if len(labels) != 3:
        yield {"num_labels": len(labels)}
        yield {"num_labels": len(labels), "id2label": ids}


def assert_new_head(model, labels, config=None):
    config = config or model.config
    assert config.labels == list(labels) and config.label2id == {name: i for i, name in enumerate(labels)}
    assert (config.thresholds, config.temperature, config.window_aggregation) == (None, 1.0, "mean_logit")
    assert config.label_names is None
    assert model.head_is_random and model.num_labels == len(labels)
    assert model(torch.zeros(2, 12, 100)).logits.shape == (2, len(labels))


@pytest.mark.parametrize("auto_class", [ECGTransformerForMultiLabel, AutoModelForSequenceClassification])
@pytest.mark.parametrize("labels", NEW_LABELS.values(), ids=NEW_LABELS)
def test_every_way_to_new_labels_gives_the_head_of_replace_head_or_its_name(trained, tmp_path, labels, auto_class):
    trained_head = small_model().classifier.weight
    for given in ways_to_new_labels(trained, labels):
        with pytest.raises(RuntimeError, match=r"trained for a, b, c, .*`model\.replace_head\(id2label\)`"):
            auto_class.from_pretrained(trained, **given)
        with pytest.warns(UserWarning, match="trained for other labels"):
            model = auto_class.from_pretrained(trained, ignore_mismatched_sizes=True, **given)
        expected = [f"LABEL_{index}" for index in range(len(labels))] if set(given) == {"num_labels"} else labels
        assert_new_head(model, expected)
        assert not torch.equal(model.classifier.weight[:2], trained_head[:2])
        model.save_pretrained(tmp_path / "again")
        assert ECGTransformerForMultiLabel.from_pretrained(tmp_path / "again").config.labels == list(expected)


def test_a_trained_head_without_new_labels_is_loaded_as_it_is(trained, batch):
    expected = small_model()(**batch).logits
    for given in ({}, {"config": AutoConfig.from_pretrained(trained)}, {"id2label": dict(enumerate("abc"))},
                  {"num_labels": 3}, {"ignore_mismatched_sizes": True}):  # fmt: skip
        for auto_class in (ECGTransformerForMultiLabel, AutoModelForSequenceClassification, AutoModel):
            model = auto_class.from_pretrained(trained, **given).eval()
            assert torch.equal(model(**batch).logits, expected) and not model.head_is_random
            assert model.config.thresholds == [0.1, 0.2, 0.3] and model.config.temperature == 2.0
            assert model.config.label_names == {"a": "full name of a"}


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("x", "y")])
def test_a_head_on_an_encoder_has_no_setting_of_an_earlier_head(trained, tmp_path, labels):
    ECGTransformerModel.from_pretrained(trained).save_pretrained(tmp_path / "encoder")
    for given in ways_to_new_labels(tmp_path / "encoder", labels):
        with pytest.warns(UserWarning, match="has no trained head"):
            model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "encoder", **given)
        expected = [f"LABEL_{index}" for index in range(len(labels))] if set(given) == {"num_labels"} else labels
        model.config.label_names = None if labels == ("a", "b", "c") else model.config.label_names
        assert_new_head(model, expected)


def test_settings_of_a_trained_head_given_for_a_new_one_are_refused(trained):
    given = {"id2label": {0: "x"}, "ignore_mismatched_sizes": True}
    for name, value in {"thresholds": [0.4], "temperature": 3.0, "window_aggregation": "max_probability"}.items():
        with pytest.raises(ValueError, match=rf"`{name}` is .*the head is new.*replace_head"):
            ECGTransformerForMultiLabel.from_pretrained(trained, **given, **{name: value})
    names = {"x": "full name of x"}
    with pytest.warns(UserWarning, match="trained for other labels"):
        model = ECGTransformerForMultiLabel.from_pretrained(trained, **given, label_names=names)
    assert model.config.label_names == names


def test_other_labels_of_an_encoder_can_be_saved(trained, tmp_path):
    model = ECGTransformerModel.from_pretrained(trained, id2label={0: "x"})
    model.save_pretrained(tmp_path / "encoder")
    assert ECGTransformerConfig.from_pretrained(tmp_path / "encoder").thresholds is None


@pytest.mark.parametrize("labels", [None, {"0": "a", "1": "b", "2": "c", "3": "d"}], ids=["none", "too many"])
def test_a_folder_whose_names_are_not_those_of_its_head_says_so(labels, tmp_path):
    small_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"], config["label2id"]
    if labels is not None:
        config |= {"id2label": labels, "label2id": {name: int(key) for key, name in labels.items()}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = "2 labels: LABEL_0, LABEL_1" if labels is None else "4 labels: a, b, c, d"
    with pytest.raises(RuntimeError, match=rf"3 outputs .* names {names}\. Write the names .* as `id2label`"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_labels_that_contradict_each_other_are_refused(trained):
    with pytest.raises(Exception, match="inverse to each other"):
        AutoConfig.from_pretrained(trained, id2label={0: "x", 1: "y"}, label2id={"x": 1, "y": 0})
    with pytest.raises(ValueError, match="`num_labels` is 4 but the labels given are 2: x, y"):
        AutoConfig.from_pretrained(trained, id2label={0: "x", 1: "y"}, num_labels=4)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({0: "a", 2: "b"}, "`id2label` must have the ids 0 to 1, one for each output, got 0, 2"),
        ({1: "a", 2: "b"}, "must have the ids 0 to 1, one for each output, got 1, 2"),
        ({0: "a", 1: "b", 2: "a"}, "`id2label` names a label twice: a"),
    ],
)
def test_ids_with_gaps_and_names_that_are_there_twice_are_refused(trained, id2label, message):
    label2id = {name: index for index, name in id2label.items()}
    model = small_model()
    before = dict(model.config.id2label)
    for make in (
        lambda: small_config(id2label=id2label, label2id=label2id),
        lambda: AutoConfig.from_pretrained(trained, id2label=id2label),
        lambda: model.replace_head(id2label),
    ):
        with pytest.raises(Exception, match=message):
            make()
    assert model.config.id2label == before


def test_labels_that_would_not_come_back_or_say_nothing_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="must name labels by text, got 164889003: write it as '164889003'"):
        model.replace_head({0: 164889003, 1: 270492004})
    with pytest.raises(ValueError, match="`id2label` is empty"):
        model.replace_head({})
    message = "needs at least two classes, got only AF, which every record would have"
    with pytest.raises(ValueError, match=message):
        model.replace_head({0: "AF"}, problem_type="single_label_classification")
    assert model.config.problem_type == "multi_label_classification" and model.config.labels == ["a", "b", "c"]


@pytest.mark.filterwarnings("error")
def test_arguments_of_loading_are_no_misspelt_fields(tmp_path):
    small_model().save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager", dtype="bfloat16")
    assert model.config._attn_implementation == "eager" and model.dtype == torch.bfloat16
    assert AutoConfig.from_pretrained(tmp_path, attn_implementation="eager").labels == ["a", "b", "c"]


def test_a_misspelt_field_is_named():
    with pytest.warns(UserWarning, match="unknown to this version of the code: drop_path, thresholdz.*misspelt"):
        ECGTransformerConfig.from_preset("tiny", drop_path=0.3, thresholdz=[0.5])


def test_ids_of_a_json_file_are_put_in_order_by_number():
    labels = [f"L{index:02}" for index in range(12)]
    as_text = {str(index): labels[index] for index in sorted(range(12), key=str)}  # 0, 1, 10, 11, 2, ...
    model = small_model()
    model.replace_head(as_text)
    config = small_config(id2label=as_text, label2id={name: int(index) for index, name in as_text.items()})
    assert model.config.labels == config.labels == labels


# ---- Configuration ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 18, "num_attention_heads": 4}, "multiple of `num_attention_heads`"),
        ({"patch_size": 101}, "`patch_size` must lie between 1 and `num_samples`"),
        ({"thresholds": [0.5]}, "`thresholds` has 1 values but `id2label` names 3 labels"),
        ({"label2id": {"a": 0, "b": 2, "c": 1}}, "inverse to each other"),
        ({"lead_names": ["I", "I"]}, "names a lead twice"),
        ({"num_leads": 8}, "`num_leads` is 8 but `lead_names` names 12"),
        ({"window_aggregation": "median"}, "got `median`"),
        ({"window_aggregation": ["mean_logit"]}, "has 1 values but `id2label` names 3"),
        ({"problem_type": "ranking"}, "must be one of multi_label_classification, single_label_class"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"pooling": "max"}, "`pooling` must be"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        small_config(**fields)


def test_configuration_survives_json_with_names_and_unknown_fields(tmp_path):
    small_config(labels=("b", "a"), something_new={"x": 1}).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.id2label == {0: "b", 1: "a"} and loaded.something_new == {"x": 1}


# ---- Windows of a record ----


@pytest.mark.parametrize("rule", ["mean_logit", "mean_probability", "max_probability"])
def test_windows_are_aggregated_as_the_rule_says(rule):
    model = small_model(window_aggregation=rule, temperature=2.0)
    logits = torch.tensor([[[1.0, -2.0, 30.0], [3.0, 0.0, -60.0], [9.0, 9.0, 9.0]]]).repeat(2, 1, 1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    scores = model.aggregate_windows(logits, mask).sigmoid()
    p = 1 / (1 + np.exp(-logits.double().numpy() / 2.0))
    for record, windows in enumerate((2, 3)):
        if rule == "mean_logit":
            by_hand = 1 / (1 + np.exp(-logits[record, :windows].double().numpy().mean(0) / 2.0))
        else:
            by_hand = p[record, :windows].mean(0) if rule == "mean_probability" else p[record, :windows].max(0)
        np.testing.assert_allclose(scores[record].numpy(), by_hand, rtol=1e-5)


def test_each_label_may_have_its_own_rule():
    mixed = ["max_probability", "mean_logit", "mean_probability"]
    logits = torch.randn(4, 5, 3)
    expected = [small_model(window_aggregation=rule).aggregate_windows(logits)[:, i] for i, rule in enumerate(mixed)]
    assert torch.equal(small_model(window_aggregation=mixed).aggregate_windows(logits), torch.stack(expected, 1))


# ---- The package ----


def test_importing_the_package_loads_neither_timm_nor_torchvision_nor_data():
    code = (
        "import sys, ecg_hf; print([m for m in ('timm', 'torchvision', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "[]"


def test_the_citation_and_the_package_have_the_same_version():
    root = pathlib.Path(__file__).parents[1]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ecg_hf.__version__ == importlib.metadata.version("ecg-hf")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_bfloat16_agrees_with_the_cpu(batch):
    model = small_model()
    expected = model(**batch).logits
    with torch.autocast("cuda", torch.bfloat16):
        logits = model.cuda()(batch["input_values"].cuda()).logits
    torch.testing.assert_close(logits.float().cpu(), expected, atol=0.05, rtol=0.05)
