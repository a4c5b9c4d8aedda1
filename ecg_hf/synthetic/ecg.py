"""Simulated 12-lead ECGs.

The source is a dipole: each wave of a beat is a Gaussian in time with a direction in Frank's coordinates (X left,
Y down, Z back; mV). Lead vectors project it on the body surface, so that all leads are consistent with each other.
Each statement has the effect that it has in a patient: a block reshapes the QRS complex, an infarct reduces the QRS
forces and lifts the ST segment, a rhythm moves the beats. Numbers without a source were chosen to look right on ECG
paper, and so that the milder cases of a statement overlap with healthy patients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly

from ..ptbxl.labels import STATEMENTS

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
    axis: float  # degrees between the electrical axis and the typical one
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
    necrosis: np.ndarray  # mV, the force lost to dead muscle early in the QRS complex: Q waves
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
    beat.p = beat.p * rng.integers(2)  # the pacemaker follows the atria, or these are silent
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
    """The effect of an infarct with the QRS force `lost_force` lost and the injury current `injury` (both in mV)."""

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


# In the order in which they are applied: conduction, then muscle, then ST-T.
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

_HEART_RATES = {  # lowest and highest rate, beats/min; with several rhythms the first one in this table decides
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
        # Every second beat can be premature. It does not reset the sinus node, so a compensatory pause follows.
        choice = np.flatnonzero((times > 0.8) & (times < seconds - 0.3))[::2]
        ectopic[rng.permutation(choice)[: rng.integers(1, 4)]] = True
        early = rng.uniform(0.3, 0.42)
        times = np.where(ectopic, times - early * intervals, times)
    inside = times < seconds + _MARGIN
    return _Rhythm(times[inside], intervals[inside], ectopic[inside])


def _premature_ventricular_waves(rng: np.random.Generator) -> list[_Wave]:
    """From either ventricle, so to the left and back or to the right and forward; wide, with a discordant T wave."""
    origin = _vector(0.9, 0.7, 1.1) if rng.integers(2) else _vector(-0.9, 0.7, -1.0)
    vector = _turned(origin, rng.uniform(-60, 30)) * rng.uniform(0.9, 1.4)
    return [
        _Wave(0.0, 0.026, 0.8 * vector),
        _Wave(0.055, 0.026, 0.9 * vector),
        _Wave(-0.13, 0.060, -0.55 * vector, qt_share=1.0),
    ]


# ------------------------------------------------------------------------------------------------ source, leads, noise


def _add_beats(source: np.ndarray, waves: list[_Wave], times: np.ndarray, qt: np.ndarray, gain: np.ndarray) -> None:
    """Add to the dipole `source` (samples, 3) beats at `times` (s) with QT intervals `qt` (s) and factors `gain`."""
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

    Synthesised from its spectrum up to the Nyquist frequency. The coefficients are drawn from low to high frequency:
    a lower sampling rate uses the first of the same coefficients, as after an ideal anti-aliasing filter.
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
    """Simulate one ECG that shows `statements`.

    Args:
        statements: SCP-ECG codes from `SIMULATED_STATEMENTS`. The default rhythm is sinus rhythm.
        sampling_rate: in Hz. The same state of `rng` gives the same ECG at every rate.
        rng: source of everything that differs between records, including noise.
        patient: drawn from `rng` if None.

    Returns:
        int16 in µV, shape (12, samples), leads in the order I, II, III, aVR, aVL, aVF, V1 to V6.

    Raises:
        ValueError: for a statement that is not simulated.
    """
    if unknown := sorted(set(statements) - set(SIMULATED_STATEMENTS)):
        known = ", ".join(SIMULATED_STATEMENTS)
        raise ValueError(f"Cannot simulate {', '.join(unknown)}; supported `statements` are {known}.")
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


__all__ = ["SIMULATED_STATEMENTS", "Patient", "simulate_ecg"]
