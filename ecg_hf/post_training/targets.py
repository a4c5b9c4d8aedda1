"""What post-training does differently for each kind of targets: labels, any number of them, one class, or numbers."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import torch
from transformers.trainer_utils import PredictionOutput
from transformers.utils import logging

from ..curves import reliability_bins
from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION, SINGLE_LABEL, UNKNOWN_LABEL, check_choice
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.targets_ecg_transformer import in_target_units, mean_loss, target_losses
from ..metrics import choose_thresholds
from ..target_metrics import (
    REGRESSION_METRICS,
    regression_intervals,
    regression_metrics,
    single_label_intervals,
    single_label_metrics,
)
from .arguments import PostTrainingArguments
from .evaluation import (
    evaluation_metrics,
    metrics_with_intervals,
    patients_of,
    predictions_table,
    probabilities,
    record_losses,
    split_metrics,
    with_both_classes,
)

logger = logging.get_logger(__name__)

_FEWEST_VALUES = 6
"""Of so many different ones, one may be seen to stand apart: not of -1, 0 and 1."""


class MultiLabel:
    """Any of the labels of a record: 1 present, 0 absent, -100 unknown. The base of the other kinds."""

    choosing = ("macro_auroc", "macro_auprc", "f_max", "loss")
    """The metrics that may choose an epoch; the first is the default."""
    figures = ("macro_auroc", "macro_auprc")
    """The metrics in `all_results.json`, beside the loss."""
    of_stages = ("loss", "macro_auroc", "macro_auprc", "f_max")
    """The metrics of each stage in `metrics.json`."""
    undefined = "no label{} has both a positive and a negative"
    """Of records that cannot rank epochs, with a place for "of the 20 validation records"."""

    def __init__(self, config: ECGTransformerConfig):
        self.config = config

    def prepare(self, args: PostTrainingArguments, train_labels: np.ndarray | None) -> None:
        """Settle the metric that chooses the epoch, where it was left open, the rule for a record's windows, and the
        scale of the targets; for training, take thresholds and temperature of earlier weights away.

        `train_labels` is (records, labels), None without training records. Raises `ValueError` for a metric or a rule
        of other targets, and for a target that no training record has.
        """
        if args.metric_is_open:
            args.choose_by(self.choosing[0])
        self.check_metric(args)
        if args.window_aggregation is not None:
            self.config.window_aggregation = args.window_aggregation
            self.config.validate_targets()
        if train_labels is not None:
            self._forget_calibration()

    def _forget_calibration(self) -> None:
        """Thresholds and temperature were fitted to the outputs of weights that are now trained on."""
        if self.config.temperature != 1:
            logger.warning(
                f"The temperature {self.config.temperature:g} of the model was fitted to its weights, which are "
                "trained on: it is set to 1. `ecg-hf evaluate --fit_temperature` fits another one to the result."
            )
        self.config.temperature, self.config.thresholds = 1.0, None

    def check_is_prepared(self, args: PostTrainingArguments) -> None:
        """`ValueError` where what `prepare` settles is not; for models that a `model_init` makes."""
        self.check_metric(args)
        if args.window_aggregation not in (None, self.config.window_aggregation):
            raise ValueError(
                f"`window_aggregation` is `{args.window_aggregation}`, but that of the models of `model_init` is "
                f"`{self.config.window_aggregation}`: set `config.window_aggregation` there."
            )

    def check_metric(self, args: PostTrainingArguments) -> None:
        """`ValueError` for a metric of other targets."""
        name = args.metric_for_best_model.removeprefix("eval_")
        if name not in self.choosing:
            raise ValueError(
                f"`metric_for_best_model` must be one of {', '.join(self.choosing)} for a model with `problem_type` "
                f"`{self.config.problem_type}`, got `{name}`."
            )

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """What the model makes of the outputs of its head."""
        return in_target_units(self.config, outputs)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over what is known."""
        return mean_loss(self.config, logits, labels)

    def record_losses(
        self, window_logits: torch.Tensor, window_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """(records,), as in [`record_losses`]."""
        return record_losses(
            window_logits, window_mask, labels, lambda logits, targets: target_losses(self.config, logits, targets)
        )

    def evaluation_metrics(self, labels: np.ndarray, logits: np.ndarray, losses: np.ndarray) -> dict[str, float]:
        """`loss` and the metrics that choose an epoch; NaN where these are undefined."""
        return evaluation_metrics(labels, logits, losses)

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """(records, labels) -> for each label whether records differ in it: else there is nothing to learn."""
        return with_both_classes(labels)

    def can_rank(self, labels: np.ndarray, metric: str) -> bool:
        """Whether records of these labels (records, labels) define a metric."""
        return metric == "loss" or bool(with_both_classes(labels).any())

    def wrong_labels(self, labels: np.ndarray) -> tuple[np.ndarray, str]:
        """(records, labels) -> the places of values that have no meaning, (count, 2), and what they must be."""
        return np.argwhere(~np.isin(labels, (0, 1, UNKNOWN_LABEL))), f"0, 1, or {UNKNOWN_LABEL} for unknown"

    def doubts(self, labels: np.ndarray) -> dict[str, str]:
        """(records, labels) -> for each label what its values are probably not meant to be."""
        return {}

    def choose_thresholds(self, validation: PredictionOutput) -> None:
        """Note the thresholds that the validation records give."""
        scores = probabilities(validation.predictions)
        self.config.thresholds = choose_thresholds(validation.label_ids, scores, self.config.labels)

    def split_metrics(self, dataset: datasets.Dataset, output: PredictionOutput, num_resamples: int) -> dict | None:
        """As in [`split_metrics`]."""
        return split_metrics(dataset, output, self.config.labels, num_resamples)

    def predictions_table(self, dataset: datasets.Dataset, output: PredictionOutput) -> pd.DataFrame:
        """As in [`predictions_table`]."""
        return predictions_table(dataset, self.config.labels, output)


def _telling_column(row: np.ndarray) -> int:
    """Of a row that is not one-hot a value that is neither 0 nor 1, or else the last 1."""
    others = np.flatnonzero(~np.isin(row, (0, 1)))
    return int(others[0]) if len(others) else len(row) - 1 - int(row[::-1].argmax())


class SingleLabel(MultiLabel):
    """One of the classes: one-hot rows, all -100 where the class is unknown."""

    choosing = ("macro_auroc", "accuracy", "loss")
    figures = ("accuracy", "macro_auroc", "macro_auprc")
    of_stages = ("loss", "accuracy", "macro_auroc", "macro_auprc")
    undefined = "the known classes{} are fewer than two"

    def evaluation_metrics(self, labels, logits, losses):
        names = ("accuracy", "macro_auroc", "macro_auprc", "num_undefined")
        known = labels[:, 0] != UNKNOWN_LABEL
        if not known.any():
            return dict.fromkeys(("loss", *names), float("nan"))
        loss = {"loss": float(np.nanmean(losses.astype(np.float64)))}
        if with_both_classes(labels).any():
            metrics = single_label_metrics(labels, np.exp(logits.astype(np.float64)))
            return {**loss, **{name: metrics[name] for name in names}}
        hits = (labels.argmax(axis=1) == logits.argmax(axis=1))[known]
        return {**loss, **dict.fromkeys(names, float("nan")), "accuracy": float(hits.mean())}

    def can_rank(self, labels, metric):
        return metric != "macro_auroc" or super().can_rank(labels, metric)

    def wrong_labels(self, labels):
        unknown = (labels == UNKNOWN_LABEL).all(axis=1)
        one_hot = np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)
        rows = np.flatnonzero(~(unknown | one_hot))
        columns = [_telling_column(row) for row in labels[rows]]
        expected = f"one-hot (one 1 beside zeros), or all {UNKNOWN_LABEL} where the class is unknown"
        return np.array([rows, columns]).T.astype(int), expected

    def choose_thresholds(self, validation):
        """None: the most probable class is the answer."""

    def split_metrics(self, dataset, output, num_resamples):
        labels, scores = output.label_ids, np.exp(output.predictions.astype(np.float64))
        if not with_both_classes(labels).any():
            return None
        names, patients = self.config.labels, patients_of(dataset)
        metrics = single_label_metrics(labels, scores, names)
        intervals = single_label_intervals(labels, scores, num_resamples, groups=patients, label_names=names)
        metrics = metrics_with_intervals(metrics, intervals)
        return {"num_records": len(dataset), **metrics, "reliability": reliability_bins(labels, scores, names)}

    def predictions_table(self, dataset, output):
        """One row a record: `ecg_id`, `prob_<class>` of each class, `true_class` (empty if unknown), `pred_class`."""
        names = np.array(self.config.labels, dtype=object)
        scores = np.exp(output.predictions.astype(np.float64))
        known = output.label_ids[:, 0] != UNKNOWN_LABEL
        columns = {f"prob_{name}": scores[:, index] for index, name in enumerate(names)}
        true = np.where(known, names[output.label_ids.argmax(axis=1)], None)
        predicted = names[scores.argmax(axis=1)]
        return pd.DataFrame(
            {"ecg_id": list(dataset["ecg_id"]), **columns, "true_class": true, "pred_class": predicted}
        )


