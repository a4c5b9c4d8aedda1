"""Heads of the ECG Transformer, and what of a configuration belongs to a trained one."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_ecg_transformer import HEAD_SETTINGS, LABEL_SETTINGS, ECGTransformerConfig

# Arguments of `from_pretrained` that say where a configuration is.
_HUB_ARGUMENTS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


class ECGTransformerMLPHead(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.activation = ACT2FN[config.classifier_act]
        self.fc2 = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(pooled)))


class ECGTransformerCosineHead(nn.Module):
    """Each logit is the cosine, from -1 to 1, between the pooled feature and the embedding of the label."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.num_labels, config.hidden_size))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return nn.functional.cosine_similarity(pooled.unsqueeze(1), self.weight, dim=-1)


class ECGTransformerProjectionHead(nn.Module):
    """(batch, hidden) to (batch, projection size): for the contrastive loss, dropped after pre-training."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(4 * config.hidden_size, config.projection_size)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(pooled)))


def make_classifier(config: ECGTransformerConfig) -> nn.Module:
    """The head of the configured type: (batch, hidden) to (batch, labels)."""
    if config.classifier_type == "mlp":
        return ECGTransformerMLPHead(config)
    if config.classifier_type == "cosine":
        return ECGTransformerCosineHead(config)
    return nn.Linear(config.hidden_size, config.num_labels, bias=config.classifier_bias)


def all_among(values: list[torch.Tensor], known: list[torch.Tensor]) -> bool:
    """Whether each of the tensors is equal to one of the known ones, wherever and however precisely it is kept.

    Those that are offloaded, which nothing trains, count as equal.
    """
    return all(
        value.is_meta or any(torch.equal(value, other.to(value.device, value.dtype)) for other in known)
        for value in values
    )


def stored_config(config_class: type[ECGTransformerConfig], path, kwargs: dict) -> ECGTransformerConfig | None:
    """The configuration beside the weights, whatever configuration they were loaded with; None where none is.

    `kwargs` are those of `from_pretrained`.
    """
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What is odd about it was said when it was loaded.
        try:
            return config_class.from_pretrained(path, **hub)
        except OSError:  # A folder of weights alone: allowed together with `config=`.
            return None


def check_no_head_settings(config: ECGTransformerConfig, stored: ECGTransformerConfig | None) -> None:
    """Raise `ValueError` if a new head was given settings that only a trained one can have."""
    for name, initial in HEAD_SETTINGS.items():
        value = getattr(config, name)
        if value != initial and (stored is None or value != getattr(stored, name)):
            raise ValueError(
                f"`{name}` is {value}, but belongs to a trained head, and the head is new. Leave it out, as "
                "`model.replace_head(id2label)` does, and set it in `model.config` when the head is trained."
            )


def misfit_in_words(
    path, config: ECGTransformerConfig, stored: ECGTransformerConfig | None, mismatched: Iterable[tuple]
) -> str:
    """Why the head at `path`, beside the `stored` configuration, does not fit `config`.

    `mismatched` has the names of weights, with their shapes in the file and in the model.
    """
    if stored is not None and stored.id2label == config.id2label:
        labels = stored.num_labels
        for name, found, expected in mismatched:
            if expected[0] == labels != found[0]:
                return (
                    f"The head of `{path}` has {found[0]} outputs ({name}), its config.json names {labels} labels: "
                    f"{', '.join(stored.labels)}. Write the names of all outputs there, in order, as `id2label` and "
                    "`label2id`, or give `ignore_mismatched_sizes=True` to replace the head by a new one."
                )
    trained_for = "other labels or sizes" if stored is None else ", ".join(stored.labels)
    return (
        f"The head of `{path}` was trained for {trained_for}, and does not fit the configuration with "
        f"{', '.join(config.labels)}. Load it without new labels and call `model.replace_head(id2label)`, or give "
        "`ignore_mismatched_sizes=True` to replace the head in the same way."
    )


def forget_head_settings(config: ECGTransformerConfig, stored: ECGTransformerConfig | None) -> None:
    """Give `config` the settings of a new head; what belongs to the labels is kept if these are the same, or new."""
    for name, initial in HEAD_SETTINGS.items():
        setattr(config, name, initial)
    if stored is not None and stored.id2label != config.id2label:
        for name in LABEL_SETTINGS:
            if getattr(stored, name) == getattr(config, name):
                setattr(config, name, None)
        config.label2id = {name: index for index, name in config.id2label.items()}


__all__ = [
    "ECGTransformerCosineHead",
    "ECGTransformerMLPHead",
    "ECGTransformerProjectionHead",
    "all_among",
    "check_no_head_settings",
    "forget_head_settings",
    "make_classifier",
    "misfit_in_words",
    "stored_config",
]
