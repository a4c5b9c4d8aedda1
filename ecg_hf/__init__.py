"""ECG Transformers for Hugging Face: post-training by preview linear probing and stochastic depth (arXiv 2509.12991).

Importing the package registers the model with the Auto classes, and the pipelines; data, training and plotting load
when they are first used.
"""

import importlib

# ruff: noqa: E402, I001  before the seconds in which torch and transformers load
from .runs.signals import end_while_loading

end_while_loading()

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from .ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from .ecg_transformer.modeling_ecg_transformer import (
    ECGTransformerForMultiLabel,
    ECGTransformerForPreTraining,
    ECGTransformerModel,
)
from .ecg_transformer.pipeline_ecg_classification import ECGClassificationPipeline, ECGFeatureExtractionPipeline
from .pipelines import register_pipelines
from .version import __version__

AutoConfig.register("ecg_transformer", ECGTransformerConfig, exist_ok=True)
# The base class first: `architectures` of the checkpoint chooses among them, and names the base by default.
AutoModel.register(
    ECGTransformerConfig,
    (ECGTransformerModel, ECGTransformerForMultiLabel, ECGTransformerForPreTraining),
    exist_ok=True,
)
AutoModelForSequenceClassification.register(ECGTransformerConfig, ECGTransformerForMultiLabel, exist_ok=True)
AutoModelForPreTraining.register(ECGTransformerConfig, ECGTransformerForPreTraining, exist_ok=True)
AutoFeatureExtractor.register(ECGTransformerConfig, ECGTransformerFeatureExtractor, exist_ok=True)
register_pipelines()

_LAZY = {
    "ECGCollator": "ecg_transformer.collator_ecg_transformer",
    "PTBXL": "ptbxl",
    "load_ptbxl": "ptbxl",
    "load_challenge": "tables",
    "load_code15": "tables",
    "load_ecg_dataset": "tables",
    "Record": "readers",
    "RecordError": "readers",
    "read_ecg": "readers",
    "PostTrainer": "post_training",
    "PostTrainingArguments": "post_training",
    "PreTrainer": "pretraining",
    "PreTrainingArguments": "pretraining",
    "ECGMultiLabelMetric": "metrics",
    "regression_metrics": "target_metrics",
    "restrict_leads": "runs.leads",
    "single_label_metrics": "target_metrics",
    "bootstrap_metrics": "metrics",
    "compute_metrics": "metrics",
    "simulate_ptbxl": "synthetic",
    "download_ptbxl": "ptbxl.download",
    "load_ptbxl_parquet": "ptbxl.parquet",
    "name_labels": "ptbxl.label_order",
    "push_model": "hub",
    "plot_ecg": "plotting",
    "plot_learning_curves": "plotting",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = [
    "ECGClassificationPipeline",
    "ECGFeatureExtractionPipeline",
    "ECGTransformerConfig",
    "ECGTransformerFeatureExtractor",
    "ECGTransformerForMultiLabel",
    "ECGTransformerForPreTraining",
    "ECGTransformerModel",
    "__version__",
    *_LAZY,
]
