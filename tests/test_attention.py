"""The way to compute attention that a training run takes."""

import json
import logging

import pytest
import torch
from small_models import small_config, small_extractor, small_model
from test_post_training import arguments, weights_of

from ecg_hf import ECGTransformerForMultiLabel
from ecg_hf.cli import main
from ecg_hf.runs.attention import set_attention

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

COMMAND = ["train", "--use_cpu", "true", "--max_steps", "2", "--stages", "finetune", "--report_to", "none"]
COMMAND += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
COMMAND += ["--metric_for_best_model", "loss", "--per_device_train_batch_size", "16"]


@pytest.mark.parametrize(
    ("given", "fields", "config", "expected"),
    [
        (None, {"bf16": True}, {}, "eager"),
        (None, {"bf16": True}, {"num_samples": 4000, "patch_size": 10}, "eager"),
        (None, {"bf16": True}, {"num_samples": 4010, "patch_size": 10}, "sdpa"),
        (None, {}, {}, "sdpa"),
        ("sdpa", {"bf16": True}, {}, "sdpa"),
        ("eager", {}, {}, "eager"),
    ],
)
def test_the_rule(tmp_path, caplog, given, fields, config, expected):
    model = ECGTransformerForMultiLabel(small_config(["a", "b"], **config))
    with caplog.at_level(logging.WARNING):
        set_attention(model, given, arguments(tmp_path, **fields))
    assert model.config._attn_implementation == expected
    assert ("computed by `eager`" in caplog.text) == (given is None and expected == "eager")


def test_a_run_takes_the_fastest_way_and_its_checkpoint_names_none(simulated_folder, tmp_path, caplog):
    small_model().save_pretrained(tmp_path / "model")
    small_extractor().save_pretrained(tmp_path / "model")
    command = [*COMMAND, "--data_dir", str(simulated_folder), "--model_name_or_path", str(tmp_path / "model")]
    command += ["--cache_dir", str(tmp_path / "cache"), "--bf16", "true"]
    ways = {"default": [], "sdpa": ["--attn_implementation", "sdpa"], "eager": ["--attn_implementation", "eager"]}
    for name, more in ways.items():
        caplog.clear()
        main([*command, *more, "--output_dir", str(tmp_path / name)])
        assert ("computed by `eager`" in caplog.text) == (name == "default")
        assert "attn" not in json.dumps(json.loads((tmp_path / name / "config.json").read_text()))
    assert "attn" not in (tmp_path / "default/recipe.yaml").read_text()
    weights = {name: weights_of(tmp_path / name) for name in ways}
    for name, values in weights["default"].items():
        assert torch.equal(values, weights["eager"][name])
        torch.testing.assert_close(values, weights["sdpa"][name], atol=3e-3, rtol=0)
    reloaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "default")
    assert reloaded.config._attn_implementation == "sdpa"
