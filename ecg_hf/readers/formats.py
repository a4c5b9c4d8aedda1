"""Which reader a file needs, by its first bytes; formats that are not read are refused by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Said

Reader = Callable[[str, str | None, Said], Record]
"""(path of the file, what stands behind `#` in the record's path, what the caller says) -> the record."""

HEAD_BYTES = 4096
"""So many of the first bytes of a file decide what it is."""


class MissingPackageError(RecordError, ImportError):
    """A format needs a package that is not installed."""


def reader_of(path: str) -> Reader:
    """The reader of the file at `path`; `RecordError` for what is no regular file, too large or not known."""
    raise NotImplementedError


def need(package: str, format_name: str):
    """The optional package that reads a format; `MissingPackageError` with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"{format_name} needs the package {package.partition('.')[0]}: pip install 'ecg-hf[readers]'."
        ) from error
