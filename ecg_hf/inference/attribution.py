"""Why a model gives an answer: which leads and times of a record a label's score comes from.

Two methods. Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) share out the difference between the
model's output for the record and for a silent one among the samples. Attention roll-out (Abnar and Zuidema 2020, arXiv
2005.00928) follows the attention from the pooled feature back to the tokens; it knows no labels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..ecg_transformer.common_ecg_transformer import REGRESSION, SINGLE_LABEL, check_choice
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.inputs_ecg_transformer import is_count
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..ecg_transformer.wfdb_ecg_transformer import Record
from .rollout import attention_rollout
from .windows import RecordWindows, classifier_of, cut_windows, record_outputs, window_outputs

METHODS = ("integrated_gradients", "attention_rollout")
STEPS = 32

WINDOWS_AT_ONCE = 32
"""Through the model in one pass; a record of more windows takes them all."""

PROGRESS_AFTER_SECONDS = 3

SMOOTHING_SECONDS = 0.1
"""Of the moving average by which stretches are chosen: as long as a QRS complex."""

PATH_POWER = 3
"""Of the steps of the integral: they lie at t^3, see `_path`."""

MAX_ERROR_OF_CHANGE, MAX_ERROR_OF_SUM = 0.05, 0.01
"""How far attributions may sum to something else than the change of the output, as a part of it or, if that is more,
of the sum of their absolute values."""

MARKED_SHARE = 0.1
"""Of a record's leads and samples that count as marked."""


ALL_LEADS = "all"
"""In place of a lead, where a map is the same for all."""


class Segment(NamedTuple):
    """A stretch of one lead, or of `ALL_LEADS`, in seconds from the record's start.

    `share` is its part of the sum of all absolute values; positive speaks for the label, negative against it.
    """

    lead: str
    start: float
    end: float
    share: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the samples of a record contribute to a label's score, in the model's rate and order of leads.

    Leads that the record lacks, and that cannot be computed from others, have no row.
    """

    label: str
    method: str
    finding: Mapping
    """The pipeline's answer for the label: `label`, `name`, and `score`, `threshold` and `positive`, or `value`."""
    values: np.ndarray
    """(leads, samples) float32. Integrated gradients: in units of `output`, positive where a sample speaks for the
    label. Roll-out: shares of the attention, which sum to 1; a model whose tokens hold all leads has the same for
    each. 0 where the model does not look."""
    signal: np.ndarray
    """(leads, samples) float32, mV: what is explained, before filters and normalisation."""
    lead_names: tuple[str, ...]
    sampling_rate: float
    """Hz, of `values` and `signal`."""
    output: float
    """Of the record, in `quantity`."""
    quantity: str
    """`logit`, of a class its `log-probability`, of a regression `value`, in the unit of the target."""
    baseline_output: float | None = None
    """Integrated gradients: `output` of a record of 0 mV in all leads."""
    completeness_error: float | None = None
    """Integrated gradients: the sum of `values` minus what it should be, `output - baseline_output`."""

    @property
    def name(self) -> str:
        """The label's full name, where the model knows it."""
        return self.finding["name"]

    @property
    def resolves_leads(self) -> bool:
        """Whether `values` differ between leads."""
        return len(self.values) == 1 or bool((self.values != self.values[0]).any())

    @property
    def is_complete(self) -> bool:
        """Whether `completeness_error` is within 5 % of the change of the output, or 1 % of the sum of the absolute
        `values`; roll-out is always."""
        if self.completeness_error is None:
            return True
        change, total = abs(self.output - self.baseline_output), float(np.abs(self.values).sum(dtype=np.float64))
        return abs(self.completeness_error) <= max(MAX_ERROR_OF_CHANGE * change, MAX_ERROR_OF_SUM * total)

    def smoothed(self) -> np.ndarray:
        """`values` as their moving average over 0.1 s, (leads, samples)."""
        return _moving_average(self.values, self.sampling_rate)

    def marked(self, share: float = MARKED_SHARE) -> np.ndarray:
        """(leads, samples) bool: the share of all samples with the highest `smoothed` values."""
        return top_share(self.smoothed(), share)

    def segments(self, top: int = 10) -> list[Segment]:
        """The stretches of the tenth with the highest absolute `smoothed` values, by their shares; `top` at most."""
        rows = dict(zip(self.lead_names, self.values, strict=True))
        if not self.resolves_leads:
            rows = {ALL_LEADS: self.values.sum(axis=0)}
        values = np.stack(list(rows.values()))
        smoothed, rate = _moving_average(values, self.sampling_rate), self.sampling_rate
        signs = np.sign(smoothed) * top_share(np.abs(smoothed), MARKED_SHARE)
        total = float(np.abs(values).sum(dtype=np.float64)) or 1.0
        found = [
            Segment(name, start / rate, end / rate, float(values[row, start:end].sum(dtype=np.float64)) / total)
            for row, name in enumerate(rows)
            for start, end in _runs(signs[row])
        ]
        return sorted(found, key=lambda segment: -abs(segment.share))[:top]


