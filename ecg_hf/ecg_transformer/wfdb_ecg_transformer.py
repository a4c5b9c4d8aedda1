"""Fast, checked reading of WFDB records.

Headers follow https://physionet.org/physiotools/wag/header-5.htm, samples signal-5.htm beside it. The common formats
are read with NumPy, the rare ones are decoded by the package wfdb. Nothing is taken on trust: sizes, checksums, units,
gains and lead names are compared with what the header says, and nothing that is missing is guessed.
"""

import functools
import math
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .common_ecg_transformer import (
    LEAD_NAMES,
    MAX_MICROVOLTS,
    MICROVOLTS,
    SAY_WHAT_THEY_ARE,
    canonical_lead,
    named_channels,
)

MAX_FILE_BYTES = 2**31
"""The largest file that is read as one record; a day of twelve leads at 1000 Hz has 2.07e9 bytes in int16."""

_MAX_HEADER_BYTES = 2**20


class RecordError(ValueError):
    """A record that cannot be read as it stands; the message names the record and the problem."""


@dataclass(frozen=True)
class Record:
    """A multi-lead ECG.

    Attributes:
        signal: (leads, samples), in µV: int16, or float32 from `ecg_hf.read_ecg` of a file that may hold fractions of
            1 µV. `read_record` always rounds to int16.
        sampling_rate: in Hz.
        lead_names: canonical names of the rows of `signal`, in the order of the file.
        other_channels: what else the file holds and is left out, since it is none of the twelve leads.
    """

    signal: np.ndarray
    sampling_rate: int | float
    lead_names: tuple[str, ...]
    other_channels: tuple[str, ...] = ()

    def __repr__(self) -> str:
        num_samples = self.signal.shape[-1]
        others = f", and left out: {', '.join(self.other_channels)}" if self.other_channels else ""
        return (
            f"Record({' '.join(self.lead_names)}{others}; {num_samples} samples at {self.sampling_rate:g} Hz "
            f"({num_samples / self.sampling_rate:g} s), {self.signal.dtype} µV)"
        )


class _SampleFormat(NamedTuple):
    """How samples are stored, and the mark of an invalid one. Compressed formats count in samples instead of bytes."""

    group_bytes: int
    group_samples: int
    invalid: int | None
    decode: Callable[[np.ndarray], np.ndarray] | None = None


def _decode_24(stored: np.ndarray) -> np.ndarray:
    # The three bytes become the upper ones of an int32, and the shift brings them down with their sign.
    return np.pad(stored.reshape(-1, 3), ((0, 0), (1, 0))).view("<i4")[:, 0] >> 8


def _decode_212(stored: np.ndarray) -> np.ndarray:
    # Two samples of 12 bits in three bytes; the middle one holds the upper four bits of both.
    low, middle, high = np.pad(stored, (0, -len(stored) % 3)).reshape(-1, 3).astype(np.int16).T
    samples = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1)
    return ((samples ^ 0x800) - 0x800).reshape(-1)


_SAMPLE_FORMATS = {
    "8": _SampleFormat(1, 1, None),
    "16": _SampleFormat(2, 1, -(2**15), lambda stored: stored.view("<i2")),
    "24": _SampleFormat(3, 1, -(2**23), _decode_24),
    "32": _SampleFormat(4, 1, -(2**31), lambda stored: stored.view("<i4")),
    "61": _SampleFormat(2, 1, -(2**15), lambda stored: stored.view(">i2")),
    "80": _SampleFormat(1, 1, -(2**7), lambda stored: stored.astype(np.int16) - 2**7),
    "160": _SampleFormat(2, 1, -(2**15), lambda stored: stored.view("<u2").astype(np.int32) - 2**15),
    "212": _SampleFormat(3, 2, -(2**11), _decode_212),
    "310": _SampleFormat(4, 3, -(2**9)),
    "311": _SampleFormat(4, 3, -(2**9)),
    "508": _SampleFormat(1, 1, -(2**7)),
    "516": _SampleFormat(1, 1, -(2**15)),
    "524": _SampleFormat(1, 1, -(2**23)),
}
_COMPRESSED = ("508", "516", "524")

