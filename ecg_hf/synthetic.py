"""Simulated 12-lead ECGs, one at a time or as a folder in the layout of PTB-XL.

The source is a dipole: each wave of a beat is a Gaussian in time with a direction in Frank's coordinates (X left,
Y down, Z back; mV). Lead vectors project it on the body surface, so that all leads agree with each other. A statement
changes what it changes in a patient: a block reshapes the QRS complex, an infarct takes away force and lifts the ST
segment, a rhythm moves the beats. Numbers without a source were chosen to look right on ECG paper, and so that the
milder cases of a statement overlap with healthy patients.

The simulation is meant for tests and demonstrations. It says nothing about how well a model does on patients.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly
from tqdm.auto import tqdm

from .ecg_transformer.common_ecg_transformer import LEAD_NAMES
from .files import whole_folder
from .ptbxl.labels import STATEMENTS

# Dower, Machado, Osborne 1980 (doi 10.1002/clc.1980.3.2.87): the leads I, II, V1 ... V6 from Frank's X, Y, Z.
_LEAD_VECTORS = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# III, aVR, aVL and aVF follow from I and II (Einthoven, Goldberger).
_LIMB_LEADS = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])

_SOURCE_RATE = 500  # Hz, of the dipole; other rates are resampled from it
_MARGIN = 1  # s simulated on both sides, so that beats and filters have no edge in the record
_QRS_ONSET = -0.045  # s from the R peak


def _vector(*xyz: float) -> np.ndarray:
    return np.array(xyz)


def _turned(vector: np.ndarray, degrees: float) -> np.ndarray:
    """`vector` turned in the frontal plane, by positive angles from the left arm to the feet, as the heart's axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y, z = vector
    return np.array([cos * x - sin * y, sin * x + cos * y, z])


# ---------------------------------------------------------------------------------------------- patient and heart beat


@dataclass
class Patient:
    """What all records of one patient share."""

    age: int  # years
    sex: int  # 0 male, 1 female, as in PTB-XL
    height: int  # cm
    weight: int  # kg
    axis: float  # degrees that the electrical axis is turned from the typical one
    voltage: float  # factor
    qtc: float  # s
    pr: float  # s
    electrodes: np.ndarray  # (8, 3), difference from the typical lead vectors: build and electrode positions

    @classmethod
    def draw(cls, rng: np.random.Generator, mean_age: float = 60.0) -> Patient:
        """A random adult; with age the axis turns left."""
        age = np.clip(rng.normal(mean_age, 14), 18, 95)
        sex = int(rng.integers(2))
        height = rng.normal(177 - 12 * sex, 7)
        weight = height**2 / 1e4 * np.clip(rng.normal(26, 4), 17, 45)
        return cls(
            age=round(age),
            sex=sex,
            height=round(height),
            weight=round(weight),
            axis=np.clip(rng.normal(12 - 0.5 * (age - 40), 18), -50, 50),
            voltage=(1.05 - 0.1 * sex) * rng.lognormal(0, 0.22),
            qtc=rng.normal(0.400 + 0.01 * sex, 0.018),
            pr=np.clip(rng.normal(0.155, 0.018), 0.12, 0.195),
            electrodes=rng.normal(0, 0.1, _LEAD_VECTORS.shape),
        )


class _Wave(NamedTuple):
    time: float  # s from the R peak
    width: float  # s, standard deviation
    vector: np.ndarray  # mV
    qt_share: float = 0.0  # how far the wave moves with the QT interval


