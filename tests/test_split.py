"""The split by patient of own records."""

import numpy as np
import pytest

from ecg_hf.tables.split import split_by_patient


def counts_of(split) -> dict[str, int]:
    return {name: int((split == name).sum()) for name in ("train", "validation", "test")}


@pytest.mark.parametrize("seed", range(10))
def test_a_patient_is_never_on_two_sides_and_unknown_ones_are_alone(seed):
    patients = [None, None, *(str(row // 3) for row in range(58))]
    labels = np.random.default_rng(seed).integers(0, 2, (60, 3))
    split = split_by_patient(patients, labels, seed=seed)
    sides = {}
    for patient, side in zip(patients, split, strict=True):
        sides.setdefault(patient, set()).add(side)
    assert all(len(found) == 1 for patient, found in sides.items() if patient is not None)
    assert set(split) == {"train", "validation", "test"}
    assert (split == split_by_patient(patients, labels, seed=seed)).all()


@pytest.mark.parametrize("is_regression", [False, True])
def test_names_do_not_decide_the_split(is_regression):
    """Records of a second hospital, or of the last year, are in each split, and another seed tests on others."""
    ids = [f"{'A' if row < 800 else 'B'}/r{row:04}" for row in range(1000)]
    labels = (np.random.default_rng(0).random((1000, 1)) < 0.3).astype(np.float32)
    tested = np.zeros(1000, bool)
    for seed in range(10):
        split = split_by_patient([None] * 1000, labels, seed=seed, is_regression=is_regression, ids=ids)
        shares = [np.mean(np.flatnonzero(split == name) >= 800) for name in ("train", "validation", "test")]
        assert all(0.05 < share < 0.4 for share in shares)
        tested |= split == "test"
    assert 580 < tested.sum() < 720  # 1,000 x (1 - .9 ** 10) = 651


@pytest.mark.parametrize("count", [8, 20, 40, 100])
def test_a_regression_of_few_patients_has_records_in_every_split(count):
    targets = np.arange(count)[:, None] + 40.5
    counts = counts_of(split_by_patient([None] * count, targets, is_regression=True))
    assert min(counts.values()) >= 1 and counts["train"] >= 0.7 * count


def test_the_splits_of_a_regression_have_the_same_distribution():
    targets = np.random.default_rng(0).gamma(2, 20, (1000, 1))
    split = split_by_patient([None] * 1000, targets, is_regression=True)
    assert counts_of(split) == {"train": 800, "validation": 100, "test": 100}
    medians = [np.median(targets[split == name]) for name in ("train", "validation", "test")]
    assert np.ptp(medians) < 3


def test_a_split_that_would_be_empty_is_an_error_that_names_it():
    """Each label has one patient, which goes to the largest split."""
    with pytest.raises(ValueError, match="10 patients are too few .*: validation, test would have no record"):
        split_by_patient([None] * 10, np.eye(10))
    with pytest.raises(ValueError, match="2 patients cannot be split into 3 parts"):
        split_by_patient(["a", "a", "b"], np.ones((3, 1)))
    for shares, left in [
        ((1.0, 0.0, 0.0), {"train"}),
        ((0.0, 0.0, 1.0), {"test"}),
        ((0, 0.5, 0.5), {"validation", "test"}),
    ]:
        assert set(split_by_patient([None] * 10, np.ones((10, 1)), shares)) == left
