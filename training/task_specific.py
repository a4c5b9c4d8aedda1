"""A network made for the task, to hold post-trained encoders against: a plain 1-D ResNet from random weights.

It sees the same crops, normalised in the same way, as a new model of the preset `ptbxl_100hz`, and is judged on the
same windows. `python training/task_specific.py --help` lists the flags; `training/study.py` calls
`train_task_specific`. The predictions that it leaves can teach another model (`ecg-hf train --teacher_predictions`);
with `--cross_fit` those of each training record are of a network that has not learned from its patient.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm
from transformers import set_seed
from transformers.trainer_utils import PredictionOutput

from ecg_hf.ecg_transformer.targets_ecg_transformer import multilabel_loss
from ecg_hf.files import whole_file, write_atomic
from ecg_hf.post_training.evaluation import (
    evaluation_metrics,
    predictions_table,
    record_losses,
    split_metrics,
    with_both_classes,
)
from ecg_hf.post_training.run import TaskArguments, load_model, load_splits
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.runs.arguments import ModelArguments
from ecg_hf.runs.windows import EpochSampler, EvaluationWindows, TrainingWindows

LEFT_OUT = "left_out"
NUM_TRAINING_FOLDS = 8
CHECKPOINT = "checkpoint.pt"
EVALUATIONS = 10
"""At most so many epochs are evaluated, the last among them: as many as of the Transformers by `eval_steps: 0.1`, so
that none chooses its best epoch from more."""
WIDTHS = (64, 64, 128, 128, 256, 256)


@dataclass
class TaskSpecificArguments:
    """What a run's result depends on; the rates are those of a one-cycle schedule for AdamW."""

    task: str = "superdiagnostic"
    train_fraction: float = 1.0
    seed: int = 42
    learning_rate: float = 3e-3
    num_epochs: int = 10
    batch_size: int = 128
    weight_decay: float = 0.01
    window_stride_seconds: float = 2.5
    bf16: bool = False


class BasicBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut, as in ResNet-18 (He et al. 2016), over time."""

    def __init__(self, num_inputs: int, width: int):
        super().__init__()
        stride = 1 if num_inputs == width else 2
        self.branch = nn.Sequential(
            nn.Conv1d(num_inputs, width, 7, stride, padding=3, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
        )
        self.shortcut = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv1d(num_inputs, width, 1, stride, bias=False), nn.BatchNorm1d(width))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(values) + self.shortcut(values))


class ResNet1d(nn.Module):
    """(batch, leads, samples), normalised -> logits (batch, labels); six basic blocks of 64 to 256 channels, mean and
    maximum pooled over time."""

    def __init__(self, num_leads: int, num_labels: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(num_leads, WIDTHS[0], 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(WIDTHS[0]), nn.ReLU()
        )
        inputs = (WIDTHS[0], *WIDTHS[:-1])
        self.blocks = nn.Sequential(*(BasicBlock(*sizes) for sizes in zip(inputs, WIDTHS, strict=True)))
        self.classifier = nn.Linear(2 * WIDTHS[-1], num_labels)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.blocks(self.stem(values))
        return self.classifier(torch.cat([values.mean(dim=2), values.amax(dim=2)], dim=1).float())


class _Run:
    """One run: the records, the network, and the state that its checkpoint holds after each epoch."""

    def __init__(
        self,
        args: TaskSpecificArguments,
        data_args: TaskArguments,
        folder: pathlib.Path,
        device: str,
        part: tuple[int, int] | None,
    ):
        self.args, self.folder, self.device, self.part = args, folder, device, part
        self.splits = splits = load_splits(data_args.data_dir, data_args, args.seed)
        if part is not None:
            _leave_out(splits, *part)
        self.labels = label_names_of(splits["train"])
        model_args = ModelArguments(architecture="ptbxl_100hz", window_stride_seconds=args.window_stride_seconds)
        _, self.extractor = load_model(model_args, data_args, splits["train"])
        set_seed(args.seed)
        self.network = ResNet1d(len(self.extractor.lead_names), len(self.labels)).to(device)
        self.sampler = EpochSampler(len(splits["train"]), args.seed)
        num_batches = len(self.sampler) // args.batch_size or 1
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=args.learning_rate, total_steps=args.num_epochs * num_batches
        )
        self.history: list[dict] = []
        self.best: dict = {}

    def batches(self, epoch: int) -> list[list]:
        """Of keys (epoch, index); what does not fill a batch is left out, since batch norm needs several records."""
        self.sampler.set_epoch(epoch)
        keys = list(self.sampler)
        size = min(self.args.batch_size, len(keys))
        return [keys[start : start + size] for start in range(0, len(keys) - size + 1, size)]

    def train_epoch(self, epoch: int) -> float:
        """Mean loss of an epoch over random crops."""
        windows = TrainingWindows(self.splits["train"], self.extractor, self.args.seed)
        self.network.train()
        losses = []
        for keys in tqdm(self.batches(epoch), desc=f"Epoch {epoch + 1} of {self.args.num_epochs}", leave=False):
            batch = windows.__getitems__(keys)
            logits = self.logits(batch["input_values"])
            targets = batch["labels"].to(self.device)
            loss = multilabel_loss(logits, targets).sum() / (targets >= 0).sum().clamp(min=1)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        if not np.isfinite(losses).all():
            raise ValueError(f"Training has diverged in epoch {epoch + 1}: use a lower `learning_rate`.")
        return float(np.mean(losses))

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.args.bf16):
            return self.network(values.to(self.device)).float()

    def predict(self, split: str) -> tuple[PredictionOutput, np.ndarray]:
        """Mean logits of each record's windows, with the labels, and the records' losses."""
        windows = EvaluationWindows(self.splits[split], self.extractor)
        self.network.eval()
        logits, labels, losses = [], [], []
        for start in tqdm(range(0, len(windows), 128), desc=f"Evaluating {split}", leave=False):
            batch = windows.__getitems__(range(start, min(start + 128, len(windows))))
            mask = batch["window_mask"]
            with torch.no_grad():
                rows = self.logits(batch["input_values"][mask]).cpu()
            of_windows = rows.new_zeros((*mask.shape, len(self.labels)))
            of_windows[mask] = rows
            logits.append(of_windows.sum(dim=1) / mask.sum(dim=1, keepdim=True))
            losses.append(record_losses(of_windows, mask, batch["labels"]))
            labels.append(batch["labels"])
        arrays = [torch.cat(parts).numpy() for parts in (logits, labels, losses)]
        return PredictionOutput(arrays[0], arrays[1], {}), arrays[2]

    def evaluate(self, epoch: int, train_loss: float) -> None:
        """Note the figures of an epoch, and its weights where they are the best so far."""
        output, losses = self.predict("validation")
        metrics = evaluation_metrics(output.label_ids, output.predictions, losses)
        steps = (epoch + 1) * len(self.batches(epoch))
        self.history.append({"epoch": epoch + 1, "step": steps, "train_loss": train_loss, **metrics})
        if not self.best or metrics["macro_auroc"] > self.best["macro_auroc"]:
            state = {name: value.cpu().clone() for name, value in self.network.state_dict().items()}
            self.best = {"macro_auroc": metrics["macro_auroc"], "network": state}
        tqdm.write(
            f"Epoch {epoch + 1}: training loss {train_loss:.4f}, validation macro AUROC {metrics['macro_auroc']:.4f}, "
            f"AUPRC {metrics['macro_auprc']:.4f}"
        )

    def facts(self) -> dict:
        facts = {"arguments": dataclasses.asdict(self.args), "num_records": len(self.splits["train"])}
        return facts if self.part is None else {**facts, "part": list(self.part)}

    def save(self, epoch: int) -> None:
        state = {
            "facts": self.facts(),
            "epoch": epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
            "best": self.best,
        }
        with whole_file(self.folder / CHECKPOINT) as unfinished:
            torch.save(state, unfinished)

    def resume(self) -> int:
        """The epoch to go on with; `ValueError` where the folder holds a run of other settings."""
        if not (self.folder / CHECKPOINT).is_file():
            return 0
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        if state["facts"] != self.facts():
            raise ValueError(f"`{self.folder}` holds a run of other settings: choose another folder.")
        for name in ("network", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.history, self.best = state["history"], state["best"]
        return state["epoch"] + 1


def _leave_out(splits: dict[str, datasets.Dataset], index: int, num_parts: int) -> None:
    """Take every `num_parts`-th training fold, from `index` on, out of `train` and into `left_out`. No patient is in
    two folds."""
    train = splits["train"]
    folds = np.asarray(train.with_format("numpy", columns=["strat_fold"])["strat_fold"])
    is_left_out = (folds - 1) % num_parts == index
    splits[LEFT_OUT] = train.select(np.flatnonzero(is_left_out))
    splits["train"] = train.select(np.flatnonzero(~is_left_out))


def _is_evaluated(epoch: int, num_epochs: int) -> bool:
    return (epoch + 1) * EVALUATIONS // num_epochs > epoch * EVALUATIONS // num_epochs


def train_task_specific(
    output_dir: str | pathlib.Path,
    data_dir: str | pathlib.Path,
    cache_dir: str | None = None,
    use_cpu: bool = False,
    predict: Sequence[str] = ("validation",),
    part: tuple[int, int] | None = None,
    **settings,
) -> dict[str, float]:
    """Train the network, or go on where a run in `output_dir` was stopped -> what its `all_results.json` holds.

    Leaves `metrics.json` in the form of a post-training run's, `model.pt`, `curve.json` (validation of ten epochs)
    and `predictions_<split>.csv` of the splits in `predict`. The test fold is read only where `predict` names it.
    `part`, an index and the number of parts, leaves every so-many-th training fold out, as the split `left_out`.
    `settings` are fields of [`TaskSpecificArguments`]. Raises `ValueError` for settings unlike those of the folder,
    and for a finished run without predictions of a split in `predict`.
    """
    args, folder = TaskSpecificArguments(**settings), pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "all_results.json").is_file():
        _check_finished(folder, args, part, predict)
        return json.loads((folder / "all_results.json").read_text())
    data_args = TaskArguments(
        data_dir=str(data_dir),
        task=args.task,
        sampling_rate=100,
        train_fraction=args.train_fraction,
        cache_dir=cache_dir,
        evaluate_test="test" in predict,
    )
    device = "cuda" if torch.cuda.is_available() and not use_cpu else "cpu"
    run = _Run(args, data_args, folder, device, part)
    started = time.perf_counter()
    for epoch in range(run.resume(), args.num_epochs):
        loss = run.train_epoch(epoch)
        if _is_evaluated(epoch, args.num_epochs):
            run.evaluate(epoch, loss)
        run.save(epoch)
    run.network.load_state_dict(run.best["network"])
    return _finish(run, predict, time.perf_counter() - started)


def _check_finished(
    folder: pathlib.Path, args: TaskSpecificArguments, part: tuple[int, int] | None, predict: Sequence[str]
) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    is_same = metrics.get("arguments") in (None, dataclasses.asdict(args))  # older runs did not note them
    if not is_same or metrics.get("part") != (None if part is None else list(part)):
        raise ValueError(f"`{folder}` holds a finished run of other settings: choose another folder.")
    if lacking := [split for split in predict if not (folder / f"predictions_{split}.csv").is_file()]:
        raise ValueError(f"`{folder}` holds a finished run without predictions of {lacking[0]}: choose another.")


def _finish(run: _Run, predict: Sequence[str], seconds: float) -> dict[str, float]:
    labels, folder = run.labels, run.folder
    train_labels = np.asarray(run.splits["train"].select_columns(["labels"]).with_format("numpy")["labels"])
    learnable = with_both_classes(train_labels)
    unlearnable = [name for name, known in zip(labels, learnable, strict=True) if not known]
    metrics = {"data": {"unlearnable_labels": unlearnable}, "arguments": dataclasses.asdict(run.args)}
    if run.part is not None:
        metrics["part"] = list(run.part)
    results = {"finetune_seconds": seconds, "num_parameters": sum(p.numel() for p in run.network.parameters())}
    for split in dict.fromkeys(("validation", *predict)):
        output, _ = run.predict(split)
        with whole_file(folder / f"predictions_{split}.csv") as unfinished:
            predictions_table(run.splits[split], labels, output).to_csv(unfinished, index=False)
        if split not in ("train", LEFT_OUT):
            metrics[split] = split_metrics(run.splits[split], output, labels, num_resamples=1000)
            prefix = {"validation": "eval"}.get(split, split)
            results |= {f"{prefix}_{name}": metrics[split][name] for name in ("macro_auroc", "macro_auprc")}
    with whole_file(folder / "model.pt") as unfinished:
        torch.save(run.best["network"], unfinished)
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_atomic(folder / "curve.json", json.dumps(run.history, indent=1) + "\n")
    write_atomic(folder / "all_results.json", json.dumps(results, indent=2) + "\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return results


def cross_fit(output_dir: str | pathlib.Path, num_parts: int, **arguments) -> dict[str, dict[str, float]]:
    """Train a network without each of `num_parts` parts of the training folds -> the results of each, by its folder.

    `predictions_train.csv` then holds of each training record what the network says that has not seen its patient: a
    teacher that cannot repeat labels it has learned by heart. `arguments` are those of [`train_task_specific`] but
    `predict` and `part`. Raises `ValueError` as there, and for a number of parts below 2 or above 8, PTB-XL's
    training folds.
    """
    if not 2 <= num_parts <= NUM_TRAINING_FOLDS:
        raise ValueError(f"`cross_fit` must lie between 2 and {NUM_TRAINING_FOLDS}, the training folds: {num_parts}.")
    folder, results, tables = pathlib.Path(output_dir), {}, []
    for index in range(num_parts):
        of_part = folder / f"part-{index + 1}"
        predict = ("validation", LEFT_OUT)
        results[of_part.name] = train_task_specific(of_part, predict=predict, part=(index, num_parts), **arguments)
        tables.append(pd.read_csv(of_part / f"predictions_{LEFT_OUT}.csv"))
    with whole_file(folder / "predictions_train.csv") as unfinished:
        pd.concat(tables).sort_values("ecg_id").to_csv(unfinished, index=False)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="PTB-XL folder in PhysioNet's layout")
    parser.add_argument("--output_dir", required=True, help="folder of the run; re-run to resume")
    parser.add_argument("--cache_dir", help="where `datasets` keeps the Arrow copy")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    parser.add_argument(
        "--predict",
        nargs="+",
        choices=["train", "validation", "test"],
        help="splits to predict (default: validation)",
    )
    parser.add_argument(
        "--cross_fit",
        type=int,
        metavar="PARTS",
        help="train so many networks, each without a part of the training folds: predictions of `train` are then of "
        "the network that has not seen the patient",
    )
    for field in dataclasses.fields(TaskSpecificArguments):
        if isinstance(field.default, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            kind = type(field.default)
            parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=f"default: {field.default}")
    arguments = vars(parser.parse_args(argv))
    num_parts, predict = arguments.pop("cross_fit"), arguments.pop("predict")
    if num_parts is not None and predict is not None:
        parser.error("`--cross_fit` predicts train and validation: leave `--predict` out.")
    try:
        if num_parts is None:
            results = train_task_specific(predict=predict or ("validation",), **arguments)
        else:
            results = cross_fit(num_parts=num_parts, **arguments)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
