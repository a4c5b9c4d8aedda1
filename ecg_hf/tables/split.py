"""A split by patient, stratified over the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from iterstrat.ml_stratifiers import IterativeStratification

from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .table import SPLITS

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
_MAX_QUANTILES = 10


def checked_shares(fractions: Sequence[float]) -> np.ndarray:
    """`ValueError` for fractions that are no shares of train, validation and test."""
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (len(SPLITS),) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(
            f"`split_fractions` must be three shares of train, validation and test that add up to 1; got {fractions}."
        )
    return shares


def split_by_patient(
    patients: Sequence[str | None],
    labels: np.ndarray,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    is_regression: bool = False,
    ids: Sequence[object] | None = None,
) -> np.ndarray:
    """The split (one of `SPLITS`) of each record; all records of a patient are in one.

    The labels of a patient are those of any of the records, and patients are distributed by iterative stratification
    (Sechidis, Tsoumakas and Vlahavas 2011), so that each split gets its share of each label, the rare ones first. For
    a regression the labels are the tenths of the patients' mean targets, or fewer parts, of which each split can have
    a patient.

    Args:
        patients: the patient of each record; None is a patient of its own.
        labels: (records, labels): 0, 1 or -100; of a regression the targets, NaN where unknown.
        fractions: shares of the patients in train, validation and test; 0 leaves a split out.
        seed: the same seed gives the same split of the same records, whatever the order of the labels is.
        ids: of the records; with them the order of records without a patient does not matter either.

    Raises `ValueError` for fractions that are no shares, and where a split would have no patient.
    """
    shares = checked_shares(fractions)
    # By name, so that the order of the rows decides nothing: a table that was sorted again would have other records in
    # its test, of which a model has learned.
    records = pa.array(np.arange(len(patients)) if ids is None else ids).cast(pa.string())
    patients = pa.array(patients, pa.string())
    names = pc.coalesce(_joined("patient ", patients), _joined("record ", records))
    patient_of = pc.rank(names, tiebreaker="dense").to_numpy().astype(np.int64) - 1
    num_patients = int(patient_of.max(initial=-1)) + 1
    if num_patients < np.count_nonzero(shares):
        raise ValueError(
            f"{num_patients} patients cannot be split into {np.count_nonzero(shares)} parts, since all records of a "
            "patient stay together: give more, or a split of your own."
        )
    if is_regression:
        num_parts = int(np.clip(num_patients * shares[shares > 0].min(), 1, _MAX_QUANTILES))
        strata = _quantiles(labels, patient_of, num_patients, num_parts)
    else:
        strata = np.zeros((num_patients, labels.shape[1]), dtype=bool)
        rows, columns = np.nonzero((labels != 0) & (labels != UNKNOWN_LABEL))
        strata[patient_of[rows], columns] = True
        strata = strata[:, sorted(range(strata.shape[1]), key=lambda label: strata[:, label].tobytes())]
    random_state = np.random.RandomState(seed)
    # Patients are dealt out as they come: by their names, which tell the hospital or the year, one split would have
    # the first of them and another the last.
    order = random_state.permutation(num_patients)
    split_of = np.empty(num_patients, np.int64)
    split_of[order] = IterativeStratification(labels=strata[order], r=shares, random_state=random_state)
    if empty := [name for index, name in enumerate(SPLITS) if shares[index] and not (split_of == index).any()]:
        raise ValueError(
            f"{num_patients} patients are too few for a split that is stratified over the labels: {', '.join(empty)} "
            "would have no record. Give more, or a split of your own."
        )
    return np.array(SPLITS, object)[split_of[patient_of]]


def _joined(text: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(text, names, "")


def _quantiles(targets: np.ndarray, patient_of: np.ndarray, num_patients: int, num_parts: int) -> np.ndarray:
    """(patients, targets x parts): in which of equal parts of all patients a patient's mean target lies."""
    strata = []
    for values in targets.T:
        is_known = np.isfinite(values)
        counts = np.bincount(patient_of[is_known], minlength=num_patients)
        means = np.bincount(patient_of[is_known], values[is_known], num_patients) / np.maximum(counts, 1)
        edges = np.quantile(means[counts > 0], np.linspace(0, 1, num_parts + 1)[1:-1]) if counts.any() else []
        part = np.searchsorted(edges, means)
        strata.append((part[:, None] == np.arange(num_parts)) & (counts > 0)[:, None])
    return np.concatenate(strata, axis=1)


__all__ = ["DEFAULT_FRACTIONS", "checked_shares", "split_by_patient"]
