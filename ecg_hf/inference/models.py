"""The library's pipelines, as the commands load them."""

from __future__ import annotations

from transformers import Pipeline, pipeline

from ..command import without_progress_bars


def load_pipeline(task: str, model: str, device: str | None = None, **kwargs) -> Pipeline:
    """`pipeline(task, model=model)` without the progress bar of the weights."""
    with without_progress_bars():
        return pipeline(task, model=model, device=device, **kwargs)


__all__ = ["load_pipeline"]
