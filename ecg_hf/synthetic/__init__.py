"""Simulated 12-lead ECGs, one at a time or as a folder in the layout of PTB-XL.

The simulation is meant for tests and demonstrations. It says nothing about how well a model does on patients.
"""

from .ecg import SIMULATED_STATEMENTS, Patient, simulate_ecg
from .ptbxl_folder import simulate_ptbxl

__all__ = ["SIMULATED_STATEMENTS", "Patient", "simulate_ecg", "simulate_ptbxl"]
