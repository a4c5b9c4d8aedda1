"""What `training/train.py` and `training/evaluate_model.py` do: from arguments to a saved, evaluated checkpoint."""

from __future__ import annotations

import json
import pathlib
import warnings
from dataclasses import dataclass, field

import datasets
import numpy as np
from transformers import set_seed
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.configuration_ecg_transformer import PRESETS, ECGTransformerConfig
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import write_atomic
from ..ptbxl import load_ptbxl
from ..ptbxl.labels import task_label_names, task_labels
from ..ptbxl.parquet import load_ptbxl_parquet
from ..synthetic import simulate_ptbxl
from .arguments import PostTrainingArguments
from .evaluation import predictions_table, split_metrics
from .trainer import PostTrainer
from .windows import lead_statistics

logger = logging.get_logger(__name__)

DEMO_RECORDS = 1000


@dataclass
class ModelArguments:
    """The encoder to post-train: a checkpoint, or an architecture with random weights."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder or classifier to start from."}
    )
    architecture: str = field(
        default="tiny",
        metadata={"help": f"Without `--model_name_or_path`: random weights of this size ({', '.join(PRESETS)})."},
    )
    model_sampling_rate: float | None = field(
        default=None, metadata={"help": "Hz of a new model's input; default: the architecture's, else the files'."}
    )
    window_seconds: float | None = field(
        default=None, metadata={"help": "Length of a new model's window; default: the architecture's, else 2.5 s."}
    )
    window_stride_seconds: float | None = field(
        default=None,
        metadata={"help": "From one evaluation window to the next; default: the checkpoint's, or half a new window."},
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "Samples of a new model's token; default: the architecture's, else 100 ms."}
    )
    pooling: str | None = field(
        default=None, metadata={"help": "What a new model's head reads; default: the architecture's, else `mean`."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "sdpa (the default), eager or flash_attention_2. On a CPU, windows of few tokens train twice as "
            "fast with eager in bfloat16."
        },
    )

    def __post_init__(self):
        of_new_models = ("model_sampling_rate", "window_seconds", "patch_size", "pooling")
        given = [f"--{name}" for name in of_new_models if getattr(self, name) is not None]
        if self.model_name_or_path is not None and given:
            raise ValueError(
                f"{', '.join(given)} would change what the checkpoint `{self.model_name_or_path}` was trained with; "
                "they are for a new model (`--architecture`). Leave them out."
            )


@dataclass
class DataArguments:
    """The records and the task."""

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
    sampling_rate: int = field(default=100, metadata={"help": "Which of PTB-XL's files to read: 100 or 500 (Hz)."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where `datasets` keeps the Arrow copy."})
    skip_missing_records: bool = field(
        default=False, metadata={"help": "Go on without records of the table whose files are missing."}
    )
    train_fraction: float = field(
        default=1.0, metadata={"help": "Share of the training patients to learn from, drawn with `--seed`."}
    )
    max_train_records: int | None = field(default=None, metadata={"help": "At most so many training records."})
    max_eval_records: int | None = field(
        default=None, metadata={"help": "At most so many records of validation and of test, for a quick try."}
    )
    evaluate_test: bool = field(
        default=True, metadata={"help": "False leaves the test fold closed, for runs that choose a recipe."}
    )

    def __post_init__(self):
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"`train_fraction` must lie in (0, 1], got {self.train_fraction}.")


def post_train(model_args: ModelArguments, data_args: DataArguments, args: PostTrainingArguments) -> dict[str, float]:
    """Post-train on PTB-XL -> what `all_results.json` in `args.output_dir` holds."""
    return make_trainer(model_args, data_args, args).post_train()


def make_trainer(model_args: ModelArguments, data_args: DataArguments, args: PostTrainingArguments) -> PostTrainer:
    """The records and the model that the arguments ask for, ready to train."""
    with args.main_process_first(desc="reading the records"):
        data_dir = _data_folder(data_args, args)
        splits = load_splits(data_dir, data_args, args.seed)
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
        recipe=_recipe(model_args, data_args),
    )


def _data_folder(data_args: DataArguments, args: PostTrainingArguments) -> str | None:
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


def load_splits(data_dir: str | None, data_args: DataArguments, seed: int) -> datasets.DatasetDict:
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


def _fraction(dataset: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """All records of a random share of the patients; a smaller share is a part of a larger one of the same seed."""
    if fraction == 1:
        return dataset
    patients = np.asarray(dataset.with_format("numpy")["patient_id"])
    order = np.random.default_rng(seed).permutation(np.unique(patients))
    chosen = order[: max(1, round(fraction * len(order)))]
    return dataset.select(np.flatnonzero(np.isin(patients, chosen)))


def load_model(
    model_args: ModelArguments, data_args: DataArguments, train: datasets.Dataset
) -> tuple[ECGTransformerForMultiLabel, ECGTransformerFeatureExtractor]:
    """The model with a head for the task, and its feature extractor; a new one is normalised by the training split."""
    id2label = dict(enumerate(task_labels(data_args.task)))
    names = task_label_names(data_args.task)
    if model_args.model_name_or_path is None:
        return _new_model(model_args, data_args, train, id2label, names)
    feature_extractor = pretrained_feature_extractor(model_args)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no trained head")
        model = ECGTransformerForMultiLabel.from_pretrained(model_args.model_name_or_path)
    if model.head_is_random:
        model.replace_head(id2label, names)
    elif model.config.id2label != id2label:
        logger.warning(
            f"`{model_args.model_name_or_path}` was trained for other labels "
            f"({', '.join(list(model.config.label2id)[:5])}, ...) than `{data_args.task}`: a new head is put on it."
        )
        model.replace_head(id2label, names)
    return model, feature_extractor


def _new_model(model_args, data_args, train, id2label, names):
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    config = new_config(model_args, data_args.sampling_rate, **labels, label_names=names)
    mean, std = lead_statistics(train, LEAD_NAMES)
    return ECGTransformerForMultiLabel(config), new_feature_extractor(model_args, config, mean, std)


def new_config(model_args: ModelArguments, sampling_rate: float, **fields) -> ECGTransformerConfig:
    """The configuration of a model with random weights; `sampling_rate` is that of the files, in Hz."""
    preset = PRESETS.get(model_args.architecture, {})
    rate = model_args.model_sampling_rate or preset.get("sampling_rate", sampling_rate)
    given = {"num_samples": model_args.window_seconds and round(model_args.window_seconds * rate)}
    given |= {"patch_size": model_args.patch_size, "pooling": model_args.pooling}
    # For presets that are sizes only: windows of 2.5 s and tokens of 100 ms, the measured recipe at 100 Hz.
    defaults = {"num_samples": round(2.5 * rate), "patch_size": round(rate / 10), "pooling": "mean"}
    return ECGTransformerConfig.from_preset(
        model_args.architecture,
        **({} if "num_samples" in preset else defaults)
        | {name: value for name, value in given.items() if value is not None},
        sampling_rate=rate,
        **fields,
    )


def new_feature_extractor(
    model_args: ModelArguments, config: ECGTransformerConfig, mean: list[float], std: list[float]
) -> ECGTransformerFeatureExtractor:
    """The feature extractor of a model with random weights; `mean` and `std` of each lead in mV."""
    return ECGTransformerFeatureExtractor(
        sampling_rate=config.sampling_rate,
        num_samples=config.num_samples,
        lead_names=list(LEAD_NAMES),
        mean=mean,
        std=std,
        clip=10.0,
        window_stride=_stride(model_args, config.sampling_rate, default=config.num_samples // 2),
    )


def pretrained_feature_extractor(model_args: ModelArguments) -> ECGTransformerFeatureExtractor:
    """The checkpoint's feature extractor, with the windows' distance that was asked for."""
    feature_extractor = ECGTransformerFeatureExtractor.from_pretrained(model_args.model_name_or_path)
    stride = _stride(model_args, feature_extractor.sampling_rate, default=None)
    if stride is None:
        return feature_extractor
    fields = {**feature_extractor.to_dict(), "window_stride": stride, "num_windows": None}
    return ECGTransformerFeatureExtractor.from_dict(fields)


def _stride(model_args: ModelArguments, sampling_rate: float, default: int | None) -> int | None:
    seconds = model_args.window_stride_seconds
    return default if seconds is None else round(seconds * sampling_rate)


def _recipe(model_args: ModelArguments, data_args: DataArguments) -> dict:
    """What the run was asked for, without places on this machine: of a local folder its own name stays."""
    facts = {**vars(model_args), **vars(data_args)}
    for name in ("data_dir", "cache_dir"):
        del facts[name]
    for name in ("model_name_or_path", "dataset_name"):
        if facts[name] is not None and pathlib.Path(facts[name]).exists():
            facts[name] = pathlib.Path(facts[name]).resolve().name
    return facts


@dataclass
class EvaluationArguments:
    """A trained checkpoint and the records to judge it on."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a post-trained checkpoint."})
    output_dir: str = field(metadata={"help": "Where `metrics.json` and `predictions.csv` go."})
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Records in one batch."})
    num_bootstrap_resamples: int = field(default=1000, metadata={"help": "Resamples of the intervals."})
    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})


