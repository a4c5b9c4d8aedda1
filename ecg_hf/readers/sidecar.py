"""What a file states of its record, and the JSON beside it that states what the format has no place for."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..ecg_transformer.wfdb_ecg_transformer import RecordError

MAX_SIDECAR_BYTES = 2**20


class Stated(NamedTuple):
    """What stands with the values of a record; None for what is not said.

    Attributes:
        sampling_rate: in Hz.
        units: of voltage, as it is spelled.
        lead_names: of all channels in order, as they are spelled; some may be none of the twelve leads.
    """

    sampling_rate: float | None = None
    units: str | None = None
    lead_names: tuple[str, ...] | None = None


def sidecar_path(path: str) -> str:
    """``folder/rec.npy`` -> ``folder/rec.json``."""
    return os.path.splitext(path)[0] + ".json"


def read_sidecar(path: str) -> Stated:
    """What the JSON beside the file `path` states: an object with `sampling_rate`, `units`, `lead_names`, or some.

    Other fields are left to whoever wrote them. Nothing is stated where there is no such file. Raises `RecordError`
    for one that cannot be read or has a field of another type.
    """
    file = sidecar_path(path)
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return Stated()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SIDECAR_BYTES:
        raise RecordError(f"{file} beside it must be a regular file of at most {MAX_SIDECAR_BYTES} bytes.")
    try:
        with open(file, encoding="utf-8-sig") as text:
            content = json.load(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{file} beside it is not valid JSON.") from None
    if not isinstance(content, dict):
        raise RecordError(f'{file} beside it must be an object, such as {{"sampling_rate": 500, "units": "mV"}}.')
    return stated_by(content, file)


def stated_by(fields: Mapping[str, Any], where: str) -> Stated:
    """The fields `sampling_rate`, `units` and `lead_names` of a mapping; `RecordError` for one of another type."""
    rate, units, names = (fields.get(name) for name in Stated._fields)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate > 1e9):
        raise RecordError(f"{where}: `sampling_rate` must be a number of Hz.")
    if units is not None and not isinstance(units, str):
        raise RecordError(f"{where}: `units` must be a text, such as mV.")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise RecordError(f"{where}: `lead_names` must be a list of texts.")
    return Stated(rate, units, None if names is None else tuple(names))


def completed(stated: Stated, beside: Stated, path: str) -> Stated:
    """What a file states, and for the rest what the JSON beside it does; `RecordError` where they differ."""
    for name, own, other in zip(Stated._fields, stated, beside, strict=True):
        if None not in (own, other) and own != other:
            raise RecordError(
                f"its `{name}` is another than that of {os.path.basename(sidecar_path(path))} beside it."
            )
    return Stated(*(other if own is None else own for own, other in zip(stated, beside, strict=True)))


__all__ = ["Stated", "completed", "read_sidecar", "sidecar_path", "stated_by"]
