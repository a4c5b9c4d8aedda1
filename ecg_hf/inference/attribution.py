"""Why a model gives an answer: which leads and times of a record a label's score comes from.

Two methods. Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) share out the difference between the
model's output for the record and for a silent one among the samples. Attention roll-out (Abnar and Zuidema 2020, arXiv
2005.00928) follows the attention from the pooled feature back to the tokens; it knows no labels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..ecg_transformer.common_ecg_transformer import MICROVOLTS, REGRESSION, SINGLE_LABEL, check_choice
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..ecg_transformer.pipeline_ecg_classification import ECGClassificationPipeline
from ..ecg_transformer.wfdb_ecg_transformer import Record
from .rollout import attention_rollout
from .windows import RecordWindows, cut_windows

METHODS = ("integrated_gradients", "attention_rollout")

WINDOWS_AT_ONCE = 32
"""Through the model in one pass; a record of more windows takes them all."""

SMOOTHING_SECONDS = 0.1
"""Of the moving average by which stretches are chosen: as long as a QRS complex."""

MARKED_SHARE = 0.1
"""Of a record's leads and samples that count as marked."""


class Segment(NamedTuple):
    """A stretch of one lead: seconds from the record's start, and its share of what all samples have in absolute
    value; positive speaks for the label, negative against it."""

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

    def smoothed(self) -> np.ndarray:
        """`values` as their moving average over 0.1 s, (leads, samples)."""
        width = max(1, round(SMOOTHING_SECONDS * self.sampling_rate))
        kernel = np.full(width, 1 / width)
        return np.stack([np.convolve(row, kernel, mode="same")[: len(row)] for row in self._padded(width)])

    def _padded(self, width: int) -> np.ndarray:
        # `convolve` gives the length of the longer one.
        return np.pad(self.values, ((0, 0), (0, max(0, width - self.values.shape[1]))))

    def marked(self, share: float = MARKED_SHARE) -> np.ndarray:
        """(leads, samples) bool: the share of all samples with the highest `smoothed` values."""
        return top_share(self.smoothed(), share)

    def segments(self, top: int = 10) -> list[Segment]:
        """The stretches of the tenth with the highest absolute `smoothed` values, by their shares; `top` at most."""
        smoothed = self.smoothed()
        signs = np.sign(smoothed) * top_share(np.abs(smoothed), MARKED_SHARE)
        total = float(np.abs(self.values).sum()) or 1.0
        found = [
            Segment(
                name,
                start / self.sampling_rate,
                end / self.sampling_rate,
                float(self.values[row, start:end].sum()) / total,
            )
            for row, name in enumerate(self.lead_names)
            for start, end in _runs(signs[row])
        ]
        return sorted(found, key=lambda segment: -abs(segment.share))[:top]


def explain(
    model: ECGTransformerForMultiLabel,
    feature_extractor: ECGTransformerFeatureExtractor,
    record: str | os.PathLike | Mapping | Record,
    labels: str | Sequence[str] | None = None,
    method: str = "integrated_gradients",
    steps: int = 32,
) -> list[Attribution]:
    """Which leads and times of a record a model's answer comes from, for each of some labels.

    Integrated gradients are those of the record's output (all windows, as the model aggregates them) along the straight
    line from a record of 0 mV, as the feature extractor shows it to the model, to the record. A sample that several
    windows see has the sum of what it contributes through each, so that all samples sum to the change of the output.

    Roll-out takes half of each layer's attention, averaged over heads, and half of the residual connection; a sample
    that several windows see has their mean. It is the same for all labels.

    Args:
        model, feature_extractor: a post-trained classifier or regression, and the extractor that it was trained with.
        record: what the pipeline `ecg-classification` takes as one record (path, dict with `signal`, `sampling_rate`,
            `lead_names` and, of integers, `units`; `wfdb.Record`), or a `Record` of `read_ecg`; at most 60 s.
        labels: names of `model.config.labels`; by default those that are above their thresholds, else the one with the
            highest score; the highest of several classes; all targets of a regression.
        method: one of `METHODS`.
        steps: of the integral, at least 2; for roll-out without meaning.

    Raises:
        ValueError: an unknown label or method, a record that the pipeline refuses or of more than 60 s, or roll-out
            for a model whose attention is not full.
        RuntimeError: the model has no trained head.
    """
    check_choice("method", method, METHODS)
    if steps < 2:
        raise ValueError(f"`steps` must be at least 2, got {steps}.")
    with evaluating(model):
        pipe = ECGClassificationPipeline(model=model, feature_extractor=feature_extractor, device=model.device)
        windows = cut_windows(pipe, record)
        with torch.no_grad():
            outputs = window_outputs(model, windows, windows.values[None])
        findings = pipe.postprocess([{"output": outputs[0], "record": windows.name}])
        chosen = _chosen_labels(findings, labels, model.config)
        if method == "attention_rollout":
            maps = [windows.on_record(attention_rollout(model, windows), "mean")] * len(chosen)
            maps = [shares / shares.sum() for shares in maps]
        else:
            maps = _integrated_gradients(model, windows, [model.config.labels.index(label) for label in chosen], steps)
        baseline = None if method == "attention_rollout" else _outputs(model, windows, windows.baseline)
    record_outputs = model.aggregate_windows(outputs)[0].tolist()
    by_label = {finding["label"]: finding for finding in findings}
    return [
        _attribution(model, windows, by_label[label], method, values, record_outputs, baseline)
        for label, values in zip(chosen, maps, strict=True)
    ]


