"""The ECG Transformer: signal segments are embedded as tokens, encoded by a Transformer and pooled.

Sources: MTECG (arXiv 2309.07136) for the default encoder, with one token for all leads of a segment. The same classes
implement the public encoders ECG-JEPA (Weimann, 2410.13867; Kim, 2410.08559), ST-MEM (2402.09450), ECG-FM (2408.05178)
and HuBERT-ECG (medRxiv 2024.11.14.24317328), which differ in fields of the configuration. Stochastic depth is from
Huang et al. (arXiv 1603.09382), its use in post-training from arXiv 2509.12991. Dropped rows are not computed, as in
Touvron et al. (arXiv 2212.04884). Pre-training is contrastive multi-segment coding (Kiyasseh et al. 2021, arXiv
2005.13249), combined with random lead masking of the crops as by the authors of ECG-FM (Oh et al. 2022, arXiv
2203.06889).
"""

import os
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .common_ecg_transformer import PROBLEM_TYPES, check_choice, check_id2label
from .configuration_ecg_transformer import ECGTransformerConfig
from .embeddings_ecg_transformer import ECGTransformerEmbeddings, ECGTransformerLeadEmbeddings
from .heads_ecg_transformer import (
    ECGTransformerCosineHead,
    ECGTransformerProjectionHead,
    all_among,
    check_no_head_settings,
    forget_head_settings,
    make_classifier,
    misfit_in_words,
    stored_config,
)
from .layers_ecg_transformer import (
    ECGTransformerAttention,
    ECGTransformerAttentionPooling,
    ECGTransformerLayer,
    ECGTransformerLayerScale,
    attention_mask_of,
    layer_norm,
    masked_mean,
)
from .saving_ecg_transformer import (
    AUTO_MAP,
    CUSTOM_PIPELINES,
    ENCODER_PIPELINES,
    copy_code_files,
    remove_earlier_weights,
)
from .targets_ecg_transformer import aggregated_windows, in_target_units, mean_loss, multilabel_loss

logger = logging.get_logger(__name__)

# Arguments that `save_pretrained(push_to_hub=True)` passes to `push_to_hub`.
PUSH_ARGUMENTS = ("commit_description", "commit_message", "create_pr", "private", "revision", "tags", "token")

# Parameters that are not weights of a layer: truncated normal initialisation, no weight decay.
_TOKEN_PARAMETERS = (
    "cls_token",
    "registers",
    "lead_separator",
    "lead_embeddings",
    "position_embeddings",
    "query_token",
)


