"""The models that runs start from: new ones with random weights, or checkpoints; and their feature extractors."""

from __future__ import annotations

import warnings

import torch
from transformers import PreTrainedModel

from ..ecg_transformer.configuration_ecg_transformer import PRESETS, ECGTransformerConfig
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..model_folder import checkpoint_of
from .arguments import ModelArguments
from .provenance import note_base


def new_config(model_args: ModelArguments, sampling_rate: float, **fields) -> ECGTransformerConfig:
    """The configuration of a model with random weights; `sampling_rate` is that of the files, in Hz."""
    preset = PRESETS.get(model_args.architecture, {})
    rate, seconds = model_args.model_sampling_rate, model_args.window_seconds
    rate = preset.get("sampling_rate", sampling_rate) if rate is None else rate
    given = {"num_samples": None if seconds is None else round(seconds * rate)}
    given |= {name: getattr(model_args, name) for name in ("patch_size", "pooling")}
    # For presets that are sizes only: windows of 2.5 s and tokens of 100 ms, the measured recipe at 100 Hz.
    defaults = {"num_samples": round(2.5 * rate), "patch_size": round(rate / 10), "pooling": "mean"}
    return ECGTransformerConfig.from_preset(
        model_args.architecture,
        **({} if "num_samples" in preset else defaults)
        | {name: value for name, value in given.items() if value is not None},
        sampling_rate=rate,
        **fields,
    )


def new_feature_extractor(
    model_args: ModelArguments, config: ECGTransformerConfig, mean: float | list[float], std: float | list[float]
) -> ECGTransformerFeatureExtractor:
    """The feature extractor of a model with random weights; `mean` and `std` in mV, of all leads or of each."""
    return ECGTransformerFeatureExtractor(
        sampling_rate=config.sampling_rate,
        num_samples=config.num_samples,
        lead_names=list(config.lead_names),
        mean=mean,
        std=std,
        clip=10.0,
        window_stride=_stride(model_args, config.sampling_rate, default=config.num_samples // 2),
    )


def pretrained_feature_extractor(model_args: ModelArguments) -> ECGTransformerFeatureExtractor:
    """The checkpoint's feature extractor, with the window stride that was asked for."""
    with checkpoint_of(model_args.model_name_or_path):
        feature_extractor = ECGTransformerFeatureExtractor.from_pretrained(model_args.model_name_or_path)
    stride = _stride(model_args, feature_extractor.sampling_rate, default=None)
    if stride is None:
        return feature_extractor
    fields = {**feature_extractor.to_dict(), "window_stride": stride, "num_windows": None}
    return ECGTransformerFeatureExtractor.from_dict(fields)


def pretrained_model(model_class: type[PreTrainedModel], model_args: ModelArguments) -> PreTrainedModel:
    """The checkpoint as a model of `model_class`, with weights of 32 bits, as training needs them, however they are
    stored; a missing head is what training begins with, so nobody is warned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no trained head")
        model = model_class.from_pretrained(model_args.model_name_or_path, dtype=torch.float32)
    note_base(model.config)  # before a new head hides that the checkpoint was trained for a task
    return model


def _stride(model_args: ModelArguments, sampling_rate: float, default: int | None) -> int | None:
    seconds = model_args.window_stride_seconds
    return default if seconds is None else round(seconds * sampling_rate)


__all__ = ["new_config", "new_feature_extractor", "pretrained_feature_extractor", "pretrained_model"]
