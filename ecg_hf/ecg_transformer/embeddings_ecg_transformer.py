"""Embeddings of the ECG Transformer: patches or convolutions of the signal, positions, and additional tokens."""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_ecg_transformer import ECGTransformerConfig, conv_output_length
from .layers_ecg_transformer import layer_norm


def sincos_positions(num_positions: int, size: int) -> torch.Tensor:
    """(num_positions, size): alternating sine and cosine of frequencies 10000^(-2k / size), positions from 0."""
    frequencies = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * (-math.log(10000.0) / size))
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class ECGTransformerPatchEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, tokens, hidden): one token for `patch_size` samples of all leads."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.projection = nn.Conv1d(
            config.num_leads,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=config.use_bias,
        )

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.projection(input_values.to(self.projection.weight.dtype)).transpose(1, 2)

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, tokens): true for tokens with any real sample."""
        return attention_mask.bool().unfold(1, self.patch_size, self.patch_size).any(dim=-1)


class ECGTransformerLeadPatchEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, leads, patches, hidden): one token for `patch_size` samples of one lead."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.norm = layer_norm(config, config.patch_size) if config.patch_norm else nn.Identity()
        self.projection = nn.Linear(config.patch_size, config.hidden_size, bias=config.use_bias)
        self.output_norm = layer_norm(config) if config.patch_norm else nn.Identity()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        patches = input_values.to(self.projection.weight.dtype).unfold(2, self.patch_size, self.patch_size)
        return self.output_norm(self.projection(self.norm(patches)))

    token_mask = ECGTransformerPatchEmbeddings.token_mask


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
    """(batch, channels, samples) to (batch, tokens, hidden): convolutions over time, then a norm and a projection.

    The channels are the leads, or a single channel where the leads are concatenated in time. Group norm statistics
    include padding: a padded input does not give exactly the result of the shorter one.
    """

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.conv_layers = config.conv_layers
        channels = [1 if config.lead_layout == "time" else config.num_leads]
        channels += [layer["channels"] for layer in config.conv_layers]
        self.layers = nn.ModuleList(
            ECGTransformerConvLayer(size, layer, config.hidden_act)
            for size, layer in zip(channels, config.conv_layers, strict=False)
        )
        self.norm = layer_norm(config, channels[-1]) if config.conv_norm else nn.Identity()
        self.projection = nn.Linear(channels[-1], config.hidden_size) if config.conv_projection else nn.Identity()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        hidden_states = input_values.to(self.layers[0].convolution.weight.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.projection(self.norm(hidden_states.transpose(1, 2)))

    def token_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) to (batch, tokens): true for the first tokens, as many as the real samples would give."""
        num_tokens = conv_output_length(self.conv_layers, attention_mask.shape[-1])
        num_real = conv_output_length(self.conv_layers, attention_mask.bool().sum(dim=-1))
        return torch.arange(num_tokens, device=attention_mask.device) < num_real[:, None]


class ECGTransformerConvPositions(nn.Module):
    """Position embeddings of (batch, tokens, hidden), computed by a grouped convolution over the tokens."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        kernel_size = config.position_conv_kernel_size
        self.convolution = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel_size=kernel_size,
            padding=kernel_size // 2,
            groups=config.position_conv_groups,
        )
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # An even kernel size gives one extra position.
        positions = self.convolution(tokens.transpose(1, 2))[..., : tokens.shape[1]]
        return self.activation(positions).transpose(1, 2)


class ECGTransformerEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, tokens, hidden): registers and CLS, if any, then the tokens in time order."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.config = config
        patch_class = ECGTransformerPatchEmbeddings if config.conv_layers is None else ECGTransformerConvEmbeddings
        self.patch_embeddings = patch_class(config)
        if config.num_registers:
            self.registers = nn.Parameter(torch.zeros(1, config.num_registers, config.hidden_size))
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        if config.position_embedding_type == "learned":
            num_positions = config.num_positions + config.use_cls_token
            self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        elif config.position_embedding_type == "sincos":
            self.register_buffer("position_embeddings", self.fixed_positions(), persistent=False)
        else:
            self.position_convolution = ECGTransformerConvPositions(config)
        # A post-norm block expects normalised input.
        self.norm = nn.Identity() if config.norm_first else layer_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def fixed_positions(self) -> torch.Tensor:
        """(1, tokens, hidden): the fixed position table, without CLS."""
        table = sincos_positions(self.config.num_positions, self.config.hidden_size)
        return self.config.position_scale * table.unsqueeze(0)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """-> tokens, their mask, and None: no positions to add before later blocks."""
        if lead_ids is not None:
            raise ValueError(
                "`lead_ids` is for models with single-lead tokens; in this one each token contains all leads."
            )
        _check_input(input_values, attention_mask, self.config)
        if self.config.lead_layout == "time":
            input_values, attention_mask = _stack_in_time(input_values, attention_mask)
        tokens = self.patch_embeddings(input_values)
        if attention_mask is not None:
            attention_mask = self.patch_embeddings.token_mask(attention_mask)
        if self.config.position_embedding_type == "convolution":
            tokens = self._add_conv_positions(tokens, attention_mask)
        tokens = self._prepend_tokens(tokens)
        if attention_mask is not None:
            num_prepended = self.config.num_registers + self.config.use_cls_token
            attention_mask = nn.functional.pad(attention_mask, (num_prepended, 0), value=True)
        return self.dropout(self.norm(tokens)), attention_mask, None

    def _add_conv_positions(self, tokens: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        if token_mask is None:
            return tokens + self.position_convolution(tokens)
        padding = ~token_mask.unsqueeze(-1)
        if self.config.position_conv_reads_padding:
            return (tokens + self.position_convolution(tokens)).masked_fill(padding, 0.0)
        tokens = tokens.masked_fill(padding, 0.0)
        return tokens + self.position_convolution(tokens)

    def _prepend_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add the position table, and prepend registers and CLS; registers have no position."""
        config, prepended = self.config, []
        if config.num_registers:
            prepended.append(self.registers)
        if config.use_cls_token:
            prepended.append(self.cls_token)
        if config.position_embedding_type != "convolution":
            positions = self.position_embeddings.to(tokens.dtype)
            if config.use_cls_token and config.position_embedding_type == "learned":
                prepended[-1], positions = prepended[-1] + positions[:, :1], positions[:, 1:]
            tokens = tokens + positions[:, : tokens.shape[1]]
        return torch.cat([*(token.expand(tokens.shape[0], -1, -1) for token in prepended), tokens], dim=1)


