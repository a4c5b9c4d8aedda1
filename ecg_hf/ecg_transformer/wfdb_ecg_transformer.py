"""Fast, checked reading of WFDB records.

Headers follow https://physionet.org/physiotools/wag/header-5.htm, samples
https://physionet.org/physiotools/wag/signal-5.htm. The common formats are read with NumPy, the rare ones are decoded
by the package wfdb. Nothing is taken on trust: sizes, checksums, units, gains and lead names are compared with what
the header says, and nothing that is missing is guessed.
"""

import contextlib
import functools
import math
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .common_ecg_transformer import LEAD_NAMES, MAX_MICROVOLTS, MICROVOLTS


class RecordError(ValueError):
    """A record that cannot be read as it stands; the message names the record and the problem."""


@dataclass(frozen=True)
class Record:
    """A multi-lead ECG.

    Attributes:
        signal: int16 (leads, samples), in µV.
        sampling_rate: in Hz.
        lead_names: canonical names of the rows of `signal`, in the order of the file.
        other_channels: what else the file holds and is left out, since it is none of the twelve leads.
    """

    signal: np.ndarray
    sampling_rate: int | float
    lead_names: tuple[str, ...]
    other_channels: tuple[str, ...] = ()


class _SampleFormat(NamedTuple):
    """How a WFDB format stores samples.

    A group of `group_samples` takes `group_bytes` (None if compressed); the value `invalid` marks a sample that was
    not recorded; `decode` turns bytes into samples (None: wfdb does it).
    """

    group_bytes: int | None
    group_samples: int
    invalid: int | None
    decode: Callable[[np.ndarray], np.ndarray] | None = None


def _decode_24(stored: np.ndarray) -> np.ndarray:
    # The three bytes become the upper ones of an int32, and the shift brings them down with their sign.
    padded = np.zeros((len(stored) // 3, 4), np.uint8)
    padded[:, 1:] = stored.reshape(-1, 3)
    return padded.view("<i4")[:, 0] >> 8


def _decode_212(stored: np.ndarray) -> np.ndarray:
    # Two samples of 12 bits in three bytes; the middle one holds the upper four bits of both.
    triples = np.pad(stored, (0, -len(stored) % 3)).reshape(-1, 3).astype(np.int16)
    samples = np.empty((len(triples), 2), np.int16)
    samples[:, 0] = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    samples[:, 1] = triples[:, 2] | (triples[:, 1] & 0xF0) << 4
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
    "508": _SampleFormat(None, 1, -(2**7)),
    "516": _SampleFormat(None, 1, -(2**15)),
    "524": _SampleFormat(None, 1, -(2**23)),
}

# A format that packs samples in groups may fill its last group of 3 or 4 bytes.
_MAX_PADDING = 3

_CANONICAL = {name.casefold(): name for name in LEAD_NAMES}

# Letters of other alphabets have digits too; only 0 to 9 count here.
_COUNT = re.compile(r"[0-9]{1,18}")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_RATE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TIME_OR_DATE = re.compile(r".*[0-9][-:/].*[0-9].*|[0-9]+\.[0-9]+\.[0-9]+")
_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\\:\0]+")
_STORAGE = re.compile(
    r"(?P<format>[0-9]+)(x(?P<per_frame>0*[1-9][0-9]{0,8}))?(:(?P<skew>[0-9]{1,9}))?(\+(?P<offset>[0-9]{1,18}))?"
)
_SCALE = re.compile(rf"(?P<gain>[-+]?{_RATE.pattern})(\((?P<baseline>{_INTEGER.pattern})\))?(/(?P<unit>\S*))?")


class _RecordLine(NamedTuple):
    """The first line of a header; `num_segments` is None in a record of one segment, `num_frames` 0 if not told."""

    num_segments: int | None
    num_channels: int
    sampling_rate: int | float
    num_frames: int


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
    """A file that holds used leads; `widths` are the samples of its channels in a frame, `starts` their places."""

    path: Path
    size: int
    format: str
    offset: int
    widths: list[int]
    initial_values: list[str]
    max_skew: int


class _Lead(NamedTuple):
    """A used lead. A sample s stands for ``(s - baseline) * microvolts / gain`` µV."""

    name: str
    file_name: str
    format: str
    start: int
    width: int
    gain: float
    baseline: int
    microvolts: float
    checksum: int | None


