"""ECG-JEPA of Kim (arXiv 2410.08559): single-lead tokens of eight leads, with attention to the same lead or time.

The authors do not apply the batch norm before the head whose buffers are in their files; these are dropped. Their
encoder ignores the order of a permuted full list of leads; here `lead_ids` always identifies the lead of a row. Their
position table is never trained; here it is a trainable parameter.
"""

from __future__ import annotations

from .families import Conversion, Family, count, has_any, head_dim, resolve_heads, shape, without_prefix
from .reading import Checkpoint

LEADS = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]

RULES = {
    r"pos_embed": "embeddings.position_embeddings",
    r"W_P\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"encoder_blocks\.blocks\.(\d+)\.norm1\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"encoder_blocks\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)": (
        "layers.{}.attention.q_proj.{}",
        "layers.{}.attention.k_proj.{}",
        "layers.{}.attention.v_proj.{}",
    ),
    r"encoder_blocks\.blocks\.(\d+)\.attn\.proj\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"encoder_blocks\.blocks\.(\d+)\.norm2\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"encoder_blocks\.blocks\.(\d+)\.mlp\.(fc\d)\.(weight|bias)": "layers.{}.mlp.{}.{}",
    r"norm\.(weight|bias)": "norm.{}",
    r"fc\.fc\.(weight|bias)": "classifier.{}",
}
DROPPED = (r"fc\.bn\.(running_mean|running_var|num_batches_tracked)",)

# Width, depth, MLP, positions, patch and heads.
PUBLISHED = {(768, 12, 3072, 400, 50): 16}


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    tensors = without_prefix(checkpoint.tensors, "encoder.")
    num_positions, width = shape(tensors, "pos_embed")
    patch_size = shape(tensors, "W_P.weight")[1]
    if num_positions % len(LEADS):
        raise ValueError(f"`pos_embed` has {num_positions} rows, which is not a multiple of {len(LEADS)} leads.")
    num_patches = num_positions // len(LEADS)
    tensors["pos_embed"] = tensors["pos_embed"].view(len(LEADS), num_patches, width)
    depth = count(tensors, r"encoder_blocks\.blocks\.(\d+)\..*")
    intermediate_size = shape(tensors, "encoder_blocks.blocks.0.mlp.fc1.weight")[0]
    sizes = (width, depth, intermediate_size, num_positions, patch_size)
    heads = resolve_heads(num_attention_heads, None, PUBLISHED.get(sizes), f"width {width}, {depth} blocks")
    head_dim(width, heads)
    num_samples = num_patches * patch_size
    is_finetuned = "fc.fc.weight" in tensors
    # The authors filter in fine-tuning only.
    filters = {"bandpass": [0.67, 40.0], "bandpass_order": 5} if is_finetuned else {}
    return Conversion(
        config={
            "lead_names": LEADS,
            "num_samples": num_samples,
            "sampling_rate": 250,
            "lead_layout": "tokens",
            "patch_size": patch_size,
            "use_cls_token": False,
            "position_per_lead": True,
            "position_every_layer": True,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": intermediate_size,
            "qkv_bias": has_any(tensors, r"encoder_blocks\.blocks\.0\.attn\.qkv\.bias"),
            "layer_norm_eps": 1e-5,
            "attention_pattern": "same_lead_or_time",
            "pooling": "norm_mean",
        },
        tensors=tensors,
        rules=RULES,
        dropped=DROPPED,
        extractor={
            "sampling_rate": 250,
            "num_samples": num_samples,
            "lead_names": LEADS,
            "lead_tokens": True,
            "resample_method": "fourier",
            **filters,
            "steps": ["leads", "resample", "windows", *(["bandpass"] if is_finetuned else [])],
        },
        num_labels=shape(tensors, "fc.fc.weight")[0] if is_finetuned else None,
    )


ECG_JEPA_KIM = Family(
    name="ecg_jepa_kim",
    signature=(r"(encoder\.)?W_P\.weight", r"(encoder\.)?encoder_blocks\.blocks\.\d+\.attn\.qkv\.weight"),
    license="mit",
    pretraining_data=None,
    convert=convert,
)

__all__ = ["ECG_JEPA_KIM"]