# Only 0 to 9 count, not the digits of other alphabets.
_COUNT = re.compile(r"[0-9]{1,18}")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TIME_OR_DATE = re.compile(r".*[0-9][-:/].*[0-9].*|[0-9]+\.[0-9]+\.[0-9]+")
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:\0]+")
_STORAGE = re.compile(r"([0-9]+)(?:x(0*[1-9][0-9]{0,8}))?(?::([0-9]{1,9}))?(?:\+([0-9]{1,18}))?")
_SCALE = re.compile(rf"(?P<gain>[-+]?{_NUMBER.pattern})(\((?P<baseline>{_INTEGER.pattern})\))?(/(?P<unit>\S*))?")


class _Header(NamedTuple):
    """`num_frames` is 0 where the header gives no length; `lines` describe the segments or the channels."""

    has_segments: bool
    sampling_rate: int | float
    num_frames: int
    lines: list[str]


class _Channel(NamedTuple):
    """One signal line of a header as it stands; `lead` is None if the channel is none of the twelve leads."""

    name: str
    lead: str | None
    file_name: str
    storage: str
    scale: str
    adc_zero: str
    initial: str
    checksum: str


class _Storage(NamedTuple):
    format: str
    per_frame: int
    skew: int
    offset: int


class _SignalFile(NamedTuple):
    """A file that holds used leads. `size` is in bytes, or if compressed in samples of each channel."""

    path: str
    size: int
    frame_samples: int
    channels: list[_Channel]
    storages: list[_Storage]


class _Segment(NamedTuple):
    sampling_rate: int | float
    num_frames: int
    leads: list[_Channel]
    files: dict[str, _SignalFile]
    other_channels: list[str]


def read_record(
    path: str | os.PathLike, *, sampling_rate: float | None = None, lead_names: Sequence[str] | None = None
) -> Record:
    """Read the WFDB record at `path`, with or without the ending ``.hea``, ``.dat`` or ``.mat``.

    Other units, gains and baselines are brought to the nearest µV. Leads with several samples in a frame are read at
    their full rate, segments are put end to end, a length that the header does not give is that of the signal files;
    dates and times are ignored. Channels that are none of the twelve leads are named in one warning and left out;
    like leads that are not asked for, they may be damaged.

    Args:
        path: the record's path.
        sampling_rate: the rate in Hz that the record must have, if it matters.
        lead_names: the leads to read, of those that the file has; None for all of the twelve.

    Raises:
        FileNotFoundError: the header or a signal file is missing.
        RecordError: the header cannot be read, gives no rate or gain, or names a file outside its folder or no regular
            one; a file's size, a checksum or `sampling_rate` differs; samples are invalid or beyond ±32.767 mV; leads
            are missing, named twice, shifted in time or of several rates; segments differ or have gaps.
        ImportError: the format needs a package that is not installed.
        ValueError: `lead_names` has a name that is none of the twelve.
    """
    record = read_wanted_leads(path, _wanted_leads(lead_names), sampling_rate=sampling_rate)
    if others := record.other_channels:
        listed = ", ".join(others)
        warnings.warn(
            f"Record {_without_ending(path)}: channels left out, as none of the twelve leads: {listed}.", stacklevel=2
        )
    return record


def read_wanted_leads(
    path: str | os.PathLike,
    wanted: frozenset[str],
    *,
    sampling_rate: float | None = None,
    microvolts: float | None = None,
    lead_names: Sequence[str] | None = None,
    keep_fractions: bool = False,
) -> Record:
    """As `read_record`, without the warning.

    Args:
        path: the record's path.
        wanted: canonical names of the leads to read, of those that the file has.
        sampling_rate: the rate in Hz that the record must have, if it matters.
        microvolts: µV in one of the unit that the leads must have, if it matters.
        lead_names: what channels are called that tell no lead by their names, see [`named_channels`].
        keep_fractions: give float32 where a step of the file is below 1 µV, instead of rounding to int16.
    """
    path = _without_ending(path)
    try:
        first, *_ = segments = _plan_record(path, wanted, lead_names)
        if sampling_rate is not None and first.sampling_rate != sampling_rate:
            raise RecordError(f"the sampling rate is {first.sampling_rate} Hz, expected {sampling_rate} Hz.")
        steps = [_step_of(lead, microvolts) for segment in segments for lead in segment.leads]
        dtype = np.float32 if keep_fractions and min(steps) < 1 else np.int16
        signals = [_to_microvolts(_decode(segment), segment.leads, dtype) for segment in segments]
    except (RecordError, FileNotFoundError) as error:
        raise type(error)(f"Record {path}: {error}") from error.__cause__
    others = tuple(dict.fromkeys(name for segment in segments for name in segment.other_channels))
    signal = signals[0] if len(signals) == 1 else np.concatenate(signals, axis=1)
    return Record(signal, first.sampling_rate, tuple(lead.lead for lead in first.leads), others)


