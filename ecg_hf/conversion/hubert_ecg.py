"""HuBERT-ECG (medRxiv 2024.11.14.24317328): the HuBERT stack on the leads concatenated in time, post-norm.

The model takes (batch, 12, 500) and concatenates the leads. As in the authors' code, the number of ones in the
attention mask, over all leads, determines how many of the first tokens are real, regardless of their positions:
masking the end of each lead therefore masks the last leads. Their evaluation passes no mask. The extractor decimates
the concatenated leads exactly as theirs, including the blurred lead boundaries, and gives every complete window of 5
s, whereas theirs gives only the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers.utils import logging

from .families import (
    Conversion,
    Family,
    count,
    fold_weight_norm,
    has_any,
    head_dim,
    resolve_heads,
    section,
    shape,
    without_prefix,
)
from .reading import Checkpoint

logger = logging.get_logger(__name__)

RULES = {
    r"feature_extractor\.conv_layers\.(\d+)\.conv\.(weight|bias)": (
        "embeddings.patch_embeddings.layers.{}.convolution.{}"
    ),
    r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(weight|bias)": (
        "embeddings.patch_embeddings.layers.{}.norm.{}"
    ),
    r"feature_projection\.layer_norm\.(weight|bias)": "embeddings.patch_embeddings.norm.{}",
    r"feature_projection\.projection\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"encoder\.pos_conv_embed\.conv\.(weight|bias)": "embeddings.position_convolution.convolution.{}",
    r"encoder\.layers\.(\d+)\.attention\.(q|k|v)_proj\.(weight|bias)": "layers.{}.attention.{}_proj.{}",
    r"encoder\.layers\.(\d+)\.attention\.out_proj\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"encoder\.layers\.(\d+)\.layer_norm\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.(weight|bias)": "layers.{}.mlp.fc1.{}",
    r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.(weight|bias)": "layers.{}.mlp.fc2.{}",
    r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"classifier\.0\.(weight|bias)": "classifier.fc1.{}",
    r"classifier\.2\.(weight|bias)": "classifier.fc2.{}",
    r"classifier\.(weight|bias)": "classifier.{}",
    r"label_embedding\.weight": "classifier.weight",
}
# Of pre-training: the mask vector, and a head and an embedding for each codebook.
DROPPED = (r"masked_spec_embed", r"final_proj\.\d+\..*", r"label_embedding\.\d+\..*")

# Width, depth, MLP, channels of the convolutions and heads of small, base and large.
PUBLISHED = {
    (512, 8, 2048, (512,) * 5): 8,
    (768, 12, 3072, (512,) * 5): 12,
    (960, 16, 3840, (512,) * 5): 12,
}
# From the kernel sizes of the convolutions to their strides and intended sampling rate.
STACKS = {
    (10, 3, 3, 2, 2): ((4, 2, 2, 2, 2), 100),
    (10, 3, 3, 3, 3, 2, 2): ((5, 2, 2, 2, 2, 2, 2), 500),
    (10, 3, 3, 2): ((4, 2, 2, 2), 50),
}
PUBLISHED_RATE = 100
WINDOW_SECONDS = 5
RAW_RATE = 500


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    tensors = without_prefix(checkpoint.tensors, "hubert_ecg.")
    settings = section(checkpoint.content, "model_config") or section(checkpoint.content, "config")
    _check_settings(settings)
    conv_layers, rate = _conv_layers(tensors, settings)
    width, channels = shape(tensors, "feature_projection.projection.weight")
    depth = count(tensors, r"encoder\.layers\.(\d+)\..*")
    intermediate_size = shape(tensors, "encoder.layers.0.feed_forward.intermediate_dense.weight")[0]
    sizes = (width, depth, intermediate_size, tuple(layer["channels"] for layer in conv_layers))
    heads = resolve_heads(
        num_attention_heads,
        settings.get("num_attention_heads"),
        PUBLISHED.get(sizes),
        f"width {width}, {depth} blocks, {channels} channels in the convolutions",
    )
    head_dim(width, heads)
    norm_first = bool(settings.get("do_stable_layer_norm", False))
    tensors = fold_weight_norm(tensors, "encoder.pos_conv_embed.conv")
    _, group_channels, kernel_size = shape(tensors, "encoder.pos_conv_embed.conv.weight")
    head, num_labels = _head(tensors, settings)
    num_samples = WINDOW_SECONDS * rate
    return Conversion(
        config={
            "num_samples": num_samples,
            "sampling_rate": rate,
            "lead_layout": "time",
            "conv_layers": conv_layers,
            "conv_norm": has_any(tensors, r"feature_projection\.layer_norm\..*"),
            "conv_projection": True,
            "use_cls_token": False,
            "position_embedding_type": "convolution",
            "position_conv_kernel_size": kernel_size,
            "position_conv_groups": width // group_channels,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": intermediate_size,
            "norm_first": norm_first,
            "layer_norm_eps": settings.get("layer_norm_eps", 1e-5),
            "pooling": "norm_mean" if norm_first else "mean",
            "window_aggregation": "mean_probability",
            **head,
        },
        tensors=tensors,
        rules={**RULES, r"encoder\.layer_norm\.(weight|bias)": "norm.{}" if norm_first else "embeddings.norm.{}"},
        dropped=DROPPED,
        extractor={
            "sampling_rate": rate,
            "num_samples": num_samples,
            "decimation": RAW_RATE // rate,
            "resample_method": "fourier",
            "bandpass": [0.05, 47.0],
            "bandpass_fir_seconds": 0.3,
            "cover_end": False,
            "normalization_eps": 1e-8,
            "steps": ["leads", "bandpass", "resample", "minmax", "windows", *["decimate"] * (rate < RAW_RATE)],
        },
        num_labels=num_labels,
        label_names=_label_names(settings, num_labels),
    )


def _check_settings(settings: dict):
    for name, known in (
        ("hidden_act", "gelu"),
        ("feat_extract_activation", "gelu"),
        ("feat_extract_norm", "group"),
        ("conv_pos_batch_norm", False),
    ):
        if settings.get(name, known) != known:
            raise ValueError(f"the configuration has `{name}` {settings[name]}; only {known} is supported.")


def _conv_layers(tensors: dict[str, torch.Tensor], settings: dict) -> tuple[list[dict], int]:
    """The convolutions, and their intended sampling rate in Hz."""
    number = count(tensors, r"feature_extractor\.conv_layers\.(\d+)\..*")
    shapes = [shape(tensors, f"feature_extractor.conv_layers.{index}.conv.weight") for index in range(number)]
    kernels = tuple(found[2] for found in shapes)
    strides, rate = STACKS.get(kernels, (None, PUBLISHED_RATE))
    strides = settings.get("conv_stride", strides)
    if strides is None or len(strides) != number:
        raise ValueError(
            f"the strides for the kernel sizes {kernels} are neither in the file's configuration nor known; known "
            f"are {', '.join(map(str, STACKS))}."
        )
    return [
        {
            "channels": found[0],
            "kernel_size": found[2],
            "stride": stride,
            "bias": f"feature_extractor.conv_layers.{index}.conv.bias" in tensors,
            "norm_groups": found[0] if index == 0 else 0,
        }
        for index, (found, stride) in enumerate(zip(shapes, strides, strict=True))
    ], rate


def _head(tensors: dict[str, torch.Tensor], settings: dict) -> tuple[dict, int | None]:
    """Configuration fields of the head, and its number of labels."""
    task = settings.get("task_type", "multi_label")
    if task != "multi_label":
        logger.warning(f"The file's head is for `{task}`, but this model treats its labels as independent.")
    if "classifier.2.weight" in tensors:
        num_labels, hidden_size = shape(tensors, "classifier.2.weight")
        # Files of the first code version do not give the activation, which is always tanh.
        activation = settings.get("activation", "tanh")
        return {
            "classifier_type": "mlp",
            "classifier_hidden_size": hidden_size,
            "classifier_act": activation,
        }, num_labels
    if "label_embedding.weight" in tensors:
        return {"classifier_type": "cosine"}, shape(tensors, "label_embedding.weight")[0]
    if "classifier.weight" in tensors:
        return {}, shape(tensors, "classifier.weight")[0]
    return {}, None


def _label_names(settings: dict, num_labels: int | None) -> list[str] | None:
    names = settings.get("id2label")
    if not isinstance(names, Mapping) or len(names) != num_labels:
        return None
    names = [name for _, name in sorted((int(index), name) for index, name in names.items())]
    return None if all(name.startswith("LABEL_") for name in names) else names


HUBERT_ECG = Family(
    name="hubert_ecg",
    signature=(
        r"(hubert_ecg\.)?feature_extractor\.conv_layers\.0\.conv\.weight",
        r"(hubert_ecg\.)?encoder\.layers\.\d+\.attention\.k_proj\.weight",
    ),
    license="cc-by-nc-4.0",
    pretraining_data=None,
    convert=convert,
)

__all__ = ["HUBERT_ECG"]
