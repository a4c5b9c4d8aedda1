"""Labels that follow where a record comes from: a model can read the source instead of the heart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .leaks import listed

LEAST_RATIO = 10.0
FEWEST_RECORDS = 20
LARGEST_P = 0.01
_DEEPEST_FOLDER = 4


class Grouping(NamedTuple):
    """Records by one property: `codes` has the group of each, an index of `names`, or -1 for none."""

    codes: np.ndarray
    names: list[str]


class Folders(NamedTuple):
    """Where records lie: `codes` has for each record an index of `parts`, the parts of a path, outermost first; of
    records without a path these are empty."""

    codes: np.ndarray
    parts: list[tuple[str, ...]]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Folders:
        """Of records in these folders."""
        known: dict[str, int] = {}
        codes = np.fromiter((known.setdefault(path, len(known)) for path in paths), np.int32)
        return cls(codes, [Path(path).parts for path in known])


def join_folders(groups: Sequence[Folders]) -> Folders:
    parts: dict[tuple[str, ...], int] = {}
    codes = [
        np.array([parts.setdefault(path, len(parts)) for path in group.parts], np.int32)[group.codes]
        for group in groups
    ]
    return Folders(np.concatenate(codes), list(parts))


class Shortcut(NamedTuple):
    label: int
    group: str
    share: float
    other_share: float
    count: int
    other_count: int
    p: float


def shortcuts_in_words(
    labels: np.ndarray,
    label_names: Sequence[str],
    folders: Folders,
    seconds: np.ndarray,
    rates: np.ndarray,
) -> list[str]:
    """A sentence on the labels that follow the folder, the length or the sampling rate, or none.

    The share of positives in each group of at least 20 records is compared with that in all other records, of which
    there must be 20, too. A label is named where one share is ten times the other or more, and Fisher's exact test
    (twice the smaller tail) says p < 0.01 after Bonferroni's correction for all comparisons.

    Args:
        labels: (records, labels) of 0, 1 and -100 for unknown.
        folders: of the path of each record.
        seconds, rates: of each record.
    """
    groupings = [*_folder_groupings(folders), _length_grouping(seconds), _grouping(rates, lambda rate: f"{rate:g} Hz")]
    tables = [table for grouping in groupings if (table := _counts(grouping, labels)) is not None]
    num_tests = sum(int(table.is_test.sum()) for table in tables)
    found: dict[int, Shortcut] = {}
    for table in tables:
        for shortcut in _shortcuts(table, num_tests):
            if shortcut.label not in found or shortcut.p < found[shortcut.label].p:
                found[shortcut.label] = shortcut
    if not found:
        return []
    told = [
        f"`{label_names[one.label]}` is positive in {one.share:.2%} of the {one.count} records of {one.group} and in "
        f"{one.other_share:.2%} of the {one.other_count} others (p = {one.p:.0e})"
        for one in sorted(found.values(), key=lambda one: one.p)
    ]
    return [
        f"{len(told)} of {len(label_names)} labels follow the source or the form of the records, which a model can "
        f"read instead of the heart: {listed(told)}. Judge it within each source, or balance them."
    ]


# ---- Groups ----


def _grouping(values: np.ndarray, name_of: Callable[[Any], str | None]) -> Grouping:
    """By the names of values, of which several may have one; None is no group. A name is asked for once a value."""
    codes, known = pd.factorize(values)
    code_of_value, names = pd.factorize(np.array([name_of(value) for value in known], dtype=object))
    return Grouping(code_of_value[codes], names.tolist())


def _folder_groupings(folders: Folders) -> Iterator[Grouping]:
    """By the outermost folder that not all share, by the two outermost, and so on."""
    shared = len(os.path.commonprefix(folders.parts))
    known = [folder[shared:] for folder in folders.parts]
    deepest = min(max(map(len, known), default=0), _DEEPEST_FOLDER)
    for depth in range(1, deepest + 1):
        names = [f"folder {'/'.join(folder[:depth])}" if len(folder) >= depth else None for folder in known]
        yield _grouping(folders.codes, names.__getitem__)


def _length_grouping(seconds: np.ndarray) -> Grouping:
    """By the length in tenths of a second where enough records have it, the others by powers of two."""
    tenths, codes, counts = np.unique(np.rint(10 * seconds), return_inverse=True, return_counts=True)
    names = [
        f"{tenth / 10:g} s" if count >= FEWEST_RECORDS else _octave(tenth / 10)
        for tenth, count in zip(tenths, counts, strict=True)
    ]
    return _grouping(codes, names.__getitem__)


def _octave(seconds: float) -> str:
    lower = 2.0 ** np.floor(np.log2(max(seconds, 0.1)))
    return f"{lower:g} to {2 * lower:g} s (lengths of less than {FEWEST_RECORDS} records)"


# ---- Tests ----


class _Counts(NamedTuple):
    """(groups, labels) known and positive records, (labels,) all of them, and which comparisons are made."""

    names: list[str]
    known: np.ndarray
    positive: np.ndarray
    all_known: np.ndarray
    all_positive: np.ndarray
    is_test: np.ndarray


def _counts(grouping: Grouping, labels: np.ndarray) -> _Counts | None:
    sizes = np.bincount(grouping.codes[grouping.codes >= 0], minlength=len(grouping.names))
    large = np.flatnonzero(sizes >= FEWEST_RECORDS)
    if not len(large) or sizes.max() == len(labels):
        return None
    is_known, is_positive = labels != UNKNOWN_LABEL, labels == 1
    members = [np.flatnonzero(grouping.codes == group) for group in large]
    known = np.stack([is_known[rows].sum(axis=0) for rows in members])
    positive = np.stack([is_positive[rows].sum(axis=0) for rows in members])
    all_known, all_positive = is_known.sum(axis=0), is_positive.sum(axis=0)
    is_test = (known >= FEWEST_RECORDS) & (all_known - known >= FEWEST_RECORDS)
    is_test &= (all_positive > 0) & (all_positive < all_known)
    return _Counts([grouping.names[group] for group in large], known, positive, all_known, all_positive, is_test)


def _shortcuts(table: _Counts, num_tests: int) -> Iterator[Shortcut]:
    others, other_positive = table.all_known - table.known, table.all_positive - table.positive
    with np.errstate(invalid="ignore", divide="ignore"):
        share, other_share = table.positive / table.known, other_positive / others
        ratio = np.maximum(share, other_share) / np.minimum(share, other_share)
    groups, labels = np.nonzero(table.is_test & (ratio >= LEAST_RATIO))
    population = table.all_known[labels], table.all_positive[labels], table.known[groups, labels]
    positive = table.positive[groups, labels]
    tail = np.minimum(hypergeom.cdf(positive, *population), hypergeom.sf(positive - 1, *population))
    corrected = np.minimum(1, 2 * tail * num_tests)
    for group, label, p in zip(groups, labels, corrected, strict=True):
        if p < LARGEST_P:
            yield Shortcut(
                int(label),
                table.names[group],
                float(share[group, label]),
                float(other_share[group, label]),
                int(table.known[group, label]),
                int(others[group, label]),
                float(p),
            )


__all__ = ["Folders", "join_folders", "shortcuts_in_words"]
