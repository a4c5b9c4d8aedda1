"""Faults and noise that a record might have had: what happens at a bedside, put on recorded signals.

Noise comes from nine electrodes and reaches the leads as their voltages do: I = LA - RA, II = LL - RA, and so on after
Einthoven and Goldberger, and V1 to V6 against the mean of the limb electrodes after Wilson. A lead of another name has
noise of its own. The same record has the same noise in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import datasets
import numpy as np
from scipy.signal import butter, resample_poly, sosfilt
from transformers.feature_extraction_utils import BatchFeature

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.inputs_ecg_transformer import UNITS_PER_MILLIVOLT
from ..runs.columns import each_signal, number_of
from ..runs.windows import EvaluationWindows

MAINS_HERTZ, MAINS_MILLIVOLTS = 50, 0.1
WANDER_HERTZ, WANDER_MILLIVOLTS = (0.15, 0.5), 0.5
MUSCLE_ABOVE_HERTZ = 20
MUSCLE_MILLIVOLTS = (0.02, 0.1)
"""Root mean square of white noise above 20 Hz, at each electrode."""
GAIN = 2
INPUT_RATES = (250, 500)
FIRST_SECONDS = 2.5

_ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
_OF_LIMBS = {
    **{"I": (-1, 1, 0), "II": (-1, 0, 1), "III": (0, -1, 1)},
    **{"aVR": (1, -0.5, -0.5), "aVL": (-0.5, 1, -0.5), "aVF": (-0.5, -0.5, 1)},
}
# (leads, electrodes)
_LEADS_OF_ELECTRODES = np.zeros((len(LEAD_NAMES), len(_ELECTRODES)))
for _row, _name in enumerate(LEAD_NAMES):
    _LEADS_OF_ELECTRODES[_row, :3] = _OF_LIMBS.get(_name, (-1 / 3,) * 3)
    if _name not in _OF_LIMBS:
        _LEADS_OF_ELECTRODES[_row, _ELECTRODES.index(_name)] = 1
_ROWS = {name.casefold(): row for row, name in enumerate(LEAD_NAMES)}
_ARMS = {"II": ("III", -1), "III": ("II", 1), "aVR": ("aVL", 1.5), "aVL": ("aVR", -1.5)}
"""With RA and LA exchanged a lead shows this other one, which is itself plus so much of lead I."""


class Recording(NamedTuple):
    """A record: its signal (leads, samples) in mV, rate in Hz, names of the leads, and what its noise is drawn by."""

    signal: np.ndarray
    sampling_rate: float
    lead_names: Sequence[str]
    seed: int

    def row(self, lead: str) -> int:
        return [name.casefold() for name in self.lead_names].index(lead.casefold())

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *hashlib.sha256(purpose.encode()).digest()[:4]])


class Change(NamedTuple):
    """A change of a record; `needs` are the leads without which it has no meaning."""

    name: str
    title: str
    apply: Callable[[Recording], Recording]
    needs: tuple[str, ...] = ()


def changes_for(model_leads: Sequence[str]) -> list[Change]:
    """All changes, of a model with these leads."""
    strong, strongest = MUSCLE_MILLIVOLTS
    return [
        *(Change(f"without_{lead}", f"{lead} missing (flat)", _flat(lead), (lead,)) for lead in model_leads),
        Change("v1_v2", "V1 and V2 exchanged", _exchanged("V1", "V2"), ("V1", "V2")),
        Change("ra_la", "RA and LA exchanged", _arms_exchanged, ("I",)),
        Change("gain", f"gain ×{GAIN}", lambda record: _added(record, record.signal * (GAIN - 1))),
        Change("mains", f"mains, {MAINS_HERTZ} Hz, {MAINS_MILLIVOLTS} mV", _mains),
        Change("wander", "baseline wander, {:g} to {:g} Hz, {} mV".format(*WANDER_HERTZ, WANDER_MILLIVOLTS), _wander),
        Change("muscle_weak", f"muscle noise, {strong} mV rms", _muscle(strong)),
        Change("muscle_strong", f"muscle noise, {strongest} mV rms", _muscle(strongest)),
        *(Change(f"input_{rate}_hz", f"input at {rate} Hz", _resampled(rate)) for rate in INPUT_RATES),
        Change("first_seconds", f"first {FIRST_SECONDS} s alone", _first_seconds),
    ]


class ChangedWindows(EvaluationWindows):
    """Windows of records that a change has altered before the feature extractor sees them."""

    def __init__(self, dataset: datasets.Dataset, feature_extractor, change: Change, units: str | None = None):
        # The extractor would warn in each batch of the very faults that are wanted.
        super().__init__(dataset, feature_extractor, units, check_leads=False)
        self.change = change

    def _extract(self, table, indices, **kwargs) -> BatchFeature:
        signals, units = each_signal(table, self.units)
        facts = (table[name].to_pylist() for name in ("sampling_rate", "lead_names", "ecg_id"))
        millivolts = [
            signal.astype(np.float32) / np.float32(UNITS_PER_MILLIVOLT[unit])
            for signal, unit in zip(signals, units, strict=True)
        ]
        records = [
            self.change.apply(Recording(signal, rate, names, number_of(ecg_id)))
            for signal, rate, names, ecg_id in zip(millivolts, *facts, strict=True)
        ]
        return self.feature_extractor(
            [np.ascontiguousarray(record.signal, dtype=np.float32) for record in records],
            sampling_rate=[record.sampling_rate for record in records],
            lead_names=[list(record.lead_names) for record in records],
            units="mV",
            check_leads=False,
            **kwargs,
        )


def _added(record: Recording, noise: np.ndarray) -> Recording:
    return record._replace(signal=record.signal + noise)


def _flat(lead: str) -> Callable[[Recording], Recording]:
    def apply(record: Recording) -> Recording:
        signal = record.signal.copy()
        signal[record.row(lead)] = 0
        return record._replace(signal=signal)

    return apply


def _exchanged(one: str, other: str) -> Callable[[Recording], Recording]:
    def apply(record: Recording) -> Recording:
        signal, rows = record.signal.copy(), [record.row(one), record.row(other)]
        signal[rows] = record.signal[rows[::-1]]
        return record._replace(signal=signal)

    return apply


def _arms_exchanged(record: Recording) -> Recording:
    """Many records have I and II of the limb leads alone, from which the model's others are computed afterwards."""
    signal, known = record.signal.copy(), {name.casefold() for name in record.lead_names}
    first = record.signal[record.row("I")]
    signal[record.row("I")] *= -1
    for name, (other, part) in _ARMS.items():
        if name.casefold() in known:
            has_other = other.casefold() in known
            row = record.row(name)
            signal[row] = record.signal[record.row(other)] if has_other else record.signal[row] + part * first
    return record._replace(signal=signal)


