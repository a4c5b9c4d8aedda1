"""Whether attributions tell of the model: two checks that a method can fail.

With random weights a method must give another map (Adebayo et al. 2018, arXiv 1810.03292), and what it marks must
matter to the model more than other parts of the record.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import numpy as np
import scipy
import torch
from tqdm.auto import tqdm

from ..ecg_transformer.common_ecg_transformer import REGRESSION
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from .attribution import STEPS, Attribution, explain
from .windows import RecordWindows, classifier_of, cut_windows, record_outputs

MAX_RANK_CORRELATION = 0.3
"""Of the maps of trained and of random weights, at most, as the mean over records of its absolute value."""

RANDOM_TENTHS = 5
"""Of each record, over whose costs the mean is taken."""

CONFIDENCE = 0.95


def check_attribution(
    model: ECGTransformerForMultiLabel,
    feature_extractor: ECGTransformerFeatureExtractor,
    records: Iterable,
    method: str = "integrated_gradients",
    steps: int = STEPS,
    seed: int = 0,
) -> dict:
    """Explain the label of the highest score of each record, with the model's weights and with random ones.

    - `rank_correlation`: Spearman's, of the two maps; the mean over records of its absolute value must be at most
      `MAX_RANK_CORRELATION`. (That of absolute values, also given, is not judged: integrated gradients have the signal
      as a factor, which both maps share.)
    - `occlusion`: what the output loses when the marked tenth of leads and samples is set to 0 mV, and when another
      tenth is, which has the same shape, but other leads and times (the mean of five). The difference must be above 0
      with its 95 % interval, Student's of the mean over records.

    Args:
        model, feature_extractor, method, steps: as of `explain`.
        records: at least two, of any kind that `explain` takes.
        seed: of random weights and tenths.

    Returns the number of `records`, `method`, `rank_correlation` and `rank_correlation_of_absolute_values` (`mean`,
    `largest`; the first with its `limit`), `occlusion` (`marked`, `random`: mean loss in the unit of the output;
    `difference` with `value`, `low`, `high`), `incomplete` (records whose sums are missed) and `passed`.

    Raises `ValueError` for fewer than two records, and what `explain` does.
    """
    generator, random_model = np.random.default_rng(seed), with_random_weights(model, seed)
    rows = []
    for record in tqdm(list(records), desc="Records", disable=None):
        with classifier_of(model, feature_extractor) as pipe:
            windows = cut_windows(pipe, record)
            label = _highest(model, windows)
            (trained,) = explain(model, feature_extractor, record, label, method, steps)
            losses = _losses(model, windows, trained, generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the record, which were shown just now
            (random,) = explain(random_model, feature_extractor, record, label, method, steps)
        rows.append((trained, random, losses))
    if len(rows) < 2:
        raise ValueError(f"A check of attributions needs at least two records, got {len(rows)}.")
    trained, random, losses = zip(*rows, strict=True)
    return _summary(trained, random, np.array(losses), method)


def with_random_weights(model: ECGTransformerForMultiLabel, seed: int) -> ECGTransformerForMultiLabel:
    """A model of the same configuration, with the weights that training from scratch begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random = type(model)(copy.deepcopy(model.config))
    return random.to(device=model.device, dtype=model.dtype).eval()


def _highest(model: ECGTransformerForMultiLabel, windows: RecordWindows) -> str:
    if model.config.problem_type == REGRESSION:
        return model.config.labels[0]  # values of several units have no order
    return model.config.labels[int(record_outputs(model, windows, windows.values[None])[0].argmax())]


def _losses(model, windows: RecordWindows, attribution: Attribution, generator: np.random.Generator) -> list[float]:
    """What the output loses without the marked tenth, and, in the mean, without random ones."""
    marked = attribution.marked()
    masks = [marked, *(_elsewhere(marked, generator) for _ in range(RANDOM_TENTHS))]
    hidden = torch.from_numpy(np.stack([windows.on_windows(mask) for mask in masks])).to(windows.values.device)
    occluded = torch.where(hidden, windows.baseline, windows.values)
    outputs = record_outputs(model, windows, occluded)[:, model.config.labels.index(attribution.label)]
    lost = attribution.output - outputs.cpu().double().numpy()  # Apple's GPUs have no float64
    return [float(lost[0]), float(lost[1:].mean())]


def _elsewhere(marked: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(leads, samples): the same stretches in other leads, at other times."""
    return np.roll(generator.permutation(marked, axis=0), generator.integers(1, marked.shape[1]), axis=1)


def _summary(trained: tuple[Attribution], random: tuple[Attribution], losses: np.ndarray, method: str) -> dict:
    pairs = [(one.values.ravel(), other.values.ravel()) for one, other in zip(trained, random, strict=True)]
    signed = np.abs([scipy.stats.spearmanr(*pair).statistic for pair in pairs])
    absolute = [scipy.stats.spearmanr(*np.abs(pair)).statistic for pair in pairs]
    difference = losses[:, 0] - losses[:, 1]
    low, high = scipy.stats.t.interval(CONFIDENCE, len(difference) - 1, difference.mean(), scipy.stats.sem(difference))
    return {
        "records": len(trained),
        "method": method,
        "rank_correlation": {**_mean_and_largest(signed), "limit": MAX_RANK_CORRELATION},
        "rank_correlation_of_absolute_values": _mean_and_largest(absolute),
        "occlusion": {
            "marked": float(losses[:, 0].mean()),
            "random": float(losses[:, 1].mean()),
            "difference": {"value": float(difference.mean()), "low": float(low), "high": float(high)},
        },
        "incomplete": sum(not each.is_complete for each in trained),
        "passed": bool(signed.mean() <= MAX_RANK_CORRELATION and low > 0),
    }


def _mean_and_largest(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "largest": float(np.max(values))}


__all__ = ["check_attribution", "with_random_weights"]
