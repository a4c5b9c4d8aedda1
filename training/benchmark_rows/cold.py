"""Seconds of cold processes, each against `import torch` in the same run: help, importing, the findings of a record.

`python training/benchmark.py cold CHECKPOINT RECORD [--against FOLDER]`; FOLDER is another checkout, such as one from
before a change, with which each row is then compared. A line of JSON a row: medians of alternating processes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]


REFERENCES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import PreTrainedModel": ["-c", "from transformers.modeling_utils import PreTrainedModel"],
    "import the libraries": ["-c", "import datasets\nfrom transformers import Pipeline, Trainer"],
}
"""What the rows may be compared with: the same in every checkout."""


def rows(checkpoint: str, record: str) -> dict[str, list[str]]:
    """The arguments of Python for each row."""
    return {
        "ecg-hf classify --help": ["-m", "ecg_hf.cli", "classify", "--help"],
        "import read_ecg": ["-c", "from ecg_hf import read_ecg"],
        "import ECGTransformerModel": ["-c", "from ecg_hf import read_ecg, ECGTransformerModel"],
        "ecg-hf classify": ["-m", "ecg_hf.cli", "classify", record, "--model", checkpoint, "--device", "cpu"],
    }


def measure(arguments: list[str], checkout: pathlib.Path) -> tuple[float, float]:
    """(seconds, CPU seconds) of a process; `RuntimeError` with what it wrote if it fails."""
    before, started = _cpu_seconds(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    ended = subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
    if ended.returncode:
        raise RuntimeError(f"`python {' '.join(arguments)}` in {checkout} ended with {ended.stderr[-500:]}")
    return seconds, cpu


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def benchmark(checkpoint: str, record: str, against: str | None, repetitions: int) -> list[dict]:
    """One dict a row: `seconds` and `cpu_seconds`, and `ratio` and `cpu_ratio` to the other checkout."""
    checkouts = [ROOT, *([] if against is None else [pathlib.Path(against).resolve()])]
    own = rows(os.path.abspath(checkpoint), os.path.abspath(record))
    commands = REFERENCES | own
    found = {(name, checkout): [] for name in commands for checkout in (checkouts if name in own else [ROOT])}
    for _ in range(repetitions):
        for name, checkout in found:
            found[name, checkout].append(measure(commands[name], checkout))
    table = []
    for name in commands:
        measured = [found[name, checkout] for checkout in checkouts if (name, checkout) in found]
        here, *other = [[statistics.median(values) for values in zip(*pairs, strict=True)] for pairs in measured]
        row = {"row": name, "seconds": here[0], "cpu_seconds": here[1]}
        if other:
            row |= {"ratio": here[0] / other[0][0], "cpu_ratio": here[1] / other[0][1]}
        table.append(row)
    return table


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("benchmark.py cold", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder of a post-trained classifier")
    parser.add_argument("record", help="a WFDB record")
    parser.add_argument("--against", help="another checkout of the project")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args(argv)
    for row in benchmark(**vars(arguments)):
        print(json.dumps({name: round(value, 3) if name != "row" else value for name, value in row.items()}))
