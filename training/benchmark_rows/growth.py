"""How cost grows with the number of records, of two ways to training data, without any model.

- `--way shards`: `ecg-hf prepare` into shards, and an epoch of crops streamed from them. The records are rows of a
  table that name the same twenty simulated files again and again, so that nothing but the shards grows; with
  `--data_dir` the first records of PTB-XL's training folds.
- `--way challenge`: `load_challenge` of one folder of headers and MATLAB files, `load` into new Arrow files, `again`
  from these.

Each number of records is measured in a process of its own; one line of JSON each:

- `prepare`, `stream`, `load`, `again`: microseconds a record of wall time, and of CPU time (`_cpu`), which others on
  the machine disturb less;
- `anonymous_mebibytes`: the most memory beside that of files, in each of them, with what Python and the libraries
  take, and with the processes of `--num_proc`; `added_mebibytes` is what it has grown by since they were imported;
- `disk_over_int16`: bytes of the shards or Arrow files over those of the samples as int16.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

BENCHMARK = pathlib.Path(__file__).resolve().parents[1] / "benchmark.py"
SECONDS = 10
NUM_FILES = 20
CODES = ("426783006", "164889003", "426177001", "164909002")


def simulated(rate: int) -> Iterator[np.ndarray]:
    """Signals of 12 leads and 10 s."""
    from ecg_hf.synthetic import simulate_ecg

    rng = np.random.default_rng(0)
    for _ in range(NUM_FILES):
        yield simulate_ecg(["NORM"], sampling_rate=500, rng=rng)[:, :: 500 // rate]


def write_table(folder: pathlib.Path, num_records: int, rate: int) -> pathlib.Path:
    """A CSV of paths of simulated records."""
    for index, signal in enumerate(simulated(rate)):
        name = f"r{index:02}"
        (folder / f"{name}.hea").write_text(_header(name, f"{name}.dat 16", signal, rate))
        (folder / f"{name}.dat").write_bytes(signal.astype("<i2").tobytes(order="F"))
    path = folder / "records.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([f"r{index % NUM_FILES:02}"] for index in range(num_records))])
    return path


def write_table_of_ptbxl(folder: pathlib.Path, num_records: int, data_dir: str) -> pathlib.Path:
    """A CSV of paths, below `data_dir`, of the first records of PTB-XL's training folds, at 100 Hz."""
    with open(pathlib.Path(data_dir, "ptbxl_database.csv"), newline="", encoding="utf-8") as file:
        names = [row["filename_lr"] for row in csv.DictReader(file) if int(row["strat_fold"]) <= 8]
    if len(names) < num_records:
        raise ValueError(f"The training folds have {len(names)} records, fewer than `--num_records {num_records}`.")
    path = folder / "records.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names[:num_records])])
    return path


def write_challenge(folder: pathlib.Path, num_records: int, rate: int) -> pathlib.Path:
    """A folder of records as the PhysioNet/CinC Challenges have them, no two of them equal."""
    records = folder / "records"
    records.mkdir()
    signals = list(simulated(rate))
    for index in range(num_records):
        name, turn = f"E{index:06}", index // NUM_FILES
        signal = np.roll(signals[index % NUM_FILES], turn, axis=1) + turn // (SECONDS * rate)
        # MATLAB 4: type 30 (int16), rows, columns, no imaginary part, length of the name.
        head = np.array([30, *signal.shape, 0, 4], "<i4").tobytes() + b"val\0"
        (records / f"{name}.mat").write_bytes(head + signal.astype("<i2").tobytes(order="F"))
        header = _header(name, f"{name}.mat 16+24", signal, rate)
        (records / f"{name}.hea").write_text(f"{header}# Age: 60\n# Sex: Female\n# Dx: {CODES[index % len(CODES)]}\n")
    return records


