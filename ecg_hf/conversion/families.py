"""What every checkpoint family has in common: its name, its rules for tensors, and what a conversion is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .reading import Checkpoint


@dataclass
class Conversion:
    """What a family's module makes of a checkpoint."""

    config: dict
    """Fields of `ECGTransformerConfig`."""
    tensors: dict[str, torch.Tensor]
    """The file's tensors, where parts of one parameter are put together already."""
    rules: dict[str, str | tuple[str, ...]]
    """From a pattern of the file's names to the model's name, or names where a tensor is split along its first axis.
    `{}` stands for what the pattern's groups have found."""
    dropped: Sequence[str]
    """Patterns of the file's names that the encoder does not need."""
    extractor: dict
    """Fields of `ECGTransformerFeatureExtractor`."""
    num_labels: int | None = None
    """Of the file's head; None for an encoder."""
    label_names: Sequence[str] | None = None
    """Of the head's outputs, where the file or its authors name them."""
    pretraining_data: Sequence[str] | None = None
    """Names of data sets, where the file says them; else the family's."""


@dataclass(frozen=True)
class Family:
    """A source of public checkpoints."""

    name: str
    signature: tuple[str, ...]
    """Patterns of names, each of which one of the file's tensors matches; they tell it from all other families."""
    license: str
    pretraining_data: tuple[str, ...] | None
    """Names of data sets; None where it is not known."""
    convert: Callable[[Checkpoint, int | None], Conversion] = field(repr=False)

    def recognises(self, names: Iterable[str]) -> bool:
        names = list(names)
        return all(any(re.fullmatch(pattern, name) for name in names) for pattern in self.signature)


def shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """Of the tensor of that name. Raises `ValueError` where the file lacks it."""
    if name not in tensors:
        raise ValueError(f"the checkpoint lacks `{name}`, from which its sizes are read.")
    return tuple(tensors[name].shape)


def count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many numbers the first group of `pattern` takes among the names: the number of blocks, for instance."""
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
    """The tensors, those with the prefix without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def fold_weight_norm(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Replace magnitude and direction of a weight-normed convolution, in either spelling of torch, by `name`.weight.

    The norm is taken over the first two axes: there is one magnitude for each tap of the kernel.
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
    """Attention heads, which tensors do not tell: the argument, else the file's configuration, else the published.

    Raises `ValueError` where nobody says it; `sizes` tells what the file holds instead of a published model.
    """
    for heads in (argument, configured, published):
        if heads is not None:
            if heads < 1:
                raise ValueError(f"`num_attention_heads` must be above 0, got {heads}.")
            return int(heads)
    raise ValueError(
        f"the number of attention heads cannot be read from the tensors, the file does not say it, and its sizes "
        f"({sizes}) are not the published ones: give `num_attention_heads`."
    )


def head_dim(width: int, heads: int) -> int:
    """Channels of one head. Raises `ValueError` where they do not come out even."""
    if width % heads:
        raise ValueError(f"{heads} attention heads do not divide the {width} channels of the file's attention.")
    return width // heads


def section(content: Mapping, *names: str) -> dict:
    """A dictionary some levels down in a file's configuration; empty where there is none."""
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
