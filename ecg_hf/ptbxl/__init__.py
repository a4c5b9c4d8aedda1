"""PTB-XL: statements and tasks, records, the data set."""

from __future__ import annotations

from typing import Any

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError, read_record
from .labels import STATEMENTS, TASKS, encode_labels, task_label_names, task_labels


def __getattr__(name: str) -> Any:
    # `datasets` takes a second to import, and labels and records do not need it.
    if name in {"PTBXL", "load_ptbxl"}:
        from . import builder

        return getattr(builder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LEAD_NAMES",
    "PTBXL",
    "Record",
    "RecordError",
    "STATEMENTS",
    "TASKS",
    "encode_labels",
    "load_ptbxl",
    "read_record",
    "task_label_names",
    "task_labels",
]
