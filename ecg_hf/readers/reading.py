"""`read_ecg`: the format is recognised by the file's bytes, and its reader is called."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Said, canonical_lead, microvolts_of, warn_of_other_channels
from .formats import reader_of


class MissingFileError(RecordError, FileNotFoundError):
    """A file of a record does not exist."""


def read_ecg(
    path: str | os.PathLike,
    *,
    sampling_rate: float | None = None,
    units: str | None = None,
    lead_names: Sequence[str] | None = None,
) -> Record:
    """Read the ECG in a file of any format that is known, recognised by its bytes.

    What a file does not state the arguments must say, and what it states they must not contradict: nothing is guessed.
    Channels that are none of the twelve leads are named in one warning and left out.

    Args:
        path: the file; of WFDB the header, a signal file or the path without ending. Of an HDF5 file with several
            records ``FILE#row=12``, or ``FILE#exam_id=590673`` by a data set of ids beside the signals.
        sampling_rate: in Hz.
        units: of voltage: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``.
        lead_names: the leads in order: they name the channels of a file that does not name them, and choose among
            those of a file that does.

    Returns:
        The record. Its `signal` is in µV: int16 if the file's step is 1 µV or coarser, else float32.

    Raises:
        RecordError: the file does not exist, is no regular file, is too large, damaged, or of a format that is not
            read; its format needs a package that is not installed; rate, unit or lead names are missing or contradict
            the arguments; samples are missing (NaN) or beyond ±32.767 mV; a lead is there twice.
        ValueError: an argument that is not valid for any file.
    """
    names = None if lead_names is None else _canonical_names(lead_names)
    if units is not None:
        _check_units(units)
    record = read_leads(path, Said(sampling_rate, units, names))
    warn_of_other_channels(os.fspath(path), record.other_channels)
    return record


def read_leads(path: str | os.PathLike, said: Said) -> Record:
    """As `read_ecg`, with what the caller says of the file in one object, and without the warning."""
    path = os.fspath(path)
    try:
        file, _, part = path.partition("#") if not os.path.exists(path) else (path, "", "")
        return reader_of(file)(file, part or None, said)
    except RecordError as error:
        raise _named(type(error), path, error) from error.__cause__
    except FileNotFoundError as error:
        raise _named(MissingFileError, path, error) from None


def _named(kind: type[RecordError], path: str, error: Exception) -> RecordError:
    text = str(error)
    return kind(text if text.startswith("Record ") else f"Record {path}: {text}")


def _canonical_names(lead_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(canonical_lead(str(name)) for name in lead_names)
    if isinstance(lead_names, str) or not names or None in names or len(set(names)) < len(names):
        raise ValueError(f"`lead_names` must list some of {' '.join(LEAD_NAMES)}, each once, got {lead_names!r}.")
    return names


def _check_units(units: str) -> None:
    try:
        microvolts_of(units, "`units`")
    except RecordError as error:
        raise ValueError(str(error)) from None


__all__ = ["MissingFileError", "read_ecg", "read_leads"]
