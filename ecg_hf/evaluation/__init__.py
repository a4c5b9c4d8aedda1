"""The report of one trained model on records that judge it: metrics, operating points, calibration, groups, faults."""

from .arguments import EvaluationArguments
from .run import evaluate, summary

__all__ = ["EvaluationArguments", "evaluate", "summary"]
