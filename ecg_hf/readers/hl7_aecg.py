"""HL7 annotated ECG (aECG, root `AnnotatedECG`), release 1."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

import numpy as np

from ..ecg_transformer.common_ecg_transformer import named_channels
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Channel, Said, microvolts_of, record_of
from .checks import is_taken, number, one_rate
from .xml_tree import child, children, root_of

_TIMES = ("TIME_ABSOLUTE", "TIME_RELATIVE")
_SECONDS = {"s": 1.0, "ms": 1e3, "us": 1e6}
"""How many there are in a second."""

_DIGITS = re.compile(r"[-+0-9.eE\s]*", re.ASCII)
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the rhythm of an aECG file, never the representative beats in its derived series.

    The rate is 1 / increment of the sequence of times; the voltage of a digit is origin + scale * digit, each with its
    own unit.

    Raises:
        RecordError: damaged XML, or one that uses entities; no rhythm or several; a lead without origin,
            scale, units or digits; times without an increment.
    """
    root = root_of(path, part, "HL7 aECG")
    rates, names, values, channels = {}, [], [], []
    for sequence in children(_rhythm(root), "component", "sequence"):
        code, value = child(sequence, "code"), child(sequence, "value")
        name = "?" if code is None else (code.get("code") or "?")[:64]
        if name in _TIMES:
            rates[name] = _rate(name, value)
        else:
            names.append(name)
            values.append(value)
    for name, value in zip(named_channels(names, said.channel_names), values, strict=True):
        if is_taken(name, said):
            channels.append(_channel(name, value))
        else:
            channels.append(Channel(name, np.empty(0), None))
    return record_of(channels, one_rate(rates), said)


def _rhythm(root: Element) -> Element:
    """The one set of sequences of the one series that is a rhythm."""
    series = [
        found
        for found in children(root, "component", "series")
        if any(code.get("code") == "RHYTHM" for code in children(found, "code"))
    ]
    sets = [found for rhythm in series for found in children(rhythm, "component", "sequenceSet")]
    if len(sets) != 1:
        raise RecordError(f"it has {len(sets)} sets of sequences in {len(series)} series of RHYTHM; expected one.")
    return sets[0]


def _rate(name: str, value: Element | None) -> float:
    increment, unit = _quantity(name, value, "increment")
    if unit not in _SECONDS or increment <= 0:
        raise RecordError(f"the increment of {name} must be above 0 and in {', '.join(_SECONDS)}.")
    # The increment is a decimal fraction, often rounded; ten digits bring 1 / 0.002 to 500.
    return float(f"{_SECONDS[unit] / increment:.10g}")


def _channel(name: str, value: Element | None) -> Channel:
    origin, origin_unit = _quantity(name, value, "origin")
    scale, unit = _quantity(name, value, "scale")
    if scale == 0:
        raise RecordError(f"the scale of {name} is 0: its values are no voltages.")
    if value.get(_TYPE, "SLIST_PQ").rpartition(":")[2] != "SLIST_PQ":
        raise RecordError(f"the values of {name} are of another type than SLIST_PQ.")
    offset = origin * microvolts_of(origin_unit, f"the origin of {name}") / microvolts_of(unit, f"the scale of {name}")
    digits = _digits(name, value)
    if (digits == np.rint(digits)).all():
        return Channel(name, digits, unit, scale, offset)
    # Digits with decimals are finer than the scale.
    return Channel(name, digits * scale + offset, unit)


def _digits(name: str, value: Element) -> np.ndarray:
    found = child(value, "digits")
    text = "" if found is None else found.text or ""
    if not _DIGITS.fullmatch(text):
        raise RecordError(f"the digits of {name} are not all numbers.")
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError:
        raise RecordError(f"the digits of {name} are not all numbers.") from None


def _quantity(name: str, value: Element | None, field: str) -> tuple[float, str | None]:
    found = None if value is None else child(value, field)
    if found is None or found.get("value") is None:
        raise RecordError(f"{name} has no {field}.")
    return number(found.get("value"), f"{field} of {name}"), found.get("unit")
