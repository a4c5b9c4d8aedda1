"""Shared definitions: lead names, units, and the markers of unknown values."""

from collections.abc import Iterable

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical spelling and order of the twelve leads."""

MICROVOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "μv": 1.0, "nv": 1e-3}
"""µV per unit of voltage, by the unit's name after `str.casefold()` (which maps U+00B5 to the Greek mu)."""

MAX_MICROVOLTS = 2**15 - 1
"""The maximum voltage of a record, 32.767 mV: the range of int16 in µV, as in PTB-XL."""

MISSING_SAMPLE = -(2**15)
"""The int16 value of a missing sample in WFDB's format 16."""

UNKNOWN_LABEL = -100
"""Marks a label of which it is unknown whether it is present."""


MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (MULTI_LABEL, SINGLE_LABEL, REGRESSION)
"""What a model predicts of a record: any number of labels, exactly one of several classes, or numbers."""


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise `ValueError` unless the argument `name` has one of the values `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, choices))}, got `{value}`.")


__all__ = [
    "LEAD_NAMES",
    "MAX_MICROVOLTS",
    "MICROVOLTS",
    "MISSING_SAMPLE",
    "MULTI_LABEL",
    "PROBLEM_TYPES",
    "REGRESSION",
    "SINGLE_LABEL",
    "UNKNOWN_LABEL",
    "check_choice",
]
