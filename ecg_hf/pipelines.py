"""The pipelines of the package: they read files of all formats, and `feature-extraction` takes ECG Transformers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from transformers import AutoModelForSequenceClassification, AutoTokenizer, FeatureExtractionPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from .ecg_transformer.pipeline_ecg_classification import (
    ECGClassificationPipeline,
    ECGFeatureExtractionPipeline,
    ECGRecordPipeline,
)
from .ecg_transformer.wfdb_ecg_transformer import Record
from .readers.channels import warn_of_other_channels, whole_microvolts
from .readers.reading import read_leads, said_of_all
from .shipped import DEFAULT_CLASSIFIER


def read_for_model(path: str | os.PathLike, wanted: Sequence[str], said: dict) -> Record:
    """The leads `wanted` of an ECG file of any format that is read, in whole µV (int16).

    `said` has what the caller says of the file, as [`Said`]: `sampling_rate` (Hz), `units`, `lead_names`, `channels`;
    each may be absent. A warning names the channels that are none of the twelve leads. Raises `RecordError` and
    `ValueError` as `read_ecg` does.
    """
    of_all = said_of_all(*(said.get(name) for name in ("sampling_rate", "units", "lead_names")))
    path = os.fspath(path)
    record = read_leads(path, dataclasses.replace(of_all, wanted=frozenset(wanted), channels=said.get("channels")))
    warn_of_other_channels(path, record.other_channels)
    return dataclasses.replace(record, signal=whole_microvolts(record))


class _FeatureExtraction(FeatureExtractionPipeline):
    """What `pipeline("feature-extraction")` builds: ours for an ECG Transformer, the library's for any other model.

    The library chooses a pipeline by its task alone, and decides by the class what to load beside the model: here a
    tokenizer or a feature extractor, whichever there is.
    """

    _load_tokenizer = None
    _load_feature_extractor = None

    def __new__(cls, model, tokenizer=None, **kwargs):
        if isinstance(model.config, ECGTransformerConfig):
            return ECGFeatureExtractionPipeline(model=model, **kwargs)
        kwargs.pop("feature_extractor", None)
        if tokenizer is None:  # could not be loaded: this says why
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        return FeatureExtractionPipeline(model=model, tokenizer=tokenizer, **kwargs)


def register_pipelines() -> None:
    """Make the tasks known to the library, and let the pipelines read what `read_ecg` reads."""
    ECGRecordPipeline.read_file = staticmethod(read_for_model)
    if "ecg-classification" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            "ecg-classification",
            pipeline_class=ECGClassificationPipeline,
            pt_model=AutoModelForSequenceClassification,
            default={"model": (DEFAULT_CLASSIFIER, None)},
            type="multimodal",
        )
    # Not `register_pipeline`, which would warn of what is meant, and forget the task's default model.
    PIPELINE_REGISTRY.supported_tasks["feature-extraction"]["impl"] = _FeatureExtraction


register_pipelines()

__all__ = ["read_for_model", "register_pipelines"]
