"""What `training/train.py` and `training/evaluate_model.py` do: from arguments to a saved, evaluated checkpoint."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import datasets
import numpy as np
from transformers import set_seed
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES, check_choice
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import write_atomic
from ..ptbxl import load_ptbxl
from ..ptbxl.labels import task_label_names, task_labels
from ..ptbxl.parquet import load_ptbxl_parquet
from ..ptbxl.table import FOLDS
from ..runs.arguments import DataArguments, ModelArguments, check_at_least, recipe_of
from ..runs.columns import is_unknown
from ..runs.folder import STAGES_FOLDER
from ..runs.models import new_config, new_feature_extractor, pretrained_feature_extractor, pretrained_model
from ..runs.statistics import lead_statistics
from ..synthetic import simulate_ptbxl
from .arguments import PostTrainingArguments
from .evaluation import predictions_table, split_metrics
from .trainer import PostTrainer

logger = logging.get_logger(__name__)

DEMO_RECORDS = 1000


@dataclass
class TaskArguments(DataArguments):
    """The records, and the labels that are learned."""

    data_dir: str | None = field(
        default=None, metadata={"help": "PTB-XL folder in PhysioNet's layout, or PhysioNet's zip."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Instead of `--data_dir`: PTB-XL on the Hub, or a folder, as `prepare_ptbxl.py` makes it."},
    )
    demo: bool = field(
        default=False, metadata={"help": f"Use {DEMO_RECORDS} simulated records, made in `<output_dir>-data`."}
    )
    task: str = field(
        default="superdiagnostic",
        metadata={"help": "all, diagnostic, subdiagnostic, superdiagnostic, form or rhythm."},
    )
    skip_missing_records: bool = field(
        default=False, metadata={"help": "Skip records of the table whose files are missing."}
    )
    train_fraction: float = field(
        default=1.0, metadata={"help": "Share of the training patients to learn from, drawn with `--seed`."}
    )
    max_eval_records: int | None = field(
        default=None, metadata={"help": "Maximum number of validation and of test records, for a quick try."}
    )
    evaluate_test: bool = field(
        default=True, metadata={"help": "False does not touch the test fold, for runs that choose a recipe."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_at_least("max_eval_records", self.max_eval_records, 1)
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"`train_fraction` must lie in (0, 1], got {self.train_fraction}.")


def post_train(model_args: ModelArguments, data_args: TaskArguments, args: PostTrainingArguments) -> dict[str, float]:
    """Post-train on PTB-XL -> what `all_results.json` in `args.output_dir` holds."""
    return make_trainer(model_args, data_args, args).post_train()


def make_trainer(model_args: ModelArguments, data_args: TaskArguments, args: PostTrainingArguments) -> PostTrainer:
    """The records and the model that the arguments ask for, ready to train."""
    with args.main_process_first(desc="reading the records"):
        data_dir = _data_folder(data_args, args)
        splits = load_splits(data_dir, data_args, args.seed)
    _check_folds(splits, FOLDS if data_args.evaluate_test else ("train", "validation"), data_args)
    set_seed(args.seed)
    model, feature_extractor = load_model(model_args, data_args, splits["train"])
    if model_args.attn_implementation is not None:
        model.set_attn_implementation(model_args.attn_implementation)
    return PostTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=splits["test"] if data_args.evaluate_test else None,
        feature_extractor=feature_extractor,
        recipe=recipe_of(model_args, data_args),
    )


def _data_folder(data_args: TaskArguments, args: PostTrainingArguments) -> str | None:
    if data_args.demo + (data_args.data_dir is not None) + (data_args.dataset_name is not None) != 1:
        raise ValueError(
            "Give either `--data_dir`, a PTB-XL folder, or `--dataset_name`, a data set on the Hub, or `--demo` for "
            "simulated records."
        )
    if not data_args.demo:
        return data_args.data_dir
    folder = pathlib.Path(args.output_dir.rstrip("/") + "-data")
    if not folder.is_dir():
        simulate_ptbxl(folder, DEMO_RECORDS, seed=0, sampling_rates=(data_args.sampling_rate,))
    return str(folder)


def load_splits(data_dir: str | None, data_args: TaskArguments, seed: int) -> datasets.DatasetDict:
    """The three splits of the task, from `data_dir` or `data_args.dataset_name`, cut down as the arguments say."""
    if data_dir is None:
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
    splits["train"] = _fraction(splits["train"], data_args.train_fraction, seed)
    limits = {
        "train": data_args.max_train_records,
        **dict.fromkeys(("validation", "test"), data_args.max_eval_records),
    }
    for name, limit in limits.items():
        if limit is not None and limit < len(splits[name]):
            splits[name] = splits[name].select(range(limit))
    return splits


def _check_folds(splits: datasets.DatasetDict, names: Iterable[str], data_args: TaskArguments) -> None:
    """`ValueError` for a split without records, by its name and folds."""
    for name in names:
        if not len(splits[name]):
            folds = FOLDS[name]
            raise ValueError(
                f"There is no record of the split {name} (fold {', '.join(map(str, folds))} of PTB-XL) with a "
                f"statement of the task `{data_args.task}`: complete the data"
                + (", or leave the test out by `--evaluate_test false`." if name == "test" else ".")
            )


def _fraction(dataset: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """All records of a random share of the patients; a smaller share is a part of a larger one of the same seed."""
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


def load_model(
    model_args: ModelArguments, data_args: TaskArguments, train: datasets.Dataset
) -> tuple[ECGTransformerForMultiLabel, ECGTransformerFeatureExtractor]:
    """The model with a head for the task, and its feature extractor; a new one is normalised by the training split."""
    id2label = dict(enumerate(task_labels(data_args.task)))
    names = task_label_names(data_args.task)
    if model_args.model_name_or_path is None:
        return _new_model(model_args, data_args, train, id2label, names)
    feature_extractor = pretrained_feature_extractor(model_args)
    model = pretrained_model(ECGTransformerForMultiLabel, model_args)
    if model.head_is_random:
        model.replace_head(id2label, names)
    elif sorted(model.config.labels) != sorted(id2label.values()):
        logger.warning(
            f"`{model_args.model_name_or_path}` was trained for other labels "
            f"({', '.join(model.config.labels[:5])}, ...) than `{data_args.task}`: a new head is put on it."
        )
        model.replace_head(id2label, names)
    return model, feature_extractor


def _new_model(model_args, data_args, train, id2label, names):
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    config = new_config(model_args, data_args.sampling_rate, **labels, label_names=names)
    mean, std = lead_statistics(train, LEAD_NAMES)
    return ECGTransformerForMultiLabel(config), new_feature_extractor(model_args, config, mean, std)


@dataclass
class EvaluationArguments:
    """A trained checkpoint and the records to judge it on."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a post-trained checkpoint."})
    output_dir: str = field(metadata={"help": "Where `metrics.json` and `predictions.csv` go."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Records in one batch."})
    num_bootstrap_resamples: int = field(default=1000, metadata={"help": "Resamples of the intervals."})
    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})

    def __post_init__(self):
        check_at_least("num_bootstrap_resamples", self.num_bootstrap_resamples, 2)


