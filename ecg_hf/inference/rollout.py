"""Attention roll-out (Abnar and Zuidema 2020, arXiv 2005.00928): from the pooled feature back to the samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from .windows import RecordWindows


def attention_rollout(model: ECGTransformerForMultiLabel, windows: RecordWindows) -> np.ndarray:
    """(windows, rows, samples): the share of the pooled feature's attention that comes from each sample.

    That of a token is spread evenly over the samples that it is made of, and, where these are of all leads, over the
    leads; that of registers, CLS and separators is left out.

    Raises `ValueError` for a model whose attention is not full.
    """
    config = model.config
    if config.attention_pattern != "full":
        raise ValueError(
            f"Attention roll-out is for models with full attention; `attention_pattern` of `{model.name_or_path}` is "
            f"`{config.attention_pattern}`: use integrated_gradients."
        )
    maps = []
    with torch.no_grad(), _eager_attention(model):
        for row in range(len(windows.values)):
            inputs = {"input_values": windows.values, **windows.others}
            shares = _token_shares(model, {name: tensor[row : row + 1] for name, tensor in inputs.items()})
            maps.append(_on_samples(config, shares, windows.values.shape[1:]))
    return np.stack(maps)


@contextlib.contextmanager
def _eager_attention(model: ECGTransformerForMultiLabel) -> Iterator[None]:
    """A block in which attention is computed such that its weights are known."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _token_shares(model: ECGTransformerForMultiLabel, window: dict[str, torch.Tensor]) -> np.ndarray:
    """The inputs of one window -> (tokens of the signal,), in time order, those of one lead after another."""
    encoder, config = model.base_model, model.config
    _, token_mask, _ = encoder.embeddings(**window)
    output = encoder(**window, output_attentions=True)
    num_rows = window["input_values"].shape[1]
    shares = _pooling_weights(encoder, output, token_mask, num_rows)
    for attention in reversed(output.attentions):
        shares = (shares + shares @ attention[0].float().mean(dim=0)) / 2
    return shares[_signal_tokens(config, len(shares), num_rows)].cpu().numpy()


def _signal_tokens(config: ECGTransformerConfig, num_tokens: int, num_rows: int) -> torch.Tensor:
    """The places of the tokens that are made of the signal."""
    places = torch.arange(num_tokens)
    if config.use_lead_separators:
        return places.unflatten(0, (num_rows, -1))[:, 1:-1].flatten()
    return places if config.lead_layout == "tokens" else places[config.num_registers + config.use_cls_token :]


def _pooling_weights(encoder, output, token_mask: torch.Tensor | None, num_rows: int) -> torch.Tensor:
    """(tokens,): how the pooled feature is put together from the tokens of the last layer."""
    config = encoder.config
    num_tokens = output.attentions[0].shape[-1]
    weights = torch.zeros(num_tokens, device=output.last_hidden_state.device)
    first = 0 if config.keep_registers else config.num_registers
    if config.pooling == "attention":
        mask = None if token_mask is None else token_mask[:, first:]
        weights[first:] = encoder.pooler.weights(output.last_hidden_state, mask).mean(dim=1)[0, 0]
    elif config.pooling == "register":
        weights[first] = 1
    elif config.pooling == "cls":
        weights[config.num_registers] = 1
    else:
        weights[_signal_tokens(config, num_tokens, num_rows)] = 1
        weights = weights if token_mask is None else weights * token_mask[0]
        weights = weights / weights.sum()
    return weights


def _on_samples(config: ECGTransformerConfig, shares: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(tokens,) -> (rows, samples)."""
    num_rows, num_samples = shape
    if config.lead_layout == "tokens":
        return np.stack([_spread(config, part, num_samples) for part in shares.reshape(num_rows, -1)])
    if config.lead_layout == "time":
        return _spread(config, shares, num_rows * num_samples).reshape(num_rows, num_samples)
    return np.tile(_spread(config, shares, num_samples) / num_rows, (num_rows, 1))


def _spread(config: ECGTransformerConfig, shares: np.ndarray, num_samples: int) -> np.ndarray:
    """(tokens,) -> (samples,): each token's over the samples that it is made of."""
    first, step, size = token_field(config)
    spread = np.zeros(num_samples)
    for token, share in enumerate(shares):
        start, end = max(0, first + token * step), min(num_samples, first + token * step + size)
        spread[start:end] += share / (end - start)
    return spread


def token_field(config: ECGTransformerConfig) -> tuple[int, int, int]:
    """The samples that a token is made of: where those of the first token begin, how many later those of the next,
    and how many they are. Of convolutions it is their receptive field (group norms aside, which see everything)."""
    if config.conv_layers is None:
        return 0, config.patch_size, config.patch_size
    first, step, size = 0, 1, 1
    for layer in config.conv_layers:
        first -= layer["padding"] * step
        size += (layer["kernel_size"] - 1) * step
        step *= layer["stride"]
    return first, step, size


__all__ = ["attention_rollout", "token_field"]
