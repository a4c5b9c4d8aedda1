"""EDF, EDF+C and BDF, by https://www.edfplus.info/specs/; the samples are decoded by the package edfio.

edfio takes the header at its word, so the header is compared with the file first.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from ..ecg_transformer.common_ecg_transformer import named_channels
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Channel, Said, record_of
from .checks import bytes_of, integer, is_taken, number, one_rate
from .formats import need

_BDF = b"\xffBIOSEMI"
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_ONSET = re.compile(rb"([-+][0-9]{1,12}(?:\.[0-9]{0,12})?)(?:\x15[0-9.]{0,24})?\x14")
_GAP_SECONDS = Decimal("0.00001")
"""Starts of data records that differ from the clock by less are one rounded by its writer."""
_FILLED_SECONDS = 0.1
"""A spike may touch the end of the range in all leads; for this long none does."""


class _Signal(NamedTuple):
    """One signal of the header; the ranges are texts, which only matter for leads."""

    label: str
    unit: str
    physical: tuple[str, str]
    digital: tuple[str, str]
    samples: int

    @property
    def is_annotations(self) -> bool:
        return self.label.rstrip() in _ANNOTATIONS


class _Header(NamedTuple):
    """`duration` is that of a data record, in s, as a decimal fraction; `num_bytes` is the header's own length."""

    num_bytes: int
    num_records: int
    duration: Decimal
    is_interrupted: bool
    sample_bytes: int
    signals: list[_Signal]


def read(path: str, part: str | None, said: Said) -> Record:
    """Read an EDF or BDF file. Annotations are dropped.

    The voltage of a stored value d is (d - digital minimum) * (physical maximum - physical minimum) / (digital maximum
    - digital minimum) + physical minimum, also where the physical maximum is the smaller one: the lead is inverted.

    Raises:
        RecordError: the header does not fit the file, has an unknown number of bytes or a field that is no number;
            data records have no duration; an EDF+D file has gaps; leads have different rates or no range, or
            all end at their lowest value.
    """
    edfio = need("edfio", "EDF")
    data = bytes_of(path, part)
    header = _read_header(data)
    if header.is_interrupted:
        _check_contiguous(data, header)
    # edfio warns of a number that is not stated.
    data = data if data[236:238] != b"-1" else data[:236] + b"%-8d" % header.num_records + data[244:]
    open_file = edfio.read_bdf if header.sample_bytes == 3 else edfio.read_edf
    # edfio leaves out the annotations of its format.
    dropped = _ANNOTATIONS[header.sample_bytes == 3]
    stored = open_file(data, header_encoding="latin-1").signals
    names = named_channels([signal.label for signal in header.signals], said.channel_names)
    signals = [signal._replace(label=name) for signal, name in zip(header.signals, names, strict=True)]
    signals = [signal for signal in signals if signal.label.rstrip() != dropped]
    rates, channels, filled = {}, [], []
    for signal, samples in zip(signals, stored, strict=True):
        if signal.is_annotations:
            continue
        if is_taken(signal.label, said):
            rates[signal.label] = float(Decimal(signal.samples) / header.duration)
            channels.append(_channel(signal, samples.digital, said))
            filled.append(_count_lowest(samples.digital, float(signal.digital[0])))
        else:
            channels.append(Channel(signal.label, np.empty(0), None))
    rate = one_rate(rates)
    if filled and min(filled) >= _FILLED_SECONDS * rate:
        raise RecordError(
            f"the last {min(filled) / rate:g} s of every lead are the lowest value of its range, as `wfdb_to_edf` of "
            "wfdb fills a file up: cut it there, or convert the recording by edfio."
        )
    return record_of(channels, rate, said)


def _count_lowest(digital: np.ndarray, lowest: float) -> int:
    """How many samples at the end of a lead are the lowest value."""
    others = np.flatnonzero(digital != lowest)
    return len(digital) - (others[-1] + 1 if len(others) else 0)


