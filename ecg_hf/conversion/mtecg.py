"""MTECG (arXiv 2309.07136): one token for 25 samples of all leads. The architecture is public, the weights are not.

The tensor names are those of timm and MAE. The preprocessing is an assumption: unnormalised mV at 500 Hz.
"""

from __future__ import annotations

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from .families import Conversion, Family, count, head_dim, resolve_heads, shape
from .reading import Checkpoint

RULES = {
    r"cls_token": "embeddings.cls_token",
    r"pos_embed": "embeddings.position_embeddings",
    r"patch_embed\.proj\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"blocks\.(\d+)\.norm1\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)": (
        "layers.{}.attention.q_proj.{}",
        "layers.{}.attention.k_proj.{}",
        "layers.{}.attention.v_proj.{}",
    ),
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"blocks\.(\d+)\.norm2\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"blocks\.(\d+)\.mlp\.(fc\d)\.(weight|bias)": "layers.{}.mlp.{}.{}",
    r"(?:fc_)?norm\.(weight|bias)": "norm.{}",
    r"head\.(weight|bias)": "classifier.{}",
}
DROPPED = (r"mask_token", r"decoder_.*")

# Width, depth, MLP, patch, positions and heads of `ti_12_25`.
PUBLISHED = {(192, 12, 768, 25, 201): 3}


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    tensors = dict(checkpoint.tensors)
    width, channels, num_leads, patch_size = shape(tensors, "patch_embed.proj.weight")
    if channels != 1 or num_leads != len(LEAD_NAMES):
        raise ValueError(
            f"`patch_embed.proj.weight` must have shape (width, 1, {len(LEAD_NAMES)}, samples), got "
            f"{(width, channels, num_leads, patch_size)}."
        )
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].squeeze(1)
    depth = count(tensors, r"blocks\.(\d+)\..*")
    intermediate_size = shape(tensors, "blocks.0.mlp.fc1.weight")[0]
    num_positions = shape(tensors, "pos_embed")[1]
    sizes = (width, depth, intermediate_size, patch_size, num_positions)
    heads = resolve_heads(num_attention_heads, None, PUBLISHED.get(sizes), f"width {width}, {depth} blocks")
    head_dim(width, heads)
    num_samples = (num_positions - 1) * patch_size
    num_labels = shape(tensors, "head.weight")[0] if "head.weight" in tensors else None
    return Conversion(
        config={
            "num_samples": num_samples,
            "sampling_rate": 500,
            "patch_size": patch_size,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": intermediate_size,
            "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
            "layer_norm_eps": 1e-6,
            "pooling": "mean" if "fc_norm.weight" in tensors else "cls",
        },
        tensors=tensors,
        rules=RULES,
        dropped=DROPPED,
        extractor={"sampling_rate": 500, "num_samples": num_samples},
        num_labels=num_labels,
    )


MTECG = Family(
    name="mtecg",
    signature=(r"cls_token", r"patch_embed\.proj\.weight", r"blocks\.\d+\.attn\.qkv\.weight"),
    license="unknown",
    pretraining_data=None,
    convert=convert,
)

__all__ = ["MTECG"]
