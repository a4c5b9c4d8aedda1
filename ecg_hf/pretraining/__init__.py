"""Self-supervised pre-training of the encoder on ECGs without labels."""

from .arguments import PreTrainingArguments
from .trainer import PreTrainer

__all__ = ["PreTrainer", "PreTrainingArguments"]
