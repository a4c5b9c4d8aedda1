"""What a file states of its record, and the JSON beside it that states what the format has no place for."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..ecg_transformer.wfdb_ecg_transformer import RecordError
from .channels import canonical_lead, microvolts_in

MAX_SIDECAR_BYTES = 2**20


# As other programs call what is stated; a field of such a name counts where it can be nothing else.
_OTHER_NAMES = {
    "sampling_rate": ("fs", "sfreq", "sample_rate", "samplingRate", "sampling_frequency"),
    "units": ("unit",),
    "lead_names": ("leads", "lead_order", "channel_names", "ch_names", "sig_name"),
}


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

    Other fields than those of [`stated_by`] are left to whoever wrote them. Nothing is stated where there is no such
    file. Raises `RecordError` for one that cannot be read or has a field of another type.
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
    """The fields `sampling_rate`, `units` and `lead_names` of a mapping; `RecordError` for one of another type.

    Under a name of another program, such as `fs` or `leads`, a field is taken if it is a rate, a unit or leads: to
    overlook it would let the caller say something else.
    """
    rate, units, names = (_field(fields, name) for name in Stated._fields)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate > 1e9):
        raise RecordError(f"{where}: `sampling_rate` must be a number of Hz.")
    if units is not None and not isinstance(units, str):
        raise RecordError(f"{where}: `units` must be a text, such as mV.")
    if names is not None and not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise RecordError(f"{where}: `lead_names` must be a list of texts.")
    return Stated(rate, units, None if names is None else tuple(names))


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if fields.get(name) is not None:
        return fields[name]
    return next((value for other in _OTHER_NAMES[name] if _is_a(name, value := fields.get(other))), None)


def _is_a(name: str, value: Any) -> bool:
    if name == "sampling_rate":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "units":
        return isinstance(value, str) and microvolts_in(value) is not None
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(each, str) and canonical_lead(each) for each in value)
    )


STATED_NAMES = tuple(other for name in Stated._fields for other in (name, *_OTHER_NAMES[name]))
"""Those of all fields that [`stated_by`] looks at."""


def completed(stated: Stated, beside: Stated, path: str) -> Stated:
    """What a file states, and for the rest what the JSON beside it does; `RecordError` where they differ."""
    for name, own, other in zip(Stated._fields, stated, beside, strict=True):
        if None not in (own, other) and own != other:
            raise RecordError(
                f"its `{name}` is another than that of {os.path.basename(sidecar_path(path))} beside it."
            )
    return Stated(*(other if own is None else own for own, other in zip(stated, beside, strict=True)))


__all__ = ["STATED_NAMES", "Stated", "completed", "read_sidecar", "sidecar_path", "stated_by"]
