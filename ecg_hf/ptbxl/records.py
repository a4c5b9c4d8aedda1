"""Fast, checked reading of WFDB records.

Headers follow https://physionet.org/physiotools/wag/header-5.htm. Samples of format 16, PTB-XL's own, are read with
NumPy; those of any other format are decoded by `wfdb`. Nothing is taken on trust: sizes, checksums, units, gains and
lead names are compared with what the header says, and nothing that is missing is guessed.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

LEAD_NAMES = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical spelling and order of the twelve leads."""

MAX_MICROVOLTS = 2**15 - 1
"""The largest voltage that a record can hold, 32.767 mV."""


class RecordError(ValueError):
    """A record that cannot be read as it stands; the message names the record and the problem."""


@dataclass(frozen=True)
class Record:
    """A multi-lead ECG.

    Attributes:
        signal: int16 (leads, samples), in µV.
        sampling_rate: in Hz.
        lead_names: canonical names of the rows of `signal`, in the order of the file.
    """

    signal: np.ndarray
    sampling_rate: int | float
    lead_names: tuple[str, ...]


class _SampleFormat(NamedTuple):
    """How a WFDB format stores a sample: bytes (None if compressed), and the value that marks an invalid one."""

    num_bytes: float | None
    invalid: int | None


# https://physionet.org/physiotools/wag/signal-5.htm
_SAMPLE_FORMATS = {
    "8": _SampleFormat(1, None),
    "16": _SampleFormat(2, -(2**15)),
    "24": _SampleFormat(3, -(2**23)),
    "32": _SampleFormat(4, -(2**31)),
    "61": _SampleFormat(2, -(2**15)),
    "80": _SampleFormat(1, -(2**7)),
    "160": _SampleFormat(2, -(2**15)),
    "212": _SampleFormat(3 / 2, -(2**11)),
    "310": _SampleFormat(4 / 3, -(2**9)),
    "311": _SampleFormat(4 / 3, -(2**9)),
    "508": _SampleFormat(None, -(2**7)),
    "516": _SampleFormat(None, -(2**15)),
    "524": _SampleFormat(None, -(2**23)),
}

# A packed format may fill its last group of 3 or 4 bytes.
_MAX_PADDING = 3

_MICROVOLTS = {"v": 1e6, "mv": 1e3, "uv": 1.0, "µv": 1.0, "μv": 1.0}

_CANONICAL = {name.upper(): name for name in LEAD_NAMES}

_FILE_NAME = re.compile(r"[^/\\:]+")
_FORMAT = re.compile(r"(?P<format>\d+)(x(?P<per_frame>\d+))?(:(?P<skew>\d+))?(\+(?P<offset>\d+))?")
_GAIN = re.compile(r"(?P<gain>[-+.\deE]+)(\((?P<baseline>[-+]?\d+)\))?(/(?P<units>\S+))?")


class _Lead(NamedTuple):
    """One signal line of a header; a sample s stands for ``(s - baseline) * microvolts / gain`` µV."""

    name: str
    file_name: str
    format: str
    byte_offset: int
    gain: float
    baseline: int
    microvolts: float
    checksum: int | None


class _Header(NamedTuple):
    sampling_rate: int | float
    num_samples: int
    leads: list[_Lead]
    signal_lines: list[str]


def read_record(path: str | os.PathLike, *, sampling_rate: float | None = None) -> Record:
    """Read the WFDB record at `path`, with or without the ending ``.hea`` or ``.dat``.

    Other units, gains and baselines are brought to the nearest µV. Flat leads are read as they are.

    Args:
        path: the record's path.
        sampling_rate: the rate in Hz that the record must have, if it matters.

    Raises:
        FileNotFoundError: the header or a signal file is missing.
        RecordError: the header cannot be read, or names a file outside its folder; the size of a signal file or a
            checksum differs from what the header says; samples are marked as invalid; a voltage is beyond ±32.767 mV;
            a lead is unknown; the sampling rate is another.
    """
    path = Path(re.sub(r"\.(hea|dat)$", "", os.fspath(path)))
    try:
        header = _read_header(Path(f"{path}.hea"))
        if sampling_rate is not None and header.sampling_rate != sampling_rate:
            raise RecordError(f"the sampling rate is {header.sampling_rate} Hz, expected {sampling_rate} Hz.")
        _check_file_sizes(path.parent, header)
        digital = _decode(path.parent, header)
        _check_checksums(digital, header.leads)
        _check_invalid_samples(digital, header.leads)
        signal = _to_microvolts(digital, header.leads)
    except RecordError as error:
        raise RecordError(f"Record {path}: {error}") from error.__cause__
    return Record(signal, header.sampling_rate, tuple(lead.name for lead in header.leads))


