"""What is looked at in the splits before a run begins: an error or a warning now, not after all training."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import REGRESSION, UNKNOWN_LABEL
from ..ptbxl.label_order import label_names_of
from ..runs.columns import check_columns, check_is_dataset, label_matrix, unformatted
from ..runs.labelled_shards import LabelledShards
from ..runs.parts import check_extractor
from ..runs.windows import RecordWindows, WrappedWindows
from ..tables.guards import were_guarded
from ..tables.leaks import identities_of, leaks_in_words, listed
from .targets import MultiLabel

logger = logging.get_logger(__name__)


def checked_split(name: str, dataset: object) -> datasets.Dataset | LabelledShards | None:
    """The split, whatever its format; `ValueError` unless it is one data set with records, or none."""
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"`{name}` must be one data set, got a dictionary of {', '.join(map(str, dataset)) or 'none'}: one of "
            "them chooses the epoch. Call `evaluate` for the others."
        )
    if dataset is None:
        return None
    check_is_dataset(name, dataset)
    if len(dataset) == 0:
        raise ValueError(
            f"`{name}` has no records: give some, or, of PTB-XL, a folder whose table has records of its folds (1 to "
            "8 train, 9 validation, 10 test)."
        )
    return unformatted(dataset)


def label_order(dataset: datasets.Dataset, labels: Sequence[str]) -> list[int] | None:
    """For each of the model's `labels` its column among those of the records; None where the order is the same.

    Records without names, and with as many labels, count as in order. Raises `ValueError` for other labels, and for
    names that are not those of the column, or a column that holds no lists.
    """
    check_columns(dataset, ["labels"])
    kind, names = dataset.data.schema.field("labels").type, label_names_of(dataset)
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else len(unformatted(dataset)[0]["labels"])
    remedy = (
        "name them as the model does, where they mean the same, or give it a head for them by "
        "`model.replace_head(id2label)` and train it"
    )
    if names is not None and len(names) != length:
        raise ValueError(
            f"The records have {length} labels and {len(names)} names for them ({', '.join(names)}), which are from "
            "before the column `labels` was replaced: name the new ones by `ecg_hf.name_labels`."
        )
    if length != len(labels):
        which = "" if names is None else _differing(names, labels)
        if names is not None and set(names) < set(labels):
            remedy = f"add the others as empty columns (unknown), or {remedy}"
        raise ValueError(f"The records have {length} labels, the model {len(labels)}{which}: {remedy}.")
    if names is None and list(labels) != sorted(labels):
        logger.warning_once(
            "The records do not name their labels (names are lost in Parquet, pandas and lists of rows): they are "
            f"taken to be in the model's order, {', '.join(labels)}. Name them by `ecg_hf.name_labels`."
        )
    if names is None or names == list(labels):
        return None
    if sorted(names) != sorted(labels):
        raise ValueError(
            f"The records have the labels {', '.join(names)}, the model {', '.join(labels)}: {remedy}, or, if the "
            "column was replaced, name its labels by `ecg_hf.name_labels`."
        )
    return [names.index(label) for label in labels]


def _differing(names: Sequence[str], labels: Sequence[str]) -> str:
    """Which labels only the records or only the model has, ten of each by name."""
    sides = {"records": [name for name in names if name not in labels], "model": [x for x in labels if x not in names]}
    parts = [f"only the {side}: {listed(found)}" for side, found in sides.items() if found]
    return f" ({'; '.join(parts)})"


class OrderedLabels(WrappedWindows):
    """Windows whose `labels` are brought into the order of the model."""

    def __init__(self, windows: RecordWindows, order: Sequence[int]):
        super().__init__(windows)
        self.order = list(order)

    def __getitems__(self, keys: Sequence) -> dict[str, torch.Tensor]:
        batch = self.windows.__getitems__(keys)
        batch["labels"] = batch["labels"][:, self.order]
        return batch


def in_order(windows: RecordWindows, dataset: datasets.Dataset, labels: Sequence[str]) -> torch.utils.data.Dataset:
    """The windows of the records, with labels in the order of `labels`; errors as in `label_order`."""
    order = label_order(dataset, labels)
    return windows if order is None else OrderedLabels(windows, order)


def labels_of(dataset: datasets.Dataset, labels: Sequence[str]) -> np.ndarray:
    """The column `labels` in the order of `labels`, float32 (records, labels)."""
    matrix = label_matrix(pa.table({"labels": dataset.with_format("arrow")["labels"]})).numpy()
    order = label_order(dataset, labels)
    return matrix if order is None else matrix[:, order]


def count_positives(splits: Mapping[str, datasets.Dataset], target: MultiLabel) -> dict[str, dict]:
    """`num_positives`, for each split and label; nothing of a regression."""
    if target.config.problem_type == REGRESSION:
        return {}
    labels = target.config.labels
    counts = {name: (labels_of(dataset, labels) == 1).sum(axis=0) for name, dataset in splits.items()}
    return {"num_positives": {name: dict(zip(labels, map(int, row), strict=True)) for name, row in counts.items()}}


def check_labels(name: str, dataset: datasets.Dataset, target: MultiLabel) -> None:
    """`ValueError` where a label is none of the kind of targets, such as not 0, 1 or -100; names record and label."""
    label_names = target.config.labels
    labels = labels_of(dataset, label_names)
    wrong, expected = target.wrong_labels(labels)
    for label, doubt in target.doubts(labels).items():
        logger.warning(f"`{name}`, {label}: {doubt}")
    if len(wrong):
        record, label = map(int, wrong[0])
        ecg_id = dataset[record]["ecg_id"]
        raise ValueError(
            f"Labels must be {expected}; record {ecg_id} of `{name}` "
            f"has {labels[record, label]:g} for {label_names[label]}, and {len(wrong)} values there are such."
        )


def check_something_is_known(name: str, dataset: datasets.Dataset, labels: Sequence[str]) -> None:
    """`ValueError` where every label of every record of a split is unknown."""
    values = labels_of(dataset, labels)
    if ((values == UNKNOWN_LABEL) | np.isnan(values)).all():
        raise ValueError(f"Nothing is known of the {len(dataset)} {name} records: all of their labels are empty.")


def check_fit(model, feature_extractor, *splits: datasets.Dataset | None) -> None:
    """`ValueError` where the extractor's windows or the labels of records are not those of the model, or columns of
    records are missing or of another type."""
    check_extractor(model, feature_extractor)
    for dataset in splits:
        if dataset is not None:
            check_columns(dataset, RecordWindows.columns)
            label_order(dataset, model.config.labels)


def check_can_choose(validation: datasets.Dataset | None, metric: str, target: MultiLabel) -> None:
    """`ValueError` where the validation records cannot rank epochs by `metric`."""
    if validation is None:
        raise ValueError("`eval_dataset` is missing: epochs and thresholds are chosen on it.")
    if not target.can_rank(labels_of(validation, target.config.labels), metric):
        undefined = target.undefined.format(f" of the {len(validation)} validation records")
        raise ValueError(
            f"`{metric}` cannot choose an epoch: {undefined}. Give more records, or choose by "
            "`--metric_for_best_model loss`."
        )


def unlearnable_labels(dataset: datasets.Dataset, target: MultiLabel) -> list[str]:
    """The labels that are the same in all training records."""
    learnable = target.learnable(labels_of(dataset, target.config.labels))
    return [label for label, known in zip(target.config.labels, learnable, strict=True) if not known]


def warn_of_unlearnable(dataset: datasets.Dataset, target: MultiLabel) -> None:
    # Of own records it was said when they were loaded.
    if not were_guarded([dataset]) and (unlearnable := unlearnable_labels(dataset, target)):
        logger.warning(
            f"{len(unlearnable)} of {target.config.num_labels} labels are the same in all training records and cannot "
            f"be learned: {', '.join(unlearnable)}. Macro metrics count them where the evaluation records differ in "
            "them."
        )


def warn_of_leaks(splits: Mapping[str, datasets.Dataset], label_names: Sequence[str]) -> None:
    """Warns, with counts, of patients in more than one split, and of one recording under several ids.

    Own records were compared when they were loaded, and are only where they have changed since.
    """
    if were_guarded(list(splits.values())):
        return
    identities = {
        name: identities_of(
            dataset,
            labels_of(dataset, label_names),
            dataset.digests if isinstance(dataset, LabelledShards) else None,
        )
        for name, dataset in splits.items()
    }
    for message in leaks_in_words(identities, label_names):
        logger.warning(message)


def warn_of_learned(checkpoint: str, split: str, dataset: datasets.Dataset, effect: str) -> None:
    """Warns where the run of a checkpoint has learned from records, or patients, of these names: its split was another
    one. `effect` says what that does."""
    table_of_splits = pathlib.Path(checkpoint) / "splits.csv"
    if not table_of_splits.is_file():
        return
    table = pd.read_csv(table_of_splits, dtype=str, keep_default_na=False)
    learned = table[table["split"] == "train"]
    records, patients = set(learned["ecg_id"]), set(learned["patient_id"]) - {""}
    is_record = np.array([str(name) in records for name in dataset["ecg_id"]])
    is_patient = np.zeros(len(is_record), dtype=bool)
    if patients and "patient_id" in dataset.column_names:
        is_patient = np.array([str(name) in patients for name in dataset["patient_id"]]) & ~is_record
    names = {"records": int(is_record.sum()), "patients": int(is_patient.sum())}
    if found := [f"{count} have the names of {what}" for what, count in names.items() if count]:
        logger.warning(
            f"Of the {len(dataset)} {split} records {' and '.join(found)} that `{checkpoint}` has learned from. If "
            f"they are the same, {effect}: give the flags of that run's split, as its recipe.yaml has them "
            "(`--split_seed`, `--split_fractions`, `--patient_column`), or, where the table has changed since, or "
            "beside a `--test_table`, tables of the records that its splits.csv names (`--validation_table`, "
            "`--test_table`)."
        )


__all__ = [
    "OrderedLabels",
    "check_can_choose",
    "check_fit",
    "check_labels",
    "check_something_is_known",
    "checked_split",
    "count_positives",
    "in_order",
    "label_order",
    "labels_of",
    "unlearnable_labels",
    "warn_of_leaks",
    "warn_of_learned",
    "warn_of_unlearnable",
]
