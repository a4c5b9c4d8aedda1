"""Whether one checkpoint is better than another: both judged on the same records."""

from __future__ import annotations

from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from .measures import difference_intervals, halves_of, measure_of
from .predictions import Judge, Predictions, predict


def check_comparable(name: str, config: ECGTransformerConfig, other_name: str, other: ECGTransformerConfig) -> None:
    """`ValueError` unless both give the same labels, in any order, in one way."""
    if other.problem_type != config.problem_type:
        raise ValueError(
            f"`--compare_with {other_name}` is of the kind {other.problem_type}, `{name}` of {config.problem_type}: "
            "compare checkpoints of one kind."
        )
    if sorted(other.labels) != sorted(config.labels):
        raise ValueError(
            f"`--compare_with {other_name}` gives the labels {', '.join(other.labels)}, `{name}` "
            f"{', '.join(config.labels)}: compare checkpoints with the same labels."
        )


def compare(judge: Judge, judged: Predictions, other: Judge, n_resamples: int) -> dict[str, dict]:
    """Predict the records that were judged with the other model, too, and compare.

    Returns:
        `other`, the value of each measure for the other model, and `difference`, the `interval` of this model's value
        less that. Intervals come from the same random halves of the patients for both
        ([`measures.difference_intervals`]): they are for other patients and these two models, not for other trainings.
    """
    config, measure = judge.model.config, measure_of(judge.model.config.problem_type)
    predictions = predict(other, judged.dataset, "Compared with")
    order = [other.model.config.labels.index(label) for label in config.labels]
    patients = judged.patients()
    theirs, ours = (
        halves_of(measure, judged.labels, scores, patients, n_resamples)
        for scores in (predictions.scores(other.model.config)[:, order], judged.scores(config))
    )
    return {
        "other": dict(zip(measure.names, theirs[:, 0].tolist(), strict=True)),
        "difference": difference_intervals(measure, theirs, ours, int(patients.max()) + 1),
    }


__all__ = ["check_comparable", "compare"]
