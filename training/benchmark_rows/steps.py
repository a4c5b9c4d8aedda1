"""What a training run saves, each row beside the plain way, measured in turn in one run; JSON lines.

`prepared`: epochs of batches of records that must be resampled, beside a loop over records with `resample_poly`.
`attention`: a training step with each way to compute attention, at several numbers of tokens.
`evaluation`: evaluations between epochs with and without overlapping windows, and the epoch that each would choose.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import datasets
import numpy as np
import torch
from scipy.signal import resample_poly
from transformers import TrainerCallback

from ecg_hf import (
    ECGTransformerConfig,
    ECGTransformerFeatureExtractor,
    ECGTransformerForMultiLabel,
    PostTrainer,
    PostTrainingArguments,
    load_ptbxl,
)
from ecg_hf.runs.windows import EvaluationWindows, TrainingWindows

RATE, WINDOW, BATCH = 100, 250, 128


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def show(row: dict) -> None:
    versions = {"machine": platform.machine(), "torch": torch.__version__, "datasets": datasets.__version__}
    print(json.dumps({**row, **versions}), flush=True)


def middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _splits(data_dir: str, rate: int, cache: str) -> datasets.DatasetDict:
    return load_ptbxl(data_dir, "superdiagnostic", rate, cache_dir=cache, skip_missing_records=True)


# ---- Records that must be resampled ----


def plain_epoch(dataset: datasets.Dataset, rate: int, epoch: int) -> None:
    """The loop that one would write: each item is read, resampled, cropped and normalised in NumPy."""
    items = dataset.with_format("numpy", columns=["signal", "labels"])
    rng = np.random.default_rng(epoch)
    batch = []
    for index in rng.permutation(len(items)):
        item = items[int(index)]
        signal = item["signal"].reshape(12, -1).astype(np.float32) / 1000
        signal = resample_poly(signal, RATE, rate, axis=-1)
        start = rng.integers(signal.shape[1] - WINDOW + 1)
        batch.append(np.clip(signal[:, start : start + WINDOW] / np.float32(0.2), -10, 10))
        if len(batch) == BATCH:
            torch.from_numpy(np.stack(batch))
            batch = []


def our_epoch(dataset: datasets.Dataset, cache: str | None, epoch: int, kept: list) -> None:
    """The first one prepares the records; later ones of a run have them."""
    if not kept:
        extractor = ECGTransformerFeatureExtractor(RATE, WINDOW, std=0.2, clip=10.0)
        kept.append(TrainingWindows(dataset, extractor, seed=0, cache_dir=cache, silent=True))
    order = np.random.default_rng(epoch).permutation(len(dataset))
    for rows in np.array_split(order, range(BATCH, len(order), BATCH)):
        kept[0].__getitems__([(epoch, int(row)) for row in rows])


def prepared(data_dir: str, rate: int, num_rounds: int) -> Iterator[dict]:
    with tempfile.TemporaryDirectory() as folder:
        dataset = _splits(data_dir, rate, folder)["train"]
        plain_epoch(dataset, rate, 0)  # warms the files up
        our_epoch(dataset, None, 0, [])
        rows = {"plain": [], "today": [], "first": [], "later": []}
        without = []
        for number in range(num_rounds):
            kept, cache = [], str(pathlib.Path(folder, str(number)))
            rows["plain"].append(seconds(lambda: plain_epoch(dataset, rate, 1)))  # noqa: B023
            rows["first"].append(seconds(lambda: our_epoch(dataset, cache, 0, kept)))  # noqa: B023
            rows["later"].append(seconds(lambda: our_epoch(dataset, cache, 1, kept)))  # noqa: B023
            rows["today"].append(seconds(lambda: our_epoch(dataset, None, 1, without)))
    yield (
        {
            "row": "prepared",
            "num_records": len(dataset),
            "ms_a_record": {name: round(1000 * middle(values) / len(dataset), 3) for name, values in rows.items()},
            **{f"{name}_ratio": middle(np.divide(rows["plain"], rows[name])) for name in ("today", "first", "later")},
        }
    )


# ---- Attention ----


def attention(tokens: Sequence[int], num_rounds: int, num_rows: int) -> Iterator[dict]:
    for count in tokens:
        config = ECGTransformerConfig.from_preset("ptbxl_100hz", num_samples=10 * count)
        model = ECGTransformerForMultiLabel(config).train()
        rows = max(2, num_rows * 25 // count)
        values = torch.randn(rows, config.num_leads, config.num_samples)
        labels = torch.ones(rows, config.num_labels)

        def step(way: str, dtype: torch.dtype, model=model, values=values, labels=labels) -> None:
            model.set_attn_implementation(way)
            with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
                loss = model(input_values=values, labels=labels).loss
            loss.backward()
            model.zero_grad()

        for dtype in (torch.float32, torch.bfloat16):
            times = {"eager": [], "sdpa": []}
            for _ in range(num_rounds + 1):
                for way, taken in times.items():
                    taken.append(seconds(lambda: step(way, dtype)))  # noqa: B023
            ratio = middle(np.divide(times["sdpa"][1:], times["eager"][1:]))  # the first round warms up
            yield {"row": "attention", "tokens": count, "dtype": str(dtype), "sdpa_over_eager": ratio}


# ---- Evaluation between epochs ----


class _Compare(TrainerCallback):
    """Evaluates each epoch in both ways."""

    def __init__(self, trainer: PostTrainer):
        self.trainer = trainer
        self.metrics: dict[bool, list[float]] = {False: [], True: []}
        self.seconds: dict[bool, list[float]] = {False: [], True: []}

    def on_epoch_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        for overlap in (False, True):
            extractor = trainer.processing_class if overlap else trainer.epoch_extractor
            windows = EvaluationWindows(trainer.eval_dataset, extractor)
            started = time.perf_counter()
            batches = [windows.__getitems__(rows) for rows in np.array_split(np.arange(len(windows)), 4)]
            parts = [trainer.prediction_step(trainer.model.eval(), batch, False) for batch in batches]
            self.seconds[overlap].append(time.perf_counter() - started)
            logits, losses = (np.concatenate([part[1][place].numpy() for part in parts]) for place in (0, 1))
            labels = np.concatenate([part[2].numpy() for part in parts])
            self.metrics[overlap].append(trainer.target.evaluation_metrics(labels, logits, losses)["macro_auroc"])


def evaluation(
    data_dir: str, rate: int, model_dir: str, num_epochs: int, seeds: Sequence[int], limit: int
) -> Iterator[dict]:
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            splits = _splits(data_dir, rate, folder)
            train, validation = (splits[name] for name in ("train", "validation"))
            chosen = np.random.default_rng(seed).permutation(len(train))[:limit]
            model = ECGTransformerForMultiLabel.from_pretrained(model_dir)
            model.replace_head(dict(enumerate(["CD", "HYP", "MI", "NORM", "STTC"])))
            trainer = PostTrainer(
                model=model,
                args=PostTrainingArguments(
                    folder,
                    stages=["finetune"],
                    num_train_epochs=num_epochs,
                    eval_overlap=False,
                    seed=seed,
                    eval_strategy="no",
                    save_strategy="no",
                    load_best_model_at_end=False,
                    per_device_train_batch_size=32,
                    disable_tqdm=True,
                    report_to="none",
                    use_cpu=True,
                ),
                train_dataset=train.select(np.sort(chosen)),
                eval_dataset=validation.select(range(min(limit, len(validation)))),
                feature_extractor=ECGTransformerFeatureExtractor.from_pretrained(model_dir),
            )
            compare = _Compare(trainer)
            trainer.add_callback(compare)
            trainer.train()
        best = {overlap: int(np.argmax(values)) + 1 for overlap, values in compare.metrics.items()}
        yield (
            {
                "row": "evaluation",
                "seed": seed,
                "time_ratio": middle(np.divide(compare.seconds[False], compare.seconds[True])),
                "best_epoch_without_overlap": best[False],
                "best_epoch_with_overlap": best[True],
                "macro_auroc": [np.round(compare.metrics[overlap], 4).tolist() for overlap in (False, True)],
            }
        )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "benchmark.py steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = parser.add_subparsers(dest="row", required=True)
    one = rows.add_parser("prepared")
    two = rows.add_parser("attention")
    three = rows.add_parser("evaluation")
    for row in (one, three):
        row.add_argument("data_dir", help="PTB-XL in PhysioNet's layout")
        row.add_argument("--rate", type=int, default=500 if row is one else 100)
    for row in (one, two):
        row.add_argument("--num_rounds", type=int, default=5)
    two.add_argument("--tokens", type=int, nargs="+", default=[25, 50, 100, 200, 400])
    two.add_argument("--num_rows", type=int, default=16, help="windows of 25 tokens in a batch; fewer longer ones")
    three.add_argument("--model_dir", default="hub_cards/ecg-transformer-ptbxl-100hz")
    three.add_argument("--num_epochs", type=int, default=4)
    three.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    three.add_argument("--limit", type=int, default=500, help="records for training and for validation")
    options = vars(parser.parse_args(argv))
    functions = {"prepared": prepared, "attention": attention, "evaluation": evaluation}
    for found in functions[options.pop("row")](**options):
        show(found)
