"""Arrays of numbers: NumPy's ``.npy``, and what is common to all files that hold nothing but an array."""

from __future__ import annotations

import os
import tokenize

import numpy as np

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Channel, Said, record_of
from .sidecar import Stated, read_sidecar, sidecar_path


def read(path: str, part: str | None, said: Said) -> Record:
    """Read a ``.npy`` file: floats or integers of any byte order, (leads, samples) or (samples, leads).

    The file has no place for rate, unit and names of leads: these come from the JSON beside it or from the caller.
    """
    check_no_part(part)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    # NumPy parses a header as the text of a Python literal.
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise RecordError(f"it is no NumPy file that can be read ({_reason(error)}).") from error
    return record_of_array(values, read_sidecar(path), path, said)


def _reason(error: Exception) -> str:
    text = str(error)
    if "mmap length" in text or isinstance(error, EOFError):
        return "it is truncated or empty"
    return "it holds Python objects" if "object" in text.casefold() else "its header is damaged"


def record_of_array(
    values: np.ndarray, stated: Stated, path: str, said: Said, hint: str = "", published: Stated | None = None
) -> Record:
    """The record of a file that holds nothing but an array.

    Args:
        values: numbers of one record, (leads, samples) or (samples, leads), told apart by the number of names; for a
            single lead also (samples,). Integers are voltages in whole units.
        stated: what the file and the JSON beside it say; what both lack is taken from the caller.
        path: of the file.
        said: what the caller says.
        hint: appended to the message about what nobody says.
        published: what the description of the data set says whose layout the file has; it counts where nobody else
            says anything. Some of its leads, said by the caller, are those to take.
    """
    if values.dtype.kind not in "fiu":
        raise RecordError(f"it holds values of the type {values.dtype.name[:40]}; expected real floats or integers.")
    if published is not None:
        unsaid = {name for name in Stated._fields if getattr(said, name) is None}
        if said.lead_names is not None and set(said.lead_names) < set(published.lead_names):
            unsaid.add("lead_names")
        stated = Stated(
            *(
                public if own is None and name in unsaid else own
                for name, own, public in zip(Stated._fields, stated, published, strict=True)
            )
        )
    names = stated.lead_names or said.channel_names
    needed = {
        "sampling_rate": said.sampling_rate if stated.sampling_rate is None else stated.sampling_rate,
        "units": said.units if stated.units is None else stated.units,
        "lead_names": names,
    }
    if missing := [f"`{name}`" for name, value in needed.items() if value is None]:
        raise RecordError(
            f"the file does not state {', '.join(missing)}, and nothing is guessed: say it, or write it into "
            f"{os.path.basename(sidecar_path(path))} beside the file.{hint}"
        )
    scale = None if values.dtype.kind == "f" else 1.0
    rows = _rows(values, len(names))
    channels = [Channel(name, row, needed["units"], scale) for name, row in zip(names, rows, strict=True)]
    return record_of(channels, stated.sampling_rate, said)


def _rows(values: np.ndarray, count: int) -> np.ndarray:
    """(leads, samples), whichever of the axes is that of `count` leads."""
    shape = " x ".join(map(str, values.shape))
    if values.ndim == 1 and count == 1:
        return values[None]
    if values.ndim != 2 or count not in values.shape:
        raise RecordError(
            f"it has {shape} values, expected {count} x samples or samples x {count}, by the lead names."
        )
    if values.shape == (count, count):
        raise RecordError(f"it has {shape} values, so that its leads may be rows or columns: give more samples.")
    return values if values.shape[0] == count else values.T


def check_no_part(part: str | None) -> None:
    """`RecordError` if one of several records is asked for, in a file that holds one."""
    if part is not None:
        raise RecordError("the file holds one record: leave out what stands behind #.")


__all__ = ["check_no_part", "read", "record_of_array"]