@dataclass
class _Beat:
    """A heart beat that the effects of statements change before its waves are laid out in time."""

    pr: float  # s
    qtc: float  # s
    p: np.ndarray  # mV
    qrs: list[_Wave]
    necrosis: np.ndarray  # mV, the force that dead muscle takes away early in the QRS complex: Q waves
    st: np.ndarray  # mV
    t: np.ndarray  # mV

    @classmethod
    def normal(cls, patient: Patient, rng: np.random.Generator) -> _Beat:
        axis = patient.axis + rng.normal(0, 3)
        beat = cls(
            pr=patient.pr + rng.normal(0, 0.004),
            qtc=patient.qtc + rng.normal(0, 0.005),
            p=_turned(_vector(0.07, 0.11, 0.0), 0.4 * axis) * rng.lognormal(0, 0.2),
            qrs=[
                _Wave(-0.022, 0.008, _vector(-0.12, 0.0, -0.25) * rng.lognormal(0, 0.5)),  # septum
                _Wave(0.0, 0.0105, _vector(1.0, 0.6, 0.15)),  # free wall of the left ventricle
                _Wave(0.022, 0.011, _vector(-0.1, -0.15, 0.75) * rng.lognormal(0, 0.25)),  # base
            ],
            necrosis=np.zeros(3),
            st=_vector(0.02, 0.015, -0.02) + rng.normal(0, 0.025, 3),
            t=_turned(_vector(0.27, 0.18, -0.13), 0.5 * axis) * rng.lognormal(0, 0.35) + rng.normal(0, 0.05, 3),
        )
        beat.scale_qrs(patient.voltage)
        beat.turn_qrs(axis)
        return beat

    def scale_qrs(self, factor: float) -> None:
        self.qrs = [wave._replace(vector=factor * wave.vector) for wave in self.qrs]

    def turn_qrs(self, degrees: float) -> None:
        self.qrs = [wave._replace(vector=_turned(wave.vector, degrees)) for wave in self.qrs]

    def waves(self) -> list[_Wave]:
        p_onset = _QRS_ONSET - self.pr
        back = np.linalg.norm(self.p) * _vector(0.0, 0.0, 0.35)
        return [
            _Wave(p_onset + 0.042, 0.018, 0.7 * self.p - back),  # right atrium
            _Wave(p_onset + 0.068, 0.019, 0.7 * self.p + back),  # left atrium
            *self.qrs,
            _Wave(-0.024, 0.012, self.necrosis),
            _Wave(-0.02, 0.045, self.st, qt_share=0.35),
            _Wave(-0.165, 0.050, 0.45 * self.t, qt_share=1.0),  # T rises slower than it falls
            _Wave(-0.120, 0.034, 0.75 * self.t, qt_share=1.0),
        ]


# -------------------------------------------------------------------------------- what statements do to the heart beat


def _left_bundle_branch_block(beat: _Beat, rng: np.random.Generator) -> None:
    size = rng.uniform(0.75, 1.15)
    beat.qrs = [
        _Wave(-0.005, 0.019, size * _vector(0.55, 0.30, 0.55)),
        _Wave(0.035, 0.022, size * _vector(0.85, 0.15, 0.95)),
        _Wave(0.078, 0.018, size * _vector(0.60, 0.0, 0.30)),
    ]
    beat.st = size * _vector(-0.10, -0.03, -0.18)
    beat.t = size * _vector(-0.28, -0.05, -0.38)
    beat.qtc += 0.04


def _right_bundle_branch_block(beat: _Beat, rng: np.random.Generator) -> None:
    size = rng.uniform(0.4, 1.2)
    beat.qrs.append(_Wave(0.066, 0.018, size * _vector(-0.50, 0.05, -0.60)))
    beat.t = beat.t + size * _vector(0.06, 0.0, 0.22)
    beat.qtc += 0.03


def _left_anterior_fascicular_block(beat: _Beat, rng: np.random.Generator) -> None:
    septum, free_wall, base, *rest = beat.qrs
    beat.qrs = [
        septum._replace(vector=septum.vector + _vector(0.0, 0.22, 0.0)),
        free_wall._replace(vector=_turned(free_wall.vector, -rng.uniform(45, 85))),
        base._replace(vector=base.vector + _vector(0.0, -0.25, 0.1)),
        *rest,
    ]


def _first_degree_av_block(beat: _Beat, rng: np.random.Generator) -> None:
    beat.pr = rng.uniform(0.205, 0.29)


def _paced_ventricle(beat: _Beat, rng: np.random.Generator) -> None:
    """Stimulated in the right ventricle's apex, so activated from there to the left and upwards."""
    size = rng.uniform(0.8, 1.2)
    beat.p = beat.p * rng.integers(2)  # the atria lead the pacemaker, or stand still
    beat.qrs = [
        _Wave(-0.045, 0.0015, rng.uniform(0.8, 2.0) * _vector(0.5, -0.9, 0.3)),  # the stimulus
        _Wave(0.0, 0.020, size * _vector(0.20, -0.45, 0.45)),
        _Wave(0.042, 0.024, size * _vector(0.55, -1.00, 0.80)),
        _Wave(0.085, 0.020, size * _vector(0.25, -0.55, 0.30)),
    ]
    beat.st = size * _vector(-0.05, 0.12, -0.12)
    beat.t = size * _vector(-0.15, 0.45, -0.35)
    beat.qtc += 0.05


