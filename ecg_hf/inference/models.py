"""The library's pipelines, as the commands load them."""

from __future__ import annotations

import warnings

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, Pipeline, pipeline

from ..command import without_progress_bars
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..model_folder import checkpoint_of

_CLASSES = {"ecg-classification": AutoModelForSequenceClassification, "feature-extraction": AutoModel}


def load_pipeline(task: str, model: str, device: str | None = None, **kwargs) -> Pipeline:
    """`pipeline(task, model=model)` without the progress bar of the weights.

    The model is loaded here: the library's `pipeline` would bury what is wrong with it in a message of its own.

    Raises `ValueError` for a device that does not exist here, `RuntimeError` for weights that do not fit, and what
    `checkpoint_of` does.
    """
    if device is not None:
        _check_device(device)
    with without_progress_bars(), checkpoint_of(model) as place, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no trained head")  # which the pipeline refuses
        loaded = _CLASSES[task].from_pretrained(place)
        extractor = ECGTransformerFeatureExtractor.from_pretrained(place)
    return pipeline(task, model=loaded, feature_extractor=extractor, device=device, **kwargs)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).partition("\n")[0][:100]
        raise ValueError(f"`device` {device!r} cannot be used here ({reason}): give cpu, cuda or cuda:1.") from None


__all__ = ["load_pipeline"]
