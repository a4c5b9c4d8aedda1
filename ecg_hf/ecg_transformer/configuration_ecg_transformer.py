"""Configuration of the ECG Transformer."""

import math
import warnings

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .common_ecg_transformer import (
    LEAD_NAMES,
    MULTI_LABEL,
    PROBLEM_TYPES,
    REGRESSION,
    SINGLE_LABEL,
    check_choice,
    check_id2label,
)

WINDOW_AGGREGATIONS = ("mean_logit", "mean_probability", "max_probability")

# What belongs to a trained head, and what a new one starts with.
HEAD_SETTINGS = {"thresholds": None, "temperature": 1.0, "window_aggregation": "mean_logit"}
# What belongs to the labels of a head, trained or new.
LABEL_SETTINGS = ("label_names", "target_mean", "target_std")

# Defaults of the optional keys of an entry of `conv_layers`.
CONV_LAYER_DEFAULTS = {
    "stride": 1,
    "padding": 0,
    "bias": True,
    "norm_groups": 0,
    "activation": True,
    "residual": False,
}

# Fields with a fixed set of values.
CHOICES = {
    "lead_layout": ("channels", "tokens", "time"),
    "position_embedding_type": ("learned", "sincos", "convolution"),
    "attention_pattern": ("full", "same_lead_or_time"),
    "pooling": ("cls", "register", "mean", "norm_mean", "attention"),
    "classifier_type": ("linear", "mlp", "cosine"),
}
# Fields that would make every score NaN, or random, outside their range; NaN is outside of each.
ABOVE_ZERO = ("sampling_rate", "layer_norm_eps", "temperature", "contrastive_temperature")
AT_LEAST_ZERO = ("initializer_range", "layer_scale_init_value", "position_scale")
DROP_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
# Fields that apply only where each lead has its own tokens.
LEAD_TOKEN_FIELDS = (
    "patch_norm",
    "position_per_lead",
    "position_every_layer",
    "use_lead_separators",
    "use_lead_embeddings",
)

# Width, depth and heads of ViT-Ti, ViT-S and ViT-B; "tiny" is the encoder of MTECG (arXiv 2309.07136).
# "ptbxl_100hz" is a small encoder for training from random weights on PTB-XL: tokens of 100 ms by convolutions.
PRESETS = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "ptbxl_100hz": {
        "sampling_rate": 100,
        "num_samples": 250,
        "conv_layers": [
            {"channels": 64, "kernel_size": 7, "stride": 2, "padding": 3, "norm_groups": 8},
            {"channels": 64, "kernel_size": 5, "padding": 2, "norm_groups": 8, "residual": True},
            {"channels": 128, "kernel_size": 5, "stride": 5, "activation": False},
        ],
        "use_cls_token": False,
        "position_embedding_type": "sincos",
        "position_scale": 0.5,
        "hidden_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "pooling": "norm_mean",
        # About what PyTorch's own initialisation gives at this width; 0.02 is for a width of 768.
        "initializer_range": 0.05,
    },
}

# Entries of a saved configuration, or arguments of loading one, that are not fields; a Trainer writes `use_cache`.
SAVED_BESIDE_FIELDS = (
    *("attn_implementation", "auto_map", "custom_pipelines", "transformers_version", "num_labels", "torch_dtype"),
    *("use_cache", "num_report_words"),
)


