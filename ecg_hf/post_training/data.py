"""The records and labels of a run: PTB-XL's, or anybody's, from the arguments of `ecg-hf train` and `evaluate`."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, check_choice
from ..ptbxl import load_ptbxl
from ..ptbxl.labels import task_label_names
from ..ptbxl.parquet import load_ptbxl_parquet
from ..ptbxl.table import FOLDS
from ..runs.arguments import (
    DataArguments,
    check_at_least,
    check_streaming,
    refuse_given,
    shuffle_field,
    streaming_field,
)
from ..runs.columns import is_unknown, sampling_rates
from ..runs.labelled_shards import LabelledShards
from ..synthetic import simulate_ptbxl
from ..tables import load_ecg_dataset
from ..tables.guards import remember
from ..tables.load import splits_in_words
from ..tables.split import DEFAULT_FRACTIONS
from .own_folders import check_arguments, load_folder, names_of_folder

logger = logging.getLogger(__name__)

DEMO_RECORDS = 1000
DEFAULT_TASK = "superdiagnostic"

_OF_OWN_RECORDS = (
    *("label_columns", "label_column", "labels", "split_column", "validation_table", "patient_column", "units"),
    *("record_column", "max_skipped", "split_fractions", "split_seed"),
)
_STATED_BY_SHARDS = (
    *("table", "test_table", "dataset_name", "demo", "sampling_rate", "skip_missing_records", "num_proc"),
    *_OF_OWN_RECORDS,
)


@dataclass
class TaskArguments(DataArguments):
    """The records, and the labels that are learned."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "PTB-XL folder in PhysioNet's layout, or PhysioNet's zip; a folder of a PhysioNet/CinC Challenge "
            "(headers with `#Dx`), or CODE-15 %%'s. Beside `--table`: where paths begin."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Instead of `--data_dir`: PTB-XL on the Hub, or a folder, as `prepare_ptbxl.py` makes it."},
    )
    demo: bool = field(
        default=False, metadata={"help": f"Use {DEMO_RECORDS} simulated records, made in `<output_dir>-data`."}
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Of PTB-XL: all, diagnostic, subdiagnostic, superdiagnostic (default), form or rhythm."},
    )
    label_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of the table, by name or pattern (`dx_*`), that are 0, 1 or empty (unknown)."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Or one column: of lists or codes separated by ; | or , or of classes."}
    )
    labels: list[str] | None = field(
        default=None,
        metadata={
            "help": "Labels of `--label_column`, in order; by default all that occur. Of a Challenge's folder codes, "
            "abbreviations, or `scored`; of CODE-15 %% columns of its table."
        },
    )
    problem_type: str | None = field(
        default=None, metadata={"help": f"{', '.join(PROBLEM_TYPES)}; by default the first, or the checkpoint's."}
    )
    split_column: str | None = field(
        default=None, metadata={"help": "The table's column of train, validation and test."}
    )
    validation_table: str | None = field(default=None, metadata={"help": "Table of the validation records."})
    test_table: str | None = field(default=None, metadata={"help": "Table of the test records."})
    split_fractions: list[float] = field(
        default_factory=lambda: list(DEFAULT_FRACTIONS),
        metadata={"help": "Without a split of the table's own: shares of train, validation and test, by patient."},
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that split."})
    skip_missing_records: bool = field(
        default=False, metadata={"help": "Skip records of PTB-XL's table whose files are missing."}
    )
    train_fraction: float = field(
        default=1.0, metadata={"help": "Share of the training patients to learn from, drawn with `--seed`."}
    )
    max_eval_records: int | None = field(
        default=None, metadata={"help": "Maximum number of validation and of test records, for a quick try."}
    )
    evaluate_test: bool = field(
        default=True, metadata={"help": "False does not touch the test records, for runs that choose a recipe."}
    )

    streaming: bool = streaming_field()
    shuffle_shards: int = shuffle_field()

    def __post_init__(self):
        super().__post_init__()
        check_streaming(self, _STATED_BY_SHARDS)
        check_at_least("max_eval_records", self.max_eval_records, 1)
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"`train_fraction` must lie in (0, 1], got {self.train_fraction}.")
        if self.problem_type is not None:
            check_choice("problem_type", self.problem_type, PROBLEM_TYPES)
        if self.reads_ptbxl:
            refuse_given(self, _OF_OWN_RECORDS, "is for own records: give their table by `--table`")
        elif not self.streaming:
            refuse_given(
                self, ["skip_missing_records"], "is for PTB-XL: own records are skipped up to `--max_skipped`"
            )
        if not self.reads_ptbxl and not self.streaming and self.task is not None:
            raise ValueError(
                "`--task` is for PTB-XL: the labels of own records are `--label_columns` of their table, of a folder "
                "`--labels`."
            )
        if self.reads_own_folder:
            check_arguments(self)
        if self.reads_ptbxl and self.problem_type not in (None, MULTI_LABEL):
            raise ValueError(f"The tasks of PTB-XL are {MULTI_LABEL}, got `problem_type` {self.problem_type}.")
        if self.reads_ptbxl and self.task is None:
            self.task = DEFAULT_TASK

    @property
    def reads_ptbxl(self) -> bool:
        return not self.streaming and self.test_table is None and super().reads_ptbxl

    @property
    def reads_own_folder(self) -> bool:
        """Whether `data_dir` is to hold records and labels of another set than PTB-XL."""
        return not self.reads_ptbxl and not self.streaming and not has_table(self)