@dataclass
class ECGTransformerClassifierOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `()`): mean over the known labels, if `labels` were given.
    logits (`torch.FloatTensor` of shape `(batch, num_labels)`):
        Of each window, before temperature scaling: one of each label or class, or the values of a regression.
    last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`).
    pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): the pooled feature, input of the classifier.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class ECGTransformerForPreTrainingOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `()`): contrastive, over the crops of all processes, with `record_ids`.
    accuracy (`torch.FloatTensor` of shape `()`): fraction of crops whose nearest other crop is of the same record.
    feature_std (`torch.FloatTensor` of shape `()`):
        Root mean square distance of the projected crops, which have unit norm, from their mean: 1 if they are spread
        over the complete sphere, 0 if all are equal. Without `record_ids`, of the pooled features, scaled likewise.
    pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): of the crops of this process.
    word_logits (`torch.FloatTensor` of shape `(batch, num_report_words)`): of the words of a report, if there is a
        word head; float32.
    """

    loss: torch.FloatTensor | None = None
    accuracy: torch.FloatTensor | None = None
    feature_std: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    word_logits: torch.FloatTensor | None = None


class ECGTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, strict loading and self-contained saving for all ECG Transformer classes."""

    config: ECGTransformerConfig
    base_model_prefix = "ecg_transformer"
    main_input_name = "input_values"
    input_modalities = ("time",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ECGTransformerEmbeddings", "ECGTransformerLeadEmbeddings", "ECGTransformerLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ECGTransformerLayer, "attentions": ECGTransformerAttention}
    _head_names = ("classifier", "projection_head", "word_head")

    _random_head: list[torch.Tensor] = []

    @property
    def head_is_random(self) -> bool:
        """True while the head has the weights that it was initialised with: it must be trained before use."""
        return bool(self._random_head) and all_among(self._head_parameters(), self._random_head)

    @head_is_random.setter
    def head_is_random(self, is_random: bool):
        self._random_head = [value.detach().clone() for value in self._head_parameters()] if is_random else []

    def _head_parameters(self) -> list[torch.Tensor]:
        return [value for name, value in self.named_parameters() if self._is_head(name)]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if name in _TOKEN_PARAMETERS:
                init.trunc_normal_(parameter, std=self.config.initializer_range)
        if isinstance(module, ECGTransformerEmbeddings) and self.config.position_embedding_type == "sincos":
            # Not saved, and `from_pretrained` leaves such buffers uninitialised.
            init.copy_(module.position_embeddings, module.fixed_positions())
        elif isinstance(module, ECGTransformerLayerScale):
            init.constant_(module.weight, self.config.layer_scale_init_value)
        elif isinstance(module, ECGTransformerCosineHead):
            init.normal_(module.weight, std=self.config.initializer_range)

    def set_drop_path_rate(self, rate: float):
        """Set stochastic depth: block l of L is dropped at `rate` * l / (L - 1); a single block is never dropped."""
        self.config.drop_path_rate = rate
        layers = self.base_model.layers
        for depth, layer in enumerate(layers):
            layer.drop_path_rate = rate * depth / max(len(layers) - 1, 1)

    def no_weight_decay(self) -> set[str]:
        """Names of the matrices that, like all vectors, are excluded from weight decay."""
        return {name for name, _ in self.named_parameters() if name.split(".")[-1] in _TOKEN_PARAMETERS}

    def layer_id(self, parameter_name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embeddings, l + 1 block l, then norm, pooling and
        head."""
        parts = parameter_name.removeprefix(f"{self.base_model_prefix}.").split(".")
        if parts[0] == "embeddings":
            return 0
        return int(parts[1]) + 1 if parts[0] == "layers" else self.config.num_hidden_layers + 1

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in the library, but no part of the backbone is silently left random, and a head serves its own labels.

        Raises `RuntimeError` if weights of the backbone, or a part of the head, are missing, unexpected or of another
        shape. If the complete head is missing, as at the start of post-training, it is initialised with a warning and
        `head_is_random` is set. Other labels than the trained head's, however they are given, are refused too; with
        `ignore_mismatched_sizes=True` the head is replaced as by `replace_head`.
        """
        return_info = kwargs.pop("output_loading_info", False)
        replace_labels = kwargs.pop("ignore_mismatched_sizes", False)
        # The library would refuse a head of another size without saying how to get it: `_check_loading` does.
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        model._check_loading(pretrained_model_name_or_path, info)
        if isinstance(model, ECGTransformerForMultiLabel) and pretrained_model_name_or_path is not None:
            stored = stored_config(type(model.config), pretrained_model_name_or_path, kwargs)
            model._settle_head(pretrained_model_name_or_path, stored, info, replace_labels)
        return (model, info) if return_info else model

    def _is_head(self, name: str) -> bool:
        return name.split(".")[0] in self._head_names

    def _is_added(self, name: str) -> bool:
        """Whether a part stands beside backbone and head, as a subclass may put one there: it begins at random."""
        has_backbone = hasattr(self, self.base_model_prefix)
        return has_backbone and not self._is_head(name) and name.split(".")[0] != self.base_model_prefix

    def _check_loading(self, path, info):
        missing = {name for name in info["missing_keys"] if not self._is_added(name)}
        reshaped = {name for name, *_ in info["mismatched_keys"]}
        head = {name for name in self.state_dict() if self._is_head(name)}
        no_head = bool(head) and head <= missing
        # The head of another model class is ignored; unexpected weights in a head of this class are an error.
        own_parts = {name.split(".")[0] for name in head}
        unexpected = [
            name for name in info["unexpected_keys"] if not self._is_head(name) or name.split(".")[0] in own_parts
        ]
        if any(".base_layer." in name for name in unexpected):
            raise RuntimeError(
                f"The weights of `{path}` have adapters of PEFT that are not merged. Of a run of the stage `lora` "
                "load its folder, once it is finished; save another model after `merge_and_unload()`."
            )
        wrong = {
            "lacks": sorted(missing - head if no_head else missing),
            "has another shape of": sorted(name for name in reshaped if not name.startswith("classifier.")),
            "has no place for": sorted(unexpected),
        }
        if any(wrong.values()):
            found = "; ".join(f"{what} {', '.join(names)}" for what, names in wrong.items() if names)
            raise RuntimeError(
                f"The weights of `{path}` do not fit {type(self).__name__}: the checkpoint {found}. Load it with the "
                "configuration that it was saved with; another head is put on a loaded model by "
                "`model.replace_head(id2label)`."
            )
        if no_head:
            self.head_is_random = True
            warnings.warn(
                f"`{path}` has no trained head ({', '.join(sorted(head))}): a new one was initialised; post-train it "
                "before use.",
                stacklevel=3,
            )

    def save_pretrained(self, save_directory, *args, push_to_hub: bool = False, **kwargs):
        """As in the library; also saves the code and the full `auto_map`, so that the folder is self-contained."""
        repo_id = kwargs.pop("repo_id", None)
        hub_kwargs = {name: kwargs.pop(name) for name in PUSH_ARGUMENTS if name in kwargs}
        is_classifier = isinstance(self, ECGTransformerForMultiLabel)
        # `fully_shard` puts another class before that of the model.
        original = next(kind for kind in type(self).__mro__ if kind.__module__.endswith("_ecg_transformer"))
        module = original.__module__.split(".")[-1]
        self.config.auto_map = {**AUTO_MAP, "AutoModel": f"{module}.{original.__name__}"}
        # One task each: of several the library would not know which is meant where none is given.
        self.config.custom_pipelines = CUSTOM_PIPELINES if is_classifier else ENCODER_PIPELINES
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del self.config.custom_pipelines
        if kwargs.get("is_main_process", True):
            copy_code_files(save_directory)
            remove_earlier_weights(save_directory, kwargs.get("variant"))
        if push_to_hub:
            self.push_to_hub(repo_id or os.path.basename(os.path.abspath(save_directory)), **hub_kwargs)


class ECGTransformerModel(ECGTransformerPreTrainedModel):
    """The encoder: `input_values` (batch, leads, samples) to token states and a pooled feature."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        lead_tokens = config.lead_layout == "tokens"
        self.embeddings = (ECGTransformerLeadEmbeddings if lead_tokens else ECGTransformerEmbeddings)(config)
        self.layers = nn.ModuleList([ECGTransformerLayer(config) for _ in range(config.num_hidden_layers)])
        self.set_drop_path_rate(config.drop_path_rate)
        self.norm = layer_norm(config) if config.norm_first else nn.Identity()
        if config.pooling == "attention":
            self.pooler = ECGTransformerAttentionPooling(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, num_leads, samples)`):
                Normalised signal at `config.sampling_rate`, leads in the order of `config.lead_names`, at most
                `config.num_samples` samples (more with position convolutions); shorter input uses the first positions.
                Where the leads are concatenated in time (`lead_layout` `"time"`), input of shape `(batch, 1, samples)`
                is accepted as already concatenated.
            attention_mask (`torch.Tensor` of shape `(batch, samples)`, *optional*):
                1 for real samples, 0 for padding; also `(batch, num_leads, samples)` where the leads are concatenated
                in time. Convolutions only count the ones: real samples must come first.
            lead_ids (`torch.LongTensor` of shape `(batch, leads)`, *optional*):
                Only for models with single-lead tokens: the index in `config.lead_names` of each row; any subset in
                any order. By default the rows are all leads in order.

        Returns `last_hidden_state` (batch, tokens, hidden) and `pooler_output` (batch, hidden). Registers and CLS come
        first, then the tokens in time order, grouped by lead for single-lead tokens.
        """
        hidden_states, token_mask, positions = self.embeddings(input_values, attention_mask, lead_ids)
        tokens_per_lead = hidden_states.shape[1] // input_values.shape[1]
        mask = attention_mask_of(self.config, hidden_states, token_mask, tokens_per_lead)
        for index, layer in enumerate(self.layers):
            if positions is not None and index:
                hidden_states = hidden_states + positions
            hidden_states = layer(hidden_states, mask, **kwargs)
        hidden_states, pooled = self._pool(hidden_states, token_mask, tokens_per_lead)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def _pool(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None, tokens_per_lead: int):
        """Tokens of the last block and their mask -> the returned tokens and the pooled feature (batch, hidden)."""
        config = self.config
        if config.pooling != "mean":
            hidden_states = self.norm(hidden_states)
        num_registers = config.num_registers
        if not config.keep_registers:
            hidden_states, num_registers = hidden_states[:, config.num_registers :], 0
            token_mask = None if token_mask is None else token_mask[:, config.num_registers :]
        if config.pooling == "attention":
            return hidden_states, self.pooler(hidden_states, token_mask)
        if config.pooling == "register":
            return hidden_states, hidden_states[:, 0]
        if config.pooling == "cls":
            return hidden_states, hidden_states[:, num_registers]
        pooled = self._mean_of_patches(hidden_states, token_mask, num_registers, tokens_per_lead)
        if config.pooling == "mean":
            pooled = self.norm(pooled)
            if config.norm_last_hidden_state:
                hidden_states = self.norm(hidden_states)
        return hidden_states, pooled

    def _mean_of_patches(self, hidden_states, token_mask, num_registers: int, tokens_per_lead: int) -> torch.Tensor:
        if not self.config.use_lead_separators:
            first = num_registers + self.config.use_cls_token
            return masked_mean(hidden_states[:, first:], None if token_mask is None else token_mask[:, first:])
        patches = hidden_states.unflatten(1, (-1, tokens_per_lead))[:, :, 1:-1].flatten(1, 2)
        if token_mask is not None:
            token_mask = token_mask.unflatten(1, (-1, tokens_per_lead))[:, :, 1:-1].flatten(1)
        return masked_mean(patches, token_mask)


class ECGTransformerForMultiLabel(ECGTransformerPreTrainedModel):
    """The encoder with a head, linear by default: a logit for each label, each class, or a value for each target.

    `config.problem_type` says which: any labels of a record (the default), one of several classes, or a regression.
    """

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ecg_transformer = ECGTransformerModel(config)
        self.classifier = make_classifier(config)
        self.post_init()

    def replace_head(
        self, id2label: dict[int, str], label_names: dict[str, str] | None = None, problem_type: str | None = None
    ):
        """Replace the head by a random linear one for other labels, classes or targets, by default of the same kind.

        Thresholds, temperature and the mean and deviation of targets are reset. Trained pooling weights are kept: they
        belong to the backbone. Raises `ValueError` for an unknown `problem_type`, for ids that are not 0, 1, ..., for
        names that are no text or there twice, and for a single class.
        """
        config, id2label = self.config, {int(index): name for index, name in id2label.items()}
        if problem_type is not None:
            check_choice("problem_type", problem_type, PROBLEM_TYPES)
        check_id2label(id2label, problem_type or config.problem_type)
        config.problem_type = problem_type or config.problem_type
        config.id2label = id2label
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.label_names = label_names
        forget_head_settings(config, None)
        config.target_mean = config.target_std = None
        self.num_labels = len(id2label)
        self._put_linear_head()
        self._init_weights(self.classifier)
        self.head_is_random = True

    def _settle_head(self, path, stored: ECGTransformerConfig | None, info, replace_labels: bool):
        """No setting and no weight of a head for `stored` labels serves a new head, or other labels."""
        config, labels = self.config, self.config.id2label
        reshaped = bool(info["mismatched_keys"])
        relabelled = stored is not None and (stored.id2label, stored.problem_type) != (labels, config.problem_type)
        if not (self.head_is_random or reshaped or relabelled):
            return
        check_no_head_settings(config, stored)
        if not self.head_is_random and not replace_labels:
            raise RuntimeError(misfit_in_words(path, config, stored, info["mismatched_keys"]))
        forget_head_settings(config, stored)
        if self.head_is_random:
            return
        self.replace_head(labels, config.label_names)
        warnings.warn(
            f"The head of `{path}` was trained for other labels: it was replaced by a random one; post-train it "
            "before use.",
            stacklevel=3,
        )

    def use_linear_head(self):
        """Replace a head of another type by a zero-initialised linear head with bias, for a linear probe."""
        if not (self.config.classifier_type == "linear" and self.config.classifier_bias):
            self._put_linear_head()
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)
            self.head_is_random = True

    def _put_linear_head(self):
        config, old = self.config, next(self.classifier.parameters())
        config.classifier_type, config.classifier_bias, config.classifier_hidden_size = "linear", True, None
        self.classifier = make_classifier(config).to(device=old.device, dtype=old.dtype)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        lead_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ECGTransformerClassifierOutput:
        r"""
        Args:
            input_values, attention_mask, lead_ids: As in [`ECGTransformerModel`].
            labels (`torch.Tensor` of shape `(batch, num_labels)`, *optional*):
                0 or 1, -100 where unknown. One of several classes: one-hot or probabilities, or integers of shape
                `(batch,)`, the index of the class; -100 where unknown. Regression: the values, in the units of the
                targets, NaN where unknown.
            num_items_in_batch (`int`, *optional*):
                Number of known labels in the complete batch, over all processes and accumulated steps, by which the
                summed loss is divided; by default the loss is the mean over the given known labels. A plain `Trainer`
                counts NaN with them: see the guide of post-training.
        """
        outputs = self.ecg_transformer(input_values, attention_mask=attention_mask, lead_ids=lead_ids, **kwargs)
        logits = in_target_units(self.config, self.classifier(outputs.pooler_output))
        loss = None if labels is None else mean_loss(self.config, logits, labels, num_items_in_batch)
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

        The window logits are divided by the temperature and aggregated by the rule `config.window_aggregation`. For a
        rule on probabilities the result is the log-odds of the aggregated probability, so that its sigmoid is the
        score. `window_mask` (records, windows) is true for real windows.

        One of several classes: the results are the logarithms of class probabilities that sum to 1, of the mean of the
        windows' log-probabilities (`mean_logit`) or probabilities. Regression: the mean of the windows' values.
        """
        return aggregated_windows(self.config, logits, window_mask)


