"""Conversion of a checkpoint file to a model, with detection of its family and a check of all tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import (
    ECGTransformerForMultiLabel,
    ECGTransformerModel,
    ECGTransformerPreTrainedModel,
)
from .ecg_fm import ECG_FM
from .ecg_jepa_kim import ECG_JEPA_KIM
from .ecg_jepa_weimann import ECG_JEPA_WEIMANN
from .families import Conversion, Family
from .hubert_ecg import HUBERT_ECG
from .mtecg import MTECG
from .reading import Checkpoint, read_checkpoint
from .st_mem import ST_MEM

logger = logging.get_logger(__name__)

FAMILIES = {family.name: family for family in (ST_MEM, ECG_FM, HUBERT_ECG, ECG_JEPA_KIM, ECG_JEPA_WEIMANN, MTECG)}


def convert_checkpoint(
    path: str | os.PathLike, source: str | None = None, num_attention_heads: int | None = None
) -> tuple[ECGTransformerPreTrainedModel, ECGTransformerFeatureExtractor]:
    """Convert a checkpoint of a public ECG Transformer; the model's outputs are those of the authors' code.

    Nothing that the file refers to is imported or executed. Every tensor must be used or be on the family's list of
    tensors to drop, and every parameter must be set.

    Args:
        path: The authors' file, or a folder such as HuBERT-ECG's on the Hub.
        source: Name of the family, one of `FAMILIES`; detected from the tensor names by default.
        num_attention_heads:
            By default the value in the file's configuration, or else the published one if all sizes are those of a
            published model.

    Returns:
        The model in evaluation mode (an [`ECGTransformerForMultiLabel`] if the file has a head, else an
        [`ECGTransformerModel`]) with `config.provenance`, and its feature extractor.

    Raises:
        FileNotFoundError: there is no file. ValueError: a damaged or unsupported file, another family than `source`,
        an unknown number of heads, tensors that
            are unexpected, missing or of another shape; the message says what was found and what was expected.
    """
    if source is not None:
        check_choice("source", source, FAMILIES)
    checkpoint = read_checkpoint(path)
    family = _family(checkpoint, source)
    try:
        conversion = family.convert(checkpoint, num_attention_heads)
        model = _build(conversion, family, checkpoint)
    except ValueError as error:
        raise ValueError(f"`{path}` was not converted as a checkpoint of {family.name}: {error}") from error
    if conversion.num_labels is not None and conversion.label_names is None:
        logger.warning(
            f"`{path}` does not name the {conversion.num_labels} outputs of its head: they are named LABEL_0, "
            "LABEL_1, ... Set `model.config.id2label` and `label2id` to the labels for which it was trained."
        )
    return model, ECGTransformerFeatureExtractor(**conversion.extractor)


def _family(checkpoint: Checkpoint, source: str | None) -> Family:
    recognised = [family for family in FAMILIES.values() if family.recognises(checkpoint.tensors)]
    if source is None:
        if len(recognised) == 1:
            return recognised[0]
        raise ValueError(
            f"`{checkpoint.path}` is no checkpoint of {', '.join(FAMILIES)}: it contains {_some(checkpoint.tensors)}. "
            "A head without its encoder cannot be converted."
        )
    if FAMILIES[source] not in recognised:
        found = f"one of {recognised[0].name}" if recognised else f"{_some(checkpoint.tensors)}"
        raise ValueError(
            f"`{checkpoint.path}` is no checkpoint of {source}, which has "
            f"{' and '.join(FAMILIES[source].signature)}; found was {found}."
        )
    return FAMILIES[source]


def _build(conversion: Conversion, family: Family, checkpoint: Checkpoint) -> ECGTransformerPreTrainedModel:
    labels = {}
    if conversion.num_labels is not None:
        names = conversion.label_names or [f"LABEL_{index}" for index in range(conversion.num_labels)]
        labels["id2label"] = dict(enumerate(names))
        labels["label2id"] = {name: index for index, name in enumerate(names)}
    data = family.pretraining_data if conversion.pretraining_data is None else conversion.pretraining_data
    provenance = {
        "source": family.name,
        "sha256": checkpoint.sha256,
        "license": family.license,
        "pretraining_data": None if data is None else list(data),
    }
    config = ECGTransformerConfig(**conversion.config, **labels, provenance=provenance)
    model_class = ECGTransformerModel if conversion.num_labels is None else ECGTransformerForMultiLabel
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    prefix = "" if conversion.num_labels is None else f"{model_class.base_model_prefix}."
    state = _rename(conversion, prefix)
    _check_shapes(state, expected)
    # `from_pretrained` also initialises buffers that are not saved.
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32).eval()


def _rename(conversion: Conversion, prefix: str) -> dict[str, torch.Tensor]:
    """The model's state dict. Raises `ValueError` for tensors that no rule matches and that are not to be dropped."""
    state, unused = {}, []
    for name, tensor in conversion.tensors.items():
        if any(re.fullmatch(pattern, name) for pattern in conversion.dropped):
            continue
        found = _targets(name, conversion.rules)
        if found is None:
            unused.append(name)
            continue
        if len(tensor) % len(found):
            raise ValueError(f"`{name}` has {len(tensor)} rows, which cannot be split into {len(found)} equal parts.")
        for target, part in zip(found, tensor.chunk(len(found)), strict=True):
            target = target if target.startswith("classifier.") else prefix + target
            if target in state:
                raise ValueError(f"`{name}` is a second tensor for `{target}`.")
            # Parts of a fused tensor are copied, since parameters must not share memory.
            is_part = part.untyped_storage().nbytes() > part.nbytes
            state[target] = part.to(torch.float32, copy=is_part).contiguous()
    if unused:
        raise ValueError(f"it has unexpected tensors, neither used nor known: {_some(unused)}.")
    return state


def _targets(name: str, rules: Mapping[str, str | tuple[str, ...]]) -> list[str] | None:
    for pattern, targets in rules.items():
        if match := re.fullmatch(pattern, name):
            return [target.format(*match.groups()) for target in ([targets] if isinstance(targets, str) else targets)]
    return None


def _check_shapes(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]):
    lacking, superfluous = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if lacking or superfluous:
        raise ValueError(
            f"the file lacks {_some(lacking)} of the model's parameters and has unexpected parameters: "
            f"{_some(superfluous)}."
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"`{name}` must have shape {tuple(expected[name].shape)} in this model, found {tuple(tensor.shape)}."
            )


def _some(names, most: int = 8) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + rest if names else "none"


__all__ = ["FAMILIES", "convert_checkpoint"]
