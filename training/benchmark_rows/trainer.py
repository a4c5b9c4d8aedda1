"""Records per second through a trainer and through a bare loop over its model, measured in turn in one run.

`benchmark.py pretrain` and `benchmark.py train`: the flags are those of that command and of `BenchmarkArguments`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from transformers import Trainer, TrainerCallback

from ecg_hf.cli import parse_arguments, post_training_arguments, pretraining_arguments
from ecg_hf.post_training.run import make_trainer as post_training_trainer
from ecg_hf.pretraining.run import make_trainer as pretraining_trainer

WARM_UP_STEPS = 2


@dataclass
class BenchmarkArguments:
    """How much to measure."""

    num_records: list[int] = field(default_factory=lambda: [1000, 16000], metadata={"help": "Records to train on."})
    num_steps: int = field(default=10, metadata={"help": "Optimizer steps of one measurement."})
    num_rounds: int = field(default=5, metadata={"help": "Measurements of each loop; their median counts."})

    def __post_init__(self):
        if self.num_steps < 1 or self.num_rounds < 1:
            raise ValueError("`num_steps` and `num_rounds` must be at least 1.")


def run_benchmark(trainer: Trainer, benchmark_args: BenchmarkArguments) -> Iterator[dict[str, float]]:
    """Yields, for each number of records, `num_records`, both loops' `*_records_per_second`, and their `ratio`.

    The bare loop has the same model, precision and optimizer, and one batch that is ready in memory.

    Raises `ValueError` where there are fewer records than asked for.
    """
    records = trainer.train_dataset
    if max(benchmark_args.num_records) > len(records):
        raise ValueError(
            f"There are {len(records)} records, fewer than `num_records` asks for ({max(benchmark_args.num_records)})."
        )
    trainer.args.max_steps = WARM_UP_STEPS + benchmark_args.num_steps
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    clock = _Clock()
    trainer.add_callback(clock)
    for num_records in benchmark_args.num_records:
        trainer.train_dataset = records.select(range(num_records))
        yield {"num_records": num_records, **_measure(trainer, clock, benchmark_args)}


def _measure(trainer: Trainer, clock: _Clock, benchmark_args: BenchmarkArguments) -> dict[str, float]:
    steps = benchmark_args.num_steps
    batch = next(iter(trainer.get_train_dataloader()))
    records = steps * trainer.args.train_batch_size
    rates = {"trainer_records_per_second": [], "bare_records_per_second": []}
    for _ in range(benchmark_args.num_rounds):
        trainer.train()
        rates["trainer_records_per_second"].append(records / clock.seconds)
        rates["bare_records_per_second"].append(records / _bare_loop(trainer, batch, steps))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    pairs = zip(*rates.values(), strict=True)
    return {**medians, "ratio": statistics.median(trained / bare for trained, bare in pairs)}


def _bare_loop(trainer: Trainer, batch: dict[str, torch.Tensor], steps: int) -> float:
    """Seconds of the loop that one would write by hand."""
    args = trainer.args
    model = trainer.accelerator.unwrap_model(trainer.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True)
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            started = _now()
        with torch.autocast(args.device.type, torch.bfloat16) if args.bf16 else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return _now() - started


class _Clock(TrainerCallback):
    """Seconds from the end of the warm-up to the last step."""

    seconds = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP_STEPS:
            self.started = _now()
        elif state.global_step == state.max_steps:
            self.seconds = _now() - self.started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(argv: Sequence[str]) -> Iterator[dict[str, float]]:
    """The rows of `run_benchmark` for the command that is the first word, with the flags that follow."""
    kinds = pretraining_arguments() if argv[0] == "pretrain" else post_training_arguments()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--output_dir", folder, *argv[1:], *(["--probe_every", "0"] if argv[0] == "pretrain" else [])]
        benchmark_args, *arguments = parse_arguments(flags, BenchmarkArguments, *kinds)
        if getattr(arguments[-1], "report_column", None) is not None:
            raise SystemExit("benchmark.py: the loop by hand has no words of reports: leave `--report_column` out.")
        trainer = (pretraining_trainer if argv[0] == "pretrain" else post_training_trainer)(*arguments)
        yield from run_benchmark(trainer, benchmark_args)


def main(argv: Sequence[str]) -> list[dict[str, float]]:
    measured = []
    for row in measure(argv):
        print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
        measured.append(row)
    return measured