def record_files(path: str | os.PathLike) -> list[str]:
    """The paths of all files that `read_record` reads for a record: its header, its segments' and the signal files.

    Raises `FileNotFoundError` and `RecordError` as `read_record` does; no signal is read.
    """
    path = _without_ending(path)
    header = _read_header(f"{path}.hea")
    segments = [line.split()[0] for line in header.lines] if header.has_segments else []
    headers = [f"{path}.hea", *(os.path.join(os.path.dirname(path), f"{name}.hea") for name in segments)]
    plans = _plan_record(path, frozenset(LEAD_NAMES))
    return [*headers, *dict.fromkeys(file.path for plan in plans for file in plan.files.values())]


def _without_ending(path: str | os.PathLike) -> str:
    return re.sub(r"\.(hea|dat|mat)$", "", os.fspath(path))


def _wanted_leads(lead_names: Sequence[str] | None) -> frozenset[str]:
    if lead_names is None:
        return frozenset(LEAD_NAMES)
    wanted = frozenset(canonical_lead(str(name)) for name in lead_names)
    if isinstance(lead_names, str) or not wanted or None in wanted:
        raise ValueError(f"`lead_names` must list some of {' '.join(LEAD_NAMES)}, got {lead_names!r}.")
    return wanted


def _read_header(path: str) -> _Header:
    size = _file_size(path, f"its header {path}")
    if size > _MAX_HEADER_BYTES:
        raise RecordError(f"its header {path} has {size} bytes; a header has {_MAX_HEADER_BYTES} at most.")
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not `splitlines`, which also breaks lines at characters that Windows writes as dots or quotes in a comment.
    lines = map(str.strip, text.replace("\r", "\n").split("\n"))
    lines = [line for line in lines if line and line[0] != "#"]
    return _parse_header(*(lines or [""]))