class _GatherRows(torch.autograd.Function):
    """Gathers the rows of all processes in order of rank, with gradients for the rows of this process."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        # Gradients must be summed over the processes, but data-parallel training averages them.
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def contrastive_loss(
    features: torch.Tensor, record_ids: torch.Tensor, patient_ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (rows, size) of unit norm -> loss and accuracy, both of shape ().

    For each row the cross-entropy of identifying another row of its record among all rows except itself and those of
    other records of its patient; averaged over the positives of a row, and over the rows.
    """
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    same_record = record_ids[:, None] == record_ids
    same_patient = patient_ids[:, None] == patient_ids
    positive, ignored = same_record & ~itself, itself | (same_patient & ~same_record)
    if not torch.compiler.is_compiling():
        _check_rows(positive, same_record | same_patient)
    similarity = (features @ features.T / temperature).masked_fill(ignored, -torch.inf)
    log_probability = similarity.log_softmax(dim=1).masked_fill(~positive, 0.0)
    loss = -(log_probability.sum(dim=1) / positive.sum(dim=1)).mean()
    nearest = similarity.argmax(dim=1, keepdim=True)
    return loss, positive.gather(1, nearest).float().mean()


def _check_rows(positive: torch.Tensor, related: torch.Tensor):
    if not positive.any(dim=1).all():
        raise ValueError("Each row requires another one with the same `record_ids`: give two crops of every record.")
    if related.all():
        raise ValueError(
            f"All {len(related)} rows of the batch are of one patient, so that there are no negatives: use larger "
            "batches, or shuffle the records."
        )


