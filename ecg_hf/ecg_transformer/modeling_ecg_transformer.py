"""The ECG Transformer: all leads of a short stretch of signal make one token; a pre-norm Transformer encodes them.

Sources: MTECG (arXiv 2309.07136) for the default encoder, stochastic depth from Huang et al. (arXiv 1603.09382), its
use in post-training from arXiv 2509.12991. Dropped rows are not computed, as in Touvron et al. (arXiv 2212.04884).
"""

import os
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ecg_transformer import AUTO_MAP, CUSTOM_PIPELINES, ECGTransformerConfig, copy_code_files
from .embeddings_ecg_transformer import ECGTransformerEmbeddings
from .layers_ecg_transformer import ECGTransformerAttention, ECGTransformerLayer

logger = logging.get_logger(__name__)

UNKNOWN_LABEL = -100


@dataclass
class ECGTransformerClassifierOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `(1,)`): mean over known labels, where `labels` were given.
    logits (`torch.FloatTensor` of shape `(batch, num_labels)`): one for each window, before the temperature.
    last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`).
    pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): what the classifier read.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class ECGTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, strict loading and self-contained saving for all ECG Transformer classes."""

    config: ECGTransformerConfig
    base_model_prefix = "ecg_transformer"
    main_input_name = "input_values"
    input_modalities = ("time",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ECGTransformerEmbeddings", "ECGTransformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ECGTransformerLayer, "attentions": ECGTransformerAttention}
    _head_names = ("classifier", "projection_head")

    head_is_random = False
    """True where `from_pretrained` found no weights for the head: it has to be trained before it is used."""

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ECGTransformerEmbeddings):
            if self.config.use_cls_token:
                init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            if self.config.position_embedding_type == "learned":
                init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            else:
                # Not stored, and `from_pretrained` leaves such buffers unset.
                init.copy_(module.position_embeddings, module.fixed_positions())

    def set_drop_path_rate(self, rate: float):
        """Set stochastic depth: block l of L is dropped at `rate` * l / (L - 1), so a single block never is."""
        self.config.drop_path_rate = rate
        layers = self.base_model.layers
        for depth, layer in enumerate(layers):
            layer.drop_path_rate = rate * depth / max(len(layers) - 1, 1)

    def no_weight_decay(self) -> set[str]:
        """Names of the matrices that, like all vectors, weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name.endswith(("cls_token", "position_embeddings"))}

    def layer_id(self, parameter_name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embeddings, l + 1 block l, then norm and head."""
        parts = parameter_name.removeprefix(f"{self.base_model_prefix}.").split(".")
        if parts[0] == "embeddings":
            return 0
        return int(parts[1]) + 1 if parts[0] == "layers" else self.config.num_hidden_layers + 1

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in the library, but nothing of the backbone stays random without a word.

        Raises `RuntimeError` where weights of the backbone, or a part of the head, are missing, unexpected or of
        another shape. A wholly missing head is the first step of post-training: it is initialised, warned about, and
        `head_is_random` is set.
        """
        return_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model._check_loading(pretrained_model_name_or_path, info)
        return (model, info) if return_info else model

    def _is_head(self, name: str) -> bool:
        return name.split(".")[0] in self._head_names

    def _check_loading(self, path, info):
        missing = set(info["missing_keys"]) | {name for name, *_ in info["mismatched_keys"]}
        head = {name for name in self.state_dict() if self._is_head(name)}
        no_head = bool(head) and head <= missing
        # The head of another task is left behind; what is too much in a head of this model's own is a fault.
        own_parts = {name.split(".")[0] for name in head}
        unexpected = [
            name for name in info["unexpected_keys"] if not self._is_head(name) or name.split(".")[0] in own_parts
        ]
        wrong = {
            "lacks": sorted(missing - head if no_head else missing),
            "has no place for": sorted(unexpected),
        }
        if any(wrong.values()):
            found = "; ".join(f"{what} {', '.join(names)}" for what, names in wrong.items() if names)
            raise RuntimeError(
                f"The weights of `{path}` do not fit {type(self).__name__}: the checkpoint {found}. Load it with the "
                "configuration that it was saved with."
            )
        if no_head:
            self.head_is_random = True
            warnings.warn(
                f"`{path}` has no trained head ({', '.join(sorted(head))}): a new one was initialised; post-train it "
                "before use.",
                stacklevel=3,
            )

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs):
        """As in the library; the folder also gets the code and the full `auto_map`, so that it stands alone."""
        repo_id = kwargs.pop("repo_id", None)
        hub_kwargs = {name: kwargs.pop(name) for name in ("commit_message", "private") if name in kwargs}
        is_classifier = isinstance(self, ECGTransformerForMultiLabel)
        module = type(self).__module__.split(".")[-1]
        self.config.auto_map = {**AUTO_MAP, "AutoModel": f"{module}.{type(self).__name__}"}
        if is_classifier:
            self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if is_classifier:
                del self.config.custom_pipelines
        if kwargs.get("is_main_process", True):
            copy_code_files(save_directory)
        if push_to_hub:
            self.push_to_hub(repo_id or os.path.basename(os.path.abspath(save_directory)), **hub_kwargs)


class ECGTransformerModel(ECGTransformerPreTrainedModel):
    """The encoder: `input_values` (batch, leads, samples) to token states and one pooled feature."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        self.embeddings = ECGTransformerEmbeddings(config)
        self.layers = nn.ModuleList([ECGTransformerLayer(config) for _ in range(config.num_hidden_layers)])
        self.set_drop_path_rate(config.drop_path_rate)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, num_leads, samples)`):
                Normalised signal at `config.sampling_rate`, leads in the order of `config.lead_names`, at most
                `config.num_samples` samples; shorter input uses the first positions.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*): 1 for real samples, 0 for padding.

        Returns `last_hidden_state` (batch, tokens, hidden), CLS first, and `pooler_output` (batch, hidden).
        """
        hidden_states, token_mask = self.embeddings(input_values, attention_mask)
        mask = create_bidirectional_mask(self.config, hidden_states, token_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        if self.config.pooling == "mean":
            pooled = self.norm(self._mean_of_patches(hidden_states, token_mask))
        else:
            hidden_states = self.norm(hidden_states)
            pooled = (
                hidden_states[:, 0]
                if self.config.pooling == "cls"
                else self._mean_of_patches(hidden_states, token_mask)
            )
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _mean_of_patches(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        first = int(self.config.use_cls_token)
        return masked_mean(hidden_states[:, first:], None if token_mask is None else token_mask[:, first:])


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of (batch, tokens, hidden) over the tokens where `mask` (batch, tokens) is true."""
    if mask is None:
        return tokens.mean(dim=1)
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def multilabel_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each logit, shape (batch, labels), in float32; 0 where the label is unknown (-100)."""
    known = labels != UNKNOWN_LABEL
    targets = torch.where(known, labels, 0).float()
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none") * known


class ECGTransformerForMultiLabel(ECGTransformerPreTrainedModel):
    """The encoder with a linear head: one logit for each label, labels independent of each other."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_transformer = ECGTransformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def replace_head(self, id2label: dict[int, str], label_names: dict[str, str] | None = None):
        """Put a new, random head for other labels on the model; thresholds and temperature of the old one go."""
        config = self.config
        config.id2label = dict(id2label)
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.label_names, config.thresholds = label_names, None
        config.temperature, config.window_aggregation = 1.0, "mean_logit"
        self.num_labels = len(id2label)
        old = self.classifier.weight
        self.classifier = nn.Linear(config.hidden_size, self.num_labels, device=old.device, dtype=old.dtype)
        self._init_weights(self.classifier)
        self.head_is_random = True

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ECGTransformerClassifierOutput:
        r"""
        Args:
            input_values, attention_mask: As in [`ECGTransformerModel`].
            labels (`torch.Tensor` of shape `(batch, num_labels)`, *optional*): 0 or 1, -100 where unknown.
            num_items_in_batch (`int`, *optional*):
                Known labels in the whole batch, over all processes and accumulated steps, by which the Trainer has the
                summed loss divided; without it the loss is the mean over the known labels given.
        """
        outputs = self.ecg_transformer(input_values, attention_mask=attention_mask, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            if labels.shape != logits.shape:
                raise ValueError(f"`labels` must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}.")
            if num_items_in_batch is None:
                num_items_in_batch = (labels != UNKNOWN_LABEL).sum().clamp(min=1)
            loss = multilabel_loss(logits, labels).sum() / num_items_in_batch
        return ECGTransformerClassifierOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.pooler_output,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def aggregate_windows(self, logits: torch.Tensor, window_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Window logits (records, windows, labels) to record logits (records, labels), float32.

        The temperature divides the window logits; `config.window_aggregation` says how they are put together. For a
        rule on probabilities the result is the log-odds of the aggregated probability, so that its sigmoid is the
        score. `window_mask` (records, windows) is true for real windows.
        """
        logits = logits.float() / self.config.temperature
        if window_mask is None:
            window_mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        absent, count = ~window_mask.bool().unsqueeze(-1), window_mask.sum(dim=1, keepdim=True)

        def mean_logit():
            return logits.masked_fill(absent, 0.0).sum(dim=1) / count

        def mean_probability():
            positive = nn.functional.logsigmoid(logits).masked_fill(absent, -torch.inf).logsumexp(dim=1)
            negative = nn.functional.logsigmoid(-logits).masked_fill(absent, -torch.inf).logsumexp(dim=1)
            return positive - negative

        def max_probability():
            return logits.masked_fill(absent, -torch.inf).amax(dim=1)

        rules = {rule.__name__: rule for rule in (mean_logit, mean_probability, max_probability)}
        chosen = self.config.window_aggregation
        if isinstance(chosen, str):
            return rules[chosen]()
        columns = {name: rules[name]() for name in set(chosen)}
        return torch.stack([columns[name][:, label] for label, name in enumerate(chosen)], dim=1)


__all__ = ["ECGTransformerForMultiLabel", "ECGTransformerModel", "ECGTransformerPreTrainedModel", "multilabel_loss"]
