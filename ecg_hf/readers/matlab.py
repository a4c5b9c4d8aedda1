"""MATLAB 5 files, as those of CPSC 2018, by MathWorks' "MAT-File Format".

Only arrays of numbers and a struct of them are read, by bounds that are checked: scipy.io (1.17) ends the process by a
segmentation fault on files with a damaged type of data.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .arrays import check_no_part, record_of_array
from .channels import MAX_FILE_BYTES, Said
from .sidecar import STATED_NAMES, Stated, completed, read_sidecar, stated_by

# Of the challenge (http://2018.icbeb.org/Challenge.html): what the struct with these fields does not state itself.
_CPSC_2018 = Stated(500, "mV", LEAD_NAMES)
_CPSC_FIELDS = {"sex", "age", "data"}

# Types of stored data and classes of variables, by their numbers in the format.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
# How characters are stored, by the number of their type.
_ENCODINGS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_COMPLEX_FLAG = 0x800


class _Element(NamedTuple):
    """Data with the number of their type."""

    type: int
    data: memoryview


class _Variable(NamedTuple):
    """`kind` is the number of the class; `parts` follow dimensions and name."""

    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    parts: list[_Element]


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the struct `ECG` with a field `data`, as CPSC 2018 has it, or the only matrix of numbers of the file.

    The values are (leads, samples) or (samples, leads). Rate, unit and names of leads are variables beside it
    (`sampling_rate` or `fs`, `units`, and a cell `lead_names` or `leads`), stand in the JSON beside the file, or come
    from the caller; a struct with the fields of CPSC 2018 and twelve leads has 500 Hz, mV and the leads in the usual
    order unless these say otherwise. Of other variables and fields nothing is read.
    """
    check_no_part(part)
    with open(path, "rb") as file:
        content = memoryview(file.read())
    if len(content) < 128 or bytes(content[126:128]) not in (b"IM", b"MI"):
        raise _damaged("its first 128 bytes")
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    variables = list(_variables(content[128:], order))
    signal, fields = _signal(variables, order)
    is_cpsc = fields == _CPSC_FIELDS and len(LEAD_NAMES) in signal.shape
    published = _CPSC_2018 if is_cpsc else None
    stated = completed(_stated(variables, order), read_sidecar(path), path)
    return record_of_array(_numbers(signal, order), stated, path, said, published=published)


def _stated(variables: list[_Variable], order: str) -> Stated:
    values = {each.name: _value(each, order) for each in variables if each.name in STATED_NAMES}
    return stated_by(values, "its variables")


def _value(variable: _Variable, order: str) -> float | str | list | None:
    """A single number, a line of text, or a list of these; None for anything else."""
    if variable.kind == _CELL:
        members = [_variable(part.data, order) for part in variable.parts if part.type == _MATRIX]
        return [None if member.kind == _CELL else _value(member, order) for member in members]
    if variable.kind == _CHAR and len(variable.parts) == 1 and variable.shape[:1] == (1,):
        (text,) = variable.parts
        encoding = _ENCODINGS.get(text.type, "latin-1")
        encoding += {"<": "-le", ">": "-be"}[order] if encoding == "utf-16" else ""
        return bytes(text.data).decode(encoding, "replace")
    if variable.kind in _NUMBERS and variable.shape == (1, 1) and not variable.is_complex:
        return _numbers(variable, order).item()
    return None


def _damaged(what: str) -> RecordError:
    return RecordError(f"it is a damaged or truncated MATLAB file: {what} cannot be read.")


def _variables(data: memoryview, order: str) -> Iterator[_Variable]:
    total = 0
    for element in _elements(data, order):
        if element.type == _COMPRESSED:
            size = _unpacked_size(element.data, order)
            total += size
            if total > MAX_FILE_BYTES:
                raise RecordError(f"it unpacks to {total} bytes; {MAX_FILE_BYTES} are read at most. Cut it.")
            element = next(_elements(_unpacked(element.data, size), order), None)
        if element is None or element.type != _MATRIX:
            raise _damaged("a variable")
        yield _variable(element.data, order)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """What stands behind one another in `data`, as slices of it."""
    position = 0
    while position < len(data):
        if len(data) - position < 8:
            raise _damaged("the end of an element")
        kind, length = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:
            # Up to four bytes stand in the tag itself.
            kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
            position += 8
        else:
            position = start + length + (0 if kind == _COMPRESSED else -length % 8)
        if start + length > min(len(data), position):
            raise _damaged("the length of an element")
        yield _Element(kind, data[start : start + length])


