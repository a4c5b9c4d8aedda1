"""The WFDB records of a folder and all below it, of which there may be a million: none of their names is held here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import pyarrow as pa

Value = TypeVar("Value")

_BATCH = 1000


def headers_below(folder: str | os.PathLike) -> Iterator[str]:
    """The headers (`.hea`) in a folder and all below, as paths from it, in no order; also through links to folders.

    Each folder is read once, however many links lead to it. Raises `OSError` for a folder that cannot be read.
    """
    entered, waiting = set(), [""]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(os.path.join(folder, place))
        if real in entered:  # a link into what was read, or back above itself
            continue
        entered.add(real)
        folders = []
        with os.scandir(real) as entries:
            for entry in entries:
                if entry.name.endswith(".hea"):  # a folder of such a name is refused when the record is read
                    yield os.path.join(place, entry.name)
                if entry.is_dir():
                    folders.append(os.path.join(place, entry.name))
        waiting += sorted(folders, reverse=True)


def in_batches(values: Iterator[Value]) -> Iterator[list[Value]]:
    while batch := list(islice(values, _BATCH)):
        yield batch


def texts_of(values: Iterator[str | None]) -> pa.StringArray:
    """As an array, which takes a sixth of the memory of a list."""
    arrays = (pa.array(batch, pa.string()) for batch in in_batches(values))
    return pa.chunked_array(arrays, pa.string()).combine_chunks()


__all__ = ["headers_below", "in_batches", "texts_of"]