def explain(
    model: ECGTransformerForMultiLabel,
    feature_extractor: ECGTransformerFeatureExtractor,
    record: str | os.PathLike | Mapping | Record,
    labels: str | Sequence[str] | None = None,
    method: str = "integrated_gradients",
    steps: int = STEPS,
) -> list[Attribution]:
    """Which leads and times of a record a model's answer comes from, for each of some labels.

    Integrated gradients are those of the record's output (all windows, as the model aggregates them) along the
    straight line from a record of 0 mV, as the feature extractor shows it to the model, to the record. A sample that
    several windows see has the sum of what it contributes through each, so that all samples sum to the change of the
    output.

    Roll-out takes half of each layer's attention, averaged over heads, and half of the residual connection; a sample
    that several windows see has their mean. It is the same for all labels.

    Args:
        model, feature_extractor: a post-trained classifier or regression, and the extractor that it was trained with.
        record: what the pipeline `ecg-classification` takes as one record (path, dict with `signal`, `sampling_rate`,
            `lead_names` and, of integers, `units`; `wfdb.Record`), or a `Record` of `read_ecg`; at most 60 s.
        labels: names of `model.config.labels`; by default those that are above their thresholds, else the one with the
            highest score; the highest of several classes; all targets of a regression.
        method: one of `METHODS`.
        steps: of the integral, at least 2; roll-out has none.

    Warns where attributions do not sum to the change of the output within 5 % of it, or 1 % of the sum of their
    absolute values: more steps mend it.

    Raises:
        ValueError: an unknown label or method, a record that the pipeline refuses or of more than 60 s, or roll-out
            for a model whose attention is not full.
        RuntimeError: the model has no trained head.
    """
    check_choice("method", method, METHODS)
    if not is_count(steps) or steps < 2:
        raise ValueError(f"`steps` must be a whole number and at least 2, got {steps}.")
    with classifier_of(model, feature_extractor) as pipe:
        windows = cut_windows(pipe, record)
        with torch.no_grad():
            of_windows = window_outputs(model, windows, windows.values[None])
        findings = pipe.postprocess([{"output": of_windows[0], "record": windows.name}])
        chosen = _chosen_labels(findings, labels, model.config)
        outputs, baseline_outputs = record_outputs(model, windows, torch.stack([windows.values, windows.baseline]))
        if method == "attention_rollout":
            shares = windows.on_record(attention_rollout(model, windows), "mean")
            maps, baseline_outputs = [shares / shares.sum()] * len(chosen), None
        else:
            maps = _integrated_gradients(model, windows, [model.config.labels.index(label) for label in chosen], steps)
    by_label = {finding["label"]: finding for finding in findings}
    found = [
        _attribution(model, windows, by_label[label], method, values, outputs, baseline_outputs)
        for label, values in zip(chosen, maps, strict=True)
    ]
    _warn_of_incomplete(found, steps)
    return found


def _attribution(model, windows, finding, method, values, outputs, baseline_outputs) -> Attribution:
    config = model.config
    place = config.labels.index(finding["label"])
    quantities = {REGRESSION: "value", SINGLE_LABEL: "log-probability"}
    output = float(outputs[place])
    before = None if baseline_outputs is None else float(baseline_outputs[place])
    error = None if before is None else float(values.sum(dtype=np.float64)) - (output - before)
    return Attribution(
        label=finding["label"],
        method=method,
        finding=finding,
        values=values.astype(np.float32),
        signal=windows.signal,
        lead_names=windows.lead_names,
        sampling_rate=config.sampling_rate,
        output=output,
        quantity=quantities.get(config.problem_type, "logit"),
        baseline_output=before,
        completeness_error=error,
    )


