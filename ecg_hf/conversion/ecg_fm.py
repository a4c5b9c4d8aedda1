"""ECG-FM (arXiv 2408.05178): the wav2vec 2.0 stack on all leads, post-norm, at 500 Hz.

As in the authors' code, padding affects the group norm and the positional convolution: a padded record does not give
exactly the output of the shorter one. The mean over tokens includes all real tokens (theirs excludes channels that are
exactly 0, which does not occur).
"""

from __future__ import annotations

import ast

import torch

from .families import (
    Conversion,
    Family,
    count,
    fold_weight_norm,
    head_dim,
    resolve_heads,
    section,
    shape,
    without_prefix,
)
from .reading import Checkpoint

RULES = {
    r"feature_extractor\.conv_layers\.(\d+)\.0\.(weight|bias)": "embeddings.patch_embeddings.layers.{}.convolution.{}",
    r"feature_extractor\.conv_layers\.(\d+)\.2\.(weight|bias)": "embeddings.patch_embeddings.layers.{}.norm.{}",
    r"layer_norm\.(weight|bias)": "embeddings.patch_embeddings.norm.{}",
    r"post_extract_proj\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"conv_pos\.pos_conv\.0\.(weight|bias)": "embeddings.position_convolution.convolution.{}",
    r"encoder\.layers\.(\d+)\.self_attn\.(q|k|v)_proj\.(weight|bias)": "layers.{}.attention.{}_proj.{}",
    r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"encoder\.layers\.(\d+)\.(fc\d)\.(weight|bias)": "layers.{}.mlp.{}.{}",
    r"encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"proj\.(weight|bias)": "classifier.{}",
}
# Of the pre-training loss.
DROPPED = (r"mask_emb", r"quantizer\..*", r"project_q\..*", r"final_proj\..*")

CONV_LAYERS = "[(256, 2, 2)] * 4"
# Width, depth, MLP, channels of the convolutions and heads.
PUBLISHED = {(768, 12, 3072, (256,) * 4): 12}

# Outputs of the published fine-tuned file, and how the authors aggregate the windows of a record.
LABELS = {
    "Poor data quality": "max",
    "Sinus rhythm": "mean",
    "Premature ventricular contraction": "max",
    "Tachycardia": "mean",
    "Ventricular tachycardia": "max",
    "Supraventricular tachycardia with aberrancy": "max",
    "Atrial fibrillation": "mean",
    "Atrial flutter": "mean",
    "Bradycardia": "mean",
    "Accessory pathway conduction": "mean",
    "Atrioventricular block": "mean",
    "1st degree atrioventricular block": "mean",
    "Bifascicular block": "mean",
    "Right bundle branch block": "mean",
    "Left bundle branch block": "mean",
    "Infarction": "mean",
    "Electronic pacemaker": "max",
}
NUM_SAMPLES = 2500


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    tensors = _backbone(checkpoint.tensors)
    settings = section(checkpoint.content, "cfg", "model") or section(checkpoint.content, "args")
    width, intermediate_size = shape(tensors, "encoder.layers.0.fc2.weight")
    depth = count(tensors, r"encoder\.layers\.(\d+)\..*")
    conv_layers = _conv_layers(tensors, settings)
    channels = tuple(layer["channels"] for layer in conv_layers)
    heads = resolve_heads(
        num_attention_heads,
        settings.get("encoder_attention_heads"),
        PUBLISHED.get((width, depth, intermediate_size, channels)),
        f"width {width}, {depth} blocks",
    )
    head_dim(width, heads)
    norm_first = bool(settings.get("layer_norm_first", False))
    tensors = fold_weight_norm(tensors, "conv_pos.pos_conv.0")
    _, group_channels, kernel_size = shape(tensors, "conv_pos.pos_conv.0.weight")
    num_labels = shape(tensors, "proj.weight")[0] if "proj.weight" in tensors else None
    is_published_head = num_labels == len(LABELS)
    return Conversion(
        config={
            "num_samples": NUM_SAMPLES,
            "sampling_rate": 500,
            "conv_layers": conv_layers,
            "conv_norm": True,
            "conv_projection": "post_extract_proj.weight" in tensors,
            "use_cls_token": False,
            "position_embedding_type": "convolution",
            "position_conv_kernel_size": kernel_size,
            "position_conv_groups": width // group_channels,
            "position_conv_reads_padding": True,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": intermediate_size,
            "norm_first": norm_first,
            "layer_norm_eps": 1e-5,
            "pooling": "norm_mean" if norm_first else "mean",
            "window_aggregation": (
                [f"{rule}_probability" for rule in LABELS.values()] if is_published_head else "mean_probability"
            ),
        },
        tensors=tensors,
        rules={**RULES, r"encoder\.layer_norm\.(weight|bias)": "norm.{}" if norm_first else "embeddings.norm.{}"},
        dropped=DROPPED,
        extractor={
            "sampling_rate": 500,
            "num_samples": NUM_SAMPLES,
            "resample_method": "linear",
            "cover_end": False,
            "normalization_eps": 1e-8,
            "return_attention_mask": True,
            "steps": ["leads", "resample", "zscore", "windows"],
        },
        num_labels=num_labels,
        label_names=list(LABELS) if is_published_head else None,
    )