def _channel(signal: _Signal, digital: np.ndarray, said: Said) -> Channel:
    low, high = (number(text, f"digital range of {signal.label}") for text in signal.digital)
    bottom, top = (number(text, f"physical range of {signal.label}") for text in signal.physical)
    if low >= high or bottom == top:
        raise RecordError(
            f"{signal.label} has {low:g} to {high:g} for {bottom:g} to {top:g}; expected a digital minimum below the "
            "maximum, and physical ones that differ."
        )
    scale = (top - bottom) / (high - low)
    return Channel(signal.label, digital, _unit(signal.unit) or said.units, scale, bottom - low * scale)


def _read_header(data: bytes) -> _Header:
    if len(data) < 256:
        raise RecordError(f"its header ends after {len(data)} bytes; expected 256 at least.")
    count = integer(_text(data[252:256]), "number of signals")
    num_bytes = integer(_text(data[184:192]), "number of header bytes")
    if count < 1 or num_bytes != 256 * (count + 1) or num_bytes > len(data):
        raise RecordError(
            f"its header has {num_bytes} bytes for {count} signals in a file of {len(data)} bytes; expected 256 for "
            "the file and for each signal."
        )
    seconds = _text(data[244:252])
    if number(seconds, "duration of a data record") <= 0:
        raise RecordError(f"its data records last {seconds} s: the file has no sampling rate.")
    signals = _read_signals(data, count)
    sample_bytes = 3 if data[:8] == _BDF else 2
    record_bytes = sample_bytes * sum(signal.samples for signal in signals)
    num_records = _count_records(
        integer(_text(data[236:244]), "number of data records"), record_bytes, data, num_bytes
    )
    is_interrupted = _text(data[192:236]).startswith(("EDF+D", "BDF+D"))
    return _Header(num_bytes, num_records, Decimal(seconds), is_interrupted, sample_bytes, signals)


def _read_signals(data: bytes, count: int) -> list[_Signal]:
    def field(start: int, width: int) -> list[str]:
        first = 256 + start * count
        return [_text(data[at : at + width]) for at in range(first, first + width * count, width)]

    labels, units = field(0, 16), field(96, 8)
    physical = zip(field(104, 8), field(112, 8), strict=True)
    digital = zip(field(120, 8), field(128, 8), strict=True)
    samples = [integer(text, "number of samples in a data record") for text in field(216, 8)]
    if min(samples) < 1:
        raise RecordError(f"a signal has {min(samples)} samples in a data record; expected one at least.")
    return [_Signal(*fields) for fields in zip(labels, units, physical, digital, samples, strict=True)]


def _count_records(stated: int, record_bytes: int, data: bytes, num_bytes: int) -> int:
    """The number of data records, which must fill the file; -1 stands for as many as there are."""
    there, rest = divmod(len(data) - num_bytes, record_bytes)
    if rest or not 0 < there < 10**8 or stated not in (-1, there):
        raise RecordError(
            f"its header states {stated} data records of {record_bytes} bytes, and {len(data) - num_bytes} bytes "
            "follow it: the file is cut or damaged."
        )
    return there


def _check_contiguous(data: bytes, header: _Header) -> None:
    """Raises `RecordError` unless the times of the data records, kept in the first annotations, follow each other."""
    before, widths = 0, [header.sample_bytes * signal.samples for signal in header.signals]
    for signal, width in zip(header.signals, widths, strict=True):
        if signal.is_annotations:
            break
        before += width
    else:
        raise RecordError("it is interrupted (EDF+D) and does not say when: it has no annotations.")
    first = None
    for index in range(header.num_records):
        match = _ONSET.match(data, header.num_bytes + index * sum(widths) + before)
        if match is None:
            raise RecordError(f"it is interrupted (EDF+D), and the time of data record {index + 1} cannot be read.")
        onset = Decimal(match[1].decode("ascii"))
        first = onset if first is None else first
        if abs(onset - first - index * header.duration) > _GAP_SECONDS:
            raise RecordError(f"it is interrupted (EDF+D) before data record {index + 1}: cut it there.")


def _text(field: bytes) -> str:
    """ASCII by the specification; real files have Latin-1."""
    return field.decode("latin-1").rstrip(" ")


def _unit(text: str) -> str:
    """A unit whose µ may be written in UTF-8 as well, which is another two characters in Latin-1."""
    return text.replace("\xc2\xb5", "µ").replace("\xce\xbc", "µ")
