"""DICOM waveforms (PS3.3, C.10.9), through the package pydicom; of the dataset only the waveforms are looked at."""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ecg_transformer.common_ecg_transformer import named_channels
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Channel, Said, canonical_lead, record_of
from .checks import bytes_of, is_taken, one_rate
from .formats import need

_TRANSFER_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Implicit and explicit little endian, not compressed."""

_SAMPLE_TYPES = {(8, "SB"): "<i1", (8, "UB"): "<u1", (16, "SS"): "<i2", (16, "US"): "<u2", (32, "SL"): "<i4"}
_LEAD_CODES = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", **{n + 2: f"V{n}" for n in range(1, 7)}}
_LEAD_CODE = re.compile(r"(?:5\.6\.3-9-|2:)([0-9]{1,5})")
_LEAD_SCHEMES = ("SCPECG", "MDC")


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the original rhythm of a DICOM waveform file, never its median beats.

    The voltage of a stored value is value * ChannelSensitivity * ChannelSensitivityCorrectionFactor + ChannelBaseline,
    in the unit of the sensitivity (PS3.3, C.10.9.1.4); a factor that is not there is 1, a baseline 0. Leads in several
    groups of equal rate, start and length are joined.

    Raises:
        RecordError: no DICOM file, or cut; a transfer syntax other than plain little endian; samples that are not
            plain integers; no original waveform; a lead without sensitivity; padding among the samples; leads of
            different rates or starts.
    """
    pydicom = need("pydicom", "DICOM")
    data = bytes_of(path, part)
    groups = _rhythms(_waveforms(pydicom, path, data))
    definitions_of = [_items(group, "ChannelDefinitionSequence") for group in groups]
    all_names = [_channel_name(definition) for definitions in definitions_of for definition in definitions]
    all_names = iter(named_channels(all_names, said.channel_names))
    rates, starts, channels = {}, {}, []
    for group, definitions in zip(groups, definitions_of, strict=True):
        names = list(itertools.islice(all_names, len(definitions)))
        taken = {index for index, name in enumerate(names) if is_taken(name, said)}
        samples = _samples(group, len(definitions)) if taken else None
        stated, offset = _number(group, "SamplingFrequency"), _number(group, "MultiplexGroupTimeOffset") or 0.0
        for index, (name, definition) in enumerate(zip(names, definitions, strict=True)):
            if index not in taken:
                channels.append(Channel(name, np.empty(0), None))
                continue
            rates[name] = said.sampling_rate if stated is None else stated
            starts[name] = _start(offset, definition)
            channels.append(_channel(name, definition, samples[:, index], said))
    rate = one_rate(rates)
    _check_starts(starts, rate)
    return record_of(channels, rate, said)


def _waveforms(pydicom, path: str, data: bytes) -> list:
    """The items of the WaveformSequence."""
    try:
        # Before anything is read, since deflated files would be inflated whole.
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    except _faults():
        raise RecordError("its DICOM file meta information cannot be read: the file is cut or damaged.") from None
    if syntax not in _TRANSFER_SYNTAXES:
        # A name that is not in pydicom's list may be anything, the patient's in a damaged file.
        is_known = isinstance(syntax, pydicom.uid.UID) and syntax.name != syntax
        name = syntax.name if is_known else "missing or not known"
        raise RecordError(
            f"its transfer syntax is {name}; expected implicit or explicit VR little endian: convert it."
        )
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=["WaveformSequence"])
    except _faults():
        raise RecordError("its DICOM dataset cannot be read: the file is cut or damaged.") from None
    return _items(dataset, "WaveformSequence")


def _rhythms(groups: list) -> list:
    """The original groups; those that are labelled as rhythm, if there are any."""
    labels = [str(_value(group, "MultiplexGroupLabel") or "").strip().upper() for group in groups]
    kinds = [str(_value(group, "WaveformOriginality") or "").strip().upper() for group in groups]
    original = [index for index, kind in enumerate(kinds) if kind == "ORIGINAL" and labels[index] != "MEDIAN BEAT"]
    if not original:
        raise RecordError(f"none of its {len(groups)} waveforms is ORIGINAL; derived beats are not read.")
    rhythm = [index for index in original if labels[index] == "RHYTHM"]
    return [groups[index] for index in rhythm or original]


def _channel_name(definition) -> str:
    """The lead by its code (SCP-ECG's numbers, which MDC shares), else the meaning as the file spells it, at most 64
    letters of it, which DICOM allows."""
    source = _first(definition, "ChannelSourceSequence")
    if source is None:
        return str(_value(definition, "ChannelLabel") or "?")[:64]
    code, scheme = str(_value(source, "CodeValue") or ""), str(_value(source, "CodingSchemeDesignator") or "")
    match = _LEAD_CODE.fullmatch(code.strip())
    meaning = str(_value(source, "CodeMeaning") or code or "?")[:64]
    if match is None or scheme.strip().upper() not in _LEAD_SCHEMES:
        return meaning
    lead = _LEAD_CODES.get(int(match[1]))
    # A meaning that contradicts its code must not make a lead of what is none.
    return lead or (code[:64] if canonical_lead(meaning) else meaning)


