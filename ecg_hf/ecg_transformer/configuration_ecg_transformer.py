"""Configuration of the ECG Transformer."""

import math
import pathlib
import shutil

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

WINDOW_AGGREGATIONS = ("mean_logit", "mean_probability", "max_probability")

# What an entry of `conv_layers` may leave out.
CONV_LAYER_DEFAULTS = {
    "stride": 1,
    "padding": 0,
    "bias": True,
    "norm_groups": 0,
    "activation": True,
    "residual": False,
}

POSITION_EMBEDDING_TYPES = ("learned", "sincos")
POOLINGS = ("cls", "mean", "norm_mean")

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
    },
}

AUTO_MAP = {
    "AutoConfig": "configuration_ecg_transformer.ECGTransformerConfig",
    "AutoModelForSequenceClassification": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
    "AutoModelForPreTraining": "pretraining_ecg_transformer.ECGTransformerForPreTraining",
    "AutoFeatureExtractor": "feature_extraction_ecg_transformer.ECGTransformerFeatureExtractor",
}
CUSTOM_PIPELINES = {
    "ecg-classification": {
        "impl": "pipeline_ecg_classification.ECGClassificationPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "multimodal",
    }
}


@strict
class ECGTransformerConfig(PreTrainedConfig):
    r"""
    Configuration of an [`ECGTransformerModel`]. The defaults are the preset `tiny`, the encoder of MTECG
    (arXiv 2309.07136): 10 s at 500 Hz, all leads of 25 samples (50 ms) in one token.

    Args:
        lead_names (`list[str]`, *optional*, defaults to the 12 standard leads):
            The rows of `input_values`, in order. Canonical names: I II III aVR aVL aVF V1 ... V6.
        num_leads (`int`, *optional*): Number of rows; follows from `lead_names`.
        num_samples (`int`, defaults to 5000): Samples of one window, the longest input of the model.
        sampling_rate (`int` or `float`, defaults to 500): Hz at which the model reads its input.
        patch_size (`int`, *optional*, defaults to 25):
            Samples of one token; where convolutions make the tokens, samples from one to the next.
        conv_layers (`list[dict]`, *optional*):
            Instead of patches, a stack of convolutions over time makes the tokens. Each entry has `channels` and
            `kernel_size`, and where they differ from `CONV_LAYER_DEFAULTS` `stride`, `padding`, `bias`, `norm_groups`
            (of a group norm; 0 for none), `activation` (`hidden_act` after the norm, or none) and `residual`.
        use_cls_token (`bool`, defaults to `True`): Whether a CLS token stands before the others.
        position_embedding_type (`str`, defaults to `"learned"`):
            `"learned"`, a table with a row for CLS; or `"sincos"`, a fixed table, which is not stored.
        position_scale (`float`, defaults to 1.0): Factor of the fixed table.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth in training: the rate of the last block, growing linearly from 0 at the first.
        pooling (`str`, defaults to `"cls"`):
            What the head reads: `"cls"` (the CLS token after the final norm), `"mean"` (the mean of the patch tokens
            of the last block, then the norm) or `"norm_mean"` (the mean of the patch tokens after the norm).
        label_names (`dict[str, str]`, *optional*): Full name of each label code.
        thresholds (`list[float]`, *optional*):
            In label order, the probability from which a label counts as present; `None` means 0.5.
        temperature (`float`, defaults to 1.0): Divides the logits of the windows before they are aggregated.
        window_aggregation (`str` or `list[str]`, defaults to `"mean_logit"`):
            How the windows of a record make its score: `"mean_logit"`, `"mean_probability"` or `"max_probability"`,
            one for all labels or one for each.
        projection_size (`int`, defaults to 128): Pre-training: size of the features that crops are compared by.
        contrastive_temperature (`float`, defaults to 0.1): Pre-training: divides the cosine similarities.
        provenance (`dict`, *optional*):
            Where the weights come from: `source`, `sha256`, `license`, `pretraining_data`.
    """

    model_type = "ecg_transformer"
    # A Trainer gathers what is not listed here: the logits.
    keys_to_ignore_at_inference = ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]

    # Input
    lead_names: list[str] | tuple[str, ...] | None = None
    num_leads: int | None = None
    num_samples: int = 5000
    sampling_rate: int | float = 500

    # Tokens
    patch_size: int | None = None
    conv_layers: list[dict] | None = None
    use_cls_token: bool = True
    position_embedding_type: str = "learned"
    position_scale: float | int = 1.0

    # Encoder
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int = 768
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    pooling: str = "cls"

    # Classification
    label_names: dict[str, str] | None = None
    thresholds: list[float | int] | None = None
    temperature: float | int = 1.0
    window_aggregation: str | list[str] = "mean_logit"
    provenance: dict | None = None

    # Pre-training
    projection_size: int = 128
    contrastive_temperature: float | int = 0.1

    def __post_init__(self, **kwargs):
        self.lead_names = list(LEAD_NAMES if self.lead_names is None else self.lead_names)
        if self.num_leads is None:
            self.num_leads = len(self.lead_names)
        if self.conv_layers is not None:
            self.conv_layers = [{**CONV_LAYER_DEFAULTS, **layer} for layer in self.conv_layers]
        if self.patch_size is None:
            self.patch_size = 25 if self.conv_layers is None else _joint_stride(self.conv_layers)
        # Where the package is installed its own pipeline is registered; the entry would ask for trust in remote code.
        if not __name__.startswith("transformers_modules"):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
        if self.architectures is None:
            self.architectures = ["ECGTransformerModel"]
        if self.problem_type is None:
            self.problem_type = "multi_label_classification"

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "ECGTransformerConfig":
        """The configuration of a preset; keyword arguments override its fields.

        `tiny`, `small` and `base` are sizes of the default encoder. `ptbxl_100hz` (1.66 M parameters) reads 2.5 s at
        100 Hz and learns all 71 statements of PTB-XL from random weights.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset `{name}`; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def num_patches(self) -> int:
        """Tokens of one window, without the CLS token; samples after the last whole patch are not read."""
        if self.conv_layers is not None:
            return conv_output_length(self.conv_layers, self.num_samples)
        return self.num_samples // self.patch_size

    @property
    def min_samples(self) -> int:
        """The shortest input: samples that give one token."""
        if self.conv_layers is None:
            return self.patch_size
        length = 1
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
        if self.sampling_rate <= 0:
            raise ValueError(f"`sampling_rate` must be above 0 Hz, got {self.sampling_rate}.")

    def _check_conv_layers(self):
        known = {"channels", "kernel_size", *CONV_LAYER_DEFAULTS}
        for index, layer in enumerate(self.conv_layers):
            if set(layer) != known:
                raise ValueError(
                    f"Entry {index} of `conv_layers` needs `channels` and `kernel_size` and may have "
                    f"{', '.join(CONV_LAYER_DEFAULTS)}; got {', '.join(layer)}."
                )
        if self.patch_size != _joint_stride(self.conv_layers):
            raise ValueError(
                f"`patch_size` is {self.patch_size} but the strides of `conv_layers` make one token of "
                f"{_joint_stride(self.conv_layers)} samples: leave `patch_size` out."
            )
        if self.conv_layers[-1]["channels"] != self.hidden_size:
            raise ValueError(
                f"The last of `conv_layers` has {self.conv_layers[-1]['channels']} channels but `hidden_size` is "
                f"{self.hidden_size}."
            )
        if self.num_samples < self.min_samples:
            raise ValueError(
                f"`num_samples` ({self.num_samples}) is less than the {self.min_samples} samples of one token."
            )

    def validate_encoder(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {self.drop_path_rate}.")
        for name, known in (("position_embedding_type", POSITION_EMBEDDING_TYPES), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got `{getattr(self, name)}`.")
        if self.pooling == "cls" and not self.use_cls_token:
            raise ValueError("`pooling` is `cls` but `use_cls_token` is False.")

    def validate_labels(self):
        if self.problem_type != "multi_label_classification":
            raise ValueError(
                f"`problem_type` must be `multi_label_classification`, got `{self.problem_type}`: the head gives one "
                "probability for each label."
            )
        num_labels = len(self.id2label)
        if {name: index for index, name in self.id2label.items()} != self.label2id:
            raise ValueError("`id2label` and `label2id` must be inverse to each other: give both.")
        if self.thresholds is not None and len(self.thresholds) != num_labels:
            raise ValueError(
                f"`thresholds` has {len(self.thresholds)} values but `id2label` names {num_labels} labels."
            )
        for name in ("temperature", "contrastive_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}.")
        rules = [self.window_aggregation] if isinstance(self.window_aggregation, str) else self.window_aggregation
        if unknown := set(rules) - set(WINDOW_AGGREGATIONS):
            raise ValueError(
                f"`window_aggregation` knows {', '.join(WINDOW_AGGREGATIONS)}; got {', '.join(sorted(unknown))}."
            )
        if not isinstance(self.window_aggregation, str) and len(rules) != num_labels:
            raise ValueError(f"`window_aggregation` has {len(rules)} values but `id2label` names {num_labels} labels.")


def conv_output_length(conv_layers: list[dict], length):
    """Tokens that `length` samples give: a number, or an integer tensor of several."""
    for layer in conv_layers:
        length = (length + 2 * layer["padding"] - layer["kernel_size"]) // layer["stride"] + 1
    return length


def _joint_stride(conv_layers: list[dict]) -> int:
    return math.prod(layer["stride"] for layer in conv_layers)


def copy_code_files(folder) -> None:
    """Copy the modelling code into a checkpoint folder, so that it loads by `trust_remote_code=True` alone."""
    for file in sorted(pathlib.Path(__file__).parent.glob("[!_]*.py")):
        target = pathlib.Path(folder) / file.name
        if not (target.exists() and target.samefile(file)):
            shutil.copyfile(file, target)


def _every_code_file():
    # Never called: the Hub's loader fetches the files that relative imports name, and each file imports this one.
    from .feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
    from .modeling_ecg_transformer import ECGTransformerModel
    from .pipeline_ecg_classification import ECGClassificationPipeline
    from .pretraining_ecg_transformer import ECGTransformerForPreTraining

    return (
        ECGTransformerFeatureExtractor,
        ECGTransformerModel,
        ECGClassificationPipeline,
        ECGTransformerForPreTraining,
    )


__all__ = ["ECGTransformerConfig", "LEAD_NAMES", "PRESETS"]
