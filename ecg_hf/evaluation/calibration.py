"""The temperature that makes probabilities fit validation records, and its place in a checkpoint."""

from __future__ import annotations

import json
import logging
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

logger = logging.getLogger(__name__)

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


def filled_thresholds(
    config: ECGTransformerConfig, chosen: Sequence[float | None], stored_temperature: float
) -> list[float]:
    """The thresholds that were chosen; where a label has none, the checkpoint's own goes on to make its decisions.

    At the temperature of `config` that is another number than at `stored_temperature`: the same logit of a window, and
    of a record whose windows have a mean logit or the highest. Warns of these labels.
    """
    stored = config.thresholds or [0.5] * len(chosen)
    kept = _at_temperature(np.array(stored, dtype=np.float64), stored_temperature / config.temperature).tolist()
    if lacking := [
        f"{name} ({before:.3g}, now {after:.3g})"
        for name, threshold, before, after in zip(config.labels, chosen, stored, kept, strict=True)
        if threshold is None
    ]:
        logger.warning(
            f"{len(lacking)} of {len(kept)} labels lack positive or negative validation records and keep the "
            f"threshold of the checkpoint, at the new temperature: {', '.join(lacking)}."
        )
    return [own if threshold is None else threshold for threshold, own in zip(chosen, kept, strict=True)]


def _at_temperature(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Probabilities (labels,) when their logits are multiplied by `share`."""
    present, absent = probabilities**share, (1 - probabilities) ** share
    return present / (present + absent)


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
    "filled_thresholds",
    "fit_temperature",
    "update_checkpoint",
]
