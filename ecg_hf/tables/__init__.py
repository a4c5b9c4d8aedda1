"""Own ECGs: tables and folders of anybody's records, read, checked, split by patient, with the columns of PTB-XL's."""

from .load import load_ecg_dataset

__all__ = ["load_ecg_dataset"]
