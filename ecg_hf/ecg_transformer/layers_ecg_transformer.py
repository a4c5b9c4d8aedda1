"""Blocks of the ECG Transformer: attention, MLP, and the residual branches that stochastic depth drops."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_ecg_transformer import ECGTransformerConfig


def drop_path(
    branch: Callable, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, drop_rate: float
) -> torch.Tensor:
    """`hidden_states` plus `branch` of it, with each row's branch dropped at `drop_rate` and rescaled in expectation.

    Dropped rows are not computed: of the B rows a random subset of k goes through the branch, with
    E[k] = B (1 - drop_rate). Rows and k come from the CPU generator, so that a GPU is not waited for and gradient
    checkpointing repeats them. Compiled and exported graphs have fixed shapes and mask the dropped rows instead.
    """
    batch_size, keep_rate = hidden_states.shape[0], 1.0 - drop_rate
    if torch.compiler.is_compiling():
        keep = torch.rand(batch_size, device=hidden_states.device) < keep_rate
        keep = keep.view(-1, *[1] * (hidden_states.dim() - 1))
        return hidden_states + branch(hidden_states, attention_mask) * (keep / keep_rate).to(hidden_states.dtype)

    expected = batch_size * keep_rate
    num_kept = math.floor(expected)
    num_kept += int(torch.rand(()).item() < expected - num_kept)
    # A branch that no row goes through would leave its parameters without a gradient, for which DDP waits.
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
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

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
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class ECGTransformerLayer(GradientCheckpointingLayer):
    """One pre-norm block; its attention and MLP branches are each dropped per row at `drop_path_rate` in training."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.drop_path_rate = 0.0
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ECGTransformerAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ECGTransformerMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        def attend(states, mask):
            return self.dropout(self.attention(self.attention_norm(states), mask, **kwargs)[0])

        def transform(states, mask):
            return self.dropout(self.mlp(self.mlp_norm(states)))

        hidden_states = self._residual(attend, hidden_states, attention_mask)
        return self._residual(transform, hidden_states, attention_mask)

    def _residual(self, branch: Callable, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None):
        if self.training and self.drop_path_rate > 0:
            return drop_path(branch, hidden_states, attention_mask, self.drop_path_rate)
        return hidden_states + branch(hidden_states, attention_mask)

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3g}"


__all__ = ["ECGTransformerAttention", "ECGTransformerLayer", "ECGTransformerMLP", "drop_path"]
