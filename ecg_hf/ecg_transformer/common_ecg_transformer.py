"""What everything that reads or classifies ECGs agrees on: leads, units, and the marks of what is not known."""

from collections.abc import Iterable

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical spelling and order of the twelve leads."""

MICROVOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "μv": 1.0, "nv": 1e-3}
"""µV in one of each unit of voltage, by the unit's name after `str.casefold()` (which makes U+00B5 the Greek mu)."""

MAX_MICROVOLTS = 2**15 - 1
"""The largest voltage of a record, 32.767 mV: the range of int16 in µV, which is PTB-XL's."""

MISSING_SAMPLE = -(2**15)
"""The int16 that marks a missing sample in WFDB's format 16."""

UNKNOWN_LABEL = -100
"""The label of a record of which it is not known whether it is present."""


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """`ValueError` unless the argument `name` is one of its choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, choices))}, got `{value}`.")


__all__ = ["LEAD_NAMES", "MAX_MICROVOLTS", "MICROVOLTS", "MISSING_SAMPLE", "UNKNOWN_LABEL", "check_choice"]
