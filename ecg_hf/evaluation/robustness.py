"""What faults and noise cost: the same records, changed in one way after another."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np

from .changes import Change, changes_for
from .measures import Areas, Errors, difference_intervals, halves_of
from .predictions import Judge, Predictions, predict


def robustness(
    judge: Judge,
    dataset: datasets.Dataset,
    measure: Areas | Errors,
    n_resamples: int,
    max_records: int | None = None,
) -> dict:
    """Predict the records unchanged and with each change that their leads allow, and compare.

    The differences have intervals over the same random halves of the patients. At most `max_records`, drawn by a fixed
    seed.

    Returns:
        `num_records`, `unchanged` with the value of each measure, `changes` with, for each name, `title` and the
        `interval` of the difference in each measure, and `left_out`, the titles of changes whose leads some records
        lack. Labels as in [`Areas.columns`]. `changes` is None where no label is left.
    """
    dataset = _drawn(dataset, max_records)
    possible, left_out = _possible(dataset, changes_for(judge.model.config.lead_names))
    plain = predict(judge, dataset, "Robustness: unchanged")
    columns, patients = measure.columns(plain.labels), plain.patients()
    found = {"num_records": len(dataset), "left_out": [change.title for change in left_out], "changes": None}
    if not columns.any():
        return found

    def halves(predictions: Predictions) -> np.ndarray:
        scores = predictions.scores(judge.model.config)[:, columns]
        return halves_of(measure, predictions.labels[:, columns], scores, patients, n_resamples)

    unchanged = halves(plain)
    found["unchanged"] = dict(zip(measure.names, unchanged[:, 0].tolist(), strict=True))
    found["num_labels"] = int(columns.sum())
    found["changes"] = _differences(judge, dataset, possible, halves, unchanged, measure, int(patients.max()) + 1)
    return found


def _differences(
    judge: Judge,
    dataset: datasets.Dataset,
    changes: list[Change],
    halves: Callable[[Predictions], np.ndarray],
    unchanged: np.ndarray,
    measure: Areas | Errors,
    num_patients: int,
) -> dict[str, dict]:
    found = {}
    try:
        for place, judge.change in enumerate(changes, start=1):
            changed = predict(judge, dataset, f"Robustness {place}/{len(changes)}: {judge.change.title}")
            intervals = difference_intervals(measure, unchanged, halves(changed), num_patients)
            found[judge.change.name] = {"title": judge.change.title, **intervals}
    finally:
        judge.change = None
    return found


def _drawn(dataset: datasets.Dataset, max_records: int | None) -> datasets.Dataset:
    if max_records is None or max_records >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:max_records]))


def _possible(dataset: datasets.Dataset, changes: list[Change]) -> tuple[list[Change], list[Change]]:
    """The changes whose leads all records have, and the others."""
    columns = dataset.with_format("arrow")["lead_names"].to_pylist()
    leads = [{name.casefold() for name in names} for names in set(map(tuple, columns))]
    common = set.intersection(*leads)
    can = [common.issuperset(name.casefold() for name in change.needs) for change in changes]
    return (
        [change for change, is_possible in zip(changes, can, strict=True) if is_possible],
        [change for change, is_possible in zip(changes, can, strict=True) if not is_possible],
    )


__all__ = ["robustness"]