def _markers_in_words(values: np.ndarray) -> str | None:
    """Which values of a target (records,) seem to say that it is unknown; None without such.

    -1 among ages is the only value below 0, and 999 farther from the others than these are from each other; both are
    there again and again, as an outlier is not. An axis of -1 degree is one of many below 0.
    """
    known, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    if len(known) < 2:
        return None
    is_whole_again = (counts > 1) & (known == np.rint(known))
    is_marker = known[0] == UNKNOWN_LABEL or (is_whole_again[0] and len(known) >= _FEWEST_VALUES)
    if is_marker and known[0] < 0 <= known[1]:
        return f"{counts[0]} values are {known[0]:g}, the only ones below 0"
    if is_whole_again[-1] and len(known) >= _FEWEST_VALUES and known[-1] - known[-2] > known[-2] - known[0]:
        return f"{counts[-1]} values are {known[-1]:g}, all others {known[-2]:g} at most"
    return None


class Regression(MultiLabel):
    """A number for each target, NaN where unknown."""

    choosing = ("mae", "r2", "loss")
    figures = REGRESSION_METRICS
    of_stages = ("loss", *REGRESSION_METRICS)
    undefined = "no target{} has two different known values"

    def evaluation_metrics(self, labels, logits, losses):
        if np.isnan(labels).all():
            return dict.fromkeys(self.of_stages, float("nan"))
        metrics = regression_metrics(labels, logits)
        loss = float(np.nanmean(losses.astype(np.float64)))
        return {"loss": loss, **{name: metrics[name] for name in REGRESSION_METRICS}}

    def learnable(self, labels):
        known = ~np.isnan(labels)
        return np.where(known, labels, np.inf).min(axis=0) < np.where(known, labels, -np.inf).max(axis=0)

    def can_rank(self, labels, metric):
        return bool(self.learnable(labels).any() if metric == "r2" else not np.isnan(labels).all())

    def wrong_labels(self, labels):
        return np.argwhere(np.isinf(labels)), "finite numbers, or NaN for unknown"

    def doubts(self, labels):
        found = zip(self.config.labels, map(_markers_in_words, labels.T), strict=True)
        return {
            name: f"{markers}, and are learned and judged as numbers. Unknown values of a regression are NaN or empty."
            for name, markers in found
            if markers
        }

    def prepare(self, args, train_labels):
        super().prepare(args, train_labels)
        # Those of a trained head belong to it.
        if train_labels is not None and self.config.target_std is None:
            self._standardise(train_labels)

    def check_is_prepared(self, args):
        super().check_is_prepared(args)
        if self.config.target_std is None:
            raise ValueError(
                "The models of `model_init` need `config.target_mean` and `config.target_std`, the mean and standard "
                "deviation of the targets in the training records: set them there."
            )

    def _standardise(self, labels: np.ndarray) -> None:
        if (lacking := np.isnan(labels).all(axis=0)).any():
            names = [name for name, empty in zip(self.config.labels, lacking, strict=True) if empty]
            raise ValueError(f"The training records have no known value of {', '.join(names)}: leave it out.")
        std = np.nanstd(labels.astype(np.float64), axis=0)
        self.config.target_mean = np.nanmean(labels.astype(np.float64), axis=0).tolist()
        self.config.target_std = np.where(std > 0, std, 1.0).tolist()

    def choose_thresholds(self, validation):
        """None: a value is the answer."""

    def split_metrics(self, dataset, output, num_resamples):
        labels, values, names = output.label_ids, output.predictions, self.config.labels
        if np.isnan(labels).all():
            return None
        metrics = regression_metrics(labels, values, names)
        metrics |= {name: None for name in REGRESSION_METRICS if np.isnan(metrics[name])}  # JSON has no NaN
        patients = patients_of(dataset)
        intervals = regression_intervals(labels, values, num_resamples, groups=patients, label_names=names)
        return {"num_records": len(dataset), **metrics_with_intervals(metrics, intervals)}

    def predictions_table(self, dataset, output):
        """One row a record: `ecg_id`, and of each target `pred_<target>` and `true_<target>` (empty if unknown)."""
        names = self.config.labels
        predicted = {f"pred_{name}": output.predictions[:, index] for index, name in enumerate(names)}
        true = {f"true_{name}": output.label_ids[:, index] for index, name in enumerate(names)}
        return pd.DataFrame({"ecg_id": list(dataset["ecg_id"]), **predicted, **true})


_KINDS = {MULTI_LABEL: MultiLabel, SINGLE_LABEL: SingleLabel, REGRESSION: Regression}


def target_of(config: ECGTransformerConfig) -> MultiLabel:
    """The kind of targets of a model."""
    check_choice("problem_type", config.problem_type, _KINDS)
    return _KINDS[config.problem_type](config)


def macro_metrics(outputs: dict[str, PredictionOutput], target: MultiLabel) -> dict[str, float | None]:
    """The macro metrics of validation and test; None, with a warning, where the records do not define them."""
    prefixes = {"validation": "eval", "test": "test"}
    results = {
        f"{prefixes[split]}_{name}": output.metrics[f"{prefixes[split]}_{name}"]
        for split, output in outputs.items()
        for name in target.figures
    }
    if undefined := [name for name, value in results.items() if np.isnan(value)]:
        reason = target.undefined.format(" of the records")
        logger.warning(f"{', '.join(undefined)}: undefined, {reason}.")
    return without_nan(results)


def without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """None for what is undefined."""
    return {name: None if np.isnan(value) else value for name, value in metrics.items()}


__all__ = ["MultiLabel", "Regression", "SingleLabel", "macro_metrics", "target_of", "without_nan"]
