"""What the readers of exchange formats check alike, before `record_of` sees the channels."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping

from ..ecg_transformer.wfdb_ecg_transformer import RecordError
from .channels import MAX_FILE_BYTES, Said, canonical_lead

# Only 0 to 9 count, not the digits of other alphabets, and neither "nan" nor "1_000".
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,6})?")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_WITH_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}([.,][0-9]{3})+")
_BLANKS = " \t\r\n"


def bytes_of(path: str, part: str | None, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file that holds one record; `RecordError` above `limit` bytes, or if a `part` is asked for."""
    if part is not None:
        raise RecordError(f"the file holds one record: leave out #{part[:40]}.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise RecordError(f"it has {size} bytes; a record of this format has {limit} at most.")
        return file.read()


def is_taken(name: str, said: Said) -> bool:
    """Whether a channel will be a lead of the record. Others may have another rate or be damaged."""
    return canonical_lead(name) in (said.wanted if said.lead_names is None else said.lead_names)


def one_rate(rates: Mapping[str, float | None]) -> float | None:
    """The sampling rate in Hz that all leads have, None where none is known; `RecordError` where they differ."""
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name} {'unknown' if rate is None else f'{rate:g}'}" for name, rate in rates.items())
        raise RecordError(f"its leads must have one sampling rate; they have, in Hz: {listed}.")
    return next(iter(rates.values()), None)


def number(text: str, where: str) -> float:
    """A finite number from its text; `RecordError` that names the field otherwise, but not the text.

    A text that is no number may be one from elsewhere in a damaged header, such as the patient's name.
    """
    match = _NUMBER.fullmatch(text.strip(_BLANKS))
    if match is None or not math.isfinite(float(match[0])):
        raise RecordError(f"its {where} is no number.")
    return float(match[0])


def marks_thousands(cells: Iterable[str]) -> bool:
    """Whether numbers seem to be whole ones whose thousands have a mark, such as `1,015` beside `975`: some have none,
    and all others have it in front of three digits and behind one to three, of which the first is no 0."""
    cells = [text for text in map(str.strip, cells) if text]
    marked = [text for text in cells if "," in text or "." in text]
    return 0 < len(marked) < len(cells) and all(map(_WITH_THOUSANDS.fullmatch, marked))


def integer(text: str, where: str) -> int:
    """A whole number from its text; `RecordError` that names the field otherwise."""
    match = _INTEGER.fullmatch(text.strip(_BLANKS))
    if match is None:
        raise RecordError(f"its {where} is no whole number.")
    return int(match[0])


__all__ = ["bytes_of", "integer", "is_taken", "marks_thousands", "number", "one_rate"]
