"""Self-supervised pre-training of the encoder on ECGs without labels."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Those who only read records, as `classify` does, need no trainer.
    if name == "PreTrainer":
        from .trainer import PreTrainer

        return PreTrainer
    if name == "PreTrainingArguments":
        from .arguments import PreTrainingArguments

        return PreTrainingArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["PreTrainer", "PreTrainingArguments"]