def _read_header(path: Path) -> _Header:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"the header is not UTF-8 text ({error}).") from error
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not lines:
        raise RecordError("the header is empty.")
    num_leads, sampling_rate, num_samples = _parse_record_line(lines[0])
    signal_lines = lines[1:]
    if num_leads != len(signal_lines):
        raise RecordError(f"the header announces {num_leads} leads and describes {len(signal_lines)}.")
    leads = [_parse_signal_line(line) for line in signal_lines]
    names = [lead.name for lead in leads]
    if len(set(names)) < len(names):
        raise RecordError(f"a lead is named twice: {', '.join(names)}.")
    return _Header(sampling_rate, num_samples, leads, signal_lines)


def _parse_record_line(line: str) -> tuple[int, int | float, int]:
    # A time and date may follow. They come in many spellings, not all of them WFDB's, and are not needed here.
    name, *fields = line.split()
    if "/" in name:
        raise RecordError("it has several segments; only records of one segment are read.")
    try:
        num_leads, sampling_rate, num_samples = int(fields[0]), float(fields[1].split("/")[0]), int(fields[2])
    except (IndexError, ValueError) as error:
        raise RecordError(
            "the header must begin with name, number of leads, sampling rate and number of samples, "
            f"it begins {line[:80]!r}."
        ) from error
    if num_leads < 1 or num_samples < 1 or not 0 < sampling_rate < math.inf:
        raise RecordError(f"leads, sampling rate and samples must be positive; the header begins {line[:80]!r}.")
    return num_leads, int(sampling_rate) if sampling_rate.is_integer() else sampling_rate, num_samples


def _parse_signal_line(line: str) -> _Lead:
    # FILE FORMAT GAIN ADC_RESOLUTION ADC_ZERO INITIAL_VALUE CHECKSUM BLOCK_SIZE NAME; what follows FORMAT is optional.
    fields = line.split(maxsplit=8)
    file_name, storage, scale, _, adc_zero, _, checksum, _, name = fields + [""] * (9 - len(fields))
    name = _canonical_name(name)
    if file_name in {".", ".."} or not _FILE_NAME.fullmatch(file_name):
        raise RecordError(f"lead {name} is said to be in {file_name!r}, which is not in the record's own folder.")
    try:
        sample_format, byte_offset = _parse_storage(storage)
        gain, baseline, microvolts = _parse_scale(scale, int(adc_zero or 0))
        checksum = int(checksum) if checksum else None
    except RecordError as error:
        raise RecordError(f"lead {name} {error}") from error.__cause__
    except ValueError as error:
        raise RecordError(f"the header has a line that cannot be read: {line[:80]!r}.") from error
    return _Lead(name, file_name, sample_format, byte_offset, gain, baseline, microvolts, checksum)


@functools.lru_cache
def _canonical_name(name: str) -> str:
    canonical = _CANONICAL.get(name.strip().upper())
    if canonical is None:
        raise RecordError(f"{name!r} is not the name of a lead; these are {', '.join(LEAD_NAMES)}.")
    return canonical


@functools.lru_cache
def _parse_storage(text: str) -> tuple[str, int]:
    match = _FORMAT.fullmatch(text)
    if match is None or match["format"] not in _SAMPLE_FORMATS:
        raise RecordError(f"has the format {text!r}; known are {', '.join(_SAMPLE_FORMATS)}.")
    if int(match["per_frame"] or 1) != 1 or int(match["skew"] or 0) != 0:
        raise RecordError(f"has another rate than the record or is shifted in time (format {text!r}).")
    return match["format"], int(match["offset"] or 0)


@functools.lru_cache
def _parse_scale(text: str, adc_zero: int) -> tuple[float, int, float]:
    match = _GAIN.fullmatch(text)
    gain = float(match["gain"]) if match else 0.0
    if gain == 0 or not math.isfinite(gain):
        raise RecordError(f"has no gain ({text!r}), so its voltage is unknown; the header must give it (as 1000/mV).")
    # mV and a baseline equal to the ADC's zero are what WFDB defines for a header that leaves them out.
    units = match["units"] or "mV"
    if units.lower() not in _MICROVOLTS:
        raise RecordError(f"is in {units!r}; the units must be V, mV or uV.")
    baseline = adc_zero if match["baseline"] is None else int(match["baseline"])
    return gain, baseline, _MICROVOLTS[units.lower()]


