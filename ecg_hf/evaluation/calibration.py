"""The temperature that makes probabilities fit validation records, and its place in a checkpoint."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from ..curves import reliability_curve
from ..ecg_transformer.common_ecg_transformer import SINGLE_LABEL, UNKNOWN_LABEL
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..files import read_text, write_atomic
from ..metrics import calibration_metrics
from .predictions import Predictions

TEMPERATURES = (0.05, 20.0)
"""Between these it is sought."""


def fit_temperature(config: ECGTransformerConfig, validation: Predictions) -> float:
    """The temperature with the lowest mean cross-entropy of the records' probabilities (Guo et al. 2017, 1706.04599).

    As in the model, the logits of windows are divided by it before these are aggregated. Raises `ValueError` if no
    label is known.
    """
    if (validation.labels == UNKNOWN_LABEL).all():
        raise ValueError("No label of the validation records is known: a temperature cannot be fitted.")
    found = minimize_scalar(
        lambda exponent: cross_entropy(config, validation, float(np.exp(exponent))),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return round(float(np.exp(found.x)), 4)


def cross_entropy(config: ECGTransformerConfig, predictions: Predictions, temperature: float) -> float:
    """In nats, the mean over known labels, or, of one of several classes, over records whose class is known."""
    logits, labels = predictions.logits(config, temperature).astype(np.float64), predictions.labels
    if config.problem_type == SINGLE_LABEL:
        return float(-logits[labels == 1].mean())
    known = labels != UNKNOWN_LABEL
    return float(np.mean(np.logaddexp(0, logits[known]) - logits[known] * labels[known]))


def calibration_report(
    config: ECGTransformerConfig,
    temperatures: dict[str, float],
    validation: Predictions | None,
    judged: Predictions,
    n_resamples: int,
) -> dict:
    """At each of the named temperatures the calibration on the judged records, and the cross-entropy on validation.

    Returns for each name `temperature`, `calibration_error` and `brier_score` with intervals, `curve` (lists by bin,
    null in an empty one) and, with validation records, `validation_loss`.
    """
    found = {}
    for name, temperature in temperatures.items():
        scores = judged.scores(config, temperature)
        curve = reliability_curve(judged.labels, scores)
        metrics = calibration_metrics(judged.labels, scores, n_resamples, groups=judged.patients())
        lists = {field: _listed(values) for field, values in curve._asdict().items()}
        found[name] = {"temperature": temperature, **metrics, "curve": lists}
        if validation is not None:
            found[name]["validation_loss"] = cross_entropy(config, validation, temperature)
    return found


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def check_can_update(path: str) -> None:
    """`ValueError` unless the checkpoint is a folder of this machine."""
    if not (pathlib.Path(path) / "config.json").is_file():
        raise ValueError(
            f"`--update_model` writes into a folder, and `{path}` has no config.json here: download the checkpoint "
            "and give its folder."
        )


def update_checkpoint(path: str, temperature: float, thresholds: Sequence[float] | None) -> None:
    """Write `temperature` and `thresholds` into the `config.json` of a checkpoint, which stays as it is otherwise."""
    file = pathlib.Path(path) / "config.json"
    config = json.loads(read_text(file))
    config["temperature"] = temperature
    if thresholds is not None:
        config["thresholds"] = list(thresholds)
    write_atomic(file, json.dumps(config, indent=2, sort_keys=True) + "\n")


__all__ = [
    "TEMPERATURES",
    "calibration_report",
    "check_can_update",
    "cross_entropy",
    "fit_temperature",
    "update_checkpoint",
]