class ECGTransformerLeadEmbeddings(nn.Module):
    """(batch, leads, samples) to (batch, leads x tokens, hidden): the tokens of the leads, concatenated.

    Only given leads have tokens. With separators the tokens of a lead are separator, patches, separator.
    """

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = ECGTransformerLeadPatchEmbeddings(config)
        num_tables = config.num_leads if config.position_per_lead else 1
        num_positions = config.num_positions + 2 * config.use_lead_separators
        self.position_embeddings = nn.Parameter(torch.zeros(num_tables, num_positions, config.hidden_size))
        if config.use_lead_separators:
            self.lead_separator = nn.Parameter(torch.zeros(1, 1, 1, config.hidden_size))
        if config.use_lead_embeddings:
            self.lead_embeddings = nn.Parameter(torch.zeros(config.num_leads, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """-> tokens, their mask, and the positions to add before later blocks (None unless configured)."""
        config = self.config
        _check_input(input_values, attention_mask, config, lead_ids)
        tokens = self.patch_embeddings(input_values)
        if lead_ids is None:
            lead_ids = torch.arange(config.num_leads, device=tokens.device).unsqueeze(0)
        num_patches = tokens.shape[2]
        tables = self.position_embeddings[lead_ids] if config.position_per_lead else self.position_embeddings[None]
        positions = tables[:, :, :num_patches]
        if config.use_lead_separators:
            separators = self.lead_separator.expand(*tokens.shape[:2], 1, -1)
            tokens = torch.cat([separators, tokens, separators], dim=2)
            # A shorter input has the first positions, but the final separator keeps the last one.
            positions = torch.cat([tables[:, :, : num_patches + 1], tables[:, :, -1:]], dim=2)
        tokens = tokens + positions
        if config.use_lead_embeddings:
            tokens = tokens + self.lead_embeddings[lead_ids].unsqueeze(2)
        if attention_mask is not None:
            attention_mask = self.patch_embeddings.token_mask(attention_mask)
            attention_mask = nn.functional.pad(attention_mask, (int(config.use_lead_separators),) * 2, value=True)
            attention_mask = attention_mask.repeat(1, tokens.shape[1])
        positions = (
            positions.expand(-1, tokens.shape[1], -1, -1).flatten(1, 2) if config.position_every_layer else None
        )
        return self.dropout(tokens.flatten(1, 2)), attention_mask, positions


def _check_input(input_values, attention_mask, config: ECGTransformerConfig, lead_ids=None):
    shape, num_rows = tuple(input_values.shape), config.num_leads
    stacked = config.lead_layout == "time" and len(shape) == 3 and shape[1] == 1
    if lead_ids is not None:
        num_rows = lead_ids.shape[-1]
        if len(shape) != 3 or tuple(lead_ids.shape) != shape[:2]:
            raise ValueError(
                f"`lead_ids` must say for each row which lead it is: `input_values` has shape {shape}, `lead_ids` "
                f"{tuple(lead_ids.shape)}."
            )
    elif len(shape) != 3 or (shape[1] != num_rows and not stacked):
        hint = ": are the axes swapped?" if len(shape) == 3 and shape[2] == num_rows else "."
        if config.lead_layout == "tokens" and len(shape) == 3:
            hint = "; for other leads give `lead_ids`, as the feature extractor does."
        raise ValueError(
            f"`input_values` must have shape (batch, {num_rows}, {config.num_samples}) for this model, got "
            f"{shape}{hint}"
        )
    total = shape[1] * shape[2] if config.lead_layout == "time" else shape[2]
    shortest, longest = config.min_samples, config.max_samples
    if total < shortest or (longest is not None and total > longest):
        limits = f"{shortest} samples or more" if longest is None else f"{shortest} to {longest} samples"
        raise ValueError(
            f"This model reads {limits} at {config.sampling_rate} Hz, got {total}: cut the record into windows, as "
            "the feature extractor does."
        )
    if attention_mask is not None:
        masks = [(shape[0], shape[2])] + [shape] * (config.lead_layout == "time")
        if tuple(attention_mask.shape) not in masks:
            raise ValueError(
                f"`attention_mask` must have shape {' or '.join(map(str, masks))}, got {tuple(attention_mask.shape)}."
            )


def _stack_in_time(input_values, attention_mask):
    """Concatenate (batch, leads, samples) to (batch, 1, leads x samples), and the mask to (batch, leads x samples)."""
    if attention_mask is not None:
        if attention_mask.dim() == 2:
            attention_mask = attention_mask.unsqueeze(1).expand(input_values.shape)
        attention_mask = attention_mask.flatten(1)
    return input_values.flatten(1).unsqueeze(1), attention_mask


__all__ = ["ECGTransformerEmbeddings", "ECGTransformerLeadEmbeddings", "sincos_positions"]
