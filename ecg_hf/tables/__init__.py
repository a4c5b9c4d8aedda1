"""Own ECGs: tables and folders of anybody's records, read, checked, split by patient, with the columns of PTB-XL's."""

from .challenge import load_challenge
from .code15 import load_code15
from .load import load_ecg_dataset

__all__ = ["load_challenge", "load_code15", "load_ecg_dataset"]