def _in_leads(record: Recording, make: Callable[[int], np.ndarray]) -> np.ndarray:
    """(leads, samples) from voltages (rows, samples), which `make(rows)` gives for electrodes and for other leads."""
    names = [name.casefold() for name in record.lead_names]
    electrodes, others = make(len(_ELECTRODES)), make(len(names))
    return np.stack(
        [
            _LEADS_OF_ELECTRODES[_ROWS[name]] @ electrodes if name in _ROWS else others[row]
            for row, name in enumerate(names)
        ]
    )


def _waves(record: Recording, hertz: Callable[[np.random.Generator], float], millivolts: float, purpose: str):
    """A sine of one frequency, with a phase of its own at each electrode."""
    rng = record.rng(purpose)
    time = np.arange(record.signal.shape[1]) / record.sampling_rate
    frequency = hertz(rng)

    def make(rows: int) -> np.ndarray:
        return millivolts * np.sin(2 * np.pi * (frequency * time + rng.uniform(size=(rows, 1))))

    return _added(record, _in_leads(record, make))


def _mains(record: Recording) -> Recording:
    return _waves(record, lambda rng: MAINS_HERTZ, MAINS_MILLIVOLTS, "mains")


def _wander(record: Recording) -> Recording:
    return _waves(record, lambda rng: rng.uniform(*WANDER_HERTZ), WANDER_MILLIVOLTS, "wander")


def _muscle(millivolts: float) -> Callable[[Recording], Recording]:
    def apply(record: Recording) -> Recording:
        # Both levels have the same noise, once weak and once strong.
        rng = record.rng("muscle")
        # A rate of 40 Hz or less has nothing above 20 Hz.
        edge = min(MUSCLE_ABOVE_HERTZ, 0.4 * record.sampling_rate)
        sections = butter(2, edge, "highpass", fs=record.sampling_rate, output="sos")

        def make(rows: int) -> np.ndarray:
            noise = sosfilt(sections, rng.standard_normal((rows, record.signal.shape[1])))
            return noise * millivolts / np.sqrt(np.mean(noise**2, axis=1, keepdims=True))

        return _added(record, _in_leads(record, make))

    return apply


def _resampled(rate: float) -> Callable[[Recording], Recording]:
    def apply(record: Recording) -> Recording:
        if record.sampling_rate == rate:
            return record
        ratio = (Fraction(rate) / Fraction(record.sampling_rate)).limit_denominator(1000)
        signal = resample_poly(record.signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
        return record._replace(signal=signal, sampling_rate=rate)

    return apply


def _first_seconds(record: Recording) -> Recording:
    return record._replace(signal=record.signal[:, : max(1, round(FIRST_SECONDS * record.sampling_rate))])


__all__ = ["Change", "ChangedWindows", "Recording", "changes_for"]