def _backbone(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In a fine-tuned file every name of the backbone has an additional prefix `encoder.`."""
    return (
        without_prefix(tensors, "encoder.")
        if "encoder.layer_norm.weight" in tensors and any(name.startswith("encoder.encoder.") for name in tensors)
        else dict(tensors)
    )


def _conv_layers(tensors: dict[str, torch.Tensor], settings: dict) -> list[dict]:
    """The convolutions in the file's configuration, by default the published ones."""
    if settings.get("extractor_mode", "default") != "default":
        raise ValueError(f"`extractor_mode` is {settings['extractor_mode']}; `default` (group norm) is supported.")
    layers = []
    for index, (channels, kernel_size, stride) in enumerate(
        parse_layers(settings.get("conv_feature_layers", CONV_LAYERS))
    ):
        found = shape(tensors, f"feature_extractor.conv_layers.{index}.0.weight")
        if (found[0], found[2]) != (channels, kernel_size):
            raise ValueError(
                f"convolution {index} has {found[0]} channels and kernel {found[2]} in the tensors, {channels} and "
                f"{kernel_size} in the configuration."
            )
        layers.append(
            {
                "channels": channels,
                "kernel_size": kernel_size,
                "stride": stride,
                "bias": f"feature_extractor.conv_layers.{index}.0.bias" in tensors,
                "norm_groups": channels if index == 0 else 0,
            }
        )
    return layers


def parse_layers(expression) -> list[tuple[int, int, int]]:
    """The (channels, kernel, stride) of each layer from `"[(256, 2, 2)] * 4"`, which is parsed, never evaluated."""
    if not isinstance(expression, str):
        return [tuple(layer) for layer in expression]
    try:
        layers = _value(ast.parse(expression.strip(), mode="eval").body)
        if isinstance(layers, list) and all(isinstance(part, tuple) and len(part) == 3 for part in layers):
            return layers
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"`conv_feature_layers` is `{expression}`, no list of (channels, kernel, stride).") from error
    raise ValueError(f"`conv_feature_layers` is `{expression}`, no list of (channels, kernel, stride).")


def _value(node: ast.expr):
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 100_000:
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(part) for part in node.elts)
    if isinstance(node, ast.List):
        return [_value(part) for part in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Add)):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int) and right < 100:
            return left * right
    raise ValueError(ast.dump(node))


ECG_FM = Family(
    name="ecg_fm",
    signature=(
        r"(encoder\.)?feature_extractor\.conv_layers\.0\.0\.weight",
        r"(encoder\.)?encoder\.layers\.\d+\.self_attn\.k_proj\.weight",
    ),
    license="mit",
    pretraining_data=("MIMIC-IV-ECG", "PhysioNet/CinC Challenge 2021", "PTB-XL"),
    convert=convert,
)

__all__ = ["ECG_FM", "parse_layers"]