def _file_size(path: str, name: str) -> int:
    """In bytes, of a regular file: a pipe or a device might never end."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name} does not exist.") from None
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(f"{name} is not a regular file.")
    return status.st_size


def _parse_header(first: str, *lines: str) -> _Header:
    # NAME[/SEGMENTS] CHANNELS RATE[/COUNTER] [LENGTH] [TIME] [DATE]. Time and date come in many spellings, not all of
    # them WFDB's, and are not needed.
    name, *fields = first.split() or [""]
    count = name.partition("/")[2] if "/" in name else "".join(fields[:1])
    if not fields or not _COUNT.fullmatch(count):
        expected = "name[/segments], number of leads, sampling rate and length"
        raise RecordError(f"the header must begin with {expected}; it begins {first[:80]!r}.")
    if not 0 < int(count) == len(lines):
        kind = "segments" if "/" in name else "leads"
        raise RecordError(f"the header announces {count} {kind} and describes {len(lines)}; expected one or more.")
    length = "".join(fields[2:3])
    is_count = _COUNT.fullmatch(length)
    if length and not is_count and not _TIME_OR_DATE.fullmatch(length):
        raise RecordError(f"the header gives the number of samples {length[:40]!r}; expected a whole number, or none.")
    return _Header("/" in name, _parse_rate(fields[1:]), int(length) if is_count else 0, list(lines))


def _parse_rate(fields: list[str]) -> int | float:
    if not fields:
        raise RecordError("the header gives no sampling rate; write it in Hz after the number of leads.")
    text = fields[0].partition("/")[0]
    rate = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not 0 < rate < math.inf:
        raise RecordError(f"the header gives the sampling rate {fields[0][:40]!r}; expected Hz above 0, such as 500.")
    return int(rate) if rate.is_integer() else rate


def _parse_channel(line: str, number: int) -> _Channel:
    # FILE FORMAT GAIN ADC_RESOLUTION ADC_ZERO INITIAL_VALUE CHECKSUM BLOCK_SIZE NAME; what follows FORMAT is optional.
    fields = line.split(maxsplit=8)
    file_name, storage, scale, _, adc_zero, initial, checksum, _, name = fields + [""] * (9 - len(fields))
    name = name or f"channel {number} without a name"
    return _Channel(name, canonical_lead(name), file_name, storage, scale, adc_zero, initial, checksum)


@functools.lru_cache(maxsize=1024)
def _parse_storage(name: str, text: str) -> _Storage:
    match = _STORAGE.fullmatch(text)
    if match is None or match[1] not in _SAMPLE_FORMATS:
        raise RecordError(f"lead {name} has the format {text!r}; known are {', '.join(_SAMPLE_FORMATS)}.")
    return _Storage(match[1], int(match[2] or 1), int(match[3] or 0), int(match[4] or 0))


@functools.lru_cache(maxsize=1024)
def _parse_scale(lead: str, text: str, adc_zero: str) -> tuple[float, int, float]:
    """Gain, baseline and µV in one of the unit: a sample s stands for ``(s - baseline) * microvolts / gain`` µV."""
    match = _SCALE.fullmatch(text or "0")
    if match is None:
        raise RecordError(f"lead {lead} has the gain {text!r}, which cannot be read; expected one like 1000(0)/mV.")
    gain = float(match["gain"])
    if gain == 0 or not math.isfinite(gain):
        raise RecordError(f"lead {lead} has no gain ({text!r}), so its voltage is unknown; give it, as 1000/mV.")
    # mV and a baseline equal to the ADC's zero are what WFDB defines for a header that leaves them out.
    unit = "mV" if match["unit"] is None else match["unit"]
    if unit.casefold() not in MICROVOLTS:
        raise RecordError(f"lead {lead} is in {unit!r}; the unit must be V, mV, uV or nV. Correct the header.")
    return gain, _int32(lead, match["baseline"] or adc_zero or "0", "baseline"), MICROVOLTS[unit.casefold()]


def _int32(lead: str, text: str, field: str) -> int:
    # float takes any number of digits, which int does not.
    if not _INTEGER.fullmatch(text) or not -(2**31) <= float(text) < 2**31:
        raise RecordError(f"lead {lead} has the {field} {text[:40]!r}; expected a whole number of at most 32 bits.")
    return int(text)


def _plan_record(path: str, wanted: frozenset[str], lead_names: Sequence[str] | None = None) -> list[_Segment]:
    """Check everything that can be checked before anything is allocated."""
    folder, header = os.path.dirname(path), _read_header(f"{path}.hea")
    if not header.has_segments:
        return [_plan_segment(folder, header, wanted, lead_names)]
    # In a record of variable layout the first segment is empty; it lists the channels of those that follow.
    lines = header.lines[1:] if header.lines[0].split()[1:] == ["0"] else header.lines
    segments = [_plan_part(folder, line, header.sampling_rate, wanted, lead_names) for line in lines]
    total = sum(segment.num_frames for segment in segments)
    if header.num_frames not in (0, total) or not segments:
        raise RecordError(f"its {len(segments)} segments have {total} samples, the header says {header.num_frames}.")
    order = [lead.lead for lead in segments[0].leads]
    for line, segment in zip(lines, segments, strict=True):
        names = [lead.lead for lead in segment.leads]
        if set(names) != set(order) or segment.sampling_rate != segments[0].sampling_rate:
            listed = f"{', '.join(names)} at {segment.sampling_rate} Hz"
            raise RecordError(f"segment {line} has {listed}, unlike the first one; read the segments one by one.")
        segment.leads.sort(key=lambda lead: order.index(lead.lead))
    return segments


def _plan_part(
    folder: str, line: str, rate: int | float, wanted: frozenset[str], lead_names: Sequence[str] | None
) -> _Segment:
    """Plan the segment of a line of a record's header; `rate` is that of the record in Hz."""
    name, *count = line.split()
    if name == "~":
        raise RecordError(f"it has a gap between its segments ({line[:80]!r}); read the segments one by one.")
    if not _FILE_NAME.fullmatch(name) or len(count) != 1 or not _COUNT.fullmatch(count[0]):
        raise RecordError(f"expected a segment in the record's own folder and a number of samples, got {line[:80]!r}.")
    try:
        header = _read_header(os.path.join(folder, f"{name}.hea"))
        if header.has_segments:
            raise RecordError("it has segments itself; only those of one level are read.")
        if header.sampling_rate != rate:
            raise RecordError(f"its sampling rate is {header.sampling_rate} Hz, that of the record {rate} Hz.")
        if int(count[0]) and header.num_frames not in (0, int(count[0])):
            raise RecordError(f"it has {header.num_frames} samples, the record's header says {count[0]}.")
        header = header._replace(num_frames=header.num_frames or int(count[0]))
        return _plan_segment(folder, header, wanted, lead_names)
    except (RecordError, FileNotFoundError) as error:
        raise type(error)(f"segment {name}: {error}") from error.__cause__