def _high_voltage(beat: _Beat, rng: np.random.Generator) -> None:
    beat.scale_qrs(rng.uniform(1.35, 1.8))


def _left_ventricular_hypertrophy(beat: _Beat, rng: np.random.Generator) -> None:
    beat.scale_qrs(rng.uniform(1.1, 1.6))
    strain = rng.uniform(0.1, 1.1)
    beat.st = beat.st + strain * _vector(-0.10, -0.02, -0.06)
    beat.t = beat.t * (1 - 0.7 * strain) + strain * _vector(-0.16, -0.02, -0.10)


def _q_waves(beat: _Beat, rng: np.random.Generator) -> None:
    """Deeper where an infarct made them, inferior otherwise."""
    if beat.necrosis.any():
        beat.necrosis = beat.necrosis * rng.uniform(1.5, 1.9)
    else:
        beat.necrosis = rng.uniform(0.7, 1.1) * _vector(0.0, -0.45, 0.0)


_Effect = Callable[[_Beat, np.random.Generator], None]


def _infarction(lost_force: np.ndarray, injury: np.ndarray) -> _Effect:
    """The effect of an infarct that takes away `lost_force` and whose injury current is `injury` (both in mV)."""

    def infarction(beat: _Beat, rng: np.random.Generator) -> None:
        age = rng.uniform(0, 1)  # from the first hours, with ST elevation, to the scar, with inverted T waves
        beat.necrosis = beat.necrosis + rng.uniform(0.2, 1.0) * lost_force
        beat.st = beat.st + rng.uniform(0.3, 1.1) * (1.1 - 0.8 * age) * injury
        beat.t = beat.t + (0.8 - 1.8 * age) * injury

    return infarction


def _ischemia(beat: _Beat, rng: np.random.Generator) -> None:
    size = rng.uniform(0.25, 1.1)
    beat.st = beat.st + size * _vector(-0.15, -0.07, 0.06)
    beat.t = beat.t * (1 - 1.4 * size)


def _unspecific_st(beat: _Beat, rng: np.random.Generator) -> None:
    beat.st = beat.st + rng.uniform(0.3, 0.9) * _vector(-0.12, -0.07, 0.05)


def _unspecific_t(beat: _Beat, rng: np.random.Generator) -> None:
    beat.t = beat.t * rng.uniform(-0.4, 0.5)


def _long_qt(beat: _Beat, rng: np.random.Generator) -> None:
    beat.qtc += rng.uniform(0.05, 0.11)


# In the order in which they act: conduction, then muscle, then ST-T.
_BEAT_EFFECTS: dict[str, _Effect] = {
    "1AVB": _first_degree_av_block,
    "LAFB": _left_anterior_fascicular_block,
    "CRBBB": _right_bundle_branch_block,
    "CLBBB": _left_bundle_branch_block,
    "PACE": _paced_ventricle,
    "VCLVH": _high_voltage,
    "LVH": _left_ventricular_hypertrophy,
    "IMI": _infarction(_vector(0.05, -0.55, 0.0), _vector(-0.08, 0.20, 0.02)),
    "ASMI": _infarction(_vector(-0.05, 0.05, 0.50), _vector(0.06, 0.0, -0.20)),
    "QWAVE": _q_waves,
    "ISC_": _ischemia,
    "NST_": _unspecific_st,
    "NDT": _unspecific_t,
    "LNGQT": _long_qt,
}


# -------------------------------------------------------------------------------------------------------------- rhythm

_HEART_RATES = {  # slowest and fastest, beats/min; of several rhythms the first of this table decides
    "AFIB": (65, 135),
    "PACE": (60, 78),
    "STACH": (104, 140),
    "SBRAD": (42, 56),
    "SARRH": (56, 84),
    "SR": (60, 96),
}


class _Rhythm(NamedTuple):
    times: np.ndarray  # s, of the R peaks
    rr: np.ndarray  # s, interval before each beat
    ectopic: np.ndarray  # bool, ventricular premature beats


