"""ST-MEM (arXiv 2402.09450): single-lead tokens, with separators and lead embeddings.

The authors' limb-lead and single-lead models use the first lead embeddings regardless of the leads; here each lead has
its own, and `lead_ids` of 0 gives their result for lead II alone. Their 12-lead model repeats a single lead twelve
times, which has no counterpart here: missing leads have no tokens. A window longer than the position table is an
error.
"""

from __future__ import annotations

import torch

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from .families import Conversion, Family, count, head_dim, resolve_heads, section, shape, without_prefix
from .reading import Checkpoint

RULES = {
    r"pos_embedding": "embeddings.position_embeddings",
    r"sep_embedding": "embeddings.lead_separator",
    r"lead_embeddings": "embeddings.lead_embeddings",
    r"to_patch_embedding\.1\.(weight|bias)": "embeddings.patch_embeddings.norm.{}",
    r"to_patch_embedding\.2\.(weight|bias)": "embeddings.patch_embeddings.projection.{}",
    r"to_patch_embedding\.3\.(weight|bias)": "embeddings.patch_embeddings.output_norm.{}",
    r"block(\d+)\.attn\.norm\.(weight|bias)": "layers.{}.attention_norm.{}",
    r"block(\d+)\.attn\.fn\.to_qkv\.(weight|bias)": (
        "layers.{}.attention.q_proj.{}",
        "layers.{}.attention.k_proj.{}",
        "layers.{}.attention.v_proj.{}",
    ),
    r"block(\d+)\.attn\.fn\.to_out\.0\.(weight|bias)": "layers.{}.attention.o_proj.{}",
    r"block(\d+)\.ff\.norm\.(weight|bias)": "layers.{}.mlp_norm.{}",
    r"block(\d+)\.ff\.fn\.net\.0\.(weight|bias)": "layers.{}.mlp.fc1.{}",
    r"block(\d+)\.ff\.fn\.net\.3\.(weight|bias)": "layers.{}.mlp.fc2.{}",
    r"norm\.(weight|bias)": "norm.{}",
    r"head\.(weight|bias)": "classifier.{}",
}
# Of the pre-training model, which also contains the patch embedding a second time under another name.
DROPPED = (r"mask_embedding", r"decoder_.*", r"to_decoder_embedding\..*", r"duplicate\..*")

# Width, depth, MLP, attention channels and heads of the base and the small encoder.
PUBLISHED = {(768, 12, 3072, 768): 12, (384, 12, 1536, 384): 6}


def convert(checkpoint: Checkpoint, num_attention_heads: int | None) -> Conversion:
    tensors = _encoder(checkpoint.tensors)
    settings = section(checkpoint.content, "config", "model")
    width, patch_size = shape(tensors, "to_patch_embedding.2.weight")
    depth = count(tensors, r"block(\d+)\..*")
    inner = shape(tensors, "block0.attn.fn.to_qkv.weight")[0] // 3
    intermediate_size = shape(tensors, "block0.ff.fn.net.0.weight")[0]
    sizes = (width, depth, intermediate_size, inner)
    heads = resolve_heads(
        num_attention_heads,
        settings.get("heads", settings.get("num_heads")),
        PUBLISHED.get(sizes),
        f"width {width}, {depth} blocks, {inner} channels in attention",
    )
    # With a single head as wide as the model, the authors omit the output projection of the attention.
    if "block0.attn.fn.to_out.0.weight" not in tensors and heads == 1 and inner == width:
        for index in range(depth):
            tensors[f"block{index}.attn.fn.to_out.0.weight"] = torch.eye(width)
            tensors[f"block{index}.attn.fn.to_out.0.bias"] = torch.zeros(width)
    num_samples = (shape(tensors, "pos_embedding")[1] - 2) * patch_size
    records = section(checkpoint.content, "config", "dataset")
    lead_names, rate = _lead_names(tensors, records.get("lead")), records.get("fs", 250)
    is_finetuned = "head.weight" in tensors
    return Conversion(
        config={
            "lead_names": lead_names,
            "num_samples": num_samples,
            "sampling_rate": rate,
            "lead_layout": "tokens",
            "patch_size": patch_size,
            "patch_norm": True,
            "use_cls_token": False,
            "use_lead_separators": True,
            "use_lead_embeddings": True,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "head_dim": head_dim(inner, heads),
            "intermediate_size": intermediate_size,
            "qkv_bias": "block0.attn.fn.to_qkv.bias" in tensors,
            "layer_norm_eps": 1e-5,
            "pooling": "mean",
            # Pre-training normalises every token, fine-tuning only the pooled feature.
            "norm_last_hidden_state": not is_finetuned,
            "window_aggregation": "mean_probability",
        },
        tensors=_stack_lead_embeddings(tensors, len(lead_names)),
        rules=RULES,
        dropped=DROPPED,
        extractor={
            "sampling_rate": rate,
            "num_samples": num_samples,
            "lead_names": lead_names,
            "lead_tokens": True,
            "num_windows": 3,
            "resample_method": "fourier",
            "bandpass": [0.67, 40.0],
            "bandpass_order": 5,
            "zscore_per_lead": False,
            "steps": ["leads", "resample", "windows", "bandpass", "zscore"],
        },
        num_labels=shape(tensors, "head.weight")[0] if is_finetuned else None,
    )


def _encoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if "encoder.pos_embedding" not in tensors:
        return dict(tensors)
    outside = {
        f"duplicate.{name}" if name.startswith("to_patch_embedding.") else name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("encoder.")
    }
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    return {**outside, **without_prefix(encoder, "encoder.")}


def _lead_names(tensors: dict[str, torch.Tensor], selection: str | None) -> list[str]:
    num_leads = count(tensors, r"lead_embeddings\.(\d+)")
    if num_leads == 1:
        return ["II" if selection == "lead2" else "I"]
    if num_leads not in (6, 12):
        raise ValueError(f"the checkpoint has {num_leads} lead embeddings; the authors' models have 12, 6 or 1.")
    return list(LEAD_NAMES[:num_leads])


def _stack_lead_embeddings(tensors: dict[str, torch.Tensor], num_leads: int) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    rows = [tensors.pop(f"lead_embeddings.{lead}") for lead in range(num_leads)]
    separator = tensors.pop("sep_embedding", None)
    if separator is not None:
        tensors["sep_embedding"] = separator.view(1, 1, 1, -1)
    return {**tensors, "lead_embeddings": torch.stack(rows)}


ST_MEM = Family(
    name="st_mem",
    signature=(r"(encoder\.)?sep_embedding", r"(encoder\.)?block\d+\.attn\.fn\.to_qkv\.weight"),
    license="cc-by-nc-4.0",
    pretraining_data=None,
    convert=convert,
)

__all__ = ["ST_MEM"]