class ECGTransformerForPreTraining(ECGTransformerPreTrainedModel):
    """The encoder with a projection head, for contrastive pre-training on crops of records.

    With `config.num_report_words` it also has a linear head for words of the reports: see `set_report_words`.
    """

    # The loss is always a mean over the batch.
    accepts_loss_kwargs = False

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        self.ecg_transformer = ECGTransformerModel(config)
        self.projection_head = ECGTransformerProjectionHead(config)
        self.word_head = nn.Linear(config.hidden_size, config.num_report_words) if config.num_report_words else None
        self.post_init()

    def set_report_words(self, log_odds: torch.Tensor | None):
        """Put on a word head that gives each word its log-odds (words,) for any crop; None takes it off."""
        vars(self.config).pop("num_report_words", None)
        self.word_head = None
        if log_odds is not None:
            self.config.num_report_words = len(log_odds)
            like = self.projection_head.fc2.weight
            self.word_head = nn.Linear(self.config.hidden_size, len(log_odds), device=like.device, dtype=like.dtype)
            nn.init.zeros_(self.word_head.weight)
            self.word_head.bias.data.copy_(log_odds)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        record_ids: torch.Tensor | None = None,
        patient_ids: torch.Tensor | None = None,
        **encoder_inputs,
    ) -> ECGTransformerForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, num_leads, samples)`): Crops, in the form of windows.
            record_ids (`torch.LongTensor` of shape `(batch,)`, *optional*):
                The record of each crop, at least two of each record; without them there is no contrastive loss.
            patient_ids (`torch.LongTensor` of shape `(batch,)`, *optional*):
                The patient of each crop; crops of other records of a patient are excluded from the negatives. By
                default each record is of a different patient.
            encoder_inputs: Further inputs of [`ECGTransformerModel`].

        In distributed training the loss is over the crops of all processes; each must have the same number of crops.

        Raises `ValueError` if a crop is the only one of its record, or if all crops are of one patient.
        """
        pooled = self.ecg_transformer(input_values, **encoder_inputs).pooler_output
        projected = pooled if record_ids is None else self.projection_head(pooled)
        loss = accuracy = words = None
        # Similarities in 16-bit precision would be too coarse for the temperature.
        with torch.autocast(pooled.device.type, enabled=False):
            features = nn.functional.normalize(projected.float(), dim=-1)
            if record_ids is not None:
                ids = torch.stack([record_ids, record_ids if patient_ids is None else patient_ids], dim=1)
                if self.training and dist.is_initialized() and dist.get_world_size() > 1:
                    features, ids = _GatherRows.apply(features), _GatherRows.apply(ids)
                loss, accuracy = contrastive_loss(features, *ids.unbind(1), self.config.contrastive_temperature)
            if self.word_head is not None:
                words = self.word_head(pooled.to(self.word_head.weight.dtype)).float()
        spread = (features.detach() - features.detach().mean(dim=0)).square().sum(dim=1).mean().sqrt()
        return ECGTransformerForPreTrainingOutput(
            loss=loss, accuracy=accuracy, feature_std=spread, pooler_output=pooled, word_logits=words
        )


def _every_code_file():
    # Never called: the Hub's loader downloads the files of relative imports, so that all files come with a model.
    from .collator_ecg_transformer import ECGCollator
    from .pipeline_ecg_classification import ECGClassificationPipeline

    return ECGCollator, ECGClassificationPipeline


__all__ = [
    "ECGTransformerForMultiLabel",
    "ECGTransformerForPreTraining",
    "ECGTransformerModel",
    "ECGTransformerPreTrainedModel",
    "contrastive_loss",
    "multilabel_loss",
]