def _header(name: str, storage: str, signal: np.ndarray, rate: int) -> str:
    from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES

    lines = [f"{name} 12 {rate} {signal.shape[1]}"]
    for lead, row in zip(LEAD_NAMES, signal, strict=True):
        checksum = int(row.astype(np.int64).sum() % 2**16)
        lines.append(f"{storage} 1000(0)/mV 16 0 {row[0]} {checksum} 0 {lead}")
    return "\n".join(lines) + "\n"


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of wall and CPU time, those of ended child processes too, and mebibytes of anonymous memory."""
    done, most = threading.Event(), [0.0]

    def watch():
        while not done.wait(0.1):
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
    return {"seconds": seconds, "cpu": cpu, "mebibytes": most[0], "added": max(0.0, most[0] - before)}


def _anonymous_mebibytes() -> float:
    """Of this process and its children; what they share counts once."""
    children = " ".join(path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/children")).split()
    return sum(map(_anonymous_kibibytes, ["self", *children])) / 1024


def _anonymous_kibibytes(process: str) -> int:
    try:
        lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def measure_shards(folder: pathlib.Path, num_records: int, flags: argparse.Namespace) -> dict:
    """The figures of `--way shards` for one number of records, in this process."""
    from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
    from ecg_hf.pretraining.crops import Augmentation, Crops
    from ecg_hf.pretraining.prepare import prepare
    from ecg_hf.pretraining.run import RecordArguments
    from ecg_hf.runs.shards import ShardedRecords, ShardSampler

    if flags.data_dir is None:
        table = write_table(folder, num_records, flags.rate)
    else:
        table = write_table_of_ptbxl(folder, num_records, flags.data_dir)
    shards = folder / "shards"
    arguments = RecordArguments(table=str(table), data_dir=flags.data_dir, num_proc=flags.num_proc)

    def stream():
        records = ShardedRecords(shards, num_held=4)
        extractor = ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=250)
        crops = Crops(records, extractor, Augmentation(), seed=0)
        order = iter(ShardSampler(records.sizes, 0, 128, 1, records.num_held))
        while batch := list(itertools.islice(order, 128)):
            crops.__getitems__(batch)

    work = {"prepare": lambda: prepare(arguments, shards, shard_size=flags.shard_size), "stream": stream}
    found = {name: measured(function) for name, function in work.items()}
    assert len(ShardedRecords(shards)) == num_records
    return figures_of(found, shards.rglob("*.parquet"), num_records, flags)


def measure_challenge(folder: pathlib.Path, num_records: int, flags: argparse.Namespace) -> dict:
    """The figures of `--way challenge` for one number of records, in this process."""
    from ecg_hf import load_challenge

    logging.getLogger("ecg_hf").setLevel(logging.ERROR)
    warm, cold = folder / "warm", folder / "cold"
    warm.mkdir(), cold.mkdir()
    load_challenge(write_challenge(warm, 100, flags.rate), cache_dir=warm)  # imports, and what Arrow keeps
    records = write_challenge(cold, num_records, flags.rate)

    def load():
        splits = load_challenge(records, num_proc=flags.num_proc, cache_dir=cold / "cache")
        assert sum(map(len, splits.values())) == num_records

    found = {name: measured(load) for name in ("load", "again")}
    return figures_of(found, (cold / "cache").rglob("*.arrow"), num_records, flags)


def figures_of(
    found: Mapping[str, Mapping[str, float]],
    files: Iterable[pathlib.Path],
    num_records: int,
    flags: argparse.Namespace,
) -> dict[str, float]:
    size = sum(path.stat().st_size for path in files)
    figures: dict[str, float] = {"num_records": num_records, "rate": flags.rate, "num_proc": flags.num_proc}
    for name, values in found.items():
        figures[name] = round(1e6 * values["seconds"] / num_records)
        figures[f"{name}_cpu"] = round(1e6 * values["cpu"] / num_records)
        figures[f"{name}_anonymous_mebibytes"] = round(values["mebibytes"])
        figures[f"{name}_added_mebibytes"] = round(values["added"])
    figures["disk_over_int16"] = round(size / (num_records * 12 * SECONDS * flags.rate * 2), 3)
    return figures


WAYS = {"shards": measure_shards, "challenge": measure_challenge}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "benchmark.py growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=tuple(WAYS), default="shards", help="see above")
    parser.add_argument("--num_records", type=int, nargs="+", default=[2000, 8000, 20000])
    parser.add_argument("--rate", type=int, choices=(100, 500), default=100, help="Hz of the records")
    parser.add_argument("--data_dir", help="folder of PTB-XL: its records at 100 Hz in the place of simulated ones")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that read")
    parser.add_argument("--shard_size", type=int, default=1000, help="records of a shard")
    parser.add_argument("--one", action="store_true", help="measure in this process; used by the others")
    arguments = parser.parse_args(argv)
    if arguments.data_dir is not None and (arguments.way, arguments.rate) != ("shards", 100):
        parser.error("--data_dir is for --way shards at --rate 100")
    for num_records in arguments.num_records:
        if not arguments.one:
            flags = ["--rate", arguments.rate, "--num_proc", arguments.num_proc, "--shard_size", arguments.shard_size]
            flags += ["--way", arguments.way]
            flags += [] if arguments.data_dir is None else ["--data_dir", arguments.data_dir]
            command = [sys.executable, BENCHMARK, "growth", "--one", "--num_records", num_records, *flags]
            subprocess.run([str(word) for word in command], check=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            figures = WAYS[arguments.way](pathlib.Path(folder), num_records, arguments)
        print(json.dumps(figures), flush=True)
