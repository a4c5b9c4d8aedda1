"""Post-training: preview linear probing, then fine-tuning with stochastic depth."""

from .arguments import PostTrainingArguments
from .trainer import PostTrainer

__all__ = ["PostTrainer", "PostTrainingArguments"]