def _rhythm(codes: Collection[str], seconds: float, rng: np.random.Generator) -> _Rhythm:
    """R peaks from `_MARGIN` before the record to `_MARGIN` after it."""
    name = next((code for code in _HEART_RATES if code in codes), "SR")
    rr = 60 / rng.uniform(*_HEART_RATES[name])
    beats = np.arange(int(2 * (seconds + 2 * _MARGIN) / rr) + 2)  # enough for intervals of half the mean
    if name == "AFIB":
        deviation = rng.uniform(0.18, 0.28)
        intervals = np.maximum(rr * rng.gamma(deviation**-2, deviation**2, beats.size), 0.3)
    elif name == "PACE":
        intervals = np.full(beats.size, rr)
    else:
        swing = rng.uniform(0.12, 0.2) if name == "SARRH" else rng.uniform(0.005, 0.03)
        breaths = rng.uniform(0.16, 0.28) * rr * beats + rng.uniform()
        intervals = rr * (1 + swing * np.sin(2 * np.pi * breaths) + rng.normal(0, 0.008, beats.size))
    times = np.cumsum(intervals) - intervals[0] - _MARGIN - rr * rng.uniform()
    ectopic = np.zeros(beats.size, dtype=bool)
    if "PVC" in codes:
        # One of every two beats can be premature. It leaves the sinus node alone, so a pause makes up for it.
        choice = np.flatnonzero((times > 0.8) & (times < seconds - 0.3))[::2]
        ectopic[rng.permutation(choice)[: rng.integers(1, 4)]] = True
        early = rng.uniform(0.3, 0.42)
        times = np.where(ectopic, times - early * intervals, times)
    inside = times < seconds + _MARGIN
    return _Rhythm(times[inside], intervals[inside], ectopic[inside])


def _premature_ventricular_waves(rng: np.random.Generator) -> list[_Wave]:
    """From either ventricle, so to the left and back or to the right and forward; slow, with the T wave against it."""
    origin = _vector(0.9, 0.7, 1.1) if rng.integers(2) else _vector(-0.9, 0.7, -1.0)
    vector = _turned(origin, rng.uniform(-60, 30)) * rng.uniform(0.9, 1.4)
    return [
        _Wave(0.0, 0.026, 0.8 * vector),
        _Wave(0.055, 0.026, 0.9 * vector),
        _Wave(-0.13, 0.060, -0.55 * vector, qt_share=1.0),
    ]


# ------------------------------------------------------------------------------------------------ source, leads, noise


def _add_beats(source: np.ndarray, waves: list[_Wave], times: np.ndarray, qt: np.ndarray, gain: np.ndarray) -> None:
    """Adds to the dipole `source` (samples, 3) beats at `times` (s) with QT intervals `qt` (s) and factors `gain`."""
    courses = np.empty((len(waves), len(source)))
    for wave, course in zip(waves, courses, strict=True):
        centres = (times + wave.time + wave.qt_share * qt + _MARGIN) * _SOURCE_RATE
        width = wave.width * _SOURCE_RATE
        reach = np.ceil(4.5 * width)
        samples = (np.rint(centres)[:, None] + np.arange(-reach, reach + 1)).astype(int)
        shapes = gain[:, None] * np.exp(-0.5 * np.square((samples - centres[:, None]) / width))
        inside = (samples >= 0) & (samples < len(source))
        course[:] = np.bincount(samples[inside], weights=shapes[inside], minlength=len(source))
    source += courses.T @ np.array([wave.vector for wave in waves])


