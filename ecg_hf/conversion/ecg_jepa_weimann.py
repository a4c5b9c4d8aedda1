"""ECG-JEPA of Weimann and Conrad (arXiv 2410.13867): one token for 25 samples of all leads, registers, no biases.

From a pre-training file the exponential-moving-average encoder is used, as in the authors' evaluation. Its extractor
gives one window of the pre-training length, normalised by the statistics of PTB-XL in pre-training; that of a
fine-tuned file gives the crops of its evaluation. Both round to float16 like the authors' data, and agree up to this
rounding.
"""

from __future__ import annotations

import torch

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ptbxl.labels import task_labels
from .families import Conversion, Family, count, has_any, head_dim, resolve_heads, section, shape, without_prefix
from .reading import Checkpoint

RULES = {
    r"registers": "embeddings.registers",
    r"patch_embed\.proj\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"blocks\.(\d+)\.norm1\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)": (
        "layers.{}.attention.q_proj.{}",
        "layers.{}.attention.k_proj.{}",
        "layers.{}.attention.v_proj.{}",
    ),
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"blocks\.(\d+)\.attn_ls\.weight": "layers.{}.attention_scale.weight",
    r"blocks\.(\d+)\.norm2\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"blocks\.(\d+)\.mlp\.(fc\d)\.(weight|bias)": "layers.{}.mlp.{}.{}",
    r"blocks\.(\d+)\.mlp_ls\.weight": "layers.{}.mlp_scale.weight",
    r"norm\.(weight|bias)": "norm.{}",
    r"attn_pool\.query_token": "pooler.query_token",
    r"attn_pool\.cross_attention_block\.q\.(weight|bias)": "pooler.q_proj.{}",
    r"attn_pool\.cross_attention_block\.kv\.(weight|bias)": ("pooler.k_proj.{}", "pooler.v_proj.{}"),
    # The output projection of the attention pooling is the head.
    r"attn_pool\.cross_attention_block\.proj\.(weight|bias)": "classifier.{}",
    r"fc\.(weight|bias)": "classifier.{}",
}
# Of a pre-training file, besides the moving average.
DROPPED = (r"online\..*", r"predictor\..*")

# The usual spelling of the authors' data set names.
DATASETS = {"mimic-iv-ecg": "MIMIC-IV-ECG", "ptb-xl": "PTB-XL", "code-15": "CODE-15"}

# mV, in the order of the standard leads: statistics of PTB-XL in the authors' pre-training, which rounds to float16.
PTBXL_MEAN = (-0.002, -0.002, 0.0, 0.002, -0.001, -0.001, 0.0, -0.001, -0.002, -0.001, -0.001, -0.001)
PTBXL_STD = (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242)


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    settings = section(checkpoint.content, "config")
    evaluation = section(checkpoint.content, "eval_config")
    if lacking := [name for name in ("channels", "channel_size", "sampling_frequency") if name not in settings]:
        raise ValueError(f"the file's `config` lacks {', '.join(lacking)}, which cannot be read from tensors.")
    tensors = _encoder(checkpoint, bool(evaluation))
    width, num_leads, patch_size = shape(tensors, "patch_embed.proj.weight")
    lead_names = _lead_names(settings["channels"], num_leads)
    heads = resolve_heads(num_attention_heads, settings.get("num_heads"), None, f"width {width}")
    head_dim(width, heads)
    rate, num_samples = settings["sampling_frequency"], settings["channel_size"]
    num_positions = num_samples // patch_size
    stride = None
    if evaluation.get("crop_duration") is not None:
        num_samples = int(evaluation["crop_duration"] * rate)
        stride = int(evaluation["crop_stride"] * rate)
    num_labels = _num_labels(tensors)
    return Conversion(
        config={
            "lead_names": lead_names,
            "num_samples": num_samples,
            "sampling_rate": rate,
            "patch_size": patch_size,
            "use_cls_token": False,
            "num_registers": shape(tensors, "registers")[1] if "registers" in tensors else 0,
            "keep_registers": bool(evaluation.get("use_register")),
            "position_embedding_type": "sincos",
            "max_position_embeddings": num_positions,
            "hidden_size": width,
            "num_hidden_layers": count(tensors, r"blocks\.(\d+)\..*"),
            "num_attention_heads": heads,
            "intermediate_size": shape(tensors, "blocks.0.mlp.fc1.weight")[0],
            "use_bias": "blocks.0.attn.proj.bias" in tensors,
            "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
            # In the first public revision only the norms have biases.
            "norm_bias": "norm.bias" in tensors,
            "layer_norm_eps": settings.get("norm_eps", 1e-6),
            "layer_scale_init_value": _layer_scale(tensors, settings),
            "pooling": _pooling(tensors, evaluation),
            "classifier_bias": has_any(tensors, r"(fc|attn_pool\.cross_attention_block\.proj)\.bias"),
        },
        tensors=tensors,
        rules=RULES,
        dropped=DROPPED,
        extractor={
            "sampling_rate": rate,
            "num_samples": num_samples,
            "lead_names": lead_names,
            **_statistics(checkpoint, lead_names),
            "clip": 5.0,
            "round_to_float16": True,
            "resample_method": "fourier",
            "window_stride": stride,
            "cover_end": False,
            "steps": ["leads", "resample", "windows", "normalize"],
        },
        num_labels=num_labels,
        label_names=_label_names(checkpoint.content.get("task"), num_labels),
        pretraining_data=[DATASETS.get(name, name) for name in section(settings, "datasets")] or None,
    )


