"""What a model card says differently of each kind of targets: labels, any number of them, one class, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .ecg_transformer.common_ecg_transformer import LEAD_NAMES, MULTI_LABEL, REGRESSION, SINGLE_LABEL

# With fewer positives the interval of a label's AUROC is wider than most differences between models.
FEW_POSITIVES = 20


class CardMetric(NamedTuple):
    """A metric in the metadata and in the lines on the stages: its name on the Hub, in words, and its digits there."""

    hub_name: str
    title: str
    digits: str = ".4f"  # of the metadata
    few_digits: str = ".3f"  # of the text


class CardTarget(NamedTuple):
    """The words of a kind of targets."""

    results: str  # template of the section with the results
    task_type: str
    task_name: str
    tags: tuple[str, ...]
    metrics: Mapping[str, CardMetric]


_AREAS = {
    "macro_auroc": CardMetric("roc_auc", "macro AUROC"),
    "macro_auprc": CardMetric("average_precision", "macro AUPRC"),
}
_TARGETS = {
    MULTI_LABEL: CardTarget(
        "results_multi_label.md",
        "ecg-classification",
        "Multi-label ECG classification",
        ("ecg-classification", "multi-label-classification"),
        _AREAS,
    ),
    SINGLE_LABEL: CardTarget(
        "results_single_label.md",
        "ecg-classification",
        "ECG classification into one of several classes",
        ("ecg-classification", "single-label-classification"),
        {"accuracy": CardMetric("accuracy", "accuracy"), **_AREAS},
    ),
    REGRESSION: CardTarget(
        "results_regression.md",
        "ecg-regression",
        "Regression from ECGs",
        ("ecg-regression", "regression"),
        {
            # In the unit of a target, which may be large or small.
            "mae": CardMetric("mae", "mean absolute error", ".4g", ".3g"),
            "rmse": CardMetric("rmse", "root mean squared error", ".4g", ".3g"),
            "r2": CardMetric("r_squared", "R²"),
        },
    ),
}


def card_target(config: Mapping[str, Any]) -> CardTarget:
    """The words for the model of a `config.json`."""
    return _TARGETS[config.get("problem_type") or MULTI_LABEL]


def target_facts(config: Mapping[str, Any], labels: list[str], per_label: Mapping[str, dict]) -> dict[str, Any]:
    """The variables of the template that the kind of targets decides; `per_label` are the metrics of the labels."""
    problem_type, areas = config.get("problem_type") or MULTI_LABEL, {}
    if problem_type != REGRESSION:
        areas = dict(per_label)
    return {
        "target": card_target(config),
        "summary": _summary(problem_type, config["lead_names"], labels),
        "is_regression": problem_type == REGRESSION,
        "is_multi_label": problem_type == MULTI_LABEL,
        "thresholds": config.get("thresholds") or [0.5] * len(labels),
        "has_all_leads": len(config["lead_names"]) == len(LEAD_NAMES),
        "few": FEW_POSITIVES,
        "few_positives": {
            label: values["num_positive"] for label, values in areas.items() if values["num_positive"] < FEW_POSITIVES
        },
        "weakest": _weakest(areas),
    }


def _summary(problem_type: str, lead_names: list[str], labels: list[str]) -> str:
    """What follows "An ECG Transformer for"."""
    leads = f"{len(lead_names)}-lead ECGs"
    if len(lead_names) < len(LEAD_NAMES):
        leads += f" ({', '.join(lead_names)})"
    if problem_type == MULTI_LABEL:
        return f"multi-label classification of {leads}: it gives the probability of each of {len(labels)} labels."
    if problem_type == SINGLE_LABEL:
        return (
            f"classification of {leads} into one of {len(labels)} classes: it gives the probability of each, and "
            "these sum to 1."
        )
    return f"regression from {leads}: it gives a number for each of its targets ({', '.join(labels)})."


def _weakest(per_label: dict[str, dict], count: int = 3) -> list[tuple[str, dict]]:
    defined = [(label, values) for label, values in per_label.items() if values["auroc"] is not None]
    return sorted(defined, key=lambda item: item[1]["auroc"])[:count] if len(defined) > count else []


__all__ = ["FEW_POSITIVES", "CardMetric", "CardTarget", "card_target", "target_facts"]
