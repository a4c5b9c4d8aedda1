"""MATLAB 5 files, as those of CPSC 2018, by scipy."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import scipy.io

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .arrays import check_no_part, record_of_array
from .channels import MAX_FILE_BYTES, Said
from .sidecar import Stated

_HINT = " CPSC 2018 has 500 Hz, mV and the leads I II III aVR aVL aVF V1 to V6."
_COMPRESSED = 15
_NUMERIC = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
# What scipy is known to raise for damaged files.
_ERRORS = (ValueError, TypeError, KeyError, IndexError, EOFError, OSError, OverflowError, MemoryError, zlib.error)


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the struct `ECG` with a field `data`, as CPSC 2018 has it, or the only matrix of numbers of the file.

    The values are (leads, samples) or (samples, leads). Rate, unit and names of leads come from the JSON beside it or
    from the caller; of other variables and fields nothing is read.
    """
    check_no_part(part)
    try:
        _check_unpacked_size(path)
        name = _signal_name(scipy.io.whosmat(path))
        values = scipy.io.loadmat(path, variable_names=[name])[name]
    except RecordError:
        raise
    except _ERRORS as error:
        raise RecordError("it is a damaged or truncated MATLAB file.") from error
    if values.dtype.names is not None:
        values = _data_of(values)
    return record_of_array(values, Stated(), path, said, _HINT)


def _check_unpacked_size(path: str) -> None:
    """Add up what the variables take once they are unpacked, by their first eight bytes."""
    total, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            end = file.tell() + length
            if kind == _COMPRESSED:
                inner = zlib.decompressobj().decompress(file.read(min(length, 64)), 8)
                length = struct.unpack(f"{order}II", inner)[1] if len(inner) == 8 else 0
            total += length
            if end > size:
                raise RecordError("it is a damaged or truncated MATLAB file.")
            file.seek(end)
    if total > MAX_FILE_BYTES:
        raise RecordError(f"it takes {total} bytes unpacked; {MAX_FILE_BYTES} are read at most. Cut it into records.")


def _signal_name(variables: list[tuple[str, tuple[int, ...], str]]) -> str:
    if any(name == "ECG" and kind == "struct" and shape == (1, 1) for name, shape, kind in variables):
        return "ECG"
    matrices = [name for name, shape, kind in variables if kind in _NUMERIC and len(shape) == 2 and max(shape) > 1]
    if len(matrices) != 1:
        listed = ", ".join(f"{name} ({kind})" for name, _, kind in variables[:10]) or "no variable"
        raise RecordError(
            f"expected the struct ECG with the field data, or one matrix of numbers, among its variables: {listed}."
        )
    return matrices[0]


def _data_of(struct_array: np.ndarray) -> np.ndarray:
    if "data" not in struct_array.dtype.names:
        raise RecordError("its struct ECG has no field data.")
    values = struct_array[0, 0]["data"]
    if not isinstance(values, np.ndarray) or values.dtype.names is not None:
        raise RecordError("the field data of its struct ECG is no matrix of numbers.")
    return values


__all__ = ["read"]
