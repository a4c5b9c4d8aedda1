"""GE MUSE XML (root `RestingECG`), as the MUSE cardiology system exports it."""

from __future__ import annotations

import base64
import zlib
from xml.etree.ElementTree import Element

import numpy as np

from ..ecg_transformer.common_ecg_transformer import named_channels
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .channels import Channel, Said, record_of
from .checks import integer, is_taken, number
from .xml_tree import children, root_of, text_of

_BYTES = 2


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the rhythm of a MUSE file, never its median beats; of the limb leads it mostly stores I and II only.

    The rate is SampleBase * 10 ** SampleExponent in Hz, a voltage the stored value * LeadAmplitudeUnitsPerBit.

    Raises:
        RecordError: damaged XML, or one that uses entities; no rhythm or several; a lead whose data do
            not have the bytes, samples or checksum (CRC-32) that the file states, or that has no amplitude.
    """
    root = root_of(path, part, "GE MUSE XML")
    waveform = _rhythm(root)
    leads = list(children(waveform, "LeadData"))
    names = named_channels([(text_of(lead, "LeadID") or "?")[:32] for lead in leads], said.channel_names)
    taken = [lead for lead, name in zip(leads, names, strict=True) if is_taken(name, said)]
    _check_starts(taken)
    channels = [
        _channel(name, lead, said) if is_taken(name, said) else Channel(name, np.empty(0), None)
        for name, lead in zip(names, leads, strict=True)
    ]
    return record_of(channels, _sampling_rate(waveform), said)


def _rhythm(root: Element) -> Element:
    kinds = [(text_of(waveform, "WaveformType"), waveform) for waveform in children(root, "Waveform")]
    rhythms = [waveform for kind, waveform in kinds if kind is not None and kind.casefold() == "rhythm"]
    if len(rhythms) != 1:
        raise RecordError(f"{len(rhythms)} of its {len(kinds)} waveforms are of the type Rhythm; expected one.")
    return rhythms[0]


def _sampling_rate(waveform: Element) -> float | None:
    base, exponent = text_of(waveform, "SampleBase"), text_of(waveform, "SampleExponent")
    if base is None or exponent is None:
        return None
    power = integer(exponent, "SampleExponent")
    if abs(power) > 9:
        raise RecordError(f"its SampleExponent is {power}; expected a power of ten between -9 and 9.")
    return _decimal(base, "SampleBase") * 10.0**power


def _channel(name: str, lead: Element, said: Said) -> Channel:
    per_bit = text_of(lead, "LeadAmplitudeUnitsPerBit")
    scale = 0.0 if per_bit is None else _decimal(per_bit, f"LeadAmplitudeUnitsPerBit of lead {name}")
    if scale == 0:
        raise RecordError(f"lead {name} has no LeadAmplitudeUnitsPerBit: its values are no voltages.")
    unit = text_of(lead, "LeadAmplitudeUnits") or said.units
    return Channel(name, np.frombuffer(_data(name, lead), "<i2"), unit, scale)


def _data(name: str, lead: Element) -> bytes:
    """The bytes of a lead, once they are what the file says of them."""
    try:
        data = base64.b64decode("".join((text_of(lead, "WaveFormData") or "").split()), validate=True)
    except ValueError:
        raise RecordError(f"the WaveFormData of lead {name} are damaged: they are not base64.") from None
    if len(data) % _BYTES:
        raise RecordError(f"lead {name} has {len(data)} bytes; expected two for each sample.")
    there = {
        "LeadSampleSize": _BYTES,
        "LeadByteCountTotal": len(data),
        "LeadSampleCountTotal": len(data) // _BYTES,
        "LeadDataCRC32": zlib.crc32(data),
    }
    for field, actual in there.items():
        if (text := text_of(lead, field)) is None:
            continue
        stated = integer(text, f"{field} of lead {name}")
        # The checksum may be written as a signed number.
        if stated % 2**32 != actual:
            raise RecordError(f"lead {name} has the {field} {actual}, not {stated} as stated: it is cut or damaged.")
    return data


def _check_starts(leads: list[Element]) -> None:
    for field in ("LeadTimeOffset", "LeadOffsetFirstSample"):
        starts = {_decimal(text_of(lead, field) or "0", field) for lead in leads}
        if len(starts) > 1:
            raise RecordError(f"its leads do not start together: they have the {field} {sorted(starts)}.")


def _decimal(text: str, where: str) -> float:
    """A number, which servers of some countries write with a decimal comma."""
    return number(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text, where)