def data_folder(data_args: TaskArguments, output_dir: str) -> str | None:
    """Where the records of a run are, those of a demonstration made if need be; None where a name or table says it.

    Raises `ValueError` unless the arguments name one source.
    """
    sources = [data_args.demo, data_args.dataset_name is not None, has_table(data_args)]
    if not has_table(data_args):
        sources.append(data_args.data_dir is not None)
    if sum(sources) != 1:
        raise ValueError(
            "Give one source of records: `--table`, own records, or `--data_dir`, a folder such as PTB-XL's, or "
            "`--dataset_name`, PTB-XL on the Hub, or `--demo` for simulated ones."
        )
    if not data_args.demo:
        return data_args.data_dir
    folder = pathlib.Path(output_dir.rstrip("/") + "-data")
    if not folder.is_dir():
        simulate_ptbxl(folder, DEMO_RECORDS, seed=0, sampling_rates=(data_args.sampling_rate,))
    return str(folder)


def has_table(data_args: TaskArguments) -> bool:
    return data_args.table is not None or data_args.test_table is not None


def load_splits(
    data_dir: str | None,
    data_args: TaskArguments,
    seed: int,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> datasets.DatasetDict | dict[str, LabelledShards | datasets.Dataset]:
    """The splits that the arguments ask for, cut down as they say; of streamed ones the training records in shards.

    `labels` and `problem_type` are those of a trained model that the records are to be judged by. Of shards the
    arguments get their `task` and `problem_type`.
    """
    problem_type = _wanted_problem_type(data_args, problem_type)
    if data_args.streaming:
        splits = _open_shards(data_args, problem_type)
    elif has_table(data_args):
        splits = _load_table(data_dir, data_args, labels, problem_type)
    elif data_args.reads_own_folder:
        splits = load_folder(data_dir, data_args, labels, problem_type)
    elif data_dir is None:
        splits = load_ptbxl_parquet(
            data_args.dataset_name, data_args.task, data_args.sampling_rate, cache_dir=data_args.cache_dir
        )
    else:
        splits = load_ptbxl(
            data_dir,
            data_args.task,
            data_args.sampling_rate,
            cache_dir=data_args.cache_dir,
            skip_missing_records=data_args.skip_missing_records,
        )
    if not data_args.reads_ptbxl:
        logger.warning("The records by split:\n%s", splits_in_words(splits, problem_type))
    if "train" in splits:
        splits["train"] = _fraction(splits["train"], data_args.train_fraction, seed)
    limits = {
        "train": data_args.max_train_records,
        **dict.fromkeys(("validation", "test"), data_args.max_eval_records),
    }
    for name, dataset in splits.items():
        if limits[name] is not None and limits[name] < len(dataset):
            splits[name] = dataset.select(range(limits[name]))
    return _to_judge_by(splits, data_args) if data_args.streaming else splits


def _open_shards(data_args: TaskArguments, problem_type: str) -> dict[str, LabelledShards]:
    """All splits of a folder of shards; `ValueError` where they are of another task or kind of labels."""
    held = data_args.shuffle_shards
    train = LabelledShards(data_args.data_dir, num_held=held)
    stated = train.labelled
    wanted = {"task": data_args.task, "problem_type": problem_type}
    if data_args.problem_type is None and problem_type == MULTI_LABEL:
        wanted["problem_type"] = None  # nobody has asked for it
    for name, value in wanted.items():
        if value is not None and value != stated[name]:
            raise ValueError(
                f"The shards in `{data_args.data_dir}` have the {name} {stated[name] or 'of own records'}, asked for "
                f"is {value}: leave `--{name}` out, or write others by `ecg-hf prepare`."
            )
        setattr(data_args, name, stated[name])
    others = (name for name in train.manifest["splits"] if name != "train")
    return {"train": train, **{name: LabelledShards(data_args.data_dir, name, held) for name in others}}


def _to_judge_by(splits: dict, data_args: TaskArguments) -> dict[str, LabelledShards | datasets.Dataset]:
    """The validation and test records as data sets on this machine; a test that is not to be touched stays unread."""
    read = ("validation", *(["test"] if data_args.evaluate_test else []))
    found = {
        name: split.materialised(data_args.cache_dir) if name in read else split for name, split in splits.items()
    }
    # What `ecg-hf prepare` has looked at need not be warned of again.
    if splits["train"].labelled["guarded"] and all(split.is_whole for split in splits.values()):
        remember(found)
    return found


def _wanted_problem_type(data_args: TaskArguments, problem_type: str | None) -> str:
    """What the arguments say, which must not contradict `problem_type`, that of a trained model."""
    wanted = data_args.problem_type or problem_type or MULTI_LABEL
    if problem_type is not None and wanted != problem_type:
        raise ValueError(f"`--problem_type` is {wanted}, that of the checkpoint is {problem_type}: leave it out.")
    return wanted


def _load_table(data_dir, data_args: TaskArguments, labels, problem_type) -> datasets.DatasetDict:
    return load_ecg_dataset(
        data_args.table,
        record_column=data_args.record_column,
        label_columns=data_args.label_columns,
        label_column=data_args.label_column,
        patient_column=data_args.patient_column,
        split_column=data_args.split_column,
        validation_table=data_args.validation_table,
        test_table=data_args.test_table,
        problem_type=problem_type,
        labels=data_args.labels or (labels if _names_classes(data_args, problem_type) else None),
        sampling_rate=data_args.sampling_rate,
        units=data_args.units,
        lead_names=data_args.lead_names,
        data_dir=data_dir,
        split_fractions=data_args.split_fractions,
        seed=data_args.split_seed,
        max_skipped=data_args.max_skipped,
        num_proc=data_args.num_proc,
        cache_dir=data_args.cache_dir,
    )


def _names_classes(data_args: TaskArguments, problem_type: str) -> bool:
    """Whether the cells of the table, and not its columns, name the labels."""
    return data_args.label_column is not None and problem_type != REGRESSION


def label_names_in_words(data_args: TaskArguments, labels: Sequence[str]) -> dict[str, str] | None:
    """Full names of the labels, where they are known."""
    if data_args.reads_ptbxl:
        return task_label_names(data_args.task)
    return (names_of_folder(data_args.data_dir, labels) or None) if data_args.reads_own_folder else None


def check_splits(splits: datasets.DatasetDict, names: Iterable[str], data_args: TaskArguments) -> None:
    """`ValueError` for a split without records, by its name and folds."""
    for name in names:
        if name in splits and len(splits[name]):
            continue
        if data_args.streaming:
            raise ValueError(
                f"`{data_args.data_dir}` has no record of the split {name}: write shards with some by `ecg-hf prepare`"
                f"{', or leave the test out by `--evaluate_test false`' if name == 'test' else ''}."
            )
        if not data_args.reads_ptbxl:
            raise ValueError(
                f"There is no record of the split {name}: give a table with some, `--{name}_table`, or other "
                f"`--split_fractions`{', or leave the test out by `--evaluate_test false`' if name == 'test' else ''}."
            )
        folds = ", ".join(map(str, FOLDS[name]))
        raise ValueError(
            f"There is no record of the split {name} (fold {folds} of PTB-XL) with a statement of the task "
            f"`{data_args.task}`: complete the data"
            + (", or leave the test out by `--evaluate_test false`." if name == "test" else ".")
        )


def most_common_rate(dataset: datasets.Dataset) -> float:
    """The sampling rate in Hz that most records have."""
    rates, counts = np.unique(sampling_rates(dataset), return_counts=True)
    return float(rates[counts.argmax()])


def _fraction(dataset: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """All records of a random share of the patients; a smaller share is a part of a larger one of the same seed.

    A record whose patient is unknown counts as a patient of its own.
    """
    if fraction == 1:
        return dataset
    patients = _patient_numbers(dataset)
    order = np.random.default_rng(seed).permutation(np.unique(patients))
    chosen = order[: max(1, round(fraction * len(order)))]
    return dataset.select(np.flatnonzero(np.isin(patients, chosen)))


def _patient_numbers(dataset: datasets.Dataset) -> np.ndarray:
    """For each record the number of its patient, of those in ascending order; one without a patient is its own."""
    unknown = [None] * len(dataset)
    cells = list(dataset["patient_id"]) if "patient_id" in dataset.column_names else unknown
    known = sorted({cell for cell in cells if not is_unknown(cell)})
    numbers = {cell: place for place, cell in enumerate(known)}
    return np.array([numbers.get(cell, len(known) + row) for row, cell in enumerate(cells)])


OF_TRAINING = ("train_fraction", "max_train_records", "evaluate_test")
"""Fields of [`TaskArguments`] without a meaning where a checkpoint is judged."""


def refuse_flags_of_training(data_args: TaskArguments) -> None:
    """`ValueError` where a checkpoint is judged, and a flag says which records it would learn from, or leaves the test
    out."""
    refuse_given(data_args, OF_TRAINING, "is for training: leave it out")


__all__ = [
    "OF_TRAINING",
    "TaskArguments",
    "check_splits",
    "data_folder",
    "label_names_in_words",
    "load_splits",
    "most_common_rate",
    "refuse_flags_of_training",
]
