"""From the channels of a file to a [`Record`]: leads by name, µV by unit, nothing guessed.

Each reader gives what its file says; what that means for a record is decided here, once for all formats.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..ecg_transformer.common_ecg_transformer import (
    LEAD_NAMES,
    MAX_MICROVOLTS,
    MICROVOLTS,
    MISSING_SAMPLE,
    SAY_WHAT_THEY_ARE,
    canonical_lead,
    named_channels,
)
from ..ecg_transformer.wfdb_ecg_transformer import MAX_FILE_BYTES, Record, RecordError

_ALL_LEADS = frozenset(LEAD_NAMES)
_MORE_UNITS = {"microvolts": 1.0, "microvolt": 1.0, "uvperlsb": 1.0, "millivolts": 1e3, "millivolt": 1e3}


_RATE_TOLERANCE = 1e-5
"""Many formats have a step of time in place of a rate, whose digits end: 0.0027778 s for 360 Hz."""


class Channel(NamedTuple):
    """One channel as its file has it.

    Attributes:
        name: as the file spells it.
        values: numbers (samples,); ``values * scale + offset`` is the voltage in `unit`.
        unit: as the file spells it, or the caller's; None if nobody says.
        scale: voltage of one digital unit, in `unit`; None for values that are voltages of no known step, as floats.
        offset: voltage of the digital value 0, in `unit`.
    """

    name: str
    values: np.ndarray
    unit: str | None
    scale: float | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Said:
    """What the caller says of a file: what the file lacks is taken from it, and what the file has must agree.

    Attributes:
        sampling_rate: in Hz.
        units: ``"mV"``, ``"uV"`` or another unit of voltage.
        lead_names: the leads in order: the names of the channels of a file that does not name them, or calls them
            ECG, and those to take from a file that does.
        wanted: the leads to take, of those that the file has; others may be damaged.
        channels: the names of the channels of a file that does not name them, where `lead_names` are but those to
            take.
    """

    sampling_rate: float | None = None
    units: str | None = None
    lead_names: tuple[str, ...] | None = None
    wanted: frozenset[str] = _ALL_LEADS
    channels: tuple[str, ...] | None = None

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """Those of a file that does not name its channels."""
        return self.channels or self.lead_names

    def text(self) -> str:
        """The same text for the same content."""
        channels = "" if self.channels is None else f" {self.channels}"
        return f"{self.sampling_rate} {self.units} {self.lead_names} {sorted(self.wanted)}{channels}"


def canonical_leads(lead_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The leads by their canonical names; `ValueError` for others, or one named twice."""
    if lead_names is None:
        return None
    names = tuple(canonical_lead(str(name)) for name in lead_names)
    if isinstance(lead_names, str) or not names or None in names or len(set(names)) < len(names):
        raise ValueError(f"`lead_names` must list some of {' '.join(LEAD_NAMES)}, each once, got {lead_names!r}.")
    return names


def microvolts_in(unit: str) -> float | None:
    """µV in one of a unit of voltage, None where it is none that is known."""
    key = unit.strip().casefold()
    return MICROVOLTS.get(key, _MORE_UNITS.get(key))


def microvolts_of(unit: str | None, where: str) -> float:
    """µV in one of a unit of voltage; `RecordError` where it is missing or unknown."""
    if unit is None or not unit.strip():
        raise RecordError(f'{where} has no unit of voltage: give `units`, "mV" or "uV".')
    factor = microvolts_in(unit)
    if factor is None:
        raise RecordError(f"{where} is in {unit.strip()[:40]!r}; the unit must be V, mV, uV or nV.")
    return factor


def rate_of(stated: float | None, said: Said) -> int | float:
    """The sampling rate in Hz, from the file or the caller; `RecordError` where both are missing or differ."""
    rate = said.sampling_rate if stated is None else stated
    if rate is None:
        raise RecordError("the file does not state its sampling rate: give `sampling_rate` in Hz.")
    if not np.isfinite(rate) or rate <= 0:
        raise RecordError(f"the sampling rate is {rate}; expected Hz above 0, such as 500.")
    if said.sampling_rate is not None and not np.isclose(rate, said.sampling_rate, rtol=_RATE_TOLERANCE):
        raise RecordError(f"the sampling rate is {rate:g} Hz, expected {said.sampling_rate:g} Hz.")
    return int(rate) if float(rate).is_integer() else float(rate)


