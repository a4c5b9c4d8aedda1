"""What a saved folder has beyond the library's files: the code, where it is found, and weights of one form alone."""

import json
import pathlib
import shutil

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

AUTO_MAP = {
    "AutoConfig": "configuration_ecg_transformer.ECGTransformerConfig",
    "AutoModelForSequenceClassification": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
    "AutoModelForPreTraining": "modeling_ecg_transformer.ECGTransformerForPreTraining",
    "AutoFeatureExtractor": "feature_extraction_ecg_transformer.ECGTransformerFeatureExtractor",
}
CUSTOM_PIPELINES = {
    "ecg-classification": {
        "impl": "pipeline_ecg_classification.ECGClassificationPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "multimodal",
    }
}
ENCODER_PIPELINES = {
    "feature-extraction": {
        "impl": "pipeline_ecg_classification.ECGFeatureExtractionPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}


def copy_code_files(folder) -> None:
    """Copy the modelling code to a checkpoint folder, so that it loads with `trust_remote_code=True`."""
    for file in sorted(pathlib.Path(__file__).parent.glob("[!_]*.py")):
        target = pathlib.Path(folder) / file.name
        if not (target.exists() and target.samefile(file)):
            shutil.copyfile(file, target)


def remove_earlier_weights(folder, variant: str | None = None) -> None:
    """Delete what the library leaves when weights in one file and in shards are saved over each other.

    It would load the single file, whichever is newer. Saving one deletes the shards of before, but not their index; so
    an index whose shards are all there is of the weights that were saved last.
    """
    folder = pathlib.Path(folder)
    single, index = (
        folder / (name if variant is None else f".{variant}.".join(name.rsplit(".", 1)))
        for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    )
    if single.is_file() and index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        earlier = single if all((folder / shard).is_file() for shard in shards) else index
        earlier.unlink()


__all__ = ["AUTO_MAP", "CUSTOM_PIPELINES", "ENCODER_PIPELINES", "copy_code_files", "remove_earlier_weights"]