def _attribution(model, windows, finding, method, values, outputs, baseline) -> Attribution:
    config = model.config
    place = config.labels.index(finding["label"])
    quantities = {REGRESSION: "value", SINGLE_LABEL: "log-probability"}
    before = None if baseline is None else baseline[place]
    error = None if before is None else float(values.sum(dtype=np.float64)) - (outputs[place] - before)
    return Attribution(
        label=finding["label"],
        method=method,
        finding=finding,
        values=values.astype(np.float32),
        signal=windows.signal,
        lead_names=windows.lead_names,
        sampling_rate=config.sampling_rate,
        output=outputs[place],
        quantity=quantities.get(config.problem_type, "logit"),
        baseline_output=before,
        completeness_error=error,
    )


def _chosen_labels(findings: Sequence[Mapping], labels: str | Sequence[str] | None, config) -> list[str]:
    if labels is not None:
        chosen = [labels] if isinstance(labels, str) else list(labels)
        for label in chosen:
            check_choice("labels", label, config.labels)
        return chosen
    present = [finding["label"] for finding in findings if finding.get("positive", "value" in finding)]
    return present or [findings[0]["label"]]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """A block in which the model is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def window_outputs(model: ECGTransformerForMultiLabel, windows: RecordWindows, values: torch.Tensor) -> torch.Tensor:
    """Values (variants, windows, leads, samples) in place of those of a record -> outputs (variants, windows, labels)."""
    variants = len(values)
    others = {name: tensor.repeat(variants, *[1] * (tensor.ndim - 1)) for name, tensor in windows.others.items()}
    return model(input_values=values.flatten(0, 1), **others).logits.unflatten(0, (variants, -1))


def _outputs(model: ECGTransformerForMultiLabel, windows: RecordWindows, values: torch.Tensor) -> list[float]:
    """Values (windows, leads, samples) -> the output of the record for each label."""
    with torch.no_grad():
        return model.aggregate_windows(window_outputs(model, windows, values[None]))[0].tolist()


def _integrated_gradients(model, windows: RecordWindows, places: Sequence[int], steps: int) -> list[np.ndarray]:
    """(leads, samples) for the outputs at `places`."""
    difference = windows.values - windows.baseline
    sums = torch.zeros(len(places), *difference.shape, device=difference.device)
    fractions, weights = (torch.tensor(part, device=difference.device) for part in _path(steps))
    at_once = max(1, WINDOWS_AT_ONCE // len(difference))
    for fraction, weight in zip(fractions.split(at_once), weights.split(at_once), strict=True):
        values = (windows.baseline + fraction[:, None, None, None] * difference).requires_grad_()
        outputs = model.aggregate_windows(window_outputs(model, windows, values))
        for row, place in enumerate(places):
            more = row + 1 < len(places)
            (gradient,) = torch.autograd.grad(outputs[:, place].sum(), values, retain_graph=more)
            sums[row] += torch.tensordot(weight, gradient, dims=1)
    return [windows.on_record(part.cpu().numpy(), "sum") for part in sums * difference]


def _path(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) float32: places between 0 and 1 and the weights of an integral over them.

    Gauss and Legendre's, of t with place = t^4: a first layer that normalises, as those of ST-MEM, ECG-FM and
    HuBERT-ECG, changes most near the silent record.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    points, weights = (points + 1) / 2, weights / 2
    return (points**PATH_POWER).astype(np.float32), (weights * PATH_POWER * points ** (PATH_POWER - 1)).astype(
        np.float32
    )


PATH_POWER = 4


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
