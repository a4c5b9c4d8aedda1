"""Which reader a file needs, by its first bytes; formats that are not read are refused by name."""

from __future__ import annotations

import importlib
import os
import re
import stat
import struct
from collections.abc import Callable
from types import ModuleType

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import MAX_FILE_BYTES, Said
from .folders import FOLDER_ENDINGS, TEXT_ENDINGS

Reader = Callable[[str, str | None, Said], Record]
"""(path of the file, what stands behind `#` in the record's path, what the caller says) -> the record."""

HEAD_BYTES = 4096
"""So many of the first bytes of a file decide what it is."""

# Offset, bytes, module that reads the format.
_SIGNATURES = (
    (128, b"DICM", "dicom"),
    (0, b"\xffBIOSEMI", "edf"),
    (0, b"\x93NUMPY", "arrays"),
    # A MATLAB 7.3 file is HDF5 behind a text.
    (0, b"MATLAB 7.3", "hdf5"),
    (0, b"MATLAB 5.0", "matlab"),
    # Before the signature a user block of these lengths may stand.
    *((offset, b"\x89HDF\r\n\x1a\n", "hdf5") for offset in (0, 512, 1024, 2048)),
)
_ROOTS = {"RestingECG": "muse", "AnnotatedECG": "hl7_aecg"}