def _plan_segment(folder: str, header: _Header, wanted: frozenset[str], lead_names: Sequence[str] | None) -> _Segment:
    channels = [_parse_channel(text, number) for number, text in enumerate(header.lines)]
    if lead_names is not None:
        names = named_channels([channel.name for channel in channels], lead_names)
        channels = [
            channel._replace(name=name, lead=canonical_lead(name))
            for channel, name in zip(channels, names, strict=True)
        ]
    leads = [channel for channel in channels if channel.lead in wanted]
    if not leads:
        listed = ", ".join(channel.name for channel in channels)
        raise RecordError(
            f"it has none of the leads {' '.join(sorted(wanted))}; it has {listed}."
            f"{'' if any(channel.lead for channel in channels) else SAY_WHAT_THEY_ARE}"
        )
    if len({lead.lead for lead in leads}) < len(leads):
        raise RecordError(f"a lead is named twice: {', '.join(lead.lead for lead in leads)}.")
    rate = header.sampling_rate * _common_per_frame(leads, header.sampling_rate)
    for lead in leads:
        _scale_of(lead)
    files = {lead.file_name: None for lead in leads}
    files = {name: _plan_file(folder, name, channels, leads) for name in files}
    num_frames = header.num_frames or _common_length(files)
    for file in files.values():
        _check_size(file, num_frames)
    return _Segment(rate, num_frames, leads, files, [channel.name for channel in channels if channel.lead is None])


def _common_per_frame(leads: list[_Channel], rate: int | float) -> int:
    """Samples of each lead in a frame of the record, which has the sampling rate `rate` in Hz."""
    storages = {lead.lead: _parse_storage(lead.lead, lead.storage) for lead in leads}
    shifted = [name for name, storage in storages.items() if storage.skew]
    if shifted:
        raise RecordError(f"lead {shifted[0]} is shifted in time; write the record again with its leads in step.")
    counts = {storage.per_frame for storage in storages.values()}
    if len(counts) > 1:
        rates = ", ".join(f"{name} {storage.per_frame * rate:g} Hz" for name, storage in storages.items())
        raise RecordError(f"its leads have different sampling rates: {rates}. Ask for leads of one rate.")
    return counts.pop()


def _plan_file(folder: str, name: str, channels: list[_Channel], leads: list[_Channel]) -> _SignalFile:
    """The layout of a file from all of its channels; those that are not used say how far apart the others are."""
    lead = next(lead.lead for lead in leads if lead.file_name == name)
    if not _FILE_NAME.fullmatch(name):
        raise RecordError(f"lead {lead} is said to be in {name!r}, which is not in the record's own folder.")
    channels = [channel for channel in channels if channel.file_name == name]
    storages = [_parse_storage(channel.name, channel.storage) for channel in channels]
    if len({(storage.format, storage.offset) for storage in storages}) > 1:
        raise RecordError(f"{name} is said to have several formats.")
    path = os.path.join(folder, name)
    size = _file_size(path, f"{path}, which the header names for lead {lead},")
    if size > MAX_FILE_BYTES:
        raise RecordError(f"{path} has {size} bytes; files of {MAX_FILE_BYTES} are read at most. Cut it into records.")
    frame_samples = sum(storage.per_frame for storage in storages)
    if storages[0].format in _COMPRESSED:
        size, frame_samples = _flac_samples(path, len(channels)), storages[0].per_frame
    return _SignalFile(path, size, frame_samples, channels, storages)


