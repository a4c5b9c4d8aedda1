"""WFDB records, and the MATLAB 4 files of the PhysioNet challenges, which are WFDB's with a header of 24 bytes."""

from __future__ import annotations

import numpy as np

from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError, read_wanted_leads
from .arrays import check_no_part
from .channels import Said, microvolts_of
from .formats import MissingPackageError


def read(path: str, part: str | None, said: Said) -> Record:
    """Read the record of a header, a signal file or a path without ending, with the checks of `read_record`."""
    check_no_part(part)
    wanted = said.wanted if said.lead_names is None else frozenset(said.lead_names)
    microvolts = None if said.units is None else microvolts_of(said.units, "`units`")
    try:
        record = read_wanted_leads(
            path,
            wanted,
            sampling_rate=said.sampling_rate,
            microvolts=microvolts,
            lead_names=said.channel_names,
            keep_fractions=True,
        )
    except ImportError as error:
        raise MissingPackageError(str(error)) from error
    return record if said.lead_names is None else _in_order(record, said.lead_names)


def _in_order(record: Record, lead_names: tuple[str, ...]) -> Record:
    if missing := [name for name in lead_names if name not in record.lead_names]:
        there = ", ".join(record.lead_names)
        raise RecordError(f"it has no lead {', '.join(missing)}; of those asked for it has {there}.")
    if record.lead_names == lead_names:
        return record
    rows = [record.lead_names.index(name) for name in lead_names]
    return Record(np.ascontiguousarray(record.signal[rows]), record.sampling_rate, lead_names, record.other_channels)


__all__ = ["read"]
