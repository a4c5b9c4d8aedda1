"""Input of the feature extractor: records are validated and grouped into batches."""

import numbers
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from .common_ecg_transformer import LEAD_NAMES, MAX_MICROVOLTS, MICROVOLTS, MISSING_SAMPLE, check_choice
from .lead_checks_ecg_transformer import is_flat, offsets_from_zero
from .signal_steps_ecg_transformer import canonical_lead_names

UNITS_PER_MILLIVOLT = {unit: MICROVOLTS["mv"] / MICROVOLTS[unit.casefold()] for unit in ("mV", "uV")}
_UNITS = {"mv": "mV", "uv": "uV", "\u03bcv": "uV"}  # casefold maps U+00B5 to the Greek mu
MAX_MILLIVOLTS = MAX_MICROVOLTS / MICROVOLTS["mv"]


@dataclass
class Batch:
    """Records of equal shape, data type, sampling rate and leads, while they pass through the steps."""

    label: str
    """Name of the first record in messages."""
    records: np.ndarray
    """(rows,): the record of each row of `values`."""
    values: np.ndarray
    """(rows, leads, samples): a row is a record and, after the step `windows`, one of its windows."""
    lead_names: tuple[str, ...]
    """Canonical names of the leads of `values`."""
    sampling_rate: float
    units: str | None
    """Of `values`; None once these are in mV as floats."""
    crop_positions: np.ndarray | None = None
    absent_leads: tuple[str, ...] = ()
    """Those of `lead_names` that are missing in the record and cannot be computed."""
    given: np.ndarray | None = None
    """The records before any filter, with the leads of `values`, until windows are cut: these tell what is flat."""
    largest: np.ndarray | None = None
    """(records,): the largest absolute value of each record, in its units."""
    extents: dict[int, float] | None = None
    """Of each record the largest extent of a lead from peak to peak, in mV."""
    offsets: dict[int, float] | None = None
    """Of each record how far a lead that does not cross 0 stays from it, in mV; else 0."""
    flat: np.ndarray | None = None
    """(rows, leads): whether the lead was constant, before any filter, in what became the row."""
    high_passed: bool = False
    starts: np.ndarray | None = None
    """(rows,): where in its record a row begins, in samples of `values`, once windows are cut."""

    def __post_init__(self):
        self.given = self.values

    @property
    def microvolts(self) -> float:
        """µV in a unit of `values`."""
        return MICROVOLTS["mv"] / (1 if self.units is None else UNITS_PER_MILLIVOLT[self.units])

    def in_millivolts(self) -> np.ndarray:
        """`values` in mV as floats. Converted only when a step needs it, since windows of int16 are cut faster."""
        self.values, self.units = in_millivolts(self.values, self.units), None
        return self.values


def in_millivolts(values: np.ndarray, units: str | None) -> np.ndarray:
    """Values in mV as floats; `units` is None where they are already."""
    if units is None:
        return values
    values = values.astype(np.float32)
    # Division gives the float32 nearest to the true value, so that µV and mV give bit-identical results.
    values /= UNITS_PER_MILLIVOLT[units]
    return values


def group_records(signal, sampling_rate, lead_names, units, crop_positions) -> list[Batch]:
    """Validate the arguments and group equal records, so that the steps work on few large arrays."""
    units = None if units is None else canonical_units(units)
    lead_names = listed_leads(lead_names)
    arrays, is_single = _as_records(signal, lead_names)
    count = len(arrays)
    labels = ["The record"] if is_single else [f"Record {index}" for index in range(count)]
    rates = _sampling_rates(sampling_rate, count)
    names = _lead_names_of_records(lead_names, count)
    positions = _crop_positions(crop_positions, count)

    groups = {}
    for index, array in enumerate(arrays):
        _check_array(array, names[index], units, labels[index])
        groups.setdefault((array.shape, array.dtype, rates[index], names[index]), []).append(index)
    batches = []
    for (_, _, rate, leads), indices in groups.items():
        batch = Batch(
            label=labels[indices[0]],
            records=np.array(indices, dtype=np.int64),
            values=np.stack([arrays[index] for index in indices]),
            lead_names=leads,
            sampling_rate=rate,
            units=units or "mV",
            crop_positions=None if positions is None else positions[indices],
        )
        _check_values(batch, labels)
        batches.append(batch)
    return batches


