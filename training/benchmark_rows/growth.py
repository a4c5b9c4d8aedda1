"""How cost grows with the number of records: `ecg-hf prepare` into shards, and an epoch of crops streamed from them.

The records are rows of a table that name the same twenty simulated files again and again, so that nothing but the
shards grows. Each number of records is measured in a process of its own; one line of JSON each:

- `prepare`, `stream`: microseconds a record of wall time, and of CPU time (`_cpu`), which others on the machine
  disturb less; without any model;
- `anonymous_mebibytes`: the most memory beside that of files, in each of the two, after what Python and the libraries
  take;
- `disk_over_int16`: bytes of the shards over those of the samples as int16.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

BENCHMARK = pathlib.Path(__file__).resolve().parents[1] / "benchmark.py"
SECONDS = 10
NUM_FILES = 20


def write_table(folder: pathlib.Path, num_records: int, rate: int) -> pathlib.Path:
    """A CSV of paths of simulated records of 12 leads and 10 s."""
    from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
    from ecg_hf.synthetic import simulate_ecg

    rng = np.random.default_rng(0)
    for index in range(NUM_FILES):
        signal = simulate_ecg(["NORM"], sampling_rate=500, rng=rng)[:, :: 500 // rate]
        lines = [f"r{index:02} 12 {rate} {signal.shape[1]}"]
        for lead, row in zip(LEAD_NAMES, signal, strict=True):
            checksum = int(row.astype(np.int64).sum() % 2**16)
            lines.append(f"r{index:02}.dat 16 1000(0)/mV 16 0 {row[0]} {checksum} 0 {lead}")
        (folder / f"r{index:02}.hea").write_text("\n".join(lines) + "\n")
        (folder / f"r{index:02}.dat").write_bytes(signal.astype("<i2").tobytes(order="F"))
    path = folder / "records.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([f"r{index % NUM_FILES:02}"] for index in range(num_records))])
    return path


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of wall and CPU time, those of ended child processes too, and mebibytes of anonymous memory."""
    done, most = threading.Event(), [0.0]

    def watch():
        while not done.wait(0.02):
            most[0] = max(most[0], _anonymous_mebibytes())

    before, cpu, started = _anonymous_mebibytes(), sum(os.times()[:4]), time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    seconds, cpu = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    return {"seconds": seconds, "cpu": cpu, "mebibytes": max(0.0, most[0] - before)}


def _anonymous_mebibytes() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


def measure(table: pathlib.Path, rate: int, num_proc: int, shard_size: int) -> dict[str, float]:
    """The figures of one number of records, in this process."""
    from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
    from ecg_hf.pretraining.crops import Augmentation, Crops
    from ecg_hf.pretraining.prepare import prepare
    from ecg_hf.pretraining.run import RecordArguments
    from ecg_hf.runs.shards import ShardedRecords, ShardSampler

    shards = table.parent / f"shards-{table.stem}"
    arguments = RecordArguments(table=str(table), num_proc=num_proc)

    def stream():
        records = ShardedRecords(shards, num_held=4)
        extractor = ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=250)
        crops = Crops(records, extractor, Augmentation(), seed=0)
        order = list(ShardSampler(records.sizes, 0, 128, 1, records.num_held))
        for start in range(0, len(order), 128):
            crops.__getitems__(order[start : start + 128])

    work = {"prepare": lambda: prepare(arguments, shards, shard_size=shard_size), "stream": stream}
    found = {name: measured(function) for name, function in work.items()}
    num_records = len(ShardedRecords(shards))
    size = sum(path.stat().st_size for path in shards.rglob("*.parquet"))
    figures: dict[str, float] = {"num_records": num_records, "rate": rate, "num_proc": num_proc}
    for name, values in found.items():
        figures[name] = round(1e6 * values["seconds"] / num_records)
        figures[f"{name}_cpu"] = round(1e6 * values["cpu"] / num_records)
        figures[f"{name}_anonymous_mebibytes"] = round(values["mebibytes"])
    figures["disk_over_int16"] = round(size / (num_records * 12 * SECONDS * rate * 2), 3)
    return figures


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "benchmark.py growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_records", type=int, nargs="+", default=[2000, 8000, 20000])
    parser.add_argument("--rate", type=int, choices=(100, 500), default=100, help="Hz of the records")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that write shards")
    parser.add_argument("--shard_size", type=int, default=1000, help="records of a shard")
    parser.add_argument("--one", action="store_true", help="measure in this process; used by the others")
    arguments = parser.parse_args(argv)
    for num_records in arguments.num_records:
        if not arguments.one:
            flags = ["--rate", arguments.rate, "--num_proc", arguments.num_proc, "--shard_size", arguments.shard_size]
            command = [sys.executable, BENCHMARK, "growth", "--one", "--num_records", num_records, *flags]
            subprocess.run([str(word) for word in command], check=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            table = write_table(pathlib.Path(folder), num_records, arguments.rate)
            figures = measure(table, arguments.rate, arguments.num_proc, arguments.shard_size)
        print(json.dumps(figures), flush=True)