def _check_file_sizes(folder: Path, header: _Header) -> None:
    """Compare each signal file's size with the header, before anything is allocated."""
    for file_name in {lead.file_name for lead in header.leads}:
        leads = [lead for lead in header.leads if lead.file_name == file_name]
        if len({(lead.format, lead.byte_offset) for lead in leads}) > 1:
            raise RecordError(f"{file_name} is said to have several formats.")
        num_bytes, _ = _SAMPLE_FORMATS[leads[0].format]
        if num_bytes is None:
            _check_compressed_size(folder / file_name, header.num_samples + leads[0].byte_offset)
            continue
        size = (folder / file_name).stat().st_size
        expected = leads[0].byte_offset + math.ceil(num_bytes * len(leads) * header.num_samples)
        padding = 0 if num_bytes % 1 == 0 else _MAX_PADDING
        if not expected <= size <= expected + padding:
            raise RecordError(
                f"{file_name} is {'truncated' if size < expected else 'too long'}: it has {size} bytes, and "
                f"{len(leads)} leads of {header.num_samples} samples make {expected}."
            )


def _check_compressed_size(path: Path, expected: int) -> None:
    import soundfile

    with path.open("rb") as file:
        try:
            num_samples = soundfile.info(file).frames
        except soundfile.LibsndfileError as error:
            raise RecordError(f"{path.name} is not a readable FLAC file ({error}).") from error
    if num_samples != expected:
        raise RecordError(f"{path.name} has {num_samples} samples for each lead, the header says {expected}.")


def _decode(folder: Path, header: _Header) -> np.ndarray:
    """The samples as they are stored, (leads, samples)."""
    first = header.leads[0]
    if first.format != "16" or any(lead.file_name != first.file_name for lead in header.leads):
        return _decode_with_wfdb(folder, header)
    samples = np.fromfile(folder / first.file_name, "<i2", offset=first.byte_offset)
    return np.ascontiguousarray(samples.reshape(header.num_samples, -1).T, dtype=np.int16)


def _decode_with_wfdb(folder: Path, header: _Header) -> np.ndarray:
    import wfdb

    # wfdb refuses names and dates that are common in real headers, so it gets only those lines that it needs.
    with tempfile.TemporaryDirectory() as copy:
        for file_name in {lead.file_name for lead in header.leads}:
            shutil.copyfile(folder / file_name, Path(copy, file_name))
        record_line = f"record {len(header.leads)} {header.sampling_rate} {header.num_samples}"
        Path(copy, "record.hea").write_text("\n".join([record_line, *header.signal_lines]), encoding="utf-8")
        try:
            return wfdb.rdrecord(str(Path(copy, "record")), physical=False).d_signal.T
        except ValueError as error:
            raise RecordError(f"wfdb cannot decode it ({error}).") from error


def _check_checksums(digital: np.ndarray, leads: list[_Lead]) -> None:
    # Writers differ in the sign of the 16 bits.
    sums = digital.sum(axis=1, dtype=np.int64) % 2**16
    for lead, found in zip(leads, sums, strict=True):
        if lead.checksum is not None and lead.checksum % 2**16 != found:
            raise RecordError(
                f"lead {lead.name} has the checksum {found}, the header says {lead.checksum % 2**16}: "
                f"{lead.file_name} or the header is damaged."
            )


def _check_invalid_samples(digital: np.ndarray, leads: list[_Lead]) -> None:
    counts = {}
    for lead, samples in zip(leads, digital, strict=True):
        invalid = _SAMPLE_FORMATS[lead.format].invalid
        if invalid is not None and (count := np.count_nonzero(samples == invalid)):
            counts[lead.name] = count
    if counts:
        listed = ", ".join(f"{count} in lead {name}" for name, count in counts.items())
        raise RecordError(f"samples are marked as invalid (NaN): {listed}. Repair the record or leave it out.")


def _to_microvolts(digital: np.ndarray, leads: list[_Lead]) -> np.ndarray:
    if digital.dtype == np.int16 and all(lead.gain == lead.microvolts and lead.baseline == 0 for lead in leads):
        return digital
    baseline, microvolts, gain = (
        np.array([[getattr(lead, field)] for lead in leads]) for field in ("baseline", "microvolts", "gain")
    )
    signal = np.rint((digital - baseline) * microvolts / gain)
    for lead, peak in zip(leads, np.abs(signal).max(axis=1), strict=True):
        if peak > MAX_MICROVOLTS:
            raise RecordError(
                f"lead {lead.name} reaches {peak / 1000:g} mV, beyond the ±{MAX_MICROVOLTS / 1000} mV that are read; "
                "are the header's gain and units right?"
            )
    return signal.astype(np.int16)


__all__ = ["LEAD_NAMES", "MAX_MICROVOLTS", "Record", "RecordError", "read_record"]