class _Segment(NamedTuple):
    sampling_rate: int | float
    num_frames: int
    leads: list[_Lead]
    files: list[_SignalFile]
    other_channels: tuple[str, ...]


def read_record(
    path: str | os.PathLike, *, sampling_rate: float | None = None, lead_names: Sequence[str] | None = None
) -> Record:
    """Read the WFDB record at `path`, with or without the ending ``.hea``, ``.dat`` or ``.mat``.

    Other units, gains and baselines are brought to the nearest µV. Flat leads are read as they are. Leads with several
    samples in a frame are read at their full rate, segments are put end to end, and a length that the header does not
    give is that of the signal files. Dates and times are ignored. Channels that are none of the twelve leads are
    named in one warning and left out; like leads that are not asked for, they may be damaged.

    Args:
        path: the record's path.
        sampling_rate: the rate in Hz that the record must have, if it matters.
        lead_names: the leads to read, of those that the file has; None for all of the twelve.

    Raises:
        FileNotFoundError: the header or a signal file is missing.
        RecordError: the header cannot be read, gives no rate or no gain, or names a file outside its folder; a signal
            file is no regular file; its size or a checksum differs from what the header says; samples are marked as
            invalid; a voltage is beyond ±32.767 mV; leads differ in rate, are shifted in time, or named twice;
            segments differ in leads or rate, or have gaps; the record has none of the leads; the rate is another.
        ImportError: the format needs a package that is not installed.
        ValueError: `lead_names` has a name that is none of the twelve.
    """
    path = Path(re.sub(r"\.(hea|dat|mat)$", "", os.fspath(path)))
    wanted = _wanted_leads(lead_names)
    with _told_with(f"Record {path}: "):
        segments = _plan_record(path, wanted)
        first = segments[0]
        if sampling_rate is not None and first.sampling_rate != sampling_rate:
            raise RecordError(f"the sampling rate is {first.sampling_rate} Hz, expected {sampling_rate} Hz.")
        names = tuple(lead.name for lead in first.leads)
        signal = _join([_read_segment(segment, names) for segment in segments])
    others = tuple(dict.fromkeys(name for segment in segments for name in segment.other_channels))
    if others:
        warnings.warn(
            f"Record {path}: {', '.join(others)} are none of the leads {' '.join(LEAD_NAMES)} and are left out.",
            stacklevel=2,
        )
    return Record(signal, first.sampling_rate, names, others)


def _wanted_leads(lead_names: Sequence[str] | None) -> frozenset[str]:
    if lead_names is None:
        return frozenset(LEAD_NAMES)
    wanted = [] if isinstance(lead_names, str) else [_canonical_name(name) for name in lead_names]
    if not wanted or None in wanted:
        raise ValueError(f"`lead_names` must list some of {' '.join(LEAD_NAMES)}, got {lead_names!r}.")
    return frozenset(wanted)


@contextlib.contextmanager
def _told_with(start: str) -> Iterator[None]:
    """Errors within begin with `start`."""
    try:
        yield
    except (RecordError, FileNotFoundError) as error:
        raise type(error)(f"{start}{error}") from error.__cause__


def _join(signals: list[np.ndarray]) -> np.ndarray:
    return signals[0] if len(signals) == 1 else np.concatenate(signals, axis=1)


# Headers


