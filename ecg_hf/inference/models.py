"""The library's pipelines, as the commands load them."""

from __future__ import annotations

import torch
from transformers import Pipeline, pipeline

from ..command import without_progress_bars
from ..shipped import checkpoint_of


def load_pipeline(task: str, model: str, device: str | None = None, **kwargs) -> Pipeline:
    """`pipeline(task, model=model)` without the progress bar of the weights.

    Of a checkpoint that ships the folder is given, since for some tasks the library asks the Hub what else a name has.

    Raises `ValueError` for a device that does not exist here, `FileNotFoundError` as `checkpoint_of` does.
    """
    if device is not None:
        _check_device(device)
    with without_progress_bars(), checkpoint_of(model) as place:
        return pipeline(task, model=place, device=device, **kwargs)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).partition("\n")[0][:100]
        raise ValueError(f"`device` {device!r} cannot be used here ({reason}): give cpu, cuda or cuda:1.") from None


__all__ = ["load_pipeline"]
