"""`read_ecg`: the format is recognised by the file's bytes, and its reader is called."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Sequence

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Said, canonical_leads, microvolts_of, warn_of_other_channels
from .formats import MissingFileError, reader_of

_PART = re.compile(r"(.+)#([^#/\\]*)", re.DOTALL)


def read_ecg(
    path: str | os.PathLike,
    *,
    sampling_rate: float | None = None,
    units: str | None = None,
    lead_names: Sequence[str] | None = None,
) -> Record:
    """Read the ECG in a file of any format that is known, recognised by its bytes.

    What a file does not state the arguments must say, and what it states they must not contradict: nothing is guessed.
    A file that holds nothing but numbers (``.npy``, text, MATLAB, HDF5) can have a JSON of the same stem beside it,
    ``rec.json`` of ``rec.npy``, which states what it lacks: ``{"sampling_rate": 500, "units": "mV", "lead_names":
    ["I", "II"]}``, each field optional. Channels that are none of the twelve leads are named in one warning and left
    out.

    Args:
        path: the file; of WFDB the header, a signal file or the path without ending. Of an HDF5 file with several
            records ``FILE#row=12``, or ``FILE#exam_id=590673`` by a data set of ids beside the signals.
        sampling_rate: in Hz.
        units: of voltage: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``.
        lead_names: the leads in order: they name the channels of a file that does not name them (or says ECG, or
            ch 1), and choose among those of a file that does.

    Returns:
        The record. Its `signal` is in µV: int16 if the file's step is 1 µV or coarser, else float32, as for numbers
        of no known step.

    Raises:
        RecordError: the file does not exist, is no regular file, is too large, damaged, or of a format that is not
            read; its format needs a package that is not installed; rate, unit or lead names are missing or contradict
            the arguments; samples are missing (NaN) or beyond ±32.767 mV; a lead is there twice.
        ValueError: an argument that is not valid for any file.
    """
    record = read_leads(path, said_of_all(sampling_rate, units, lead_names))
    warn_of_other_channels(os.fspath(path), record.other_channels)
    return record


def said_of_all(
    sampling_rate: float | None = None, units: str | None = None, lead_names: Sequence[str] | None = None
) -> Said:
    """What a caller says of files, as for `read_ecg`; `ValueError` for what is not valid for any."""
    if units is not None:
        _check_units(units)
    if hasattr(sampling_rate, "item"):  # of an array or a tensor
        sampling_rate = sampling_rate.item()
    is_number = isinstance(sampling_rate, numbers.Real) and not isinstance(sampling_rate, bool)
    if sampling_rate is not None and not (is_number and 0 < sampling_rate < math.inf):
        raise ValueError(f"`sampling_rate` must be a number of Hz above 0, got {sampling_rate!r}.")
    return Said(sampling_rate, units, canonical_leads(lead_names))


def read_leads(path: str | os.PathLike, said: Said) -> Record:
    """As `read_ecg`, with what the caller says of the file in one object, and without the warning."""
    path = os.fspath(path)
    if "\0" in path:
        raise RecordError(f"Record {path!r}: a path has no NUL characters.")
    file, part = _split(path)
    try:
        return reader_of(file)(file, part, said)
    except RecordError as error:
        raise _named(type(error), path, str(error)) from error.__cause__
    except FileNotFoundError as error:
        raise _named(MissingFileError, path, str(error)) from error.__cause__
    except OSError as error:
        raise _named(RecordError, path, f"it cannot be opened ({error.strerror}).") from error


def _split(path: str) -> tuple[str, str | None]:
    """The file of a path, and what stands behind `#`, which the name of a file may have, too."""
    match = _PART.fullmatch(path)
    if match is None or os.path.exists(path) or os.path.exists(f"{path}.hea"):
        return path, None
    return match[1], match[2]


def _named(kind: type[RecordError], path: str, text: str) -> RecordError:
    return kind(text if text.startswith("Record ") else f"Record {path}: {text}")


def _check_units(units: str) -> None:
    try:
        microvolts_of(units, "`units`")
    except RecordError as error:
        raise ValueError(str(error)) from None


__all__ = ["MissingFileError", "read_ecg", "read_leads", "said_of_all"]
