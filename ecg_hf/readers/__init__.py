"""ECG files of many formats, each read as a [`Record`]."""

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .formats import MissingFileError, MissingPackageError
from .reading import read_ecg

__all__ = ["MissingFileError", "MissingPackageError", "Record", "RecordError", "read_ecg"]