def _samples(group, num_channels: int) -> np.ndarray:
    """The stored values (samples, channels); NaN where they are padding."""
    bits, kind = _value(group, "WaveformBitsAllocated"), _value(group, "WaveformSampleInterpretation")
    dtype = _SAMPLE_TYPES.get((bits, kind)) if isinstance(bits, int) and isinstance(kind, str) else None
    if dtype is None:
        listed = ", ".join(f"{name} {width}" for width, name in _SAMPLE_TYPES)
        raise RecordError(f"its samples are of {str(kind)[:4]} with {str(bits)[:4]} bits; expected one of {listed}.")
    length, width = _value(group, "NumberOfWaveformSamples"), _value(group, "NumberOfWaveformChannels")
    data = _value(group, "WaveformData")
    if not isinstance(length, int) or not isinstance(width, int) or not isinstance(data, bytes):
        raise RecordError("a waveform lacks its number of samples, its number of channels or its data.")
    expected = length * width * np.dtype(dtype).itemsize
    # An odd number of bytes is padded by one.
    if width != num_channels or length < 1 or len(data) - expected not in (0, expected % 2):
        raise RecordError(
            f"a waveform states {length} samples of {width} channels, and has {len(data)} bytes and {num_channels} "
            "channel definitions: the file is cut or damaged."
        )
    values = np.frombuffer(data, dtype, length * width).reshape(length, width)
    return _without_padding(values, _value(group, "WaveformPaddingValue"))


def _without_padding(values: np.ndarray, padding: Any) -> np.ndarray:
    """NaN for padding, if that is the lowest value of a signed type: many files state 0, which is a voltage."""
    if not isinstance(padding, bytes) or len(padding) < values.itemsize or values.dtype.kind != "i":
        return values
    mark = np.frombuffer(padding, values.dtype, 1)[0]
    if mark != np.iinfo(values.dtype).min or mark not in values:
        return values
    return np.where(values == mark, np.nan, values)


def _channel(name: str, definition, values: np.ndarray, said: Said) -> Channel:
    sensitivity = _number(definition, "ChannelSensitivity")
    correction = _number(definition, "ChannelSensitivityCorrectionFactor")
    if not sensitivity or correction == 0:
        raise RecordError(f"lead {name} has no sensitivity: its values are no voltages.")
    units = _first(definition, "ChannelSensitivityUnitsSequence")
    unit = "" if units is None else str(_value(units, "CodeValue") or "")
    scale = sensitivity * (1.0 if correction is None else correction)
    return Channel(name, values, unit or said.units, scale, _number(definition, "ChannelBaseline") or 0.0)


def _start(offset: float, definition) -> tuple[float, float, float]:
    """Start of the group (`offset` is in ms) in s, and of the channel within it in s and in samples."""
    seconds = _number(definition, "ChannelTimeSkew")
    return offset / 1000, seconds or 0.0, _number(definition, "ChannelSampleSkew") or 0.0


def _check_starts(starts: dict[str, tuple[float, float, float]], rate: float | None) -> None:
    """Raises `RecordError` where leads start a sample apart or more; less is the skew of an electronic switch."""
    if rate:
        samples = [(offset + seconds) * rate + skew for offset, seconds, skew in starts.values()]
        if max(samples) - min(samples) >= 1:
            raise RecordError(
                f"its leads {', '.join(starts)} do not start together: {max(samples) - min(samples):g} "
                "samples lie between them."
            )


def _faults() -> tuple[type[Exception], ...]:
    """What pydicom raises for damaged files; elements are decoded only when they are asked for."""
    errors = need("pydicom.errors", "DICOM")
    return (
        errors.BytesLengthException,
        errors.InvalidDicomError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        NotImplementedError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    )


def _items(dataset, keyword: str) -> list:
    items = _value(dataset, keyword)
    if not _is_sequence(items):
        raise RecordError(f"it has no {keyword}: it holds no waveform that can be read.")
    return list(items)


def _is_sequence(items: Any) -> bool:
    return isinstance(items, Sequence) and not isinstance(items, (str, bytes)) and len(items) > 0


def _first(dataset, keyword: str) -> Any:
    """The first item of a sequence; None where it is absent or empty."""
    items = _value(dataset, keyword)
    if items and not _is_sequence(items):
        raise RecordError(f"its {keyword} is no sequence: the file is damaged.")
    return items[0] if items else None


def _number(dataset, keyword: str) -> float | None:
    """A finite number; None where the element is absent or empty."""
    value = _value(dataset, keyword)
    if value is None or value == "":
        return None
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise RecordError(f"its {keyword} is no number.")
    return value


def _value(dataset, keyword: str) -> Any:
    """The value of an element; None where it is absent."""
    try:
        return dataset.get(keyword)
    except _faults():
        raise RecordError(f"its {keyword} cannot be read: the file is damaged.") from None
