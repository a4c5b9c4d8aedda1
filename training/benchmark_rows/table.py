"""The rows of the table: what was measured before the work on speed, what it is to reach, and how it is measured."""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENCODER = str(ROOT / "hub_cards/ecg-transformer-ptbxl-100hz")
CLASSIFIER = f"{ENCODER}-all"


@dataclass(frozen=True)
class Setting:
    """Of a run of the table: a folder for what it writes, the data, and how much to measure.

    `data_dir` is PTB-XL with files of 100 Hz, `data_dir_500hz` with files of 500 Hz; simulated where not given.
    """

    folder: pathlib.Path
    data_dir: str | None = None
    data_dir_500hz: str | None = None
    num_records: int = 256
    num_rounds: int = 3

    @functools.cached_property
    def simulated(self) -> str:
        from ecg_hf.synthetic import simulate_ptbxl

        # A fold is for validation, one for testing, and records without a statement of the task are left out.
        count = self.num_records * 10 // 7 + 100
        return str(simulate_ptbxl(self.folder / "simulated", count, sampling_rates=(100, 500)))

    def data(self, rate: int) -> str:
        return (self.data_dir_500hz if rate == 500 else self.data_dir) or self.simulated


def _cold(setting: Setting) -> dict[str, float]:
    from .cold import benchmark
    from .models import records_of

    (record,) = records_of(setting.data(100), 1)
    seconds = {row["row"]: row["seconds"] for row in benchmark(CLASSIFIER, record, None, setting.num_rounds)}
    libraries = seconds["import the libraries"]
    rows = {"help": "ecg-hf classify --help", "import": "import ECGTransformerModel", "classify": "ecg-hf classify"}
    return {name: seconds[row] / libraries for name, row in rows.items()}


def _reading(setting: Setting) -> dict[str, float]:
    import wfdb

    from ecg_hf.ecg_transformer.wfdb_ecg_transformer import read_record

    from .models import alternate, ratio, records_of

    records = records_of(setting.data(100), setting.num_records)
    ways = {"ours": read_record, "wfdb": wfdb.rdsamp}
    times = alternate(
        {name: lambda read=read: [*map(read, records)] for name, read in ways.items()}, setting.num_rounds
    )
    return {"reading": ratio(times["wfdb"], times["ours"])}


def _pipeline(setting: Setting) -> dict[str, float]:
    from .models import pipeline_ratio, records_of

    records = records_of(setting.data(100), setting.num_records // 4)
    return {"pipeline": pipeline_ratio(CLASSIFIER, records, setting.num_rounds)}


def _step(setting: Setting) -> dict[str, float]:
    from .models import step_ratios

    return {f"step_{dtype}": value for dtype, value in step_ratios(ENCODER, 2 * setting.num_rounds).items()}


def _attention(setting: Setting) -> dict[str, float]:
    from .steps import attention

    found = {row["dtype"]: row["sdpa_over_eager"] for row in attention([25], 2 * setting.num_rounds, 128)}
    # As `ecg_hf.runs.attention` chooses: `sdpa` in float32, `eager` in bfloat16.
    return {
        "attention_float32": max(1.0, found["torch.float32"]),
        "attention_bfloat16": max(1.0, 1 / found["torch.bfloat16"]),
    }


def _prepared(setting: Setting) -> dict[str, float]:
    from .steps import prepared

    (row,) = prepared(setting.data(500), 500, setting.num_rounds)
    return {"first_epoch": row["first_ratio"], "later_epochs": row["later_ratio"]}


def _evaluation(setting: Setting) -> dict[str, float]:
    from .steps import evaluation

    (row,) = evaluation(setting.data(100), 100, ENCODER, setting.num_rounds, [0], setting.num_records)
    return {"evaluation": row["time_ratio"]}


def _trainer(command: str, setting: Setting) -> dict[str, float]:
    from .trainer import measure

    flags: dict[str, Any] = {
        "data_dir": setting.data(100),
        "cache_dir": setting.folder / "cache",
        "architecture": "ptbxl_100hz",
        "num_records": setting.num_records,
        "num_steps": 6,
        "num_rounds": setting.num_rounds,
        "per_device_train_batch_size": 32,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    (row,) = measure([command, *(str(word) for name, value in flags.items() for word in (f"--{name}", value))])
    return {command: row["ratio"]}


class Row(NamedTuple):
    """`before` and `aim` are of the same ratio as `measured`; `more` where a larger one is better."""

    name: str
    what: str
    before: float
    aim: float
    measure: Callable[[Setting], dict[str, float]]
    more: bool = False


_TRAIN, _PRETRAIN = functools.partial(_trainer, "train"), functools.partial(_trainer, "pretrain")
_LIBRARIES = "over importing transformers' Trainer and Pipeline, and datasets"
_OF_LOOP = "times as fast as a loop over records with resample_poly"
ROWS = (
    # Before: 7.3, 7.1 and 8.3 s where the libraries took 7.0 s; the aims are shares of these.
    Row("help", f"ecg-hf classify --help, {_LIBRARIES}", 1.04, 0.05, _cold),
    Row("import", f"from ecg_hf import ECGTransformerModel, {_LIBRARIES}", 1.02, 0.36, _cold),
    Row("classify", f"ecg-hf classify RECORD, cold, {_LIBRARIES}", 1.19, 0.53, _cold),
    Row("reading", "reading PTB-XL at 100 Hz, times as fast as wfdb.rdsamp", 25, 25, _reading, more=True),
    Row("first_epoch", f"500 Hz records for a 100 Hz model, first epoch, {_OF_LOOP}", 1.8, 3, _prepared, more=True),
    Row("later_epochs", f"the same, every later epoch, {_OF_LOOP}", 1.8, 20, _prepared, more=True),
    Row("pipeline", "pipeline(records, batch_size=32) from disk over the model alone", 1.62, 1.1, _pipeline),
    Row("step_float32", "training step over a plain nn.TransformerEncoder in float32", 0.89, 0.75, _step),
    Row("step_bfloat16", "the same in bfloat16 (the plain one in float32)", 0.59, 0.45, _step),
    Row("attention_float32", "the default way of attention over the best, 25 tokens", 1.7, 1.03, _attention),
    Row("attention_bfloat16", "the same in bfloat16", 1.5, 1.03, _attention),
    Row("evaluation", "evaluation between epochs over one with overlapping windows", 1, 0.5, _evaluation),
    Row("train", "records a second of ecg-hf train over a bare loop", 0.95, 0.95, _TRAIN, more=True),
    Row("pretrain", "records a second of ecg-hf pretrain over a bare loop", 0.95, 0.95, _PRETRAIN, more=True),
)


def measure_rows(names: Sequence[str], setting: Setting) -> Iterator[tuple[Row, float]]:
    """Rows with what was measured, as soon as it is; rows of one measurement are measured once."""
    found: dict[str, float] = {}
    for row in ROWS:
        if row.name not in names:
            continue
        if row.name not in found:
            print(f"measuring {row.name} ...", file=sys.stderr, flush=True)
            found |= row.measure(setting)
        yield row, float(found[row.name])


__all__ = ["ROWS", "Row", "Setting", "measure_rows"]
