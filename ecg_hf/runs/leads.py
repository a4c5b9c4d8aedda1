"""Encoders for fewer leads: a model of one, three or any leads is made from one that takes more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.signal_steps_ecg_transformer import canonical_lead_names


def model_leads(lead_names: Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """The leads that a model of the leads `known` is to be restricted to, for records that have `lead_names`.

    None where it stays as it is: it has all of its leads, or computes the limb leads from two of I, II and III.
    """
    if lead_names is None:
        return None
    given = canonical_lead_names(lead_names)
    limb = LEAD_NAMES[:6] if len({"I", "II", "III"} & set(given)) > 1 else ()
    return None if set(known) <= {*given, *limb} else list(given)


def restrict_leads(
    model: PreTrainedModel, feature_extractor: ECGTransformerFeatureExtractor, lead_names: Sequence[str]
) -> tuple[PreTrainedModel, ECGTransformerFeatureExtractor]:
    """The model, changed in place, and a feature extractor for it that take only `lead_names`, in this order.

    Where leads are channels of common tokens, the model keeps their columns of the first projection, so that its
    output is that of the old model with zeros in the place of the other leads. (The old feature extractor computes
    limb leads that two of I, II and III determine; the new model does without.) Where each lead has its own tokens, it
    keeps what it has learned of these leads, and its output is that of the old model given only them.

    Args:
        model: an ECG Transformer of any class; the head, if there is one, stays as it is.
        feature_extractor: that of the model; its mean and standard deviation of each lead follow.
        lead_names: some of the leads of the model, in any spelling.

    Raises:
        ValueError: a lead that the model does not have, is unknown or is named twice; none; or a model that cannot be
            restricted: one whose leads follow each other in time, or whose first layer adds its input to its output.
    """
    restricted = restrict_feature_extractor(feature_extractor, lead_names)
    return restrict_model(model, lead_names), restricted


def restrict_model(model: PreTrainedModel, lead_names: Sequence[str]) -> PreTrainedModel:
    """The model of `restrict_leads`."""
    config = model.config
    rows = _rows(config.lead_names, lead_names)
    if rows == list(range(config.num_leads)):
        return model
    _check_can_be_restricted(config)
    embeddings = model.base_model.embeddings
    if config.lead_layout == "tokens":
        if config.position_per_lead:
            embeddings.position_embeddings = _selected(embeddings.position_embeddings, rows, dim=0)
        if config.use_lead_embeddings:
            embeddings.lead_embeddings = _selected(embeddings.lead_embeddings, rows, dim=0)
    else:
        patches = embeddings.patch_embeddings
        first = patches.projection if config.conv_layers is None else patches.layers[0].convolution
        first.weight = _selected(first.weight, rows, dim=1)
        first.in_channels = len(rows)
    # The configuration is one object for the whole model.
    config.lead_names, config.num_leads = [config.lead_names[row] for row in rows], len(rows)
    return model


def restrict_feature_extractor(
    feature_extractor: ECGTransformerFeatureExtractor, lead_names: Sequence[str]
) -> ECGTransformerFeatureExtractor:
    """A new feature extractor, as of `restrict_leads`."""
    rows = _rows(feature_extractor.lead_names, lead_names)
    fields = feature_extractor.to_dict()
    for name in ("lead_names", "mean", "std"):
        if isinstance(fields[name], (list, tuple)):
            fields[name] = [fields[name][row] for row in rows]
    return ECGTransformerFeatureExtractor.from_dict(fields)


def _rows(known: Sequence[str], lead_names: Sequence[str]) -> list[int]:
    """The place of each of `lead_names` among the `known` ones."""
    wanted = canonical_lead_names(lead_names)
    if not wanted:
        raise ValueError(f"`lead_names` is empty: name some of the model's leads, {' '.join(known)}.")
    if lacking := [name for name in wanted if name not in known]:
        raise ValueError(
            f"`lead_names` names {', '.join(lacking)}, which the model does not take: it has {' '.join(known)}."
        )
    return [list(known).index(name) for name in wanted]


def _check_can_be_restricted(config: ECGTransformerConfig) -> None:
    if config.lead_layout == "time":
        raise ValueError(
            "`lead_names` cannot restrict a model whose leads follow each other in time, such as HuBERT-ECG: without "
            "some of them the others would stand at places for which the model was not trained. It takes records that "
            "lack leads as it is, with zeros for them; leave `lead_names` out."
        )
    if config.lead_layout == "channels" and config.conv_layers is not None and config.conv_layers[0]["residual"]:
        raise ValueError(
            "`lead_names` cannot restrict a model whose first convolution is `residual`: it adds the leads themselves "
            "to the features. Leave `lead_names` out."
        )


def _selected(weight: nn.Parameter, rows: Sequence[int], dim: int) -> nn.Parameter:
    index = torch.tensor(rows, device=weight.device)
    return nn.Parameter(weight.detach().index_select(dim, index), requires_grad=weight.requires_grad)


__all__ = ["model_leads", "restrict_feature_extractor", "restrict_leads", "restrict_model"]