def evaluate(evaluation_args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Metrics of a checkpoint with 95 % intervals by patient -> what `metrics.json` in the output folder holds."""
    if evaluation_args.split not in ("train", "validation", "test"):
        raise ValueError(f"`split` must be train, validation or test, got `{evaluation_args.split}`.")
    if (data_args.data_dir is None) == (data_args.dataset_name is None):
        raise ValueError("Give either `--data_dir`, a PTB-XL folder, or `--dataset_name`, a data set on the Hub.")
    path = evaluation_args.model_name_or_path
    model = ECGTransformerForMultiLabel.from_pretrained(path)
    if model.head_is_random:
        raise ValueError(f"`{path}` has no trained head: post-train it before it is evaluated.")
    labels = task_labels(data_args.task)
    if list(model.config.label2id) != labels:
        raise ValueError(
            f"`{path}` gives the labels {', '.join(model.config.label2id)}, the task `{data_args.task}` has "
            f"{', '.join(labels)}: choose the task that the checkpoint was trained for."
        )
    dataset = load_splits(data_args.data_dir, data_args, seed=0)[evaluation_args.split]
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


__all__ = [
    "DataArguments",
    "EvaluationArguments",
    "ModelArguments",
    "evaluate",
    "load_model",
    "load_splits",
    "make_trainer",
    "new_config",
    "new_feature_extractor",
    "post_train",
    "pretrained_feature_extractor",
]