def _read_header(path: Path) -> tuple[_RecordLine, list[str]]:
    _regular_file_size(path, f"its header {path}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not `splitlines`, which also breaks lines at characters that Windows writes as dots or quotes in a comment.
    lines = [line for line in map(str.strip, re.split(r"[\r\n]+", text)) if line and not line.startswith("#")]
    if not lines:
        raise RecordError("the header is empty.")
    return _parse_record_line(lines[0]), lines[1:]


def _regular_file_size(path: Path, name: str) -> int:
    """In bytes. A pipe or a device might never end."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name} does not exist.") from None
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(f"{name} is not a regular file.")
    return status.st_size


def _parse_record_line(line: str) -> _RecordLine:
    # NAME[/SEGMENTS] CHANNELS RATE[/COUNTER] [LENGTH] [TIME] [DATE]. Time and date come in many spellings, not all of
    # them WFDB's, and are not needed.
    name, *fields = line.split()
    _, slash, segments = name.partition("/")
    counts = [segments] if slash else []
    counts += fields[:1]
    if not fields or not all(_COUNT.fullmatch(count) and int(count) for count in counts):
        raise RecordError(
            "the header must begin with the record's name, number of leads (and of segments, if there are any), "
            f"sampling rate and number of samples; it begins {line[:80]!r}."
        )
    num_segments = int(segments) if slash else None
    return _RecordLine(num_segments, int(fields[0]), _parse_rate(fields[1:]), _parse_length(fields[2:]))


def _parse_rate(fields: list[str]) -> int | float:
    if not fields:
        raise RecordError(
            "the header gives no sampling rate. Write it in Hz after the number of leads, as in `name 12 500 5000`."
        )
    text = fields[0].partition("/")[0]
    rate = float(text) if _RATE.fullmatch(text) else 0.0
    if not 0 < rate < math.inf:
        raise RecordError(
            f"the header gives the sampling rate {fields[0]!r}; expected a number of Hz above 0, such as 500."
        )
    return int(rate) if rate.is_integer() else rate


def _parse_length(fields: list[str]) -> int:
    if not fields or _TIME_OR_DATE.fullmatch(fields[0]):
        return 0
    if not _COUNT.fullmatch(fields[0]):
        raise RecordError(f"the header gives the number of samples {fields[0]!r}; expected a whole number, or none.")
    return int(fields[0])


def _parse_channel(line: str, number: int) -> _Channel:
    # FILE FORMAT GAIN ADC_RESOLUTION ADC_ZERO INITIAL_VALUE CHECKSUM BLOCK_SIZE NAME; what follows FORMAT is optional.
    fields = line.split(maxsplit=8)
    file_name, storage, scale, _, adc_zero, initial, checksum, _, name = fields + [""] * (9 - len(fields))
    name = name or f"channel {number} (without a name)"
    return _Channel(name, _canonical_name(name), file_name, storage, scale, adc_zero, initial, checksum)


@functools.lru_cache
def _canonical_name(name: str) -> str | None:
    return _CANONICAL.get(str(name).strip().casefold())


@functools.lru_cache
def _parse_storage(text: str) -> _Storage:
    match = _STORAGE.fullmatch(text)
    if match is None or match["format"] not in _SAMPLE_FORMATS:
        raise RecordError(f"has the format {text!r}; known are {', '.join(_SAMPLE_FORMATS)}.")
    return _Storage(match["format"], int(match["per_frame"] or 1), int(match["skew"] or 0), int(match["offset"] or 0))


@functools.lru_cache
def _parse_scale(text: str, adc_zero: str) -> tuple[float, int, float]:
    """Gain, baseline, and µV in one of the unit."""
    match = _SCALE.fullmatch(text)
    if match is None and text:
        raise RecordError(f"has the gain {text!r}, which cannot be read; expected one such as 1000(0)/mV.")
    gain = float(match["gain"]) if match else 0.0
    if gain == 0 or not math.isfinite(gain):
        raise RecordError(f"has no gain ({text!r}), so its voltage is unknown; the header must give it (as 1000/mV).")
    # mV and a baseline equal to the ADC's zero are what WFDB defines for a header that leaves them out.
    unit = "mV" if match["unit"] is None else match["unit"]
    if unit.casefold() not in MICROVOLTS:
        raise RecordError(f"is in {unit!r}; the unit must be V, mV, uV or nV. Correct the header, or leave it out.")
    baseline = _int32(match["baseline"] or adc_zero or "0", "baseline")
    return gain, baseline, MICROVOLTS[unit.casefold()]


def _int32(text: str, name: str) -> int:
    # float takes any number of digits, which int does not.
    if not _INTEGER.fullmatch(text) or not -(2**31) <= float(text) < 2**31:
        raise RecordError(f"has the {name} {text[:40]!r}; expected a whole number of at most 32 bits.")
    return int(text)


# What to read, without allocating anything


def _plan_record(path: Path, wanted: frozenset[str]) -> list[_Segment]:
    line, lines = _read_header(Path(f"{path}.hea"))
    if line.num_segments is None:
        return [_plan_segment(path.parent, line, lines, wanted)]
    if line.num_segments != len(lines):
        raise RecordError(f"the header announces {line.num_segments} segments and names {len(lines)}.")
    entries = [_parse_segment_line(text) for text in lines]
    # In a record of variable layout the first segment is empty; it lists the channels of those that follow.
    entries = entries[1:] if entries[0][1] == 0 else entries
    if not entries:
        raise RecordError("it has no segment with samples.")
    segments = [_plan_part(path.parent, *entry, line.sampling_rate, wanted) for entry in entries]
    total = sum(segment.num_frames for segment in segments)
    if line.num_frames not in (0, total):
        raise RecordError(f"its segments have {total} samples, the header says {line.num_frames}.")
    for (name, _), segment in zip(entries, segments, strict=True):
        _check_same_leads(segments[0], segment, name)
    return segments


def _parse_segment_line(line: str) -> tuple[str, int]:
    name, *fields = line.split()
    if name == "~":
        raise RecordError(f"it has a gap between its segments ({line[:80]!r}); read the segments one by one.")
    if not _FILE_NAME.fullmatch(name):
        raise RecordError(f"it has the segment {name!r}, which is not in the record's own folder.")
    if len(fields) != 1 or not _COUNT.fullmatch(fields[0]):
        raise RecordError(f"a segment needs a name and a number of samples, the header has {line[:80]!r}.")
    return name, int(fields[0])


def _plan_part(folder: Path, name: str, num_frames: int, sampling_rate: float, wanted: frozenset[str]) -> _Segment:
    """Plan one of several segments, of which the record's header gives length (0 if it does not) and rate."""
    with _told_with(f"segment {name}: "):
        line, lines = _read_header(folder / f"{name}.hea")
        if line.num_segments is not None:
            raise RecordError("it has segments itself; only those of one level are read.")
        if line.sampling_rate != sampling_rate:
            raise RecordError(f"its sampling rate is {line.sampling_rate} Hz, that of the record {sampling_rate} Hz.")
        if num_frames and line.num_frames not in (0, num_frames):
            raise RecordError(f"it has {line.num_frames} samples, the record's header says {num_frames}.")
        return _plan_segment(folder, line._replace(num_frames=line.num_frames or num_frames), lines, wanted)


def _check_same_leads(first: _Segment, segment: _Segment, name: str) -> None:
    expected, found = ({lead.name for lead in part.leads} for part in (first, segment))
    if expected != found:
        raise RecordError(
            f"segment {name} has the leads {', '.join(sorted(found))}, the first one {', '.join(sorted(expected))}; "
            "read the segments one by one, or only the leads that all have."
        )
    if first.sampling_rate != segment.sampling_rate:
        raise RecordError(
            f"segment {name} has {segment.sampling_rate} Hz, the first one {first.sampling_rate} Hz; read the segments "
            "one by one."
        )


def _plan_segment(folder: Path, line: _RecordLine, lines: list[str], wanted: frozenset[str]) -> _Segment:
    if line.num_channels != len(lines):
        raise RecordError(f"the header announces {line.num_channels} leads and describes {len(lines)}.")
    channels = [_parse_channel(text, number) for number, text in enumerate(lines)]
    used = [channel for channel in channels if channel.lead in wanted]
    _check_names(channels, used, wanted)
    in_file = {channel.file_name: [] for channel in used}
    for channel in channels:
        if channel.file_name in in_file:
            in_file[channel.file_name].append(channel)
    files = {name: _plan_file(folder, in_file[name], wanted) for name in in_file}
    leads = [_plan_lead(channel, in_file[channel.file_name], files[channel.file_name]) for channel in used]
    num_frames = _check_lengths(list(files.values()), line.num_frames)
    others = tuple(channel.name for channel in channels if channel.lead is None)
    return _Segment(_common_rate(leads, line.sampling_rate), num_frames, leads, list(files.values()), others)


def _check_names(channels: list[_Channel], used: list[_Channel], wanted: frozenset[str]) -> None:
    if not used:
        leads = ", ".join(name for name in LEAD_NAMES if name in wanted)
        raise RecordError(f"it has none of the leads {leads}; it has {', '.join(each.name for each in channels)}.")
    if len({channel.lead for channel in used}) < len(used):
        raise RecordError(f"a lead is named twice: {', '.join(channel.lead for channel in used)}.")


def _plan_file(folder: Path, channels: list[_Channel], wanted: frozenset[str]) -> _SignalFile:
    """The layout of a file from all of its channels; those that are not used say how far apart the others are."""
    name = channels[0].file_name
    first = next(channel for channel in channels if channel.lead in wanted)
    if not _FILE_NAME.fullmatch(name):
        raise RecordError(f"lead {first.lead} is said to be in {name!r}, which is not in the record's own folder.")
    storages = []
    for channel in channels:
        with _told_with(f"lead {channel.lead} " if channel.lead else f"channel {channel.name} "):
            storages.append(_parse_storage(channel.storage))
            if storages[-1].skew and channel.lead in wanted:
                raise RecordError(
                    f"is shifted in time (format {channel.storage!r}). Write the record again with its leads in step."
                )
    if len({(storage.format, storage.offset) for storage in storages}) > 1:
        raise RecordError(f"{name} is said to have several formats.")
    size = _regular_file_size(folder / name, f"{folder / name}, which the header names for lead {first.lead},")
    return _SignalFile(
        path=folder / name,
        size=size,
        format=storages[0].format,
        offset=storages[0].offset,
        widths=[storage.per_frame for storage in storages],
        initial_values=[channel.initial for channel in channels],
        max_skew=max(storage.skew for storage in storages),
    )


def _plan_lead(channel: _Channel, channels: list[_Channel], file: _SignalFile) -> _Lead:
    place = channels.index(channel)
    with _told_with(f"lead {channel.lead} "):
        gain, baseline, microvolts = _parse_scale(channel.scale, channel.adc_zero)
        checksum = _int32(channel.checksum, "checksum") if channel.checksum else None
    return _Lead(
        name=channel.lead,
        file_name=channel.file_name,
        format=file.format,
        start=sum(file.widths[:place]),
        width=file.widths[place],
        gain=gain,
        baseline=baseline,
        microvolts=microvolts,
        checksum=checksum,
    )


def _common_rate(leads: list[_Lead], sampling_rate: int | float) -> int | float:
    """Of the leads, each of which has its own number of samples in a frame of the record."""
    if len({lead.width for lead in leads}) > 1:
        rates = ", ".join(f"{lead.name} {lead.width * sampling_rate:g}" for lead in leads)
        raise RecordError(f"its leads have different sampling rates (in Hz: {rates}); ask for leads of one rate.")
    return leads[0].width * sampling_rate


def _check_lengths(files: list[_SignalFile], num_frames: int) -> int:
    """Compare each file's size with the header, or find the number of frames (0 if the header gives none)."""
    if num_frames == 0:
        found = {file.path.name: _frames_in(file) for file in files}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in found.items())
            raise RecordError(f"the header gives no number of samples, and the files have different ones ({listed}).")
        num_frames = found[files[0].path.name]
        if num_frames < 1:
            raise RecordError(f"{files[0].path.name} has no samples.")
    for file in files:
        _check_size(file, num_frames)
    return num_frames


