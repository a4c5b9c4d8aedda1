"""From the files that somebody dropped on the page to the records in them."""

from __future__ import annotations

import collections
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..ecg_transformer.wfdb_ecg_transformer import RecordError, record_files
from ..inference.answers import Answer
from ..inference.sources import Facts, Item, record_of_file


@dataclass
class Upload:
    """The records of one upload, in a folder of their own that goes when nobody refers to it any more.

    Attributes:
        folder: a copy of the files, side by side: those of one WFDB record come one by one, each to another place.
        items: the records, by the names of their files.
        answers: what the model says of each; empty until it was asked.
    """

    folder: tempfile.TemporaryDirectory = field(repr=False)
    items: list[Item]
    answers: list[Answer] = field(default_factory=list)

    def bare(self, text: str) -> str:
        """A message without the folder, which tells the reader nothing."""
        return text.replace(f"{self.folder.name}/", "")


def collect(paths: Sequence[str], facts: Facts) -> Upload:
    """Bring the uploaded files together; what a WFDB header or a JSON of the same stem belongs to is one record.

    `ValueError` where two files have one name.
    """
    names = collections.Counter(Path(path).name for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"Two files are named {twice[0]}: give them one after another, or under different names.")
    folder = tempfile.TemporaryDirectory(prefix="ecg-hf-demo-")
    files = [Path(shutil.copyfile(path, Path(folder.name, Path(path).name))) for path in paths]
    parts = _parts(files)
    records = [record_of_file(str(file), facts)._replace(name=file.name) for file in files if file not in parts]
    return Upload(folder, records)


def _parts(files: Sequence[Path]) -> set[Path]:
    """The files that are no records by themselves."""
    parts = {file for file in files if file.suffix == ".json" and _has_sibling(file, files)}
    for header in files:
        if header.suffix == ".hea":
            parts |= {Path(part) for part in _named_by(header)} - {header}
    return parts


def _has_sibling(file: Path, files: Sequence[Path]) -> bool:
    return any(other.stem == file.stem and other != file for other in files)


def _named_by(header: Path) -> list[str]:
    """The files of a record; of a header that is damaged, which the record's answer says, those of its stem."""
    try:
        return record_files(header)
    except (RecordError, FileNotFoundError):
        return [str(header.with_suffix(ending)) for ending in (".dat", ".mat")]


__all__ = ["Upload", "collect"]