def _encoder(checkpoint: Checkpoint, is_finetuned: bool):
    if is_finetuned:
        return without_prefix(checkpoint.tensors, "encoder.")
    renamed = {
        f"online.{name}" if name.startswith("encoder.") else name: tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return without_prefix(renamed, "target_encoder.")


def _lead_names(channels, num_leads: int) -> list[str]:
    names = {name.upper(): name for name in LEAD_NAMES}
    if len(channels) != num_leads or any(channel.upper() not in names for channel in channels):
        raise ValueError(
            f"the file's `config` names the leads {' '.join(channels)}; `patch_embed.proj.weight` has {num_leads}."
        )
    return [names[channel.upper()] for channel in channels]


def _num_labels(tensors) -> int | None:
    for name in ("fc.weight", "attn_pool.cross_attention_block.proj.weight"):
        if name in tensors:
            return shape(tensors, name)[0]
    return None


def _layer_scale(tensors, settings) -> float:
    if not has_any(tensors, r"blocks\.\d+\.attn_ls\.weight"):
        return 0.0
    return settings.get("layer_scale_eps") or 1e-5


def _pooling(tensors, evaluation) -> str:
    if "attn_pool.query_token" in tensors:
        return "attention"
    return "register" if evaluation.get("use_register") else "norm_mean"


def _statistics(checkpoint: Checkpoint, lead_names: list[str]) -> dict[str, list[float]]:
    """Mean and standard deviation of the model's leads; those in the file are in PTB-XL's order."""
    stored = section(checkpoint.content, "preprocess")
    mean, std = (
        [float(value) for value in (stored[name] if name in stored else torch.tensor(default, dtype=torch.float16))]
        for name, default in (("mean", PTBXL_MEAN), ("std", PTBXL_STD))
    )
    if not len(mean) == len(std) == len(LEAD_NAMES):
        raise ValueError(f"the file's `preprocess` has {len(mean)} means for {len(LEAD_NAMES)} leads.")
    places = [LEAD_NAMES.index(name) for name in lead_names]
    return {"mean": [mean[place] for place in places], "std": [std[place] for place in places]}


def _label_names(task: str | None, num_labels: int | None) -> list[str] | None:
    """The labels of the PTB-XL task, in the authors' (sorted) order, if their number matches the head."""
    try:
        labels = task_labels(task)
    except ValueError:
        return None
    return list(labels) if len(labels) == num_labels else None


ECG_JEPA_WEIMANN = Family(
    name="ecg_jepa_weimann",
    signature=(
        r"(target_encoder|encoder)\.patch_embed\.proj\.weight",
        r"(target_encoder|encoder)\.blocks\.\d+\.attn\.qkv\.weight",
    ),
    license="mit",
    pretraining_data=None,
    convert=convert,
)

__all__ = ["ECG_JEPA_WEIMANN"]