def _frames_in(file: _SignalFile) -> int:
    stored = _SAMPLE_FORMATS[file.format]
    if stored.group_bytes is None:
        return (_compressed_samples(file) - file.offset) // file.widths[0]
    frames = (file.size - file.offset) * stored.group_samples // stored.group_bytes // sum(file.widths)
    if file.size > _num_bytes(file, frames) + _padding(file):
        raise RecordError(
            f"the header gives no number of samples, and the {file.size} bytes of {file.path.name} are no whole "
            f"number of frames of {sum(file.widths)} samples: it is truncated, or the header is that of another file."
        )
    return frames


def _num_bytes(file: _SignalFile, num_frames: int) -> int:
    stored = _SAMPLE_FORMATS[file.format]
    return file.offset - (-num_frames * sum(file.widths) * stored.group_bytes // stored.group_samples)


def _padding(file: _SignalFile) -> int:
    return _MAX_PADDING if _SAMPLE_FORMATS[file.format].group_samples > 1 else 0


def _check_size(file: _SignalFile, num_frames: int) -> None:
    # A file with a shifted channel may end with samples of that channel alone.
    longest = num_frames + file.max_skew
    if _SAMPLE_FORMATS[file.format].group_bytes is None:
        found = _compressed_samples(file) - file.offset
        if not num_frames * file.widths[0] <= found <= longest * file.widths[0]:
            raise RecordError(
                f"{file.path.name} has {found} samples for each lead, the header says {num_frames * file.widths[0]}."
            )
        return
    expected = _num_bytes(file, num_frames)
    if not expected <= file.size <= _num_bytes(file, longest) + _padding(file):
        raise RecordError(
            f"{file.path.name} is {'truncated' if file.size < expected else 'too long'}: it has {file.size} bytes, "
            f"and {num_frames} frames of {sum(file.widths)} samples make {expected}."
        )


def _compressed_samples(file: _SignalFile) -> int:
    """Of each channel."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"WFDB's format {file.format} needs the package soundfile: pip install soundfile") from error
    with file.path.open("rb") as opened:
        try:
            info = soundfile.info(opened)
        except soundfile.LibsndfileError as error:
            raise RecordError(f"{file.path.name} is not a readable FLAC file ({error}).") from error
    if info.channels != len(file.widths):
        raise RecordError(f"{file.path.name} has {info.channels} channels, the header says {len(file.widths)}.")
    return info.frames


# Samples


def _read_segment(segment: _Segment, lead_names: tuple[str, ...]) -> np.ndarray:
    """int16 (leads, samples) in µV, in the order of `lead_names`."""
    digital = _decode(segment)
    _check_checksums(digital, segment.leads)
    _check_invalid_samples(digital, segment.leads)
    signal = _to_microvolts(digital, segment.leads)
    names = [lead.name for lead in segment.leads]
    return signal if names == list(lead_names) else signal[[names.index(name) for name in lead_names]]


def _decode(segment: _Segment) -> np.ndarray:
    """The samples as they are stored, (leads, samples)."""
    files = {file.path.name: _read_frames(file, segment.num_frames) for file in segment.files}
    if len(files) == 1 and segment.files[0].widths == [1] * len(segment.leads):
        (frames,) = files.values()
        return np.ascontiguousarray(frames.T, dtype=frames.dtype.newbyteorder("="))
    rows = (files[lead.file_name][:, lead.start : lead.start + lead.width].reshape(-1) for lead in segment.leads)
    return np.stack(list(rows))


def _read_frames(file: _SignalFile, num_frames: int) -> np.ndarray:
    """(frames, samples in a frame)"""
    decode = _SAMPLE_FORMATS[file.format].decode
    if decode is None:
        return _decode_with_wfdb(file, num_frames)
    num_bytes = _num_bytes(file, num_frames) - file.offset
    stored = np.fromfile(file.path, np.uint8, count=num_bytes, offset=file.offset)
    return decode(stored)[: num_frames * sum(file.widths)].reshape(num_frames, -1)


def _decode_with_wfdb(file: _SignalFile, num_frames: int) -> np.ndarray:
    try:
        import wfdb
    except ImportError as error:
        raise ImportError(f"WFDB's format {file.format} needs the package wfdb: pip install wfdb") from error
    # wfdb refuses names and dates that are common in real headers, so it gets only those fields that it needs.
    lines = [f"record {len(file.widths)} 1 {num_frames}"]
    for width, initial in zip(file.widths, file.initial_values, strict=True):
        initial = initial if _INTEGER.fullmatch(initial) else "0"
        lines.append(f"signal.dat {file.format}x{width}+{file.offset} 1 16 0 {initial} 0 0 lead")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(file.path, Path(folder, "signal.dat"))
        Path(folder, "record.hea").write_text("\n".join(lines), encoding="utf-8")
        try:
            # Otherwise it averages the samples of a frame.
            record = wfdb.rdrecord(str(Path(folder, "record")), physical=False, smooth_frames=False)
        except (ValueError, IndexError, RuntimeError) as error:
            raise RecordError(f"wfdb cannot decode {file.path.name} ({error}).") from error
    return np.concatenate([samples.reshape(num_frames, -1) for samples in record.e_d_signal], axis=1)


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
            counts[lead.name] = f"{count} of {len(samples)}"
    if counts:
        listed = ", ".join(f"lead {name} {count}" for name, count in counts.items())
        raise RecordError(f"samples are marked as invalid (NaN): {listed}. Repair the record or leave it out.")


def _to_microvolts(digital: np.ndarray, leads: list[_Lead]) -> np.ndarray:
    # -32768 cannot be among these: it marks an invalid sample in all formats of 16 bits.
    if digital.dtype == np.int16 and all(lead.gain == lead.microvolts and lead.baseline == 0 for lead in leads):
        return digital
    signal = np.empty(digital.shape, np.int16)
    for row, lead in enumerate(leads):
        with np.errstate(over="ignore"):
            values = np.rint((digital[row].astype(np.float64) - lead.baseline) * lead.microvolts / lead.gain)
        peak = np.abs(values).max()
        if not peak <= MAX_MICROVOLTS:
            raise RecordError(
                f"lead {lead.name} reaches {peak / 1000:g} mV, beyond the ±{MAX_MICROVOLTS / 1000} mV that are read; "
                "are the header's gain and unit right?"
            )
        signal[row] = values
    return signal


__all__ = ["Record", "RecordError", "read_record"]