_UNPACK = "unpack it and give the files in it"
_UNPACK_OR_SAVE = f"{_UNPACK}, or save an array by numpy.save, a table as CSV"
_CONVERT = "convert it to EDF, DICOM or CSV with the software of its maker, or with BioSig (biosig.sourceforge.net)"
_EXPORT = "export it as DICOM, HL7 aECG or CSV from the software of its maker"
# Offset, bytes, name, what to do.
_REFUSED = (
    (0, b"ISHNE1.0", "an ISHNE file", _CONVERT),
    (0, b"ANN  1.0", "an ISHNE annotation file", "give the file of its signals"),
    (0, b"@ MFR ", "an MFER file", _CONVERT),
    (0, b"@  MFER ", "an MFER file", _CONVERT),
    (0, b"GDF ", "a GDF file", _CONVERT),
    (0, b"PK\x03\x04", "a zip archive, as .npz and .xlsx are", _UNPACK_OR_SAVE),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (0, b"\x1f\x8b", "a gzip file", _UNPACK),
    (0, b"BZh", "a bzip2 file", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (0, b"(\xb5/\xfd", "a Zstandard file", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file that it stands for by `git lfs pull`"),
    (0, b"PAR1", "a Parquet file", "it is a table of many records: load it as one"),
    (0, b"fLaC", "a FLAC file", "give the WFDB header it belongs to"),
    (0, b"%PDF", "a PDF", "give the file of its samples; pictures are not read"),
    (0, b"\x89PNG", "a picture", "give the file of its samples; pictures are not read"),
    (0, b"\xff\xd8\xff", "a picture", "give the file of its samples; pictures are not read"),
)
_REFUSED_ROOTS = {
    "restingecgdata": ("a Philips Sierra XML file", _EXPORT),
    "CardiologyXML": ("a CardioSoft XML file", _EXPORT),
    "com.xiriuz.sema.xml.schillerEDI.SchillerEDI": ("a Schiller XML file", _EXPORT),
    "ECG": ("a Mortara XML file", _EXPORT),
}
# Formats without any mark in their bytes, by the ending of the file.
_REFUSED_ENDINGS = {".ecg": ("probably a Contec file", _EXPORT), ".scp": ("probably a damaged SCP-ECG file", _CONVERT)}
_READ = (
    "WFDB, EDF/BDF, DICOM, GE MUSE XML, HL7 aECG, HDF5 and MATLAB of known layout, NumPy (.npy), and text (.csv, .txt)"
)

# What may stand before the root element of XML: a declaration, comments, the type of the document.
_XML_PROLOGUE = re.compile(r"\s*(<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>)", re.DOTALL)
_XML_ROOT = re.compile(r"\s*<(?:[\w.-]+:)?([\w.-]+)[\s/>]")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class MissingFileError(RecordError, FileNotFoundError):
    """A file of a record does not exist."""


class MissingPackageError(RecordError, ImportError):
    """A format needs a package that is not installed."""


def reader_of(path: str) -> Reader:
    """The reader of the file at `path`; `RecordError` for what is no regular file, too large or not known."""
    stem, ending = os.path.splitext(path)
    if ending == ".hea" or (ending == ".dat" and os.path.lexists(f"{stem}.hea")):
        return _module("wfdb_records").read
    size = _size_of(path)
    if size is None:
        return _module("wfdb_records").read
    if ending.lower() == ".hea":
        raise RecordError(
            f"WFDB writes endings in small letters: rename it to {os.path.basename(stem)}.hea, and its signal files "
            "as it names them."
        )
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    # A signal file of a record may have this ending, too.
    is_signal = ending == ".mat" and not head.startswith(b"MATLAB ") and os.path.lexists(f"{stem}.hea")
    name = "wfdb_records" if is_signal else _format_of(head, size, path)
    # A file of HDF5 may hold any number of records, and its reader looks at the one that is asked for.
    if size > MAX_FILE_BYTES and name != "hdf5":
        raise RecordError(f"it has {size} bytes; {MAX_FILE_BYTES} are read at most. Cut it into records.")
    return _module(name).read


def _size_of(path: str) -> int | None:
    """In bytes; None where there is no file of that name, but a WFDB header of it."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        status = None
    if (status is None or stat.S_ISDIR(status.st_mode)) and os.path.lexists(f"{path}.hea"):
        return None
    if status is None:
        for ending in (*FOLDER_ENDINGS, *TEXT_ENDINGS):
            if os.path.isfile(path + ending):  # tables of CPSC 2018 and others name records so
                raise MissingFileError(f"there is no such file, but {os.path.basename(path)}{ending}: add the ending.")
        raise MissingFileError("there is no such file, nor a WFDB header of that name (.hea).")
    if stat.S_ISDIR(status.st_mode):
        raise RecordError("it is a folder; expected the file of one record.")
    if not stat.S_ISREG(status.st_mode):
        raise RecordError("it is not a regular file.")
    if status.st_size == 0:
        raise RecordError("the file is empty.")
    return status.st_size


def _module(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __package__)


def _format_of(head: bytes, size: int, path: str) -> str:
    """The module that reads a file with these first bytes; `RecordError` if there is none."""
    for offset, mark, name in _SIGNATURES:
        if head[offset : offset + len(mark)] == mark:
            return name
    # The header of EDF is one line of text, so a table that begins with a zero is told apart by the end of its line.
    if head.startswith(b"0       ") and b"\n" not in head[:256]:
        return "edf"
    for offset, mark, kind, remedy in _REFUSED:
        if head[offset : offset + len(mark)] == mark:
            raise RecordError(f"it is {kind}, which is not read: {remedy}.")
    if _is_scp(head, size):
        raise RecordError(f"it is an SCP-ECG file, which is not read: {_CONVERT}.")
    if _is_matlab_4(head):
        header = os.path.splitext(path)[0] + ".hea"
        kind = "a MATLAB 4 file, as those of the PhysioNet challenges"
        raise MissingFileError(f"it is {kind}, but its header {header} does not exist.")
    text = _text_of(head)
    if text is None:
        return _without_mark(path)
    return _xml_format(text) if text.lstrip().startswith("<") else "text"


def _is_scp(head: bytes, size: int) -> bool:
    # Checksum, size of the file; then section 0 with its checksum, its number, and most often a name at its end.
    if head[16:22] == b"SCPECG":
        return True
    return len(head) >= 16 and int.from_bytes(head[2:6], "little") == size and head[8:10] == b"\0\0"


def _is_matlab_4(head: bytes) -> bool:
    # Type, rows, columns, whether complex, length of the name. The type's digits: byte order, 0, precision, kind.
    if len(head) < 20:
        return False
    kind, rows, columns, is_complex, name_length = struct.unpack("<5i", head[:20])
    known = kind in range(0, 60, 10) and is_complex in (0, 1)
    return known and 0 < name_length <= 64 and rows > 0 and columns > 0


def _text_of(head: bytes) -> str | None:
    """The first bytes as text, None if they are none. What matters is ASCII, whatever the rest is."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace")
    if head.startswith((b"<\0", b"\0<")):
        return head.decode("utf-16-le" if head.startswith(b"<") else "utf-16-be", "replace")
    return None if _CONTROL.search(head) else head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _xml_format(text: str) -> str:
    position = 0
    while match := _XML_PROLOGUE.match(text, position):
        position = match.end()
    root = _XML_ROOT.match(text, position)
    name = root[1] if root else ""
    if name in _REFUSED_ROOTS:
        kind, remedy = _REFUSED_ROOTS[name]
        raise RecordError(f"it is {kind}, which is not read: {remedy}.")
    if name not in _ROOTS:
        raise RecordError(
            f"it is XML with the root element {name[:40]!r}; read are {' and '.join(_ROOTS)} (GE MUSE, HL7 aECG)."
        )
    return _ROOTS[name]


def _without_mark(path: str) -> str:
    stem, ending = os.path.splitext(path)
    if ending.casefold() in _REFUSED_ENDINGS:
        kind, remedy = _REFUSED_ENDINGS[ending.casefold()]
        raise RecordError(f"it is {kind}, which is not read: {remedy}.")
    if os.path.lexists(f"{stem}.hea"):
        raise RecordError(f"its bytes are of no known format; to read it by its WFDB header, give {stem}.hea.")
    if ending == ".dat":
        raise MissingFileError(f"its WFDB header {stem}.hea does not exist.")
    raise RecordError(f"its bytes are of no known format; read are {_READ}.")


def need(package: str, format_name: str) -> ModuleType:
    """The optional package that reads a format; `MissingPackageError` with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"{format_name} needs the package {package.partition('.')[0]}: pip install 'ecg-hf[readers]'."
        ) from error


__all__ = ["HEAD_BYTES", "MissingFileError", "MissingPackageError", "Reader", "need", "reader_of"]
