"""`--window_aggregation`: the rule by which a record's windows become one answer, chosen for a run."""

import json

import numpy as np
import pytest
import torch
import yaml
from small_models import LABELS, small_extractor, small_model

from ecg_hf import ECGTransformerForMultiLabel, PostTrainer, PostTrainingArguments
from ecg_hf.runs.windows import EvaluationWindows

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def make_trainer(splits, folder, model=None, **fields) -> PostTrainer:
    return PostTrainer(
        model=model or small_model(),
        args=PostTrainingArguments(
            output_dir=str(folder),
            stages=["probe"],
            probe_num_train_epochs=1,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **fields,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        feature_extractor=small_extractor(window_stride=125),
    )


def test_the_rule_is_kept_with_the_model_and_makes_its_figures(simulated_splits, tmp_path):
    for rule in (None, "mean_probability"):
        folder = tmp_path / str(rule)
        make_trainer(simulated_splits, folder, window_aggregation=rule).post_train()
        config = json.loads((folder / "config.json").read_text())
        assert config["window_aggregation"] == (rule or "mean_logit")
        assert yaml.safe_load((folder / "recipe.yaml").read_text()).get("window_aggregation") == rule
    # Training is the same; the answer of the saved model is the mean of its windows' probabilities.
    plain, mean = (
        ECGTransformerForMultiLabel.from_pretrained(tmp_path / name) for name in ("None", "mean_probability")
    )
    assert all((plain.state_dict()[name] == value).all() for name, value in mean.state_dict().items())
    with torch.no_grad():  # far enough from .5 that the rules differ
        for name, weight in mean.named_parameters():
            weight.mul_(1 if name.startswith("ecg_transformer.") else 100)
    batch = EvaluationWindows(simulated_splits["validation"], small_extractor(window_stride=125)).__getitems__([0])
    of_windows = mean(batch["input_values"][0]).logits.detach().numpy()
    scores = (1 / (1 + np.exp(-of_windows))).mean(axis=0)
    assert abs(scores - 1 / (1 + np.exp(-of_windows.mean(axis=0)))).max() > 1e-4
    trainer = make_trainer(simulated_splits, tmp_path / "again", model=mean)
    logits = trainer.predict(simulated_splits["validation"].select([0])).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(logits).reshape(-1))), scores, atol=1e-6)


def test_a_rule_that_the_model_cannot_have_is_refused(simulated_splits, tmp_path):
    with pytest.raises(ValueError, match="`window_aggregation` must be one of mean_logit, .*got .*median"):
        PostTrainingArguments(output_dir=str(tmp_path), window_aggregation="median")
    model = small_model(problem_type="single_label_classification")
    with pytest.raises(ValueError, match="`window_aggregation` must be one of mean_logit, mean_probability with"):
        make_trainer(simulated_splits, tmp_path / "run", model=model, window_aggregation="max_probability")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="that of the models of `model_init` is `mean_logit`"):
        PostTrainer(
            model_init=lambda: small_model(LABELS),
            args=PostTrainingArguments(
                output_dir=str(tmp_path / "run"), window_aggregation="max_probability", use_cpu=True, report_to="none"
            ),
            train_dataset=simulated_splits["train"],
            eval_dataset=simulated_splits["validation"],
            feature_extractor=small_extractor(),
        )
