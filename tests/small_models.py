"""The small model and feature extractor that tests of several files start from; each says what it needs otherwise."""

import contextlib

import pytest
import torch

from ecg_hf import ECGTransformerConfig, ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel
from ecg_hf.ptbxl.labels import task_labels

LABELS = task_labels("superdiagnostic")


def small_config(labels=None, **fields) -> ECGTransformerConfig:
    """Two blocks of width 16 that read 2.5 s at 100 Hz in ten patches."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    signal = {"num_samples": 250, "sampling_rate": 100, "patch_size": 25}
    names = {}
    if labels is not None:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    return ECGTransformerConfig(**{**sizes, **signal, **names, **fields})


def small_model(labels=LABELS, model_class=ECGTransformerForMultiLabel, **fields):
    """With the same weights each time."""
    torch.manual_seed(0)
    return model_class(small_config(labels, **fields))


def small_extractor(**fields) -> ECGTransformerFeatureExtractor:
    return ECGTransformerFeatureExtractor(**{"sampling_rate": 100, "num_samples": 250, "std": 0.3, **fields})


@contextlib.contextmanager
def stopped_at(trainer, step, error=KeyboardInterrupt):
    """A block in which the trainer is stopped by `error` when it begins a step; afterwards it can train on."""
    training_step = trainer.training_step

    def stop(*args):
        if trainer.state.global_step == step:
            raise error
        return training_step(*args)

    trainer.training_step = stop
    with pytest.raises(error):
        yield
    trainer.training_step = training_step
