"""What makes figures too good: patients in several splits, and one recording under several ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from .facts import digest_of
from .store import NAMED_IN_A_MESSAGE
from .table import patients_in


class Identities(NamedTuple):
    """Of each record of a split its id, patient (text, null where unknown) and digest, and (records, labels) its
    labels."""

    ids: pa.Array | pa.ChunkedArray
    patients: pa.StringArray
    digests: Sequence[int]
    labels: np.ndarray


def listed(examples: Sequence[object]) -> str:
    """Ten of them at most, and how many more there are."""
    more = len(examples) - NAMED_IN_A_MESSAGE
    return ", ".join(map(str, examples[:NAMED_IN_A_MESSAGE])) + (f" and {more} more" if more > 0 else "")


def identities_of(dataset: datasets.Dataset, labels: np.ndarray, digests: Sequence[int] | None = None) -> Identities:
    """Those of a data set with the columns `ecg_id`, `signal` and, it may be, `patient_id`, and with these labels.

    `digests` are those of the signals, where they are known.
    """
    rows = dataset.with_format("arrow")
    patients = pa.nulls(len(rows), pa.string())
    if "patient_id" in dataset.column_names:
        patients = patients_in(rows["patient_id"][:].to_pylist())
    return Identities(rows["ecg_id"][:], patients, _digests(rows) if digests is None else digests, labels)


def _digests(rows: datasets.Dataset) -> list[int]:
    signals = rows.select_columns(["signal"])
    return [
        digest_of(signal)
        for start in range(0, len(rows), 256)
        for signal in _arrays(signals[start : start + 256]["signal"])
    ]


def _arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    return [cell.values.to_numpy(zero_copy_only=False) for cell in column]


def leaks_in_words(splits: Mapping[str, Identities], label_names: Sequence[str]) -> list[str]:
    """A sentence for each pair of splits that share patients, and one on recordings that are there several times."""
    patients = {name: split.patients.unique().drop_null() for name, split in splits.items()}
    messages = [
        f"{len(both)} patients are in {first} and in {second} (such as {listed(sorted(both))}): figures of "
        f"{second} are too good where patients were learned from."
        for first, second in combinations(splits, 2)
        if (both := patients[first].filter(pc.is_in(patients[first], patients[second])).to_pylist())
    ]
    return messages + _lookalikes_in_words(patients) + _copies_in_words(splits, label_names)


def _lookalikes_in_words(patients: Mapping[str, pa.StringArray]) -> list[str]:
    """A sentence for each pair of splits with patients whom a spreadsheet or a person may have written in two ways."""
    looks = {split: _looks(names) for split, names in patients.items()}
    messages = []
    for first, second in combinations(patients, 2):
        names = patients[first]
        others = patients[second].take(pc.index_in(looks[first], looks[second]))
        differ = pc.not_equal(names, others).fill_null(False)
        pairs = zip(names.filter(differ).to_pylist(), others.filter(differ).to_pylist(), strict=True)
        if alike := [f"{name} and {other}" for name, other in pairs]:
            messages.append(
                f"{len(alike)} patients of {first} differ from those of {second} in upper and lower case, zeros in "
                f"front or an apostrophe alone (such as {listed(sorted(alike))}): if they are the same, write them "
                f"alike, or figures of {second} are too good."
            )
    return messages


def _looks(names: pa.StringArray) -> pa.StringArray:
    looks = pc.utf8_lower(pc.utf8_ltrim(names, "'"))
    return pc.replace_substring_regex(looks, r"(^|[^0-9])0+([0-9])", r"\1\2")


def _copies_in_words(splits: Mapping[str, Identities], label_names: Sequence[str]) -> list[str]:
    several = _copies(splits)
    if not several:
        return []
    examples = [" and ".join(f"{split.ids[row]} ({name})" for name, split, row in copy[:3]) for copy in several]
    messages = [
        f"{len(several)} recordings are there under more than one id, such as {_few(examples)}: the same signal "
        "counts several times, and across splits it is learned and judged."
    ]
    differing = [
        f"{example}: {listed(names)}"
        for example, names in zip(examples, _contradictions(several, label_names), strict=True)
        if names
    ]
    if differing:
        messages.append(
            f"{len(differing)} recordings have labels that contradict each other under their several ids, such as "
            f"{_few(differing)}. Decide which are right, or leave them empty."
        )
    return messages


def _few(examples: Sequence[str]) -> str:
    return "; ".join(examples[:NAMED_IN_A_MESSAGE])


def _copies(splits: Mapping[str, Identities]) -> list[list[tuple[str, Identities, int]]]:
    """The places of each recording that has several."""
    digests = {name: np.asarray(split.digests, np.uint64) for name, split in splits.items()}
    in_order = np.sort(np.concatenate(list(digests.values())))
    repeated = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    several: dict[int, list] = {}
    for name, split in splits.items():
        for row in np.flatnonzero(np.isin(digests[name], repeated)).tolist():
            several.setdefault(int(digests[name][row]), []).append((name, split, row))
    return list(several.values())


def _contradictions(several: list[list[tuple[str, Identities, int]]], names: Sequence[str]) -> list[list[str]]:
    """For each of these recordings the labels that are known to differ."""
    found = []
    for places in several:
        labels = np.stack([split.labels[row] for _, split, row in places])
        known = np.where(labels == UNKNOWN_LABEL, np.nan, labels)
        differ = np.fmax.reduce(known) > np.fmin.reduce(known)
        found.append([names[label] for label in np.flatnonzero(differ)])
    return found


__all__ = ["Identities", "identities_of", "leaks_in_words", "listed"]
