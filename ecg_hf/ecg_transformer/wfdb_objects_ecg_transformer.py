"""Records that the package wfdb has read, as input of the feature extractor."""

import warnings
from typing import Any

import numpy as np

from .common_ecg_transformer import LEAD_NAMES, MICROVOLTS, canonical_lead
from .inputs_ecg_transformer import as_array
from .wfdb_ecg_transformer import RecordError


def wfdb_recording(record) -> dict[str, Any]:
    """The feature extractor's arguments for a `wfdb.Record`: its leads in mV; channels that are no leads are left out.

    Raises `RecordError` for a record of several segments or with several samples in a frame, for one without signals,
    without a gain, or with a lead that is in no unit of voltage.
    """
    label = f"Record {record.record_name}"
    if getattr(record, "segments", None) is not None:
        raise RecordError(f"{label} has several segments: pass `record.multi_to_single(physical=True)`.")
    leads = [place for place, name in enumerate(record.sig_name or ()) if canonical_lead(name)]
    if not leads:
        raise RecordError(f"{label} has none of the leads {', '.join(LEAD_NAMES)}, only {record.sig_name}.")
    if others := [name for place, name in enumerate(record.sig_name) if place not in leads]:
        warnings.warn(f"{label}: channels that are no leads are left out: {', '.join(others)}.", stacklevel=2)
    if len(record.units or ()) != len(record.sig_name):
        raise RecordError(
            f"{label} has the units {record.units}, expected one for each of its {len(record.sig_name)} channels: set "
            "`record.units`, such as mV."
        )
    values = _physical(record, label, leads)
    factors = np.array([_millivolts(record.units[place], record.sig_name[place], label) for place in leads])
    return {
        "signal": (values[:, leads] * factors).T,
        "sampling_rate": record.fs,
        "lead_names": [record.sig_name[place] for place in leads],
        "units": "mV",
    }


def _physical(record, label: str, leads: list[int]) -> np.ndarray:
    """(samples, channels) in the units of the channels; NaN where samples are marked as invalid."""
    if record.p_signal is not None:
        return as_array(record.p_signal).astype(np.float64)
    if record.d_signal is None:
        raise RecordError(f"{label} has no signals of one sample a frame: read it with `smooth_frames=True`.")
    if lacking := [record.sig_name[lead] for lead in leads if not (record.adc_gain and record.adc_gain[lead])]:
        raise RecordError(f"{label}: lead {lacking[0]} has no gain, without which its digital values mean nothing.")
    if record.baseline is None:
        raise RecordError(f"{label} has no baseline, without which its digital values mean nothing.")
    return record.dac()


def _millivolts(unit: str, lead: str, label: str) -> float:
    if not isinstance(unit, str) or unit.casefold() not in MICROVOLTS:
        raise RecordError(f"{label}: lead {lead} is in {unit!r}, expected a voltage such as mV.")
    return MICROVOLTS[unit.casefold()] / MICROVOLTS["mv"]


__all__ = ["wfdb_recording"]