@strict
class ECGTransformerConfig(PreTrainedConfig):
    r"""
    Configuration of an [`ECGTransformerModel`]. The defaults are the preset `tiny`, the encoder of MTECG
    (arXiv 2309.07136): 10 s at 500 Hz, with one token for 25 samples (50 ms) of all leads. The other
    fields of the encoder are needed by the public ECG Transformers that `ecg_hf.conversion` converts.

    Args:
        lead_names (`list[str]`, *optional*, defaults to the 12 standard leads):
            The rows of `input_values`, in order. Canonical names: I II III aVR aVL aVF V1 ... V6.
        num_leads (`int`, *optional*): Number of rows; derived from `lead_names`.
        num_samples (`int`, defaults to 5000):
            Samples of one window; the maximum input length, unless there are more positions.
        sampling_rate (`int` or `float`, defaults to 500): Sampling rate of the model's input in Hz.
        lead_layout (`str`, defaults to `"channels"`):
            How leads are mapped to tokens: as `"channels"` of shared tokens, as separate `"tokens"` for each lead (any
            lead may be missing), or concatenated in `"time"` as a single channel (with `conv_layers`).
        patch_size (`int`, *optional*, defaults to 25):
            Samples of one token; with `conv_layers`, the samples between successive tokens.
        conv_layers (`list[dict]`, *optional*):
            A stack of convolutions over time that computes the tokens, instead of patches. Each entry has `channels`
            and `kernel_size`, and optionally `stride`, `padding`, `bias`, `norm_groups` (of a group norm; 0 for none),
            `activation` (whether `hidden_act` follows the norm) and `residual` (defaults: `CONV_LAYER_DEFAULTS`).
        conv_norm, conv_projection (`bool`, default to `False`):
            Whether a layer norm, and a linear projection to `hidden_size`, follow the convolutions.
        patch_norm (`bool`, defaults to `False`): Whether to use a layer norm before and after the patch projection.
        use_cls_token (`bool`, defaults to `True`): Whether a CLS token precedes the patches.
        num_registers (`int`, defaults to 0): Number of learned tokens without positions, before all others.
        keep_registers (`bool`, defaults to `True`):
            Whether `last_hidden_state` and attentive pooling include the registers.
        use_lead_separators (`bool`, defaults to `False`):
            Whether a learned token precedes and follows the tokens of each lead.
        use_lead_embeddings (`bool`, defaults to `False`): Whether a learned vector is added to all tokens of a lead.
        position_embedding_type (`str`, defaults to `"learned"`):
            `"learned"`, a table that includes CLS or separators; `"sincos"`, a fixed table, which is not saved; or
            `"convolution"`, computed from the tokens.
        max_position_embeddings (`int`, *optional*):
            Number of positions in time, where the table is longer than a window.
        position_scale (`float`, defaults to 1.0): Factor of the fixed table.
        position_per_lead (`bool`, defaults to `False`): Whether each lead has a separate table.
        position_every_layer (`bool`, defaults to `False`): Whether the positions are added again before every block.
        position_conv_kernel_size, position_conv_groups (`int`, default to 128 and 16): Of the convolution.
        position_conv_reads_padding (`bool`, defaults to `False`):
            Whether padded tokens are set to zero only after the position convolution.
        hidden_size (`int`, defaults to 192): Channels of a token.
        num_hidden_layers (`int`, defaults to 12): Number of blocks.
        num_attention_heads (`int`, defaults to 3): Attention heads of a block.
        head_dim (`int`, *optional*, defaults to `hidden_size / num_attention_heads`): Channels of one head.
        intermediate_size (`int`, defaults to 768): Channels within the MLP of a block.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP, and of `conv_layers`.
        use_bias, qkv_bias (`bool`, default to `True`):
            Whether linear layers and norms have biases, and query, key and value.
        norm_bias (`bool`, *optional*, defaults to `use_bias`): Whether the norms have biases, if different.
        norm_first (`bool`, defaults to `True`):
            Pre-norm (norms before attention and MLP, and one after the last block) or post-norm (norms after attention
            and MLP, and one before the first block).
        layer_norm_eps (`float`, defaults to 1e-6): Added to the variance by the norms.
        layer_scale_init_value (`float`, defaults to 0.0):
            Initial value of the layer scale of the residual branches; 0 for no layer scale.
        attention_pattern (`str`, defaults to `"full"`):
            The tokens to which a token attends: all (`"full"`), or those of the same lead or the same time
            (`"same_lead_or_time"`).
        initializer_range (`float`, defaults to 0.02): Standard deviation of random weights.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`, default to 0.0):
            Dropout in training: of tokens and branches, and of attention weights.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth in training: the rate of the last block, increasing linearly from 0 at the first.
        pooling (`str`, defaults to `"cls"`):
            The pooled feature: `"cls"` (the CLS token after the final norm), `"mean"` (the mean of the patch tokens
            of the last block, then the norm), `"norm_mean"` (the mean of the patch tokens after the norm),
            `"register"` (the first register) or `"attention"` (a learned query attends to the normalised tokens).
        norm_last_hidden_state (`bool`, defaults to `False`):
            With `pooling` `"mean"`, whether the returned tokens are normalised as well.
        classifier_type (`str`, defaults to `"linear"`):
            Type of the head: `"linear"`, `"mlp"` (one hidden layer) or `"cosine"` (with an embedding of each label).
        classifier_bias (`bool`, defaults to `True`): Bias of the linear head.
        classifier_hidden_size (`int`, *optional*), classifier_act (`str`, defaults to `"tanh"`): Of the MLP head.
        problem_type (`str`, defaults to `"multi_label_classification"`):
            What is predicted of a record: any of the labels, each with a probability of its own
            (`"multi_label_classification"`), exactly one of the labels (`"single_label_classification"`), or a number
            for each label (`"regression"`).
        label_names (`dict[str, str]`, *optional*): Full name of each label code.
        target_mean, target_std (`list[float]`, *optional*):
            Regression: in label order, mean and standard deviation of the targets in the training records. The head
            gives standardised values, and the logits are these in the unit of the target.
        thresholds (`list[float]`, *optional*):
            In label order, the minimum probability at which a label is predicted as present; `None` means 0.5. Only
            for `"multi_label_classification"`.
        temperature (`float`, defaults to 1.0):
            Divides the logits of the windows before they are aggregated; not for `"regression"`.
        window_aggregation (`str` or `list[str]`, defaults to `"mean_logit"`):
            How the outputs of a record's windows are aggregated: `"mean_logit"`, `"mean_probability"` or
            `"max_probability"`, one rule for all labels or one for each. With one of several classes the logits are
            logarithms of class probabilities, and there is no maximum and one rule; values of a regression have the
            mean (`"mean_logit"`).
        projection_size (`int`, defaults to 128): Pre-training: size of the projected features.
        contrastive_temperature (`float`, defaults to 0.1): Pre-training: divides the cosine similarities.
        provenance (`dict`, *optional*):
            Origin of the weights: `source`, `sha256`, `license`, `pretraining_data`, `base` (the checkpoint that
            training started from), `ptbxl_folds` and `posttraining_folds` (the folds of PTB-XL that were read).
    """

    model_type = "ecg_transformer"
    # A Trainer gathers the other outputs: the logits.
    keys_to_ignore_at_inference = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]

    # Input
    lead_names: list[str] | tuple[str, ...] | None = None
    num_leads: int | None = None
    num_samples: int = 5000
    sampling_rate: int | float = 500

    # Tokens
    lead_layout: str = "channels"
    patch_size: int | None = None
    patch_norm: bool = False
    conv_layers: list[dict] | None = None
    conv_norm: bool = False
    conv_projection: bool = False
    use_cls_token: bool = True
    num_registers: int = 0
    keep_registers: bool = True
    use_lead_separators: bool = False
    use_lead_embeddings: bool = False

    # Positions
    position_embedding_type: str = "learned"
    max_position_embeddings: int | None = None
    position_scale: float | int = 1.0
    position_per_lead: bool = False
    position_every_layer: bool = False
    position_conv_kernel_size: int = 128
    position_conv_groups: int = 16
    position_conv_reads_padding: bool = False

    # Encoder
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    head_dim: int | None = None
    intermediate_size: int = 768
    hidden_act: str = "gelu"
    use_bias: bool = True
    qkv_bias: bool = True
    norm_bias: bool | None = None
    norm_first: bool = True
    layer_norm_eps: float = 1e-6
    layer_scale_init_value: float | int = 0.0
    attention_pattern: str = "full"
    initializer_range: float = 0.02
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    pooling: str = "cls"
    norm_last_hidden_state: bool = False

    # Classification
    classifier_type: str = "linear"
    classifier_bias: bool = True
    classifier_hidden_size: int | None = None
    classifier_act: str = "tanh"
    label_names: dict[str, str] | None = None
    target_mean: list[float | int] | None = None
    target_std: list[float | int] | None = None
    thresholds: list[float | int] | None = None
    temperature: float | int = 1.0
    window_aggregation: str | list[str] = "mean_logit"
    provenance: dict | None = None

    # Pre-training
    projection_size: int = 128
    contrastive_temperature: float | int = 0.1
    # No field, so that only the checkpoints of pre-training by reports have it: the size of their word head.
    num_report_words = 0

    def __post_init__(self, **kwargs):
        self.lead_names = list(LEAD_NAMES if self.lead_names is None else self.lead_names)
        if self.num_leads is None:
            self.num_leads = len(self.lead_names)
        if self.conv_layers is not None:
            self.conv_layers = [{**CONV_LAYER_DEFAULTS, **layer} for layer in self.conv_layers]
        if self.patch_size is None:
            self.patch_size = 25 if self.conv_layers is None else _joint_stride(self.conv_layers)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads == 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        # Where the package is installed its pipeline is registered; the entry would require `trust_remote_code`.
        if not __name__.startswith("transformers_modules"):
            kwargs.pop("custom_pipelines", None)
        self._warn_of_unknown(kwargs)
        super().__post_init__(**kwargs)
        if self.architectures is None:
            self.architectures = ["ECGTransformerModel"]
        if self.problem_type is None:
            self.problem_type = MULTI_LABEL

    def _warn_of_unknown(self, others: dict) -> None:
        """Of what is no field, and of no use to the library: it would be kept, and change nothing."""
        known = {*dir(self), *SAVED_BESIDE_FIELDS}
        if unknown := sorted(name for name in others if not (name in known or name.startswith("_"))):
            path = others.get("name_or_path") or others.get("_name_or_path")
            warnings.warn(
                f"{f'`{path}`' if path else 'The configuration'} has fields that are unknown to this version of the "
                f"code: {', '.join(unknown)}. They have no effect: they are misspelt, or from a newer version, whose "
                "model may give other results; then update the package.",
                stacklevel=4,
            )

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As in the library; another `model_type` is an error.

        Other labels, as `id2label`, `label2id` or `num_labels`, and another `problem_type`, are those of a new head:
        the thresholds, temperature, aggregation, `label_names`, `target_mean` and `target_std` of the old one are
        dropped, unless they are given too. Raises `ValueError` if the result is no valid configuration.
        """
        path = kwargs.get("name_or_path") or config_dict.get("_name_or_path")
        source = f"`{path}`" if path else "The configuration"
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"{source} is for a model of the type `{kind}`, not `{cls.model_type}`: load it with `AutoModel`, or "
                "convert it first if it is an ECG encoder."
            )
        labels = {name: kwargs.pop(name, None) for name in ("id2label", "label2id", "num_labels")}
        config_dict = _of_problem(_with_labels(config_dict, **labels), kwargs.get("problem_type"))
        loaded = super().from_dict(config_dict, **kwargs)
        # Arguments are set on the finished object, past its checks.
        (loaded[0] if kwargs.get("return_unused_kwargs") else loaded).validate()
        return loaded

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "ECGTransformerConfig":
        """The configuration of a preset; keyword arguments override its fields.

        `tiny`, `small` and `base` are sizes of the default encoder. `ptbxl_100hz` (1.66 M parameters, windows of 2.5 s
        at 100 Hz) can be trained from random weights on all 71 statements of PTB-XL.
        """
        check_choice("name", name, PRESETS)
        return cls(**{**PRESETS[name], **overrides})

    @property
    def labels(self) -> list[str]:
        """The label codes in the order of the logits, which is not that of `label2id` once a file was read."""
        return [self.id2label[index] for index in range(len(self.id2label))]

    @property
    def num_patches(self) -> int:
        """Tokens of one window (of one lead, where leads have separate tokens), without CLS, registers and separators.

        Samples after the last complete patch are ignored.
        """
        if self.conv_layers is None:
            return self.num_samples // self.patch_size
        return conv_output_length(self.conv_layers, self._samples_in_a_row)

    @property
    def _samples_in_a_row(self) -> int:
        return self.num_samples * (self.num_leads if self.lead_layout == "time" else 1)

    @property
    def min_samples(self) -> int:
        """The minimum input length: samples that give one token (of all leads, where they are concatenated)."""
        return self._samples_of(1)

    @property
    def num_positions(self) -> int:
        """Number of positions in time."""
        return self.num_patches if self.max_position_embeddings is None else self.max_position_embeddings

    @property
    def max_samples(self) -> int | None:
        """The maximum input length; None where position convolutions allow any length."""
        if self.position_embedding_type == "convolution":
            return None
        return max(self.num_samples, self._samples_of(self.num_positions))

    def _samples_of(self, num_tokens: int) -> int:
        if self.conv_layers is None:
            return num_tokens * self.patch_size
        length = num_tokens
        for layer in reversed(self.conv_layers):
            length = (length - 1) * layer["stride"] + layer["kernel_size"] - 2 * layer["padding"]
        return max(length, 1)

    def validate_input(self):
        if self.num_leads != len(self.lead_names):
            raise ValueError(f"`num_leads` is {self.num_leads} but `lead_names` names {len(self.lead_names)} leads.")
        if len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"`lead_names` names a lead twice: {' '.join(self.lead_names)}.")
        if self.conv_layers is not None:
            self._check_conv_layers()
        if not 0 < self.patch_size <= self.num_samples:
            raise ValueError(
                f"`patch_size` must lie between 1 and `num_samples` ({self.num_samples}), got {self.patch_size}."
            )

    def validate_numbers(self):
        for name in ABOVE_ZERO:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be above 0 and finite, got {getattr(self, name)}.")
        for name in AT_LEAST_ZERO:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be at least 0 and finite, got {getattr(self, name)}.")
        for name in DROP_RATES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")

    def _check_conv_layers(self):
        known = {"channels", "kernel_size", *CONV_LAYER_DEFAULTS}
        for index, layer in enumerate(self.conv_layers):
            if set(layer) != known:
                raise ValueError(
                    f"Entry {index} of `conv_layers` requires `channels` and `kernel_size` and accepts "
                    f"{', '.join(CONV_LAYER_DEFAULTS)}; got {', '.join(layer)}."
                )
        if self.patch_size != _joint_stride(self.conv_layers):
            raise ValueError(
                f"`patch_size` is {self.patch_size} but the strides of `conv_layers` give one token for "
                f"{_joint_stride(self.conv_layers)} samples: omit `patch_size`."
            )
        if self.conv_layers[-1]["channels"] != self.hidden_size and not self.conv_projection:
            raise ValueError(
                f"The last of `conv_layers` has {self.conv_layers[-1]['channels']} channels but `hidden_size` is "
                f"{self.hidden_size}: set `conv_projection`."
            )
        if self._samples_in_a_row < self.min_samples:
            raise ValueError(
                f"`num_samples` ({self.num_samples}) is less than the {self.min_samples} samples of one token."
            )

    def validate_encoder(self):
        if self.head_dim is None:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.num_positions < self.num_patches:
            raise ValueError(
                f"`max_position_embeddings` ({self.max_position_embeddings}) is less than the {self.num_patches} "
                "tokens of a window."
            )
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        self._check_leads()
        if self.pooling == "cls" and not self.use_cls_token:
            raise ValueError("`pooling` is `cls` but `use_cls_token` is False.")
        if self.pooling == "register" and not (self.num_registers and self.keep_registers):
            raise ValueError("`pooling` is `register`: set `num_registers`, and leave `keep_registers` True.")
        if self.pooling == "attention" and self.hidden_size % self.num_attention_heads:
            raise ValueError("`pooling` is `attention`: `hidden_size` must be a multiple of `num_attention_heads`.")
        if self.norm_last_hidden_state and self.pooling != "mean":
            raise ValueError(
                "`norm_last_hidden_state` is for `pooling` `mean`; the others normalise the tokens anyway."
            )

    def _check_leads(self):
        if self.lead_layout == "time" and self.conv_layers is None:
            raise ValueError("`lead_layout` is `time`: give `conv_layers`.")
        if self.lead_layout == "tokens":
            others = {"conv_layers": self.conv_layers, "use_cls_token": self.use_cls_token}
            others["num_registers"] = self.num_registers
            others["position_embedding_type"] = self.position_embedding_type != "learned"
            if wrong := [name for name, value in others.items() if value]:
                raise ValueError(
                    f"`lead_layout` `tokens` requires learned positions, and no convolutions, CLS or registers: "
                    f"change {', '.join(f'`{name}`' for name in wrong)}."
                )
        elif wrong := [name for name in LEAD_TOKEN_FIELDS if getattr(self, name)]:
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in wrong)} {'is' if len(wrong) == 1 else 'are'} for `lead_layout` "
                f"`tokens`, got `{self.lead_layout}`."
            )
        elif self.attention_pattern != "full":
            raise ValueError(f"`attention_pattern` `{self.attention_pattern}` is for `lead_layout` `tokens`.")

    def validate_labels(self):
        check_choice("problem_type", self.problem_type, PROBLEM_TYPES)
        if (self.classifier_type == "mlp") != (self.classifier_hidden_size is not None):
            raise ValueError("`classifier_hidden_size` is for `classifier_type` `mlp`, where it is required.")
        check_id2label(self.id2label, self.problem_type)
        num_labels = len(self.id2label)
        if {name: index for index, name in self.id2label.items()} != self.label2id:
            raise ValueError("`id2label` and `label2id` must be inverse to each other: give both.")
        if self.thresholds is not None and len(self.thresholds) != num_labels:
            raise ValueError(
                f"`thresholds` has {len(self.thresholds)} values but `id2label` names {num_labels} labels."
            )
        for name, threshold in zip(self.labels, self.thresholds or (), strict=False):
            if not 0 <= threshold <= 1:
                raise ValueError(f"`thresholds` must be probabilities in [0, 1], got {threshold} for {name}.")
        rules = [self.window_aggregation] if isinstance(self.window_aggregation, str) else self.window_aggregation
        for rule in rules:
            check_choice("window_aggregation", rule, WINDOW_AGGREGATIONS)
        if not isinstance(self.window_aggregation, str) and len(rules) != num_labels:
            raise ValueError(f"`window_aggregation` has {len(rules)} values but `id2label` names {num_labels} labels.")

    def validate_targets(self):
        """What has a meaning for some kinds of targets only."""
        of_type = f"`problem_type` `{self.problem_type}`"
        if self.thresholds is not None and self.problem_type != MULTI_LABEL:
            raise ValueError(
                f"`thresholds` are for `problem_type` `{MULTI_LABEL}`, not for {of_type}: leave them out."
            )
        if self.temperature != 1 and self.problem_type == REGRESSION:
            raise ValueError(
                f"`temperature` must be 1 with {of_type}, which has no probabilities; got {self.temperature}."
            )
        rules = {SINGLE_LABEL: WINDOW_AGGREGATIONS[:2], REGRESSION: WINDOW_AGGREGATIONS[:1]}.get(self.problem_type)
        if rules is not None and self.window_aggregation not in rules:
            raise ValueError(
                f"`window_aggregation` must be one of {', '.join(rules)} with {of_type}, got "
                f"{self.window_aggregation}."
            )
        self._check_standardisation()

    def _check_standardisation(self):
        if self.target_mean is None and self.target_std is None:
            return
        if self.problem_type != REGRESSION or self.target_mean is None or self.target_std is None:
            raise ValueError(
                f"`target_mean` and `target_std` belong together and to `problem_type` `{REGRESSION}`; got "
                f"{self.target_mean} and {self.target_std} with `{self.problem_type}`."
            )
        for name in ("target_mean", "target_std"):
            values = getattr(self, name)
            if len(values) != len(self.id2label):
                raise ValueError(
                    f"`{name}` has {len(values)} values but `id2label` names {len(self.id2label)} labels."
                )
            for label, value in zip(self.labels, values, strict=True):
                if not math.isfinite(value) or (name == "target_std" and value <= 0):
                    expected = "finite" if name == "target_mean" else "above 0 and finite"
                    raise ValueError(f"`{name}` must be {expected}, got {value} for {label}.")


def _of_problem(config_dict: dict, problem_type: str | None) -> dict:
    """The fields of a file, without those of its head where that was trained for another kind of targets."""
    if problem_type in (None, config_dict.get("problem_type") or MULTI_LABEL):
        return config_dict
    dropped = (*HEAD_SETTINGS, "target_mean", "target_std")
    return {name: value for name, value in config_dict.items() if name not in dropped}


def _with_labels(config_dict: dict, id2label: dict | None, label2id: dict | None, num_labels: int | None) -> dict:
    """The fields of a file, with the labels of the arguments in place of its own and of all that belonged to these."""
    old = _labels_of(config_dict)
    if id2label is not None:
        new = {int(index): name for index, name in id2label.items()}
    elif label2id is not None:
        new = {int(index): name for name, index in label2id.items()}
    else:
        new = old if num_labels in (None, len(old)) else {index: f"LABEL_{index}" for index in range(num_labels)}
    if num_labels not in (None, len(new)):
        raise ValueError(
            f"`num_labels` is {num_labels} but the labels given are {len(new)}: {', '.join(new.values())}."
        )
    if new == old and label2id is None:
        return config_dict
    inverse = {name: index for index, name in new.items()} if label2id is None else dict(label2id)
    dropped = () if new == old else (*HEAD_SETTINGS, *LABEL_SETTINGS, "num_labels")
    kept = {name: value for name, value in config_dict.items() if name not in dropped}
    return {**kept, "id2label": new, "label2id": inverse}


def _labels_of(config_dict: dict) -> dict[int, str]:
    """Of a file; the library's names where it has none."""
    if config_dict.get("id2label"):
        return {int(index): name for index, name in config_dict["id2label"].items()}
    return {index: f"LABEL_{index}" for index in range(config_dict.get("num_labels") or 2)}


def conv_output_length(conv_layers: list[dict], length):
    """Number of tokens for `length` samples, an integer or an integer tensor."""
    for layer in conv_layers:
        length = (length + 2 * layer["padding"] - layer["kernel_size"]) // layer["stride"] + 1
    return length


def _joint_stride(conv_layers: list[dict]) -> int:
    return math.prod(layer["stride"] for layer in conv_layers)


__all__ = ["ECGTransformerConfig", "PRESETS"]
