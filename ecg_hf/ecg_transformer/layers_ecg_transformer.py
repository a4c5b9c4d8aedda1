"""Blocks of the ECG Transformer: attention, MLP, residual branches with stochastic depth, and pooling."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_ecg_transformer import ECGTransformerConfig


def layer_norm(config: ECGTransformerConfig, size: int | None = None) -> nn.LayerNorm:
    """A layer norm according to the configuration, over `hidden_size` channels or over `size`."""
    bias = config.use_bias if config.norm_bias is None else config.norm_bias
    return nn.LayerNorm(config.hidden_size if size is None else size, eps=config.layer_norm_eps, bias=bias)


def attention_mask_of(
    config: ECGTransformerConfig, hidden_states: torch.Tensor, token_mask: torch.Tensor | None, tokens_per_lead: int
):
    """Which tokens of `hidden_states` (batch, tokens, hidden) attend to which, in the form of the attention that is
    used, by `config.attention_pattern` and `token_mask` (batch, tokens).

    Raises `ValueError` where that attention cannot be restricted to the pattern.
    """
    if config.attention_pattern == "full":
        return create_bidirectional_mask(config, hidden_states, token_mask)

    def same_lead_or_time(batch, head, query, key):
        return (query // tokens_per_lead == key // tokens_per_lead) | (
            query % tokens_per_lead == key % tokens_per_lead
        )

    mask = create_bidirectional_mask(config, hidden_states, token_mask, and_mask_function=same_lead_or_time)
    if mask is None:  # of flash attention, which knows no patterns
        raise ValueError(
            f"The attention `{config._attn_implementation}` cannot be restricted to tokens of the same lead or time, "
            "as in this model: load it with `attn_implementation` sdpa or eager."
        )
    return mask


def drop_path(
    branch: Callable, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, drop_rate: float
) -> torch.Tensor:
    """`hidden_states` plus its residual `branch`, dropped for each row at `drop_rate` and rescaled in expectation.

    Dropped rows are not computed: of the B rows a random subset of k is passed through the branch, with
    E[k] = B (1 - drop_rate). Rows and k are drawn from the CPU generator, which avoids a GPU synchronisation and is
    reproduced by gradient checkpointing. Compiled and exported graphs have fixed shapes and mask dropped rows instead.
    """
    batch_size, keep_rate = hidden_states.shape[0], 1.0 - drop_rate
    if torch.compiler.is_compiling():
        keep = torch.rand(batch_size, device=hidden_states.device) < keep_rate
        keep = keep.view(-1, *[1] * (hidden_states.dim() - 1))
        return hidden_states + branch(hidden_states, attention_mask) * (keep / keep_rate).to(hidden_states.dtype)

    expected = batch_size * keep_rate
    num_kept = math.floor(expected)
    num_kept += int(torch.rand(()).item() < expected - num_kept)
    # At least one row, since DDP waits for a gradient of all parameters.
    rows = torch.randperm(batch_size)[: max(num_kept, 1)].to(hidden_states.device, non_blocking=True)
    if attention_mask is not None and attention_mask.shape[0] == batch_size:
        attention_mask = attention_mask[rows]
    update = branch(hidden_states[rows], attention_mask).to(hidden_states.dtype)
    return hidden_states.index_add(0, rows, update, alpha=1.0 / keep_rate if num_kept else 0.0)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ECGTransformerAttention(nn.Module):
    """Multi-head self-attention over (batch, tokens, hidden), through the library's attention interface."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        inner_size = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, inner_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, inner_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner_size, config.hidden_size, bias=config.use_bias)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        head_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(head_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(head_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(head_shape).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class ECGTransformerMLP(nn.Module):
    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class ECGTransformerLayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.weight


class ECGTransformerLayer(GradientCheckpointingLayer):
    """A pre-norm or post-norm block; its attention and MLP branches are dropped per row at `drop_path_rate` in
    training."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.drop_path_rate = 0.0
        self.norm_first = config.norm_first
        scaled = config.layer_scale_init_value > 0
        self.attention_norm = layer_norm(config)
        self.attention = ECGTransformerAttention(config)
        self.attention_scale = ECGTransformerLayerScale(config) if scaled else nn.Identity()
        self.mlp_norm = layer_norm(config)
        self.mlp = ECGTransformerMLP(config)
        self.mlp_scale = ECGTransformerLayerScale(config) if scaled else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        def attend(states, mask):
            return self.attention_scale(self.dropout(self.attention(states, mask, **kwargs)[0]))

        def transform(states, mask):
            return self.mlp_scale(self.dropout(self.mlp(states)))

        hidden_states = self._residual(attend, self.attention_norm, hidden_states, attention_mask)
        return self._residual(transform, self.mlp_norm, hidden_states, attention_mask)

    def _residual(self, function: Callable, norm: nn.Module, hidden_states: torch.Tensor, attention_mask):
        def branch(states, mask):
            return function(norm(states) if self.norm_first else states, mask)

        if self.training and self.drop_path_rate > 0:
            hidden_states = drop_path(branch, hidden_states, attention_mask, self.drop_path_rate)
        else:
            hidden_states = hidden_states + branch(hidden_states, attention_mask)
        return hidden_states if self.norm_first else norm(hidden_states)

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3g}"


class ECGTransformerAttentionPooling(nn.Module):
    """(batch, tokens, hidden) to (batch, hidden): attention with a learned query, without output projection."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        value = self._split(self.v_proj(hidden_states))
        return (self.weights(hidden_states, token_mask).to(value.dtype) @ value).flatten(1)

    def weights(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, heads, 1, tokens): the attention of the query to each token, float32."""
        query, key = self._split(self.q_proj(self.query_token)), self._split(self.k_proj(hidden_states))
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if token_mask is not None:
            scores = scores.masked_fill(~token_mask[:, None, None], torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1, dtype=torch.float32)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of (batch, tokens, hidden) over the tokens where `mask` (batch, tokens) is true."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


__all__ = [
    "ECGTransformerAttention",
    "ECGTransformerAttentionPooling",
    "ECGTransformerLayer",
    "ECGTransformerLayerScale",
    "ECGTransformerMLP",
    "drop_path",
    "layer_norm",
    "masked_mean",
]