def _unpacked_size(data: memoryview, order: str) -> int:
    try:
        tag = zlib.decompressobj().decompress(data, 8)
    except zlib.error:
        tag = b""
    if len(tag) < 8:
        raise _damaged("a packed variable")
    return 8 + struct.unpack_from(f"{order}I", tag, 4)[0]


def _unpacked(data: memoryview, size: int) -> memoryview:
    unpacker = zlib.decompressobj()
    try:
        # One byte more, so that it comes to the checksum at the end.
        content = unpacker.decompress(data, size + 1)
    except zlib.error:
        content = b""
    if len(content) != size or not unpacker.eof:
        raise _damaged("a packed variable")
    return memoryview(content)


def _variable(data: memoryview, order: str) -> _Variable:
    parts = list(_elements(data, order))
    if not parts or parts[0].type != _UINT32 or len(parts[0].data) != 8:
        raise _damaged("the flags of a variable")
    flags = struct.unpack_from(f"{order}I", parts[0].data)[0]
    kind = flags & 0xFF
    if kind not in (_CELL, _STRUCT, _CHAR, *_NUMBERS) or [part.type for part in parts[1:3]] != [_INT32, _INT8]:
        # Of other classes some have no dimensions or name.
        return _Variable("another", kind, False, (), [])
    shape = tuple(map(int, _array(parts[1], order)))
    return _Variable(_text(parts[2].data), kind, bool(flags & _COMPLEX_FLAG), shape, parts[3:])


def _array(element: _Element, order: str) -> np.ndarray:
    dtype = np.dtype(order + _TYPES[element.type]) if element.type in _TYPES else None
    if dtype is None or len(element.data) % dtype.itemsize:
        raise _damaged("the type of data")
    return np.frombuffer(element.data, dtype)


def _text(data: memoryview) -> str:
    return bytes(data).partition(b"\0")[0].decode("latin-1")


def _signal(variables: list[_Variable], order: str) -> tuple[_Variable, set[str]]:
    """The matrix of the signal, and the fields of the struct that it is in."""
    for variable in variables:
        if variable.name == "ECG" and variable.kind == _STRUCT and variable.shape == (1, 1):
            return _data_field(variable, order)
    matrices = [each for each in variables if each.kind in _NUMBERS and len(each.shape) == 2 and max(each.shape) > 1]
    if len(matrices) != 1:
        expected = "the struct ECG with the field data, or one matrix of numbers"
        found = ", ".join(f"{each.name} {each.shape}" for each in variables[:10]) or "no variable"
        raise RecordError(f"expected {expected}, found {found}.")
    return matrices[0], set()


def _data_field(variable: _Variable, order: str) -> tuple[_Variable, set[str]]:
    if len(variable.parts) < 2 or [part.type for part in variable.parts[:2]] != [_INT32, _INT8]:
        raise _damaged("its struct ECG")
    (length, *_), names = [*_array(variable.parts[0], order), 0], variable.parts[1].data
    if length < 1:
        raise _damaged("its struct ECG")
    fields = [_text(names[start : start + length]) for start in range(0, len(names), length)]
    if "data" not in fields:
        raise RecordError("its struct ECG has no field data.")
    place = 2 + fields.index("data")
    if place >= len(variable.parts) or variable.parts[place].type != _MATRIX:
        raise _damaged("its field data")
    data = _variable(variable.parts[place].data, order)
    if data.kind not in _NUMBERS:
        raise RecordError("the field data of its struct ECG is no matrix of numbers.")
    return data, set(fields)


def _numbers(variable: _Variable, order: str) -> np.ndarray:
    if variable.is_complex:
        raise RecordError("it holds complex values; expected real ones.")
    values = _array(variable.parts[0], order) if variable.parts else np.empty(0)
    if len(variable.shape) < 2 or min(variable.shape) < 0 or math.prod(variable.shape) != len(values):
        raise _damaged("the dimensions of its matrix")
    # Numbers may be stored in fewer bytes than those of their class.
    return values.astype(_NUMBERS[variable.kind]).reshape(variable.shape, order="F")


__all__ = ["read"]
