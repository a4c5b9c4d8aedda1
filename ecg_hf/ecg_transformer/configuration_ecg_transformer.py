"""Configuration of the ECG Transformer."""

import pathlib
import shutil

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

WINDOW_AGGREGATIONS = ("mean_logit", "mean_probability", "max_probability")

# Width, depth and heads of ViT-Ti, ViT-S and ViT-B; "tiny" is the encoder of MTECG (arXiv 2309.07136).
PRESETS = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}

AUTO_MAP = {
    "AutoConfig": "configuration_ecg_transformer.ECGTransformerConfig",
    "AutoModelForSequenceClassification": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
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
        patch_size (`int`, defaults to 25): Samples of one token.
        drop_path_rate (`float`, defaults to 0.0):
            Stochastic depth in training: the rate of the last block, growing linearly from 0 at the first.
        pooling (`str`, defaults to `"cls"`):
            What the head reads: `"cls"` (the CLS token after the final norm), or `"mean"` (the mean of the patch
            tokens of the last block, then the norm).
        label_names (`dict[str, str]`, *optional*): Full name of each label code.
        thresholds (`list[float]`, *optional*):
            In label order, the probability from which a label counts as present; `None` means 0.5.
        temperature (`float`, defaults to 1.0): Divides the logits of the windows before they are aggregated.
        window_aggregation (`str` or `list[str]`, defaults to `"mean_logit"`):
            How the windows of a record make its score: `"mean_logit"`, `"mean_probability"` or `"max_probability"`,
            one for all labels or one for each.
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
    patch_size: int = 25

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

    def __post_init__(self, **kwargs):
        self.lead_names = list(LEAD_NAMES if self.lead_names is None else self.lead_names)
        if self.num_leads is None:
            self.num_leads = len(self.lead_names)
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
        """The configuration of a preset (`tiny`, `small` or `base`); keyword arguments override its fields."""
        if name not in PRESETS:
            raise ValueError(f"There is no preset `{name}`; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def num_patches(self) -> int:
        """Tokens of one window, without the CLS token; samples after the last whole patch are not read."""
        return self.num_samples // self.patch_size

    def validate_input(self):
        if self.num_leads != len(self.lead_names):
            raise ValueError(f"`num_leads` is {self.num_leads} but `lead_names` names {len(self.lead_names)} leads.")
        if len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"`lead_names` names a lead twice: {' '.join(self.lead_names)}.")
        if not 0 < self.patch_size <= self.num_samples:
            raise ValueError(
                f"`patch_size` must lie between 1 and `num_samples` ({self.num_samples}), got {self.patch_size}."
            )
        if self.sampling_rate <= 0:
            raise ValueError(f"`sampling_rate` must be above 0 Hz, got {self.sampling_rate}.")

    def validate_encoder(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {self.drop_path_rate}.")
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"`pooling` must be `cls` or `mean`, got `{self.pooling}`.")

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
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}.")
        rules = [self.window_aggregation] if isinstance(self.window_aggregation, str) else self.window_aggregation
        if unknown := set(rules) - set(WINDOW_AGGREGATIONS):
            raise ValueError(
                f"`window_aggregation` knows {', '.join(WINDOW_AGGREGATIONS)}; got {', '.join(sorted(unknown))}."
            )
        if not isinstance(self.window_aggregation, str) and len(rules) != num_labels:
            raise ValueError(f"`window_aggregation` has {len(rules)} values but `id2label` names {num_labels} labels.")


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

    return ECGTransformerFeatureExtractor, ECGTransformerModel, ECGClassificationPipeline


__all__ = ["ECGTransformerConfig", "LEAD_NAMES", "PRESETS"]
