"""HDF5 files with one or many records, as those of CODE-15 % and SPH, by the package h5py."""

from __future__ import annotations

import math
import os
import re

import numpy as np

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .arrays import record_of_array
from .channels import MAX_FILE_BYTES, Said
from .formats import need
from .sidecar import STATED_NAMES, Stated, completed, read_sidecar, stated_by

SIGNALS = ("tracings", "ecg")
"""Names of data sets that hold signals: CODE-15 % and SaMi-Trop, SPH."""

_HINT = " SaMi-Trop has 400 Hz and mV, SPH 500 Hz and mV, both with the leads I II III aVR aVL aVF V1 to V6."
# Of CODE-15 % (https://doi.org/10.5281/zenodo.4916206). Its sister sets without ids have another order of leads.
_CODE15 = Stated(400, "mV", LEAD_NAMES)
_CODE15_SHAPE = (4096, 12)
_PART = re.compile(r"(\w+)=(.+)", re.ASCII)


def read(path: str, part: str | None, said: Said) -> Record:
    """Read a record of the data set `tracings` or `ecg`.

    The data set is (leads, samples), (samples, leads), or such records behind one another; then `part` chooses one: by
    ``row=12``, from 0, or by a data set of as many ids, ``exam_id=590673``. Rate, unit and lead names are attributes
    of the data set or of the file (`sampling_rate`, `units`, `lead_names`), stand in the JSON beside the file, or come
    from the caller; where nobody says them, a file in the form of CODE-15 % (4,096 samples of 12 leads, and
    `exam_id`) has what its description says, and the zeros that fill an exam up at both ends are cut off. Any other
    record is given as it is stored.

    Raises `RecordError` for a file with another layout, or one that refers to other files.
    """
    h5py = need("h5py", "HDF5")
    try:
        with h5py.File(path, "r", locking=False) as file:
            data = _signals(h5py, file)
            stated = _stated(file, data)
            values = _record_values(h5py, file, data, part)
            is_code15 = data.ndim == 3 and data.shape[1:] == _CODE15_SHAPE and "exam_id" in file
    except RecordError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RecordError(
            "it is a damaged or truncated HDF5 file, or packed in a way that h5py cannot read."
        ) from error
    if is_code15:
        values = without_padding(values)
    stated = completed(stated, read_sidecar(path), path)
    return record_of_array(values, stated, path, said, _HINT, _CODE15 if is_code15 else None)


def data_set(h5py, file, name: str):
    """A data set that lies in the file itself; None if there is none of that name."""
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise RecordError(f"its data set {name} is a link; only what lies in the file itself is read.")
    data = file[name]
    if not isinstance(data, h5py.Dataset):
        return None
    if data.external or data.is_virtual:
        raise RecordError(f"its data set {name} lies in other files; only what lies in the file itself is read.")
    if math.prod(data.chunks or (1,)) * data.dtype.itemsize > MAX_FILE_BYTES:
        raise RecordError(f"its data set {name} has chunks above {MAX_FILE_BYTES} bytes.")
    return data


def without_padding(values: np.ndarray) -> np.ndarray:
    """(samples, leads) from the first to the last sample that is not 0 in all leads; all of them where each is 0."""
    filled = np.flatnonzero((values != 0).any(axis=1))
    return values[filled[0] : filled[-1] + 1] if len(filled) else values


def _signals(h5py, file):
    found = {name: data for name in SIGNALS if (data := data_set(h5py, file, name)) is not None}
    if len(found) != 1:
        expected = f"expected one of the data sets {' and '.join(SIGNALS)}"
        there = [f"{name} (a group)" if file.get(name, getclass=True) is h5py.Group else name for name in file]
        names = ", ".join(there[:10]) or "nothing"
        saved_again = " A MATLAB 7.3 file can be saved again with -v7." if file.userblock_size else ""
        raise RecordError(f"it is an HDF5 file of unknown layout: {expected}, found {names}.{saved_again}")
    return next(iter(found.values()))


def _record_values(h5py, file, data, part: str | None) -> np.ndarray:
    """The values of one record, (leads, samples) or (samples, leads)."""
    if data.ndim not in (2, 3):
        raise RecordError(f"its signals have {data.ndim} axes; expected two, or three for several records.")
    if math.prod(data.shape[-2:]) * data.dtype.itemsize > MAX_FILE_BYTES:
        raise RecordError(f"a record has {data.shape[-2:]} values, above {MAX_FILE_BYTES} bytes.")
    if data.ndim == 2:
        if part is not None:
            raise RecordError("the file holds one record: leave out what stands behind #.")
        return data[()]
    return data[_row(h5py, file, len(data), part)]


def _row(h5py, file, count: int, part: str | None) -> int:
    match = _PART.fullmatch(part or "row=0" if count == 1 else part or "")
    if match is None:
        name = os.path.basename(file.filename)
        raise RecordError(
            f"it holds {count} records: name one, as {name}#row=0 or {name}#exam_id=ID; of several, give a table with "
            "such paths in its column `path`."
        )
    field, value = match.groups()
    if field == "row":
        if not re.fullmatch("[0-9]{1,18}", value) or int(value) >= count:
            raise RecordError(f"row={value[:40]} must be a whole number from 0 to {count - 1}.")
        return int(value)
    ids = data_set(h5py, file, field)
    if ids is None or ids.shape != (count,) or count * ids.dtype.itemsize > MAX_FILE_BYTES:
        raise RecordError(f"it has no data set {field[:40]} of {count} ids.")
    rows = np.flatnonzero(_texts(ids) == value)
    if len(rows) != 1:
        raise RecordError(f"{field[:40]}={value[:40]} is there {len(rows)} times, expected once.")
    return int(rows[0])


def _texts(ids) -> np.ndarray:
    values = ids.asstr()[()] if ids.dtype.kind in "OS" else ids[()]
    return values.astype(str)


def _stated(file, data) -> Stated:
    fields = {}
    for name in STATED_NAMES:
        value = data.attrs.get(name, file.attrs.get(name))
        if isinstance(value, np.ndarray):
            value = value.tolist()
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, list):
            value = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in value]
        fields[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return stated_by(fields, "its attributes")


__all__ = ["SIGNALS", "data_set", "read", "without_padding"]
