"""Where the trainers and the model end: nothing known in a batch, attention without patterns, publishing beside
training."""

import numpy as np
import pytest
import torch
from small_models import LABELS, small_config, small_model
from test_post_training import make_trainer

from ecg_hf import name_labels
from ecg_hf.ecg_transformer.common_ecg_transformer import PROBLEM_TYPES
from ecg_hf.ecg_transformer.layers_ecg_transformer import attention_mask_of

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_a_batch_of_which_nothing_is_known_has_the_loss_nought(kind):
    """A Trainer counts what is known, here nothing, and divides by it."""
    model = small_model(problem_type=kind)
    labels = torch.full((4, len(LABELS)), float("nan") if kind == "regression" else -100.0)
    for count in (torch.tensor(0), 0, None):
        loss = model(torch.randn(4, 12, 250), labels=labels, num_items_in_batch=count).loss
        loss.backward()
        assert loss == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_records_of_which_few_are_labelled_can_be_learned(simulated_splits, tmp_path):
    known = range(0, 60, 20)
    rows = [[float(n)] * 5 if place in known else [-100.0] * 5 for place, n in enumerate([0, *[1] * 59])]
    train = simulated_splits["train"].select(range(60)).remove_columns("labels").add_column("labels", rows)
    splits = {**simulated_splits, "train": name_labels(train, LABELS)}
    trainer = make_trainer(splits, tmp_path / "run", per_device_train_batch_size=4, stages=["finetune"])
    results = trainer.post_train()
    assert np.isfinite(results["finetune_eval_loss"])


def test_attention_that_knows_no_patterns_is_refused_by_a_model_that_has_one():
    config = small_config(
        LABELS, lead_layout="tokens", attention_pattern="same_lead_or_time", use_cls_token=False, pooling="mean"
    )
    hidden_states = torch.zeros(2, 120, 16)
    config._attn_implementation = "sdpa"
    assert attention_mask_of(config, hidden_states, None, 10) is not None
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match="`flash_attention_2` cannot be restricted to tokens of the same lead or time"
    ):
        attention_mask_of(config, hidden_states, None, 10)


@pytest.mark.parametrize(
    ("optim", "given", "message"),
    [
        ("adamw_torch_fused", "amsgrad=True", "it takes no `amsgrad` from `optim_args`"),
        ("sgd", "momentum=0.9, dampening_=0.1", "it takes no `dampening_` from `optim_args`"),
        ("rmsprop", "weight_decay=0.1", "`optim_args` cannot set `weight_decay`: give `weight_decay`"),
    ],
)
def test_an_entry_of_optim_args_that_no_optimizer_gets_is_refused(simulated_splits, tmp_path, optim, given, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(simulated_splits, tmp_path / "run", optim=optim, optim_args=given)
    heard = make_trainer(simulated_splits, tmp_path / "run", optim="sgd", optim_args="momentum=0.9, nesterov=True")
    assert heard.create_optimizer().defaults["momentum"] == 0.9


def test_a_field_for_adam_is_refused_where_another_optimizer_does_not_use_it(simulated_splits, tmp_path):
    for field in ("adam_beta1", "adam_epsilon"):
        with pytest.raises(ValueError, match=f"`optim` cannot be `sgd`: it does not use `{field}`"):
            make_trainer(simulated_splits, tmp_path / "run", optim="sgd", **{field: 0.5})
        make_trainer(simulated_splits, tmp_path / "run", optim="adamw_torch", **{field: 0.5})


def test_publishing_beside_other_work_is_refused(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run")
    with pytest.raises(ValueError, match="`blocking` must be true"):
        trainer.push_to_hub("Trained", False)
