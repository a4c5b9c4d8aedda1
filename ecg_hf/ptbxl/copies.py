"""Copies of PTB-XL's records in other sets, known by their names: its folds 9 and 10 judge models."""

from __future__ import annotations

import re

# The files of PTB-XL, and the names that PhysioNet/CinC 2020 and 2021 gave to those at 500 Hz: HR and the ecg_id.
_NAMES = re.compile(r"(?:HR(?P<challenge>\d{5})|(?P<id>\d{5})_(?:lr|hr))", re.IGNORECASE)
# The beginning of a header of ten seconds in twelve leads, as WFDB writes it.
_HEADER = re.compile(r"(?P<name>\S+)[ \t]+12[ \t]+(?P<rate>\d{1,9}(?:\.\d{1,9})?)\S*[ \t]+(?P<length>\d{1,18})\b")
_SECONDS = 10


def ecg_id_of_header(stem: str, text: str) -> int | None:
    """The id in PTB-XL of a record whose name and WFDB header are as there; None for any other record.

    Args:
        stem: name of the header's file without ending.
        text: the header.
    """
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    first = _HEADER.match(next(lines, "").strip())
    # Whatever rate they were resampled to.
    if first is None or abs(int(first["length"]) - _SECONDS * float(first["rate"])) > 1:
        return None
    for name in (stem, first["name"]):
        if match := _NAMES.fullmatch(name):
            return int(match["id"] or match["challenge"])
    return None


__all__ = ["ecg_id_of_header"]
