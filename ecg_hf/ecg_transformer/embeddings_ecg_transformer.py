"""Tokens of the ECG Transformer: patches or convolutions of the signal, positions, and the tokens put before them."""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_ecg_transformer import ECGTransformerConfig, conv_output_length


def sincos_positions(num_positions: int, size: int) -> torch.Tensor:
    """(num_positions, size): sine and cosine in turn, of frequencies 10000^(-2k / size), positions from 0."""
    frequencies = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * (-math.log(10000.0) / size))
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class ECGTransformerPatchEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, tokens, hidden): all leads of `patch_size` samples make one token."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.projection = nn.Conv1d(
            config.num_leads, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.projection(input_values.to(self.projection.weight.dtype)).transpose(1, 2)

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, tokens): a token with any real sample is real."""
        return attention_mask.bool().unfold(1, self.patch_size, self.patch_size).any(dim=-1)


class ECGTransformerConvLayer(nn.Module):
    """Convolution, group norm, activation and residual of one entry of `config.conv_layers`."""

    def __init__(self, in_channels: int, layer: dict, hidden_act: str):
        super().__init__()
        self.residual = layer["residual"]
        self.convolution = nn.Conv1d(
            in_channels,
            layer["channels"],
            kernel_size=layer["kernel_size"],
            stride=layer["stride"],
            padding=layer["padding"],
            bias=layer["bias"],
        )
        self.norm = nn.GroupNorm(layer["norm_groups"], layer["channels"]) if layer["norm_groups"] else nn.Identity()
        self.activation = ACT2FN[hidden_act] if layer["activation"] else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = self.activation(self.norm(self.convolution(hidden_states)))
        return hidden_states + output if self.residual else output


class ECGTransformerConvEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, tokens, hidden): a stack of convolutions over time, leads as channels."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.config = config
        channels = [config.num_leads, *(layer["channels"] for layer in config.conv_layers)]
        self.layers = nn.ModuleList(
            ECGTransformerConvLayer(size, layer, config.hidden_act)
            for size, layer in zip(channels, config.conv_layers, strict=False)
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden_states = input_values.to(self.layers[0].convolution.weight.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states.transpose(1, 2)

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, tokens): as many tokens are real as the real samples alone would give."""
        num_tokens = conv_output_length(self.config.conv_layers, attention_mask.shape[-1])
        num_real = conv_output_length(self.config.conv_layers, attention_mask.bool().sum(dim=-1))
        return torch.arange(num_tokens, device=attention_mask.device) < num_real[:, None]


class ECGTransformerEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, tokens, hidden): CLS, if any, before the tokens in time order; positions."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.config = config
        patch_class = ECGTransformerPatchEmbeddings if config.conv_layers is None else ECGTransformerConvEmbeddings
        self.patch_embeddings = patch_class(config)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        if config.position_embedding_type == "learned":
            num_positions = config.num_patches + config.use_cls_token
            self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        else:
            self.register_buffer("position_embeddings", self.fixed_positions(), persistent=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def fixed_positions(self) -> torch.Tensor:
        """(1, tokens, hidden): the table where it is not learned. CLS has none in it."""
        table = sincos_positions(self.config.num_patches, self.config.hidden_size)
        return self.config.position_scale * table.unsqueeze(0)

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self._check(input_values)
        tokens = self.patch_embeddings(input_values)
        positions, num_tokens = self.position_embeddings.to(tokens.dtype), tokens.shape[1]
        if attention_mask is not None:
            attention_mask = self.patch_embeddings.token_mask(attention_mask)
        if not self.config.use_cls_token:
            return self.dropout(tokens + positions[:, :num_tokens]), attention_mask
        cls_token = self.cls_token
        if self.config.position_embedding_type == "learned":
            cls_token, positions = cls_token + positions[:, :1], positions[:, 1:]
        tokens = torch.cat([cls_token.expand(len(tokens), -1, -1), tokens + positions[:, :num_tokens]], dim=1)
        if attention_mask is not None:
            attention_mask = nn.functional.pad(attention_mask, (1, 0), value=True)
        return self.dropout(tokens), attention_mask

    def _check(self, input_values: torch.Tensor):
        config = self.config
        shape = tuple(input_values.shape)
        if len(shape) != 3 or shape[1] != config.num_leads:
            hint = ": are the axes swapped?" if len(shape) == 3 and shape[2] == config.num_leads else "."
            raise ValueError(
                f"`input_values` must have shape (batch, {config.num_leads}, {config.num_samples}) for this model, "
                f"got {shape}{hint}"
            )
        if not config.min_samples <= shape[2] <= config.num_samples:
            raise ValueError(
                f"This model reads {config.min_samples} to {config.num_samples} samples at {config.sampling_rate} Hz, "
                f"got {shape[2]}: cut the record into windows, as the feature extractor does."
            )


__all__ = ["ECGTransformerEmbeddings", "sincos_positions"]
