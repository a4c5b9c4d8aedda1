"""What a trainer is made of: model, feature extractor and arguments that belong together, or an error at once."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ..ecg_transformer.common_ecg_transformer import check_same_input


def check_model(model: torch.nn.Module, head: str, loader: str, trains: bool = True) -> None:
    """`ValueError` unless a model has a `head`, which `loader` gives it, no adapters of PEFT, which its checkpoint
    would lack, no other wrapper, and, where it `trains`, weights of 32 bits: rounding to 16 swallows small steps."""
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"`model` must be an ECG Transformer without adapters, got {type(model).__name__}: merge those of PEFT by "
            "`model.merge_and_unload()`, and train the result."
        )
    if isinstance(model, torch.nn.Module) and not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"`model` must be the ECG Transformer itself, got {type(model).__name__}: give the model as it was before "
            "`torch.compile` or another wrapper. The trainer compiles it with the argument `torch_compile`, and wraps "
            "it for several processes."
        )
    if not hasattr(model, head):
        raise ValueError(
            f"`model` must be an ECG Transformer with a `{head}`, got {type(model).__name__}: load it by "
            f"`{loader}.from_pretrained`."
        )
    if compiled := [name for name, _ in model.named_modules() if name.split(".")[-1] == "_orig_mod"]:
        part = compiled[0].removesuffix("._orig_mod")
        raise ValueError(
            f"`model` must be the ECG Transformer itself, and `torch.compile` has wrapped its part `{part}`, whose "
            "weights would be saved under other names: give the model as it was before. The trainer compiles it with "
            "the argument `torch_compile`."
        )
    if trains and model.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"`model` has weights of {model.dtype}, whose rounding swallows the steps of training: give "
            "`model.float()`. With the argument `bf16` it computes in 16 bits, and keeps its weights."
        )


def check_extractor(model: PreTrainedModel, feature_extractor: object) -> None:
    """`ValueError` unless the windows of the feature extractor are those that the model reads."""
    names = ("sampling_rate", "num_samples", "lead_names")
    if not all(hasattr(feature_extractor, name) for name in names):
        raise ValueError(
            f"`feature_extractor` must be that of an ECG Transformer, got {type(feature_extractor).__name__}: load it "
            "by `AutoFeatureExtractor.from_pretrained`."
        )
    check_same_input(feature_extractor, model.config, names)


def check_is_of(args: object, kind: type) -> None:
    """`TypeError` for other arguments than those of the trainer."""
    if not isinstance(args, kind):
        raise TypeError(
            f"`args` must be {kind.__name__}, got {type(args).__name__}, which lacks fields of this trainer."
        )


__all__ = ["check_extractor", "check_is_of", "check_model"]