def _flac_samples(path: str, num_channels: int) -> int:
    """Samples of each channel, by what a FLAC file begins with (https://www.rfc-editor.org/rfc/rfc9639)."""
    with open(path, "rb") as file:
        start = file.read(26)
    if len(start) < 26 or not start.startswith(b"fLaC"):
        raise RecordError(f"{path} is not a FLAC file.")
    # From byte 18: 20 bits of rate, 3 of channels less one, 5 of bits in a sample, 36 of samples.
    fields = int.from_bytes(start[18:], "big")
    channels, samples = (fields >> 41 & 7) + 1, fields & (2**36 - 1)
    # A frame of FLAC has at most 2**16 samples of each channel, so a short file cannot have billions.
    if channels != num_channels or samples > os.path.getsize(path) * 2**16:
        found = f"{channels} channels of {samples} samples"
        raise RecordError(f"{path} announces {found}; expected {num_channels} of as many as its size can hold.")
    return samples


def _common_length(files: dict[str, _SignalFile]) -> int:
    """Frames of the files, of which the header says nothing."""
    lengths = {}
    for name, file in files.items():
        stored = _SAMPLE_FORMATS[file.storages[0].format]
        samples = (file.size - file.storages[0].offset) * stored.group_samples // stored.group_bytes
        # The last group of packed samples may be filled up.
        lengths[name] = samples / file.frame_samples if stored.group_samples == 1 else samples // file.frame_samples
    length = int(max(lengths.values()))
    if length < 1 or set(lengths.values()) != {length}:
        listed = ", ".join(f"{count:.10g} in {name}" for name, count in lengths.items())
        raise RecordError(f"the header gives no number of samples, and its files do not agree on one: {listed}.")
    return length


def _check_size(file: _SignalFile, num_frames: int) -> None:
    first = file.storages[0]
    # A file with a shifted channel may end with samples of that channel alone, and packed samples with a whole group.
    longest = _size(file, num_frames + max(storage.skew for storage in file.storages))
    longest += 3 if _SAMPLE_FORMATS[first.format].group_samples > 1 else 0
    expected = _size(file, num_frames)
    if not expected <= file.size <= longest:
        problem = "truncated" if file.size < expected else "too long"
        found = f"{problem}: it has {file.size} {'samples' if first.format in _COMPRESSED else 'bytes'}"
        raise RecordError(f"{file.path} is {found}, {num_frames} x {file.frame_samples} samples make {expected}.")


