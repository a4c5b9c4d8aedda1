"""What a run says of itself before it begins, and the tables that it prints: plain text for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from transformers import SchedulerType, Trainer

from .arguments import RunArguments
from .devices import device_in_words
from .timing import steps_of_epoch

_COLUMN = 9
"""Characters of the titles on the left."""

_WITHOUT_WARMUP = (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)

# Tensors of the size of a weight that an optimizer keeps for it.
_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0}


def section(title: str, lines: Iterable[str]) -> list[str]:
    """Lines with a title before the first."""
    return [f"{name:<{_COLUMN}}{line}".rstrip() for name, line in zip(_titles(title), lines, strict=False)]


def _titles(title: str) -> Iterable[str]:
    yield title
    while True:
        yield ""


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows of cells -> lines; the first column is flush left, the others right."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


def model_lines(trainer: Trainer) -> list[str]:
    """The model: its name, size and input."""
    config = trainer.model.config
    name = trainer.recipe.get("model_name_or_path") or f"{trainer.recipe.get('architecture', 'given')}, random weights"
    if {"model_name_or_path", "architecture"}.isdisjoint(trainer.recipe):  # made in Python
        name = type(trainer.model).__name__
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    seconds = config.num_samples / config.sampling_rate
    leads = f"{len(config.lead_names)} lead{'s' if len(config.lead_names) > 1 else ''}"
    return [f"{name}: {count:,} parameters; windows of {seconds:g} s at {config.sampling_rate:g} Hz of {leads}"]


def device_lines(trainer: Trainer) -> list[str]:
    """Device, processes and precision."""
    precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
    mixed = trainer.accelerator.mixed_precision
    count = trainer.args.world_size
    processes = f", {count} processes" if count > 1 else ""
    return [f"{device_in_words(trainer.args.device)}{processes}, {precision.get(mixed, mixed)}"]


def num_steps(trainer: Trainer) -> int:
    """Optimizer steps of a stage of gradient descent, as the library counts them."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(steps_of_epoch(trainer) * args.num_train_epochs)


def gradient_line(trainer: Trainer) -> str:
    """Steps and batches of a stage of gradient descent."""
    args, steps = trainer.args, num_steps(trainer)
    epochs = "" if args.max_steps > 0 else f" ({args.num_train_epochs:g} epochs)"
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    rate = f"learning rate {trainer.peak_learning_rate:g}{_out_of_reach(args, steps)}"
    return f"{steps:,} steps{epochs} of {batch} records, {rate}"


def _out_of_reach(args: RunArguments, steps: int) -> str:
    """What is to be said of a learning rate that a recipe for more records does not come to with these."""
    warmup = args.get_warmup_steps(steps)
    if warmup < steps or args.lr_scheduler_type in _WITHOUT_WARMUP:
        return ""
    return f", not reached in a warm-up of {warmup:,} steps: give fewer `warmup_steps`, or a share, such as 0.1"


def group_lines(trainer: Trainer) -> list[str]:
    """The parameter groups of the optimizer; of more than ten, with layer decay, the first and the last five."""
    groups = trainer.parameter_groups(trainer.model)
    lines = [
        f"{sum(parameter.numel() for parameter in group['params']):,} parameters of {len(group['params'])} tensors, "
        f"learning rate {group['lr']:.3g}, weight decay {group['weight_decay']:g}"
        for group in groups
    ]
    return lines if len(lines) <= 10 else [*lines[:5], f"({len(lines) - 10} groups between)", *lines[-5:]]


def memory_lines(trainer: Trainer) -> list[str]:
    """Memory of what does not depend on the batch."""
    sizes = {"weights": _bytes(trainer.model.parameters())}
    sizes["gradients"] = _bytes(parameter for parameter in trainer.model.parameters() if parameter.requires_grad)
    optimizer = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    moments = _MOMENTS.get(optimizer.split("_")[0]) if optimizer.endswith(("_torch", "_fused", "sgd")) else None
    parts = [f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()]
    if moments is None:
        parts.append(f"that of the optimizer `{optimizer}` is not known")
    else:
        parts.append(f"optimizer {moments * sizes['gradients'] / 1e6:.1f} MB ({optimizer})")
    return [f"{', '.join(parts)}; to this each batch adds its activations"]


def _bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


__all__ = [
    "device_lines",
    "gradient_line",
    "group_lines",
    "memory_lines",
    "model_lines",
    "num_steps",
    "section",
    "table",
]