def evaluate(evaluation_args: EvaluationArguments, data_args: TaskArguments) -> dict:
    """Metrics of a checkpoint with 95 % intervals by patient -> what `metrics.json` in the output folder holds.

    Raises `FileExistsError` for the output folder of a run or a model, whose `metrics.json` its card is made from, and
    `ValueError` for arguments or labels that do not fit.
    """
    check_choice("split", evaluation_args.split, FOLDS)
    _check_output_folder(pathlib.Path(evaluation_args.output_dir))
    if (data_args.data_dir is None) == (data_args.dataset_name is None):
        raise ValueError("Give either `--data_dir`, a PTB-XL folder, or `--dataset_name`, a data set on the Hub.")
    path = evaluation_args.model_name_or_path
    model = ECGTransformerForMultiLabel.from_pretrained(path)
    if model.head_is_random:
        raise ValueError(f"`{path}` has no trained head: post-train it before it is evaluated.")
    labels = model.config.labels
    if sorted(labels) != sorted(task_labels(data_args.task)):
        raise ValueError(
            f"`{path}` gives the labels {', '.join(labels)}, the task `{data_args.task}` has "
            f"{', '.join(task_labels(data_args.task))}: choose the task that the checkpoint was trained for."
        )
    splits = load_splits(data_args.data_dir, data_args, seed=0)
    _check_folds(splits, [evaluation_args.split], data_args)
    dataset = splits[evaluation_args.split]
    if data_args.max_eval_records is not None:  # of the training split, too
        dataset = dataset.select(range(min(data_args.max_eval_records, len(dataset))))
    output_dir = pathlib.Path(evaluation_args.output_dir)
    trainer = PostTrainer(
        model=model,
        args=PostTrainingArguments(
            output_dir=str(output_dir),
            per_device_eval_batch_size=evaluation_args.per_device_eval_batch_size,
            use_cpu=evaluation_args.use_cpu,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        ),
        feature_extractor=ECGTransformerFeatureExtractor.from_pretrained(path),
    )
    output = trainer.predict(dataset)
    metrics = split_metrics(dataset, output, labels, evaluation_args.num_bootstrap_resamples)
    if metrics is None:
        raise ValueError(f"No label has both a positive and a negative among the {len(dataset)} records: take more.")
    metrics = {
        "split": evaluation_args.split,
        "task": data_args.task,
        "loss": output.metrics["test_loss"],
        **metrics,
    }
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        predictions_table(dataset, labels, output).to_csv(output_dir / "predictions.csv", index=False)
        write_atomic(output_dir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def _check_output_folder(folder: pathlib.Path) -> None:
    of_a_run = ["config.json", "preprocessor_config.json", "recipe.yaml", "all_results.json", STAGES_FOLDER]
    found = [name for name in of_a_run if (folder / name).exists()]
    if STAGES_FOLDER in folder.absolute().parts:
        found.append(STAGES_FOLDER)
    if not found and (folder / "metrics.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        found = [] if isinstance(metrics, dict) and "split" in metrics else ["metrics.json"]  # of an evaluation
    if found:
        raise FileExistsError(
            f"`--output_dir` {folder} holds a run or a model ({', '.join(found)}), whose `metrics.json` an evaluation "
            "would overwrite: choose another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`--output_dir` {folder} is a file: choose another name.")


__all__ = [
    "EvaluationArguments",
    "TaskArguments",
    "evaluate",
    "load_model",
    "load_splits",
    "make_trainer",
    "post_train",
]
