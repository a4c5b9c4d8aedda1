"""The SNOMED CT codes of the PhysioNet/CinC Challenges of 2020 and 2021, in `snomed.csv`.

Codes, abbreviations, and which are scored: dx_mapping_scored.csv and dx_mapping_unscored.csv of
github.com/physionetchallenges/evaluation-2020 and evaluation-2021; the names are this project's. `counted_as` are the
pairs that the Challenge of 2021 scores as one diagnosis. The last three codes (LQRSVLL, LQRSVPL, MoII) are of the data
set ecg-arrhythmia (Chapman-Shaoxing and Ningbo) as PhysioNet gives it out by itself.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).with_name("snomed.csv")
_CODE = re.compile(r"[0-9]{6,18}")


class Diagnosis(NamedTuple):
    """A code of the Challenges.

    Attributes:
        code: of SNOMED CT, as text.
        abbreviation: of the Challenge, such as ``"AF"``.
        name: in full.
        scored_2020, scored_2021: whether the Challenge of that year scored it.
        counted_as: the code that it counts as, where two mean the same; else its own.
    """

    code: str
    abbreviation: str
    name: str
    scored_2020: bool
    scored_2021: bool
    counted_as: str


@functools.cache
def diagnoses() -> Mapping[str, Diagnosis]:
    """All diagnoses by code."""
    with open(_TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["code"]: Diagnosis(
            row["code"],
            row["abbreviation"],
            row["name"],
            row["scored_2020"] == "1",
            row["scored_2021"] == "1",
            row["counted_as"] or row["code"],
        )
        for row in rows
    }


def is_code(text: str) -> bool:
    """Whether a text has the form of a SNOMED CT code: six to eighteen digits."""
    return _CODE.fullmatch(text) is not None


def code_of(text: str) -> str | None:
    """The code of a code or an abbreviation in any case, also of a code that is not in the table; None for others."""
    text = text.strip()
    return text if is_code(text) else _codes_by_abbreviation().get(text.casefold())


@functools.cache
def _codes_by_abbreviation() -> dict[str, str]:
    return {diagnosis.abbreviation.casefold(): diagnosis.code for diagnosis in diagnoses().values()}


def label_of(code: str, join_equivalent: bool = True) -> str:
    """The label that stands for a code: its abbreviation, or the code itself where it is not in the table.

    With `join_equivalent` both codes of a pair that means the same have one label, ``CRBBB`` for RBBB and CRBBB.
    """
    known = diagnoses()
    if code not in known:
        return code
    return known[known[code].counted_as if join_equivalent else code].abbreviation


def names_in_words(labels: Iterable[str], join_equivalent: bool = True) -> dict[str, str]:
    """Full names of those of the labels of [`label_of`] that are in the table."""
    names: dict[str, list[str]] = {}
    for diagnosis in diagnoses().values():
        names.setdefault(label_of(diagnosis.code, join_equivalent), []).append(diagnosis.name)
    return {label: " or ".join(names[label]) for label in labels if label in names}


__all__ = ["Diagnosis", "code_of", "diagnoses", "is_code", "label_of", "names_in_words"]
