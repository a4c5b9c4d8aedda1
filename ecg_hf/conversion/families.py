"""Common definitions of the checkpoint families: `Family`, `Conversion` and helpers for their modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .reading import Checkpoint


@dataclass
class Conversion:
    """The result of a family's module for a checkpoint."""

    config: dict
    """Fields of `ECGTransformerConfig`."""
    tensors: dict[str, torch.Tensor]
    """The tensors of the file, with the parts of a parameter already joined."""
    rules: dict[str, str | tuple[str, ...]]
    """From a pattern for the file's tensor names to the model's name, or to several names if the tensor is split along
    its first axis. `{}` is replaced by the groups of the pattern."""
    dropped: Sequence[str]
    """Patterns for the file's tensor names that are not needed."""
    extractor: dict
    """Fields of `ECGTransformerFeatureExtractor`."""
    num_labels: int | None = None
    """Number of outputs of the file's head; None for an encoder."""
    label_names: Sequence[str] | None = None
    """Names of the head's outputs, if given by the file or its authors."""
    pretraining_data: Sequence[str] | None = None
    """Names of data sets, if the file gives them; by default those of the family."""


@dataclass(frozen=True)
class Family:
    """A source of public checkpoints."""

    name: str
    signature: tuple[str, ...]
    """Patterns for tensor names that must each match; together they distinguish the family from all others."""
    license: str
    pretraining_data: tuple[str, ...] | None
    """Names of data sets; None if unknown."""
    convert: Callable[[Checkpoint, int | None], Conversion] = field(repr=False)

    def recognises(self, names: Iterable[str]) -> bool:
        names = list(names)
        return all(any(re.fullmatch(pattern, name) for name in names) for pattern in self.signature)


def shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor. Raises `ValueError` if the file lacks it."""
    if name not in tensors:
        raise ValueError(f"the checkpoint lacks `{name}`, from which its sizes are read.")
    return tuple(tensors[name].shape)


def count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """Number of distinct indices in the first group of `pattern`, such as the number of blocks."""
    numbers = {int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))}
    if numbers != set(range(len(numbers))):
        raise ValueError(
            f"the checkpoint has numbers {sorted(numbers)} of `{pattern}`, where none should be left out."
        )
    return len(numbers)


def has_any(tensors: Mapping[str, torch.Tensor], pattern: str) -> bool:
    """Whether a tensor's name matches `pattern`."""
    return any(re.fullmatch(pattern, name) for name in tensors)


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors, with the prefix removed from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def fold_weight_norm(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Replace magnitude and direction of a weight-normalised convolution, in either naming of torch, by `name`.weight.

    The norm is taken over the first two axes: there is one magnitude for each kernel position.
    """
    for magnitude, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if f"{name}.{magnitude}" in tensors and f"{name}.{direction}" in tensors:
            tensors = dict(tensors)
            g, v = (tensors.pop(f"{name}.{part}").double() for part in (magnitude, direction))
            if g.shape != (1, 1, v.shape[-1]):
                raise ValueError(f"`{name}.{magnitude}` must have shape {(1, 1, v.shape[-1])}, got {tuple(g.shape)}.")
            return {**tensors, f"{name}.weight": (g * v / v.norm(dim=(0, 1), keepdim=True)).float()}
    return tensors


def resolve_heads(argument: int | None, configured: int | None, published: int | None, sizes: str) -> int:
    """Number of attention heads: the argument, else the value in the file's configuration, else the published one.

    Raises `ValueError` if it is unknown; `sizes` describes the file in the message.
    """
    for heads in (argument, configured, published):
        if heads is not None:
            if heads < 1:
                raise ValueError(f"`num_attention_heads` must be above 0, got {heads}.")
            return int(heads)
    raise ValueError(
        f"the number of attention heads cannot be read from the tensors or the file's configuration, and its sizes "
        f"({sizes}) are not the published ones: give `num_attention_heads`."
    )


def head_dim(width: int, heads: int) -> int:
    """Channels of one head. Raises `ValueError` unless the width is a multiple of the heads."""
    if width % heads:
        raise ValueError(f"{heads} attention heads do not divide the {width} channels of the file's attention.")
    return width // heads


def section(content: Mapping, *names: str) -> dict:
    """A nested dictionary of a file's configuration; empty if there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return dict(content) if isinstance(content, Mapping) else {}


__all__ = [
    "Conversion",
    "Family",
    "count",
    "fold_weight_norm",
    "has_any",
    "head_dim",
    "resolve_heads",
    "section",
    "shape",
    "without_prefix",
]
