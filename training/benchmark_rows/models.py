"""What the package adds to the model: a training step beside a plain encoder's, a pipeline beside the model alone."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from transformers import pipeline

from ecg_hf import ECGTransformerModel

BATCH = 128
LEADS, SAMPLES, PATCH = 12, 250, 10


class PlainEncoder(nn.Module):
    """`nn.TransformerEncoder` of the size of a configuration, on one linear projection of each patch."""

    def __init__(self, config):
        super().__init__()
        self.patches = nn.Conv1d(LEADS, config.hidden_size, PATCH, PATCH)
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.patches(input_values).transpose(1, 2)).mean(dim=1)


def step_ratios(checkpoint: str, num_rounds: int) -> dict[str, float]:
    """A training step of the encoder over that of a plain one in float32, without stochastic depth.

    `float32` with `sdpa`, `bfloat16` with `eager`: what a run on a CPU takes.
    """
    models: dict[str, nn.Module] = {
        name: ECGTransformerModel.from_pretrained(checkpoint, attn_implementation=way).train()
        for name, way in (("float32", "sdpa"), ("bfloat16", "eager"))
    }
    for model in models.values():
        model.set_drop_path_rate(0.0)
    models["plain"] = PlainEncoder(models["float32"].config).train()
    optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in models.items()}
    values = torch.randn(BATCH, LEADS, SAMPLES)

    def step(name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext():
            output = models[name](values)
            loss = (output if name == "plain" else output.pooler_output).float().square().mean()
        loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    times = alternate({name: lambda name=name: step(name) for name in models}, num_rounds)
    return {name: ratio(times[name], times["plain"]) for name in ("float32", "bfloat16")}


def pipeline_ratio(checkpoint: str, records: Sequence[str], num_rounds: int, batch_size: int = 32) -> float:
    """`pipeline(records)` from disk over the model alone on the same batches, ready in memory."""
    classifier = pipeline("ecg-classification", model=checkpoint, device="cpu")
    windows = [window["window"]["input_values"] for record in records for window in classifier.preprocess(record)]
    batches = [torch.cat(windows[start : start + batch_size]) for start in range(0, len(windows), batch_size)]

    def model_alone() -> None:
        with torch.inference_mode():
            for batch in batches:
                classifier.model(input_values=batch)

    ways = {"pipeline": lambda: classifier(list(records), batch_size=batch_size), "model": model_alone}
    times = alternate(ways, num_rounds)
    return ratio(times["pipeline"], times["model"])


def alternate(ways: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, in turn; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in times.items()}


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(times, others, strict=True))


def records_of(folder: str | pathlib.Path, count: int) -> list[str]:
    """The first WFDB records of a folder in PTB-XL's layout, at 100 Hz."""
    return [str(path.with_suffix("")) for path in sorted(pathlib.Path(folder, "records100").rglob("*.hea"))[:count]]


__all__ = ["PlainEncoder", "alternate", "pipeline_ratio", "ratio", "records_of", "step_ratios"]
