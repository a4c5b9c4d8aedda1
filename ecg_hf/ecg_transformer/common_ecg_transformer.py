"""Shared definitions: lead names, units, the markers of unknown values, and checks of arguments."""

import re
from collections.abc import Iterable, Sequence

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical spelling and order of the twelve leads."""

_CANONICAL = {name.casefold(): name for name in LEAD_NAMES}
# Derivación, dérivation, derivação: as the devices of CODE-15 % write them, too.
_CANONICAL |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}
_PREFIX = re.compile(r"^(mdc_ecg_lead_|lead[ _-]|ecg[ _-]|ekg[ _-])+", re.IGNORECASE)
_SUFFIX = re.compile(r"\s*\(einthoven\)$", re.IGNORECASE)
# As SCP-ECG and DICOM say "Unspecified lead", and aECG "MDC_ECG_LEAD".
_SAYS_NO_LEAD = re.compile(
    r"(unspecified |mdc_ecg_)?((ecg|ekg|ch|chan|channel|lead|signal)?[ _.-]*[0-9]*)( without a name)?", re.IGNORECASE
)


def canonical_lead(name: str) -> str | None:
    """``"Lead avr"``, ``"ECG aVR"``, ``"MDC_ECG_LEAD_AVR"`` -> ``"aVR"``; None for what is none of the twelve."""
    # BIDMC of PhysioNet has a comma behind each name.
    name = name.strip().removesuffix(",").casefold()
    return _CANONICAL.get(name) or _CANONICAL.get(_SUFFIX.sub("", _PREFIX.sub("", name)).strip())


SAY_WHAT_THEY_ARE = " Where these are no names of leads, such as ECG, say by `lead_names` which leads they are."


def named_channels(names: Sequence[str], lead_names: Sequence[str] | None) -> list[str]:
    """The names of a file's channels, with `lead_names`, where they are said, for those that tell no lead.

    Wearables and data sets of one lead name it ``"ECG"``, recorders ``"ch 1"`` and ``"ch 2"``. Such channels take the
    names that were said, in order, where there are as many and no channel is one of the twelve leads by its own name.
    """
    names = list(names)
    unnamed = [place for place, name in enumerate(names) if _SAYS_NO_LEAD.fullmatch(name.strip())]
    if lead_names is None or len(unnamed) != len(lead_names) or any(map(canonical_lead, names)):
        return names
    for place, lead in zip(unnamed, lead_names, strict=True):
        names[place] = lead
    return names


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


def check_same_input(feature_extractor, config, names: Sequence[str] = ("sampling_rate", "lead_names")) -> None:
    """`ValueError` where the windows of a feature extractor are not what the model of the configuration takes."""
    for name in names:
        given, expected = getattr(feature_extractor, name), getattr(config, name)
        if given != expected:
            raise ValueError(
                f"The feature extractor was made for another model: its `{name}` is {given}, the model's {expected}. "
                "Load both from one folder."
            )


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise `ValueError` unless the argument `name` has one of the values `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, choices))}, got `{value}`.")


def check_id2label(id2label: dict[int, str], problem_type: str | None = None) -> None:
    """`ValueError` unless each output of a head has one name, no two the same, and there are enough of them."""
    if not id2label:
        raise ValueError("`id2label` is empty: name at least one label.")
    if set(id2label) != set(range(len(id2label))):
        ids = ", ".join(map(repr, id2label))
        raise ValueError(f"`id2label` must have the ids 0 to {len(id2label) - 1}, one for each output, got {ids}.")
    names = list(id2label.values())
    # A file would give back the text of a number, and another name than the one that was saved.
    if other := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"`id2label` must name labels by text, got {other[0]!r}: write it as {str(other[0])!r}.")
    if problem_type == SINGLE_LABEL and len(names) == 1:
        raise ValueError(
            f"`{SINGLE_LABEL}` needs at least two classes, got only {names[0]}, which every record would have: name "
            f"the others too, or take `{MULTI_LABEL}` for a label that is present or absent."
        )
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"`id2label` names a label twice: {', '.join(twice)}. Each output needs a name of its own.")


__all__ = [
    "LEAD_NAMES",
    "MAX_MICROVOLTS",
    "MICROVOLTS",
    "MISSING_SAMPLE",
    "MULTI_LABEL",
    "PROBLEM_TYPES",
    "REGRESSION",
    "SAY_WHAT_THEY_ARE",
    "SINGLE_LABEL",
    "UNKNOWN_LABEL",
    "canonical_lead",
    "check_choice",
    "check_id2label",
    "check_same_input",
    "named_channels",
]
