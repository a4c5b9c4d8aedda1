"""Training windows with targets between 0 and 1: of teachers (distillation), and of mixed records."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence

import datasets
import numpy as np
import pandas as pd
import torch

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, UNKNOWN_LABEL
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..runs.windows import WrappedWindows
from .arguments import PostTrainingArguments

MIXED_INPUTS = ("input_values", "attention_mask", "labels")


def check_soft_targets(args: PostTrainingArguments, config: ECGTransformerConfig) -> None:
    """`ValueError` where `args` asks for targets between 0 and 1 that the model cannot learn."""
    for name in ("teacher_predictions", "mixup_alpha"):
        if getattr(args, name) and config.problem_type != MULTI_LABEL:
            raise ValueError(
                f"`{name}` is for {MULTI_LABEL}, and the model is of {config.problem_type}: leave it out."
            )


def soft_windows(
    windows: torch.utils.data.Dataset,
    dataset: datasets.Dataset,
    labels: Sequence[str],
    args: PostTrainingArguments,
) -> torch.utils.data.Dataset:
    """The training windows as `args` ask for them: with teachers' targets, and mixed; `labels` are in their order."""
    if args.teacher_predictions:
        teachers = read_teachers(args.teacher_predictions, list(dataset["ecg_id"]), labels)
        windows = TaughtWindows(windows, teachers, args.distillation_weight)
    if args.mixup_alpha:
        windows = MixedWindows(windows, args.mixup_alpha, args.seed)
    return windows


class TaughtWindows(WrappedWindows):
    """Windows whose targets are a mean of the record's labels and its probabilities by the teachers.

    Binary cross-entropy against it is that against the labels and that against the teachers, weighted alike: a
    distillation at temperature 1, of each label by itself. Unknown labels stay unknown.

    `teachers` is float32 (records, labels); `weight`, from 0 to 1, is theirs.
    """

    def __init__(self, windows: torch.utils.data.Dataset, teachers: np.ndarray, weight: float):
        super().__init__(windows)
        self.weight = weight
        self.teachers = torch.from_numpy(teachers)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        batch = self.windows.__getitems__(keys)
        labels = batch["labels"]
        taught = torch.lerp(labels, self.teachers[[index for _, index in keys]], self.weight)
        batch["labels"] = torch.where(labels == UNKNOWN_LABEL, labels, taught)
        return batch


class MixedWindows(WrappedWindows):
    """Mixup (Zhang et al. 2018): each window is a mean of itself and of another of its batch, and so are its targets.

    The share of the other is drawn from Beta(alpha, alpha), one for each window, by (seed, first key of the batch), so
    that a resumed run mixes alike. A target that is unknown for either of the two is unknown. Raises `ValueError` for
    inputs that cannot be averaged, such as tokens of leads of which records have different ones.
    """

    def __init__(self, windows: torch.utils.data.Dataset, alpha: float, seed: int):
        super().__init__(windows)
        self.alpha, self.seed = alpha, seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        batch = self.windows.__getitems__(keys)
        if others := [name for name in batch if name not in MIXED_INPUTS]:
            raise ValueError(f"`mixup_alpha` cannot mix the inputs {', '.join(others)} of this model: leave it out.")
        random = np.random.default_rng([self.seed, *keys[0]])
        shares = torch.from_numpy(random.beta(self.alpha, self.alpha, len(keys)).astype(np.float32))
        partners = torch.from_numpy(random.permutation(len(keys)))
        values, labels = batch["input_values"], batch["labels"]
        batch["input_values"] = torch.lerp(values, values[partners], shares[:, None, None])
        unknown = (labels == UNKNOWN_LABEL) | (labels[partners] == UNKNOWN_LABEL)
        mixed = torch.lerp(labels, labels[partners], shares[:, None])
        batch["labels"] = torch.where(unknown, UNKNOWN_LABEL, mixed)
        if "attention_mask" in batch:
            batch["attention_mask"] = torch.maximum(batch["attention_mask"], batch["attention_mask"][partners])
        return batch


def read_teachers(paths: Sequence[str | os.PathLike], ecg_ids: Sequence, labels: Sequence[str]) -> np.ndarray:
    """The mean of the probabilities in tables as `ecg-hf evaluate` writes them -> float32 (records, labels).

    Raises `ValueError` where a file is no such table, lacks a label or a record, or has a value that is no
    probability.
    """
    return np.mean([_read_teacher(pathlib.Path(path), ecg_ids, labels) for path in paths], axis=0, dtype=np.float32)


def _read_teacher(path: pathlib.Path, ecg_ids: Sequence, labels: Sequence[str]) -> np.ndarray:
    columns = [f"prob_{label}" for label in labels]
    try:
        table = pd.read_csv(path, dtype={"ecg_id": str}, keep_default_na=False, na_values=[""])
    except ValueError as error:  # so are pandas' own
        raise ValueError(f"`{path}` is no CSV table as `ecg-hf evaluate` writes them: {error}") from error
    if lacking := [name for name in ("ecg_id", *columns) if name not in table]:
        raise ValueError(f"`{path}` lacks {len(lacking)} columns that the labels need, such as {lacking[0]}.")
    if table["ecg_id"].duplicated().any():
        raise ValueError(
            f"`{path}` has several rows of record {table['ecg_id'][table['ecg_id'].duplicated()].iloc[0]}."
        )
    wanted = [str(ecg_id) for ecg_id in ecg_ids]
    rows = table.set_index("ecg_id")[columns]
    if absent := [ecg_id for ecg_id in wanted if ecg_id not in rows.index]:
        raise ValueError(
            f"`{path}` lacks {len(absent)} of {len(wanted)} training records, the first is {absent[0]}: predict the "
            "split `train` of the same records (`ecg-hf evaluate --split train`)."
        )
    values = rows.loc[wanted].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`{path}` must hold probabilities from 0 to 1 in every column prob_*, and does not.")
    return values


def fingerprint_of_teachers(paths: Sequence[str | os.PathLike]) -> str:
    """SHA-256 of the tables, in their order; `ValueError` for one that does not exist."""
    digest = hashlib.sha256()
    for path in map(pathlib.Path, paths):
        if not path.is_file():
            raise ValueError(f"`--teacher_predictions` {path} does not exist: give a table of `ecg-hf evaluate`.")
        digest.update(path.read_bytes())
    return digest.hexdigest()


__all__ = [
    "MixedWindows",
    "TaughtWindows",
    "check_soft_targets",
    "fingerprint_of_teachers",
    "read_teachers",
    "soft_windows",
]