def _warn_of_incomplete(found: Sequence[Attribution], steps: int) -> None:
    incomplete = [each for each in found if not each.is_complete]
    if incomplete:
        worst = max(incomplete, key=lambda each: abs(each.completeness_error))
        warnings.warn(
            f"With {steps} steps, integrated gradients of {', '.join(each.label for each in incomplete)} do not sum "
            f"to the change of the output ({worst.label}: {worst.output - worst.baseline_output:.3g}, missed by "
            f"{worst.completeness_error:.3g}): give more `steps`, such as {4 * steps}.",
            stacklevel=3,
        )


def _chosen_labels(findings: Sequence[Mapping], labels: str | Sequence[str] | None, config) -> list[str]:
    if labels is not None:
        chosen = [labels] if isinstance(labels, str) else list(dict.fromkeys(labels))
        if not chosen:
            raise ValueError(f"`labels` is empty: name some of {', '.join(config.labels)}, or leave it out.")
        for label in chosen:
            check_choice("labels", label, config.labels)
        return chosen
    present = [finding["label"] for finding in findings if finding.get("positive", "value" in finding)]
    return present or [findings[0]["label"]]


def _integrated_gradients(model, windows: RecordWindows, places: Sequence[int], steps: int) -> list[np.ndarray]:
    """(leads, samples) for the outputs at `places`."""
    difference = windows.values - windows.baseline
    sums = torch.zeros(len(places), *difference.shape, device=difference.device)
    fractions, weights = (torch.tensor(part, device=difference.device) for part in _path(steps))
    at_once = max(1, WINDOWS_AT_ONCE // len(difference))
    parts = list(zip(fractions.split(at_once), weights.split(at_once), strict=True))
    for fraction, weight in tqdm(parts, desc="Integrated gradients", delay=PROGRESS_AFTER_SECONDS, disable=None):
        values = (windows.baseline + fraction[:, None, None, None] * difference).requires_grad_()
        outputs = model.aggregate_windows(window_outputs(model, windows, values))
        for row, place in enumerate(places):
            more = row + 1 < len(places)
            (gradient,) = torch.autograd.grad(outputs[:, place].sum(), values, retain_graph=more)
            sums[row] += torch.tensordot(weight, gradient, dims=1)
    return [windows.on_record(part.cpu().numpy(), "sum") for part in sums * difference]


def _path(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) float32: places between 0 and 1 and the weights of an integral over them.

    Gauss and Legendre's for t, with the places at t^3: a first layer that normalises, as those of ST-MEM, ECG-FM and
    HuBERT-ECG, changes most near the silent record.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    points, weights = (points + 1) / 2, weights / 2
    return (points**PATH_POWER).astype(np.float32), (weights * PATH_POWER * points ** (PATH_POWER - 1)).astype(
        np.float32
    )


def _moving_average(values: np.ndarray, sampling_rate: float) -> np.ndarray:
    """(leads, samples) over `SMOOTHING_SECONDS`; beyond the ends is 0."""
    width = round(SMOOTHING_SECONDS * sampling_rate) | 1  # odd: centred on the sample
    kernel, margin = np.full(width, 1 / width), width // 2
    return np.stack([np.convolve(row, kernel)[margin : margin + len(row)] for row in values])


def top_share(values: np.ndarray, share: float) -> np.ndarray:
    """Bool of the shape of `values`: the share of them that is highest."""
    marked = np.zeros(values.size, dtype=bool)
    count = max(1, round(share * values.size))
    marked[np.argpartition(values.ravel(), -count)[-count:]] = True
    return marked.reshape(values.shape)


def _runs(signs: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of equal signs that are not 0."""
    bounds = [0, *(np.flatnonzero(np.diff(signs)) + 1).tolist(), len(signs)]
    return [(start, end) for start, end in zip(bounds[:-1], bounds[1:], strict=True) if signs[start]]


__all__ = ["METHODS", "Attribution", "Segment", "explain"]
