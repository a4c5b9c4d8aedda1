"""What a model says of each window of the records, from which its answers at any temperature follow."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.targets_ecg_transformer import aggregated_windows
from ..intervals import number_groups
from ..post_training import PostTrainer
from ..post_training.checks import in_order
from ..post_training.evaluation import logits_of_windows, patients_of, probabilities
from .changes import Change, ChangedWindows


class Judge(PostTrainer):
    """A trainer that only predicts, if wanted from records that a [`Change`] has altered."""

    change: Change | None = None

    def evaluation_windows(self, dataset: datasets.Dataset, feature_extractor, **kwargs) -> torch.utils.data.Dataset:
        if self.change is None:
            return super().evaluation_windows(dataset, feature_extractor, **kwargs)
        changed = ChangedWindows(dataset, feature_extractor, self.change, **kwargs)
        return in_order(changed, dataset, self.model.config.labels)


@dataclass
class Predictions:
    """Logits of windows, in batches of records.

    Attributes:
        dataset: the records.
        windows: of each batch logits (records, windows, labels) and which windows are real, (records, windows).
        labels: (records, labels).
        losses: (records,), see [`record_losses`].
    """

    dataset: datasets.Dataset
    windows: list[tuple[torch.Tensor, torch.Tensor]]
    labels: np.ndarray
    losses: np.ndarray

    def logits(self, config: ECGTransformerConfig, temperature: float | None = None) -> np.ndarray:
        """(records, labels), by default at the temperature of `config`; aggregated in the batches of the prediction,
        so that they have the same bits as `PostTrainer.predict`."""
        if temperature is not None:
            config = copy.copy(config)
            config.temperature = temperature
        return np.concatenate([aggregated_windows(config, *batch).numpy() for batch in self.windows])

    def scores(self, config: ECGTransformerConfig, temperature: float | None = None) -> np.ndarray:
        """Probabilities (records, labels), or the values of a regression, in float64."""
        return scores_of_logits(config, self.logits(config, temperature))

    def patients(self) -> np.ndarray:
        """(records,): the number of each record's patient."""
        return number_groups(patients_of(self.dataset), len(self.dataset), sort=True)

    def output(self, judge: Judge) -> PredictionOutput:
        """As from `PostTrainer.predict`; `ValueError` where the model gives no finite answer."""
        logits = self.logits(judge.model.config)
        metrics = judge.compute_metrics(EvalPrediction((logits, self.losses), self.labels))
        return PredictionOutput(logits, self.labels, {f"test_{name}": value for name, value in metrics.items()})


def scores_of_logits(config: ECGTransformerConfig, logits: np.ndarray) -> np.ndarray:
    if config.problem_type == MULTI_LABEL:
        return probabilities(logits)
    return logits.astype(np.float64) if config.problem_type == REGRESSION else np.exp(logits.astype(np.float64))


def predict(judge: Judge, dataset: datasets.Dataset, title: str) -> Predictions:
    """The predictions of all processes, with a bar called `title`."""
    model, accelerator = judge.model.eval(), judge.accelerator
    windows, columns = [], []
    loader = judge.get_test_dataloader(dataset)
    silent = judge.args.disable_tqdm or not judge.is_world_process_zero()
    for inputs in tqdm(loader, desc=title, disable=silent):
        labels, mask = inputs.pop("labels"), inputs.pop("window_mask")
        with torch.no_grad(), judge.compute_loss_context_manager():
            logits = logits_of_windows(model, inputs, mask)
        losses = judge.target.record_losses(logits, mask, labels)
        # Processes may hold records of different numbers of windows.
        padded = accelerator.pad_across_processes((logits, mask.long()), dim=1)
        *batch, labels, losses = (x.cpu() for x in accelerator.gather_for_metrics((*padded, labels, losses)))
        windows.append((batch[0], batch[1].bool()))
        columns.append((labels.numpy(), losses.numpy()))
    return Predictions(dataset, windows, *map(np.concatenate, zip(*columns, strict=True)))


__all__ = ["Judge", "Predictions", "predict", "scores_of_logits"]
