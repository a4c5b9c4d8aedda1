"""ECG Transformers for Hugging Face: post-training by preview linear probing and stochastic depth (arXiv 2509.12991).

Importing the package registers the model with the Auto classes, and the pipelines. What it gives is loaded when it is
first used, and torch and transformers with it.
"""

from .loading import load
from .registration import register
from .runs.signals import end_while_loading
from .version import __version__

# Before the seconds in which torch and transformers load.
end_while_loading()
register()

_LAZY = {
    "ECGClassificationPipeline": "ecg_transformer.pipeline_ecg_classification",
    "ECGFeatureExtractionPipeline": "ecg_transformer.pipeline_ecg_classification",
    "ECGTransformerConfig": "ecg_transformer.configuration_ecg_transformer",
    "ECGTransformerFeatureExtractor": "ecg_transformer.feature_extraction_ecg_transformer",
    "ECGTransformerForMultiLabel": "ecg_transformer.modeling_ecg_transformer",
    "ECGTransformerForPreTraining": "ecg_transformer.modeling_ecg_transformer",
    "ECGTransformerModel": "ecg_transformer.modeling_ecg_transformer",
    "ECGCollator": "ecg_transformer.collator_ecg_transformer",
    "Attribution": "inference.attribution",
    "check_attribution": "inference.attribution_check",
    "explain": "inference.attribution",
    "plot_attribution": "inference.explain",
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
    "PreTrainer": "pretraining.trainer",
    "PreTrainingArguments": "pretraining.arguments",
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
        return getattr(load(_LAZY[name]), name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


def __dir__():
    return sorted([*globals(), *_LAZY])


__all__ = ["__version__", *_LAZY]