def flat_leads_in_words(batches: list[Batch], lead_names: list[str]) -> str | None:
    """One sentence on the leads that are flat in whole records or, where windows are scaled by themselves, in those;
    None if there are none."""
    flat, num_records = {}, 0
    for batch in batches:
        num_records += len(batch.largest)
        for lead in np.flatnonzero(batch.flat.any(axis=0)):
            if batch.lead_names[lead] not in batch.absent_leads:
                records = set(batch.records[batch.flat[:, lead]].tolist())
                flat.setdefault(batch.lead_names[lead], set()).update(records)
    found = [
        name if num_records == 1 else f"{name} ({len(flat[name])} of {num_records} records)"
        for name in lead_names
        if name in flat
    ]
    return f"Flat leads (constant in a record or a window): {', '.join(found)}." if found else None


def as_array(values, masked: float = np.nan) -> np.ndarray:
    """Numbers as an array, from tensors of any kind, arrays and lists of these; `masked` where a mask hides them."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # NumPy has no bfloat16
    if isinstance(values, (list, tuple)) and any(isinstance(part, (np.ndarray, torch.Tensor)) for part in values):
        values = [as_array(part, masked) for part in values]
    if np.ma.is_masked(values):
        return values.astype(np.float64).filled(masked)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError("Expected an array of numbers, got lists of unequal lengths, which make none.") from error


def listed_leads(lead_names):
    """`lead_names` as a list of names, or of lists of names, whatever iterables these are."""
    if lead_names is None or isinstance(lead_names, str) or not isinstance(lead_names, Iterable):
        return lead_names  # refused where they are needed
    return [
        list(names) if isinstance(names, Iterable) and not isinstance(names, str | bytes) else names
        for names in lead_names
    ]


def unit_named(text: str) -> str | None:
    """`"mV"` or `"uV"` for their names in any case and with either sign of micro; None for anything else."""
    return _UNITS.get(text.casefold()) if isinstance(text, str) else None


def canonical_units(units: str) -> str:
    """As `unit_named`, of the argument `units`; `ValueError` for anything else."""
    if unit_named(units) is None:
        check_choice("units", units, UNITS_PER_MILLIVOLT)
    return unit_named(units)


def is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_count(value) -> bool:
    return isinstance(value, numbers.Integral) and value >= 1


def _as_records(signal, lead_names) -> tuple[list[np.ndarray], bool]:
    """The records as arrays, and whether `signal` is a single one."""
    if _one_list_each(lead_names) and len(signal) == len(lead_names):
        arrays = [as_array(record) for record in signal]
        if all(array.ndim in (1, 2) for array in arrays):
            return [by_leads(array, names) for array, names in zip(arrays, lead_names, strict=True)], False
    is_list = isinstance(signal, (list, tuple))
    if is_list and len(signal) and np.ndim(signal[0]) >= 2:
        return [as_array(record) for record in signal], False
    array = as_array(signal)
    if array.ndim == 3 and len(array):
        return list(array), False
    if array.ndim == 1 and isinstance(lead_names, list):
        array = by_leads(array, lead_names)
    if array.ndim != 2:
        raise ValueError(
            "`signal` must have shape (leads, samples), or be a list of such records or an array (records, leads, "
            f"samples); got shape {array.shape}."
        )
    return [array], True


def _one_list_each(lead_names) -> bool:
    return isinstance(lead_names, list) and len(lead_names) > 0 and isinstance(lead_names[0], list)


def by_leads(array: np.ndarray, lead_names) -> np.ndarray:
    """A flat signal, one lead after another as in rows of `load_ptbxl`, as (leads, samples); others as they are."""
    if array.ndim != 1 or not len(array) or not len(lead_names):
        return array
    if len(array) % len(lead_names):
        raise ValueError(
            "`signal` must have shape (leads, samples), or be flat with one lead after another; got "
            f"{len(array)} values, no multiple of the {len(lead_names)} leads of `lead_names`."
        )
    return array.reshape(len(lead_names), -1)


def _sampling_rates(sampling_rate, count: int) -> list[float]:
    if sampling_rate is None:
        raise ValueError(
            "`sampling_rate` is missing: give the rate in Hz of the signal (it is resampled automatically)."
        )
    rates = list(sampling_rate) if np.ndim(sampling_rate) else [sampling_rate] * count
    rates = [rate.item() if isinstance(rate, torch.Tensor) else rate for rate in rates]
    if len(rates) != count:
        raise ValueError(f"`sampling_rate` has {len(rates)} values for {count} records.")
    for rate in rates:
        if not is_number(rate) or not 0 < rate < np.inf:
            raise ValueError(f"`sampling_rate` must be a number above 0 Hz, got {rate!r}.")
    return [float(rate) for rate in rates]


def _lead_names_of_records(lead_names, count: int) -> list[tuple[str, ...]]:
    if not isinstance(lead_names, list) or not lead_names:
        raise ValueError(
            f"`lead_names` must list the leads of the signal in order, from {' '.join(LEAD_NAMES)}; "
            f"got {lead_names!r}."
        )
    if not isinstance(lead_names[0], list):
        return [canonical_lead_names(lead_names)] * count
    if len(lead_names) != count:
        raise ValueError(f"`lead_names` has {len(lead_names)} lists for {count} records.")
    canonical = {names: canonical_lead_names(names) for names in {tuple(names) for names in lead_names}}
    return [canonical[tuple(names)] for names in lead_names]


def _crop_positions(crop_positions, count: int) -> np.ndarray | None:
    """(records, crops)"""
    if crop_positions is None:
        return None
    positions = np.atleast_1d(np.asarray(crop_positions, dtype=np.float64))
    positions = positions[:, None] if positions.ndim == 1 else positions
    if positions.ndim != 2 or len(positions) != count or not ((positions >= 0) & (positions < 1)).all():
        raise ValueError(
            f"`crop_positions` must be numbers in [0, 1), one or one row for each of the {count} records; got "
            f"{crop_positions}."
        )
    return positions


def _check_array(array: np.ndarray, lead_names: tuple[str, ...], units: str | None, label: str):
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{label}: expected an array of integers or floats, got {array.dtype}.")
    if units is None and array.dtype.kind != "f":
        raise ValueError(f'{label} has integers ({array.dtype}): give their `units`, "mV" or "uV".')
    if array.ndim != 2 or array.shape[0] != len(lead_names):
        swapped = array.ndim == 2 and array.shape[1] == len(lead_names)
        raise ValueError(
            f"{label}: `signal` must have shape (leads, samples) with the {len(lead_names)} leads of `lead_names`, "
            f"got {array.shape}{': are the axes swapped?' if swapped else '.'}"
        )
    if array.shape[1] == 0:
        raise ValueError(f"{label} is empty: it has no samples.")


def _check_values(batch: Batch, labels: list[str]):
    """Reject missing samples, which a filter would spread over the lead, and values outside the range of mV.

    The range of each lead also says whether it is flat or off 0, and over what the record extends.
    """
    # Tolerance of 0.5 µV, since 32.767 may be larger in float32.
    limit = (MAX_MILLIVOLTS + 0.0005) * UNITS_PER_MILLIVOLT[batch.units]
    lowest, highest = batch.values.min(axis=-1), batch.values.max(axis=-1)
    # Comparisons with NaN are false.
    valid = (lowest >= -limit) & (highest <= limit)
    if valid.all():
        batch.largest = np.maximum(-lowest.min(axis=1).astype(np.float64), highest.max(axis=1))
        batch.flat = is_flat(lowest, highest, batch.largest)
        # In floats: the difference of two int16 may be no int16.
        extents = (highest.astype(np.float64) - lowest).max(axis=1)
        offsets = offsets_from_zero(lowest, highest, batch.flat)
        batch.extents, batch.offsets = (
            dict(zip(batch.records.tolist(), (values * batch.microvolts / MICROVOLTS["mv"]).tolist(), strict=True))
            for values in (extents, offsets)
        )
        return
    row = int(np.argmin(valid.all(axis=1)))
    label = labels[batch.records[row]]
    leads = {name: batch.values[row, lead] for lead, name in enumerate(batch.lead_names) if not valid[row, lead]}
    counts = {name: int(_is_missing(samples).sum()) for name, samples in leads.items()}
    if any(counts.values()):
        raise ValueError(
            f"{label} has missing samples (NaN, infinite, or {MISSING_SAMPLE}, WFDB's marker): "
            + ", ".join(f"lead {name} {count} of {batch.values.shape[-1]}" for name, count in counts.items() if count)
            + ". Impute them, or omit the lead or the record."
        )
    peaks = ", ".join(f"lead {name} {np.abs(samples.astype(float)).max():g}" for name, samples in leads.items())
    remedy = 'is it in other units? Give `units="uV"` for µV.'
    if batch.units == "uV":
        remedy = "are these numbers of a recorder that need its gain and baseline, or unsigned ones? Bring them to µV."
    raise ValueError(f"{label} has values beyond ±{MAX_MILLIVOLTS} mV (largest in {batch.units}: {peaks}): {remedy}")


def _is_missing(samples: np.ndarray) -> np.ndarray:
    return ~np.isfinite(samples) if samples.dtype.kind == "f" else samples == MISSING_SAMPLE


__all__ = [
    "UNITS_PER_MILLIVOLT",
    "Batch",
    "as_array",
    "by_leads",
    "canonical_units",
    "flat_leads_in_words",
    "group_records",
    "in_millivolts",
    "is_count",
    "is_number",
    "listed_leads",
    "unit_named",
]