def record_of(channels: Sequence[Channel], sampling_rate: float | None, said: Said) -> Record:
    """The record of a file's channels, of which those that are none of the twelve leads are left out.

    Raises `RecordError` for a lead that is there twice or missing, channels of different lengths, missing samples
    (NaN), an unknown unit, a contradiction to what the caller says, and values beyond ±32.767 mV.
    """
    leads, others = _leads_of(channels, said)
    rate = rate_of(sampling_rate, said)
    lengths = {name: len(channel.values) for name, channel in leads.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise RecordError(f"its leads must have equally many samples, one at least; they have {listed}.")
    # Rounding to the nearest µV loses at most half of a step where the step is 1 µV or more.
    is_whole = all(abs(channel.scale or 0) * _factor(name, channel) > 1 - 1e-9 for name, channel in leads.items())
    signal = np.empty((len(leads), max(lengths.values())), np.int16 if is_whole else np.float32)
    for row, (name, channel) in enumerate(leads.items()):
        microvolts = _microvolts(name, channel, said)
        signal[row] = np.rint(microvolts, out=microvolts) if is_whole else microvolts
    return Record(signal, rate, tuple(leads), others)


def whole_microvolts(record: Record) -> np.ndarray:
    """The signal of a record as models get it: int16 (leads, samples), rounded to the nearest µV.

    Whoever feeds a model uses it, so that a record gives the same windows on every way.
    """
    if record.signal.dtype == np.int16:
        return record.signal
    return np.rint(record.signal).astype(np.int16)


def _leads_of(channels: Sequence[Channel], said: Said) -> tuple[dict[str, Channel], tuple[str, ...]]:
    """The channels to take, by canonical name, and the names of those that are none of the twelve leads."""
    found: dict[str, Channel] = {}
    others = []
    taken = said.wanted if said.lead_names is None else said.lead_names
    names = named_channels([channel.name for channel in channels], said.channel_names)
    for channel, name in zip(channels, map(canonical_lead, names), strict=True):
        if name is None:
            others.append(channel.name.strip())
        elif name in found and name in taken:
            raise RecordError(f"lead {name} is there twice.")
        else:
            found[name] = channel
    wanted = [name for name in found if name in said.wanted] if said.lead_names is None else list(said.lead_names)
    if missing := [name for name in wanted if name not in found]:
        there = ", ".join(found) or f"none of the twelve, but {_listed(channels)}"
        raise RecordError(f"it has no lead {', '.join(missing)}; it has {there}.")
    if not wanted:
        raise RecordError(
            f"it has none of the leads {' '.join(name for name in LEAD_NAMES if name in said.wanted)}; it has "
            f"{_listed(channels)}.{'' if found else SAY_WHAT_THEY_ARE}"
        )
    return {name: found[name] for name in wanted}, tuple(others)


def _listed(channels: Sequence[Channel]) -> str:
    return ", ".join(channel.name.strip() for channel in channels) or "no channel"


def _factor(name: str, channel: Channel) -> float:
    return microvolts_of(channel.unit, f"lead {name}")


def _microvolts(name: str, channel: Channel, said: Said) -> np.ndarray:
    """The voltages in µV, float64, once they are found to be sound."""
    factor = _factor(name, channel)
    if said.units is not None and microvolts_of(said.units, "`units`") != factor:
        raise RecordError(f"lead {name} is in {channel.unit}, and `units` says {said.units}: leave it out.")
    values = np.asarray(channel.values)
    if values.dtype.kind not in "iu":
        _refuse_missing(name, "NaN", ~np.isfinite(values))
    with np.errstate(over="ignore", invalid="ignore"):
        # In place: memory that is asked for anew costs more than the arithmetic.
        microvolts = np.multiply(values, 1.0 if channel.scale is None else channel.scale, dtype=np.float64)
        microvolts += channel.offset
        microvolts *= factor
        # As float32 rounds it.
        peak = np.rint(np.float32(max(microvolts.max(), -microvolts.min())))
    if not peak <= MAX_MICROVOLTS:
        _refuse_missing(name, f"{MISSING_SAMPLE}, WFDB's marker", values == MISSING_SAMPLE)
        raise RecordError(
            f"lead {name} reaches {peak / 1000:g} mV, beyond the ±{MAX_MICROVOLTS / 1000} mV that are read; is its "
            f"unit really {channel.unit}?"
        )
    return microvolts


def _refuse_missing(name: str, mark: str, is_missing: np.ndarray) -> None:
    """`RecordError` where samples of a lead are missing, with their number."""
    if missing := np.count_nonzero(is_missing):
        raise RecordError(
            f"lead {name} has missing samples ({mark}): {missing} of {len(is_missing)}. Repair it or leave it out."
        )


def warn_of_other_channels(path: str, others: Sequence[str]) -> None:
    """One warning that names the channels that were left out."""
    if others:
        warnings.warn(
            f"Record {path}: channels left out, as none of the twelve leads: {', '.join(others)}.", stacklevel=3
        )


__all__ = [
    "MAX_FILE_BYTES",
    "Channel",
    "Said",
    "canonical_lead",
    "canonical_leads",
    "microvolts_in",
    "microvolts_of",
    "rate_of",
    "record_of",
    "warn_of_other_channels",
    "whole_microvolts",
]
