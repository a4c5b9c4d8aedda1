"""How often a finding was there among the evaluated records that the model gave a similar probability."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..shipped import located

SPLITS = ("test", "validation")
"""In the order of preference: thresholds and the best epoch were chosen on the validation records."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Calibration:
    """The reliability bins of a checkpoint's `metrics.json`.

    Attributes:
        split: of which records they are.
        bins: for each label `count` and `num_positive` of bins of equal width over [0, 1].
    """

    split: str
    bins: Mapping[str, Mapping[str, Sequence[int]]]

    def said_of(self, label: str, probability: float) -> str:
        """`"65 % [58, 71] of 214"`: the share that had it in the bin of a probability, with its interval by Wilson's
        score (1927, doi 10.1080/01621459.1927.10502953), which takes records for independent."""
        counts = self.bins[label]["count"]
        place = min(int(probability * len(counts)), len(counts) - 1)
        count, positive = counts[place], self.bins[label]["num_positive"][place]
        if not count:
            return "no such record"
        from scipy.stats import binomtest

        share, interval = positive / count, binomtest(positive, count).proportion_ci(CONFIDENCE, "wilson")
        return f"{share:.0%} [{interval.low:.0%}, {interval.high:.0%}] of {count:,}".replace("%", " %")


def calibration_of(model: str) -> Calibration | None:
    """Of a checkpoint that ships, in a folder or on the Hub; None without a `metrics.json`, or bins in it.

    Raises what the Hub's client raises where it cannot be reached.
    """
    path = _metrics_file(str(located(model)))
    metrics = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    for split in SPLITS:
        if bins := (metrics.get(split) or {}).get("reliability"):
            return Calibration(split, bins)
    return None


def _metrics_file(model: str) -> Path | None:
    if Path(model).is_dir():
        path = Path(model, "metrics.json")
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(model, "metrics.json"))
    except EntryNotFoundError:
        return None


__all__ = ["Calibration", "calibration_of"]
