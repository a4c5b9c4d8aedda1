"""The records of a folder and all below it, of which there may be a million: none of their names is held here."""

from __future__ import annotations

import os
from collections.abc import Iterator

FOLDER_ENDINGS = (".edf", ".bdf", ".dcm", ".xml", ".h5", ".hdf5", ".npy", ".mat")
"""Of the files that are records in a folder, beside WFDB headers."""
TEXT_ENDINGS = (".csv", ".txt")
"""Such a file in a folder may be anything: it is a record where a JSON of its name states rate, unit and leads."""
RECORDS_IN_FOLDERS = (
    f"{', '.join(('.hea', *FOLDER_ENDINGS))}; {' or '.join(TEXT_ENDINGS)} with a `NAME.json` beside it that states "
    "rate, unit and leads"
)
"""What counts as a record in a folder, in words."""


def headers_below(folder: str | os.PathLike) -> Iterator[str]:
    """The headers (`.hea`) in a folder and all below, as paths from it, in no order; also through links to folders.

    Each folder is read once, however many links lead to it; names that begin with a dot are passed over. Raises
    `OSError` for a folder that cannot be read.
    """
    for place, entry in _entries_below(folder):
        if entry.name.endswith(".hea"):  # a folder of such a name is refused when the record is read
            yield os.path.join(place, entry.name)


def records_below(folder: str | os.PathLike) -> Iterator[str]:
    """The ECG files in a folder and all below, as [`headers_below`]: WFDB by its headers, others by their ending."""
    for place, entry in _entries_below(folder):
        if entry.name.lower().endswith(".hea") or _is_record(entry):  # `.HEA` is refused when the record is read
            yield os.path.join(place, entry.name)


def _entries_below(folder: str | os.PathLike) -> Iterator[tuple[str, os.DirEntry]]:
    """What is in a folder and all below, each with its folder as a path from `folder`.

    Names that begin with a dot are hidden: they are the notes that macOS puts beside each file it copies (`._x.hea`),
    or earlier states of the same records (`.snapshot`, `.ipynb_checkpoints`).
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
                if entry.name.startswith("."):
                    continue
                yield place, entry
                if entry.is_dir():
                    folders.append(os.path.join(place, entry.name))
        waiting += sorted(folders, reverse=True)


def _is_record(entry: os.DirEntry) -> bool:
    """Whether a file in a folder is a record by itself. The signals of a WFDB record may be in a `.mat`."""
    stem, ending = os.path.splitext(entry.path)
    if ending.lower() in TEXT_ENDINGS:
        return os.path.isfile(f"{stem}.json")
    return ending.lower() in FOLDER_ENDINGS and not os.path.exists(f"{stem}.hea") and not entry.is_dir()


__all__ = ["FOLDER_ENDINGS", "RECORDS_IN_FOLDERS", "TEXT_ENDINGS", "headers_below", "records_below"]