def _size(file: _SignalFile, num_frames: int) -> int:
    stored = _SAMPLE_FORMATS[file.storages[0].format]
    return file.storages[0].offset - (-num_frames * file.frame_samples * stored.group_bytes // stored.group_samples)


def _decode(segment: _Segment) -> np.ndarray:
    """The samples as they are stored, (leads, samples)."""
    frames = {name: _read_frames(file, segment.num_frames) for name, file in segment.files.items()}
    rows = []
    for lead in segment.leads:
        file, samples = segment.files[lead.file_name], frames[lead.file_name]
        if file.channels == segment.leads and samples.shape[1] == len(segment.leads):
            return np.ascontiguousarray(samples.T)
        place = file.channels.index(lead)
        start = sum(storage.per_frame for storage in file.storages[:place])
        rows.append(samples[:, start : start + file.storages[place].per_frame].reshape(-1))
    return np.stack(rows)


def _read_frames(file: _SignalFile, num_frames: int) -> np.ndarray:
    """(frames, samples in a frame)"""
    first = file.storages[0]
    decode = _SAMPLE_FORMATS[first.format].decode
    if decode is None:
        return _decode_with_wfdb(file, num_frames)
    stored = np.empty(_size(file, num_frames) - first.offset, np.uint8)
    with open(file.path, "rb") as opened:  # faster than `np.fromfile`, which opens it twice
        opened.seek(first.offset)
        stored = stored[: opened.readinto(stored)]
    return decode(stored)[: num_frames * file.frame_samples].reshape(num_frames, file.frame_samples)


def _decode_with_wfdb(file: _SignalFile, num_frames: int) -> np.ndarray:
    try:
        import wfdb
    except ImportError as error:
        raise ImportError("This format of WFDB needs the package wfdb: pip install wfdb") from error
    # wfdb refuses names and dates that are common in real headers, so it gets only those fields that it needs.
    lines = [f"record {len(file.channels)} 1 {num_frames}"]
    for channel, stored in zip(file.channels, file.storages, strict=True):
        initial = channel.initial if _INTEGER.fullmatch(channel.initial) else "0"
        lines.append(f"signal.dat {stored.format}x{stored.per_frame}+{stored.offset} 1 16 0 {initial} 0 0 lead")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(file.path, os.path.join(folder, "signal.dat"))
        with open(os.path.join(folder, "record.hea"), "w", encoding="utf-8") as header:
            header.write("\n".join(lines))
        try:
            # Otherwise it averages the samples of a frame.
            record = wfdb.rdrecord(os.path.join(folder, "record"), physical=False, smooth_frames=False)
        except (ValueError, IndexError, RuntimeError) as error:
            raise RecordError(f"wfdb cannot decode {file.path} ({error}).") from error
    return np.concatenate([each.reshape(num_frames, -1) for each in record.e_d_signal], axis=1, dtype=np.int64)


def _check_samples(digital: np.ndarray, leads: list[_Channel]) -> None:
    # In integers of the samples' size, which may wrap around: of 16 bits at least, they keep the 16 that count.
    sums = [value % 2**16 for value in digital.sum(axis=1, dtype=f"i{digital.itemsize}").tolist()]
    invalid = []
    for lead, samples, found, lowest in zip(leads, digital, sums, digital.min(axis=1).tolist(), strict=True):
        # Writers differ in the sign of the 16 bits. By WFDB 0 holds the place of a sum that was not taken, which all
        # headers of the Challenge of 2017 have.
        if (said := _int32(lead.lead, lead.checksum or "0", "checksum") % 2**16) not in (0, found):
            raise RecordError(f"lead {lead.lead} has the checksum {found}, the header says {said}: a file is damaged.")
        # The mark is the lowest value of a format.
        if lowest == _SAMPLE_FORMATS[_parse_storage(lead.lead, lead.storage).format].invalid:
            invalid.append(f"lead {lead.lead} {np.count_nonzero(samples == lowest)} of {len(samples)}")
    if invalid:
        raise RecordError(f"samples are marked as invalid (NaN): {', '.join(invalid)}. Repair it or leave it out.")


def _scale_of(lead: _Channel) -> tuple[float, int, float]:
    return _parse_scale(lead.lead, lead.scale, lead.adc_zero)


def _step_of(lead: _Channel, microvolts: float | None) -> float:
    """µV in one digital unit of a lead; `RecordError` if its unit is not that of `microvolts`."""
    gain, _, unit = _scale_of(lead)
    if microvolts not in (None, unit):
        raise RecordError(f"lead {lead.lead} is in a unit of {unit:g} µV, expected one of {microvolts:g} µV.")
    return unit / abs(gain)


def _to_microvolts(digital: np.ndarray, leads: list[_Channel], dtype: type[np.number]) -> np.ndarray:
    """(leads, samples) in µV, rounded for int16, once the samples are found to be sound."""
    _check_samples(digital, leads)
    scales = [_scale_of(lead) for lead in leads]
    # -32768 cannot be among these: it marks an invalid sample in all formats of 16 bits.
    if digital.dtype == np.int16 == dtype and all(gain == unit and baseline == 0 for gain, baseline, unit in scales):
        return digital
    signal = np.empty(digital.shape, dtype)
    for row, (lead, (gain, baseline, microvolts)) in enumerate(zip(leads, scales, strict=True)):
        with np.errstate(over="ignore"):
            values = (digital[row].astype(np.float64) - baseline) * microvolts / gain
        if dtype is np.int16:
            values = np.rint(values)
        peak = np.abs(values).max()
        if not peak <= MAX_MICROVOLTS:
            limit = f"the ±{MAX_MICROVOLTS / 1000} mV that are read; is the header's gain right?"
            raise RecordError(f"lead {lead.lead} reaches {peak / 1000:g} mV, beyond {limit}")
        signal[row] = values
    return signal


__all__ = ["MAX_FILE_BYTES", "Record", "RecordError", "read_wanted_leads", "read_record", "record_files"]