def _fibrillation_waves(count: int, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(count) / _SOURCE_RATE
    rates = rng.uniform(4.5, 8.0) * np.array([1.0, 1.13, 0.88])
    waves = np.sin(2 * np.pi * (rates * time[:, None] + rng.uniform(size=3))).sum(axis=1)
    return rng.uniform(0.012, 0.035) * waves[:, None] * _vector(0.3, 0.8, -0.9)


def _source(codes: Collection[str], patient: Patient, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The dipole in mV at `_SOURCE_RATE`, shape (samples, 3), with `_MARGIN` on both sides."""
    rhythm = _rhythm(codes, seconds, rng)
    beat = _Beat.normal(patient, rng)
    for code, effect in _BEAT_EFFECTS.items():
        if code in codes:
            effect(beat, rng)
    source = np.zeros((round((seconds + 2 * _MARGIN) * _SOURCE_RATE), 3))
    if "AFIB" in codes:
        beat.p = np.zeros(3)
        source += _fibrillation_waves(len(source), rng)
    # Fridericia's formula; the QT interval follows the rate slowly.
    qt = beat.qtc * np.cbrt((rhythm.rr + rhythm.rr.mean()) / 2)
    breath = np.sin(2 * np.pi * (rng.uniform(0.18, 0.3) * rhythm.times + rng.uniform()))
    gain = 1 + rng.uniform(0.01, 0.05) * breath + rng.normal(0, 0.01, breath.size)
    normal = ~rhythm.ectopic
    _add_beats(source, beat.waves(), rhythm.times[normal], qt[normal], gain[normal])
    if rhythm.ectopic.any():
        waves = _premature_ventricular_waves(rng)
        _add_beats(source, waves, rhythm.times[~normal], qt[~normal] + 0.08, gain[~normal])
    return source


def _baseline_wander(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slow drift of the eight leads in mV, shape (8, samples)."""
    rates = np.array([rng.uniform(0.18, 0.3), *rng.uniform(0.03, 0.5, 3)])
    waves = np.sin(2 * np.pi * (rates[:, None] * time + rng.uniform(size=(4, 1))))
    return rng.normal(0, rng.lognormal(np.log(0.025), 0.6), (8, 4)) @ waves


def _electrical_noise(samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Muscle noise and mains hum of the eight leads in mV, shape (8, samples).

    Made from its spectrum up to the Nyquist frequency. The coefficients are drawn from low to high frequency, so a
    lower sampling rate sees the first of the same ones, which is what a perfect anti-alias filter leaves.
    """
    frequencies = np.arange((samples + 1) // 2) * sampling_rate / samples
    level = rng.lognormal(np.log(0.012), 0.5, 8)
    hum = rng.lognormal(np.log(0.002), 0.5, 8)
    spectrum = rng.standard_normal((frequencies.size, 8, 2)).view(complex)[..., 0].T
    # `level` is what the standard deviation up to 40 Hz would be if the spectrum did not fall.
    spectrum *= level[:, None] / np.sqrt(160 * samples / sampling_rate) / (1 + frequencies / 40)
    spectrum[:, 0] = 0
    spectrum[:, np.isclose(frequencies, 50)] += hum[:, None] / 2
    return np.fft.irfft(spectrum, samples, norm="forward")


SIMULATED_STATEMENTS = tuple(code for code in STATEMENTS if code in {"NORM", "PVC", *_BEAT_EFFECTS, *_HEART_RATES})


def simulate_ecg(
    statements: Collection[str],
    *,
    sampling_rate: int = 500,
    seconds: float = 10.0,
    rng: np.random.Generator,
    patient: Patient | None = None,
) -> np.ndarray:
    """Simulates one ECG that shows `statements`.

    Args:
        statements: SCP-ECG codes out of `SIMULATED_STATEMENTS`. Without a rhythm it is sinus rhythm.
        sampling_rate: in Hz. The same state of `rng` gives the same ECG at every rate.
        rng: decides on everything that differs from record to record, noise included.
        patient: the person, drawn from `rng` if None.

    Returns:
        int16 in µV, shape (12, samples), leads in the order I, II, III, aVR, aVL, aVF, V1 to V6.

    Raises:
        ValueError: for a statement that is not simulated.
    """
    if unknown := sorted(set(statements) - set(SIMULATED_STATEMENTS)):
        known = ", ".join(SIMULATED_STATEMENTS)
        raise ValueError(f"Cannot simulate {', '.join(unknown)}; `statements` can hold {known}.")
    patient = patient or Patient.draw(rng)
    source = _source(statements, patient, seconds, rng)
    ratio = Fraction(sampling_rate, _SOURCE_RATE)
    if ratio != 1:
        source = resample_poly(source, ratio.numerator, ratio.denominator, axis=0)
    samples = round(seconds * sampling_rate)
    source = source[_MARGIN * sampling_rate :][:samples]
    leads = (_LEAD_VECTORS + patient.electrodes) @ source.T
    leads += _baseline_wander(np.arange(samples) / sampling_rate, rng)
    leads += _electrical_noise(samples, sampling_rate, rng)
    twelve = np.vstack([_LIMB_LEADS @ leads[:2], leads[2:]])
    return np.rint(1000 * twelve).astype(np.int16)


# ---------------------------------------------------------------------------------------------- a folder like PTB-XL's

# What one record shows. Each fold goes through the deck in its own order, but the first ten, which hold every
# statement, before the others. So 100 records show each statement in each fold, and 400 have the frequencies of the
# deck: about those of PTB-XL, with more of the rare ones.
_DECK = (
    "NORM SR",
    "NORM SBRAD",
    "NST_ SARRH",
    "IMI QWAVE SR",
    "ASMI LNGQT STACH",
    "LVH VCLVH ISC_ SR",
    "CLBBB 1AVB SR",
    "CRBBB LAFB PVC SR",
    "NDT AFIB",
    "PACE",
    *["NORM SR"] * 10,
    "NORM STACH",
    "NORM SARRH",
    "NORM SBRAD",
    "NORM PVC SR",
    "NORM VCLVH SR",
    "IMI SR",
    "IMI LAFB SR",
    "IMI ISC_ LVH SR",
    "IMI ASMI QWAVE SR",
    "ASMI SR",
    "ASMI LAFB SR",
    "ASMI PVC SR",
    "LVH SR",
    "LVH ISC_ AFIB",
    "LAFB 1AVB SR",
    "CRBBB SR",
    "CLBBB AFIB",
    "ISC_ SR",
    "NDT SR",
    "NST_ STACH",
)
_COMPLETE = 10  # cards of the deck that hold every statement
_NUM_FOLDS = 10

_PURPOSES = ("statements", "patient", "visit", "likelihood", "signal")  # of random numbers, each its own stream

_FILE_SUFFIXES = {100: "lr", 500: "hr"}
_MADE_WITH_FILE = "simulation.json"
_VERSION = 1  # to be raised when the same seed gives other records

_DATABASE_COLUMNS = (
    "ecg_id patient_id age sex height weight nurse site device recording_date report scp_codes heart_axis "
    "infarction_stadium1 infarction_stadium2 validated_by second_opinion initial_autogenerated_report "
    "validated_by_human baseline_drift static_noise burst_noise electrodes_problems extra_beats pacemaker strat_fold "
    "filename_lr filename_hr"
).split()


class _Record(NamedTuple):
    index: int
    first_index: int  # of the patient's first record
    statements: list[str]
    patient: Patient

    @property
    def ecg_id(self) -> int:
        return self.index + 1

    def file_name(self, sampling_rate: int) -> str:
        thousands = self.ecg_id // 1000 * 1000
        return f"records{sampling_rate}/{thousands:05d}/{self.ecg_id:05d}_{_FILE_SUFFIXES[sampling_rate]}"


def _generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([seed, _PURPOSES.index(purpose), *numbers])


def _statements(seed: int, index: int) -> list[str]:
    turn, fold = divmod(index, _NUM_FOLDS)
    deal, position = divmod(turn, len(_DECK))
    rng = _generator(seed, "statements", fold, deal)
    order = [*rng.permutation(_COMPLETE), *rng.permutation(range(_COMPLETE, len(_DECK)))]
    return _DECK[order[position]].split()


def _patient(seed: int, first_index: int) -> Patient:
    healthy = "NORM" in _statements(seed, first_index)
    return Patient.draw(_generator(seed, "patient", first_index), mean_age=52 if healthy else 67)


def _records(num_records: int, seed: int) -> Iterator[_Record]:
    """One patient in seven comes again, as the next record of the same fold."""
    first_indices: list[int] = []
    for index in range(num_records):
        comes_again = index >= _NUM_FOLDS and _generator(seed, "visit", index).uniform() < 1 / 7
        first_indices.append(first_indices[index - _NUM_FOLDS] if comes_again else index)
        yield _Record(index, first_indices[-1], _statements(seed, index), _patient(seed, first_indices[-1]))


def _database_row(record: _Record, seed: int) -> dict[str, object]:
    """The row of ``ptbxl_database.csv``; columns that are not named here stay empty."""
    rng = _generator(seed, "likelihood", record.index)
    likelihoods = {
        code: float(rng.choice([100, 80, 50, 0], p=[0.6, 0.1, 0.15, 0.15])) if "d" in STATEMENTS[code].kinds else 0.0
        for code in record.statements
    }
    patient = record.patient
    return {
        "ecg_id": record.ecg_id,
        "patient_id": float(10_000 + record.first_index),
        "age": 300.0 if patient.age > 89 else float(patient.age),
        "sex": patient.sex,
        "height": float(patient.height),
        "weight": float(patient.weight),
        "nurse": 0.0,
        "site": 0.0,
        "device": "simulated",
        "recording_date": datetime.datetime(2000, 1, 1, 9) + datetime.timedelta(hours=record.index),
        "report": ", ".join(STATEMENTS[code].description for code in record.statements),
        "scp_codes": likelihoods,
        "second_opinion": False,
        "initial_autogenerated_report": True,
        "validated_by_human": False,
        "strat_fold": record.index % _NUM_FOLDS + 1,
        "filename_lr": record.file_name(100),
        "filename_hr": record.file_name(500),
    }


def _write_database(path: Path, records: Iterable[_Record], seed: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _DATABASE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_database_row(record, seed) for record in records)


def _write_statements(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"])
        for statement in STATEMENTS.values():
            code, description, kinds, *classes = statement
            writer.writerow([code, description, *(1.0 if kind in kinds else None for kind in "dfr"), *classes])


def _write_wfdb(path: Path, signal: np.ndarray, sampling_rate: int) -> None:
    """Writes `signal`, int16 in µV (leads, samples), as ``path.hea`` and ``path.dat``, as PTB-XL has them."""
    checksums = signal.sum(axis=1, dtype=np.int64) % 65536
    lines = [f"{path.name} {len(signal)} {sampling_rate} {signal.shape[1]}"] + [
        f"{path.name}.dat 16 1000.0(0)/mV 16 0 {first} {checksum} 0 {lead.upper()}"
        for first, checksum, lead in zip(signal[:, 0], checksums, LEAD_NAMES, strict=True)
    ]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n", encoding="ascii")
    path.with_suffix(".dat").write_bytes(signal.T.astype("<i2").tobytes())


def _write_signals(folder: Path, records: Collection[_Record], seed: int, sampling_rates: Collection[int]) -> None:
    for record in tqdm(records, desc="Simulating ECGs", unit="record", disable=len(records) < 200):
        for rate in sampling_rates:
            rng = _generator(seed, "signal", record.index)
            signal = simulate_ecg(record.statements, sampling_rate=rate, rng=rng, patient=record.patient)
            path = folder / record.file_name(rate)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_wfdb(path, signal, rate)


def simulate_ptbxl(
    folder: str | os.PathLike, num_records: int, *, seed: int = 0, sampling_rates: Collection[int] = (100,)
) -> Path:
    """Writes a folder of simulated ECGs in the layout of PTB-XL.

    Record i depends on `seed` and i alone: more records extend fewer, and both rates hold the same ECGs. From 100
    records on, each of `SIMULATED_STATEMENTS` occurs in every fold. ``simulation.json`` says how the folder was made.

    Args:
        folder: new or empty. One that already holds this very simulation is left as it is.
        sampling_rates: 100 or 500 Hz or both.

    Returns:
        The folder. It appears when it is complete.

    Raises:
        FileExistsError: if `folder` holds anything else.
        ValueError: for another rate, or less than one record.
    """
    folder = Path(folder)
    rates = sorted(set(sampling_rates))
    if not rates or not set(rates) <= set(_FILE_SUFFIXES):
        raise ValueError(f"`sampling_rates` must be 100 or 500 Hz or both, as in PTB-XL, got {tuple(sampling_rates)}.")
    if num_records < 1:
        raise ValueError(f"`num_records` must be at least 1, got {num_records}.")
    made_with = {"version": _VERSION, "num_records": num_records, "seed": seed, "sampling_rates": rates}
    if _made_with(folder) == made_with:
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists, but is not the simulation of {num_records} records with seed {seed} at {rates} Hz; "
            "name a new folder or remove this one."
        )
    records = list(_records(num_records, seed))
    with whole_folder(folder) as unfinished:
        _write_signals(unfinished, records, seed, rates)
        _write_database(unfinished / "ptbxl_database.csv", records, seed)
        _write_statements(unfinished / "scp_statements.csv")
        names = [record.file_name(rate) for rate in rates for record in records]
        (unfinished / "RECORDS").write_text("\n".join(names) + "\n", encoding="ascii")
        (unfinished / _MADE_WITH_FILE).write_text(json.dumps(made_with, indent=2) + "\n", encoding="ascii")
    return folder


def _made_with(folder: Path) -> dict[str, object] | None:
    path = folder / _MADE_WITH_FILE
    return json.loads(path.read_text(encoding="ascii")) if path.is_file() else None


__all__ = ["SIMULATED_STATEMENTS", "Patient", "simulate_ecg", "simulate_ptbxl"]
