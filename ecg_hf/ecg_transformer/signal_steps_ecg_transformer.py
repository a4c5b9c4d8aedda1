"""Processing steps of the feature extractor, on lead names and on signals with the last axes (leads, samples)."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
import scipy  # whose parts load when they are used
from numpy.lib.stride_tricks import sliding_window_view

from .common_ecg_transformer import LEAD_NAMES, canonical_lead

RESAMPLE_METHODS = ("polyphase", "fourier", "linear")


def canonical_lead_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the spelling of `LEAD_NAMES`. Raises `ValueError` for unknown and duplicate leads."""
    names = list(names)
    canonical = tuple(canonical_lead(str(name)) for name in names)
    if None in canonical:
        unknown = [str(name) for name, found in zip(names, canonical, strict=True) if found is None]
        raise ValueError(f"Unknown leads in `lead_names`: {', '.join(unknown)}. Known are {' '.join(LEAD_NAMES)}.")
    if len(set(canonical)) != len(canonical):
        raise ValueError(
            f"`lead_names` names a lead twice: {' '.join(map(str, names))}. Each of {' '.join(LEAD_NAMES)} may occur "
            "once."
        )
    return canonical


def complete_limb_leads(leads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Einthoven's and Goldberger's equations: all six limb leads from two of I, II and III; given ones stay."""
    if len(leads.keys() & {"I", "II", "III"}) < 2:
        return leads
    one = leads["I"] if "I" in leads else leads["II"] - leads["III"]
    two = leads["II"] if "II" in leads else leads["I"] + leads["III"]
    limb_leads = {
        "I": one,
        "II": two,
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    return {**limb_leads, **leads}


def resample(values: np.ndarray, old_rate: float, new_rate: float, method: str) -> np.ndarray:
    """From `old_rate` to `new_rate` (Hz) by one of `RESAMPLE_METHODS`; `ValueError` if no sample would remain."""
    length, ratio = values.shape[-1], _ratio(old_rate, new_rate)
    new_length = int(length * new_rate / old_rate)
    if length < 2 or not (ratio if method == "polyphase" else new_length):
        raise ValueError(f"{length} samples at {old_rate:g} Hz cannot be resampled to {new_rate:g} Hz.")
    if method == "polyphase":
        return scipy.signal.resample_poly(values, ratio.numerator, ratio.denominator, axis=-1, padtype="antireflect")
    if method == "fourier":
        return scipy.signal.resample(values, new_length, axis=-1)
    return _interpolate(values, new_length)


@lru_cache(maxsize=256)
def _ratio(old_rate: float, new_rate: float) -> Fraction:
    # Filters have fewer than 20,000 taps; a ratio of no small integers is off by less than .001 / its denominator.
    return Fraction(float(new_rate) / old_rate).limit_denominator(1000)


def resampled_length(length: int, old_rate: float, new_rate: float) -> int:
    """Samples that `resample` by the method `polyphase` makes of `length` samples."""
    ratio = _ratio(old_rate, new_rate)
    return -(-length * ratio.numerator // ratio.denominator)


def resampled_stretch(
    values: np.ndarray, old_rate: float, new_rate: float, start: int, size: int, convert: Callable
) -> np.ndarray:
    """`resample(convert(values), ..., "polyphase")[..., start : start + size]`, bit-identical, from the samples that
    it depends on alone."""
    ratio = _ratio(old_rate, new_rate)
    up, down = ratio.numerator, ratio.denominator
    # What SciPy's filter of 20 * max(up, down) + 1 taps reaches to each side, in samples of `values`.
    reach = 10 * max(up, down) // up + 2
    # From a sample that falls on one of the output.
    first = max(0, (start * down // up - reach) // down * down)
    last = -(-(start + size) * down // up) + reach + down
    stretch = resample(convert(values[..., first:last]), old_rate, new_rate, "polyphase")
    offset = start - first * up // down
    return stretch[..., offset : offset + size]


def resample_in_blocks(values: np.ndarray, old_rate: float, new_rate: float) -> np.ndarray:
    """(leads, samples) as `resample` by the method `polyphase` within rounding of float32, in a fifth of the time.

    Each block of samples is the product of a stretch of the record with one matrix of filter taps.
    """
    length, ratio = values.shape[-1], _ratio(old_rate, new_rate)
    if length < 2 or not ratio:
        raise ValueError(f"{length} samples at {old_rate:g} Hz cannot be resampled to {new_rate:g} Hz.")
    matrix, hop, reach = _block_filter(ratio.numerator, ratio.denominator)
    width, block = matrix.shape
    new_length = resampled_length(length, old_rate, new_rate)
    num_blocks = -(-new_length // block)
    after = max(0, (num_blocks - 1) * hop + width - reach - length)
    extended = _extend(values.astype(np.float32, copy=False), reach, after)
    stretches = sliding_window_view(extended, width, axis=-1)[:, : num_blocks * hop : hop]
    return (stretches.reshape(-1, width) @ matrix).reshape(len(values), -1)[:, :new_length]


def _extend(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """Both ends extended by point reflection."""
    length = values.shape[-1]
    if max(before, after) >= length:  # reflected more than once
        return np.pad(values, ((0, 0), (before, after)), "reflect", reflect_type="odd")
    left = 2 * values[:, :1] - values[:, before:0:-1]
    right = 2 * values[:, -1:] - values[:, -2 : -2 - after : -1]
    return np.concatenate([left, values, right], axis=1)


@lru_cache(maxsize=32)
def _block_filter(up: int, down: int) -> tuple[np.ndarray, int, int]:
    """The filter of `scipy.signal.resample_poly` as a matrix (samples of a stretch, samples of a block); how many
    samples one stretch begins after another; and how many a stretch begins before its block."""
    half = 10 * max(up, down)
    taps = up * scipy.signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))
    block = up * -(-16 // up)
    reach = half // up
    width = reach + ((block - 1) * down + half) // up + 1
    tap = half + np.arange(block) * down - (np.arange(width)[:, None] - reach) * up
    matrix = np.where((tap >= 0) & (tap <= 2 * half), taps[np.clip(tap, 0, 2 * half)], 0.0)
    return matrix.astype(np.float32), block // up * down, reach


def _interpolate(values: np.ndarray, new_length: int) -> np.ndarray:
    positions = np.linspace(0, values.shape[-1] - 1, new_length)
    left = np.minimum(positions.astype(np.int64), values.shape[-1] - 2)
    return values[..., left] + (positions - left) * (values[..., left + 1] - values[..., left])


def bandpass_filter(
    values: np.ndarray,
    sampling_rate: float,
    edges: Sequence[float | None],
    order: int = 2,
    fir_seconds: float | None = None,
) -> np.ndarray:
    """Zero-phase filter with the cutoffs `edges` (Hz); raises `ValueError` where the signal is too short."""
    for apply_filter in _zero_phase_filters(sampling_rate, edges, order, fir_seconds):
        try:
            values = apply_filter(values)
        except ValueError as error:
            raise ValueError(f"the signal is too short for `bandpass`: {values.shape[-1]} samples.") from error
    return values


def _zero_phase_filters(sampling_rate, edges, order, fir_seconds) -> list[Callable[[np.ndarray], np.ndarray]]:
    if fir_seconds is None:
        return [
            partial(scipy.signal.sosfiltfilt, scipy.signal.butter(order, edge, kind, fs=sampling_rate, output="sos"))
            for edge, kind in zip(edges, ("highpass", "lowpass"), strict=True)
            if edge is not None
        ]
    # Only an odd number of taps has a delay of whole samples and can pass the highest frequencies.
    num_taps = int(fir_seconds * sampling_rate) | 1
    inner_edges = [edge for edge in edges if edge is not None]
    taps = scipy.signal.firwin(num_taps, inner_edges, pass_zero=edges[0] is None, fs=sampling_rate)
    return [partial(scipy.signal.filtfilt, taps, 1.0)]


def zscore(values: np.ndarray, per_lead: bool, eps: float, flat: np.ndarray | None = None) -> np.ndarray:
    """Z-score of each row, over the samples of each lead or over all leads and samples; 0 for constant signals.

    `flat` (rows, leads) marks leads that were constant before filters, of whose rounding errors they now consist. In
    joint scaling it matters only where all leads are flat.
    """
    axes = (-1,) if per_lead else (-2, -1)
    # Because of rounding, the standard deviation of a constant signal may be above 0.
    varies = values.max(axis=axes, keepdims=True) > values.min(axis=axes, keepdims=True)
    if flat is not None:
        varies = varies & ~(flat[..., None] if per_lead else flat.all(axis=1)[:, None, None])
    centered = values - values.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = centered.std(axis=axes, keepdims=True)
    return np.divide(centered, deviation + eps, out=np.zeros_like(centered), where=varies)


def minmax(values: np.ndarray, eps: float, flat: np.ndarray | None = None) -> np.ndarray:
    """Min-max scaling of each lead to [-1, 1]; -1 for constant signals and those that `flat` marks (see `zscore`)."""
    lowest = values.min(axis=-1, keepdims=True)
    extent = values.max(axis=-1, keepdims=True) - lowest
    varies = extent > 0 if flat is None else (extent > 0) & ~flat[..., None]
    return 2 * np.divide(values - lowest, extent + eps, out=np.zeros_like(values), where=varies) - 1


def cut_windows(values: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """(records, leads, samples), starts (records or 1, windows) -> (records x windows, leads, size)."""
    num_records, num_leads, _ = values.shape
    windows = sliding_window_view(values, size, axis=-1)[np.arange(num_records)[:, None], :, starts]
    return windows.reshape(-1, num_leads, size)


def decimate_stacked(values: np.ndarray, factor: int) -> np.ndarray:
    """Every `factor`-th sample of the concatenated leads, after a zero-phase low-pass (Chebyshev I, order 8)."""
    num_rows, num_leads, length = values.shape
    stacked = values[..., : length - length % factor].reshape(num_rows, -1)
    return scipy.signal.decimate(stacked, factor, axis=-1).reshape(num_rows, num_leads, -1)


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """Values rounded to float16, as float32."""
    return values.astype(np.float16).astype(np.float32)


__all__ = [
    "RESAMPLE_METHODS",
    "bandpass_filter",
    "canonical_lead_names",
    "complete_limb_leads",
    "cut_windows",
    "decimate_stacked",
    "resample",
    "resample_in_blocks",
    "resampled_length",
    "resampled_stretch",
    "round_to_float16",
    "minmax",
    "zscore",
]
