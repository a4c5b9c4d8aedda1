"""What `training/train.py` and `training/evaluate_model.py` do: from arguments to a saved, evaluated checkpoint."""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass, field

import datasets
from transformers import set_seed
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES, MULTI_LABEL, check_choice
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import write_atomic
from ..ptbxl.label_order import label_names_of
from ..ptbxl.labels import task_labels
from ..ptbxl.table import FOLDS
from ..runs.arguments import ModelArguments, check_at_least, recipe_of
from ..runs.attention import set_attention
from ..runs.folder import STAGES_FOLDER
from ..runs.leads import model_leads, restrict_leads
from ..runs.models import new_config, new_feature_extractor, pretrained_feature_extractor, pretrained_model
from ..runs.statistics import lead_statistics, window_statistics, without_normalisation
from ..runs.windows import TrainingWindows
from ..tables.guards import were_guarded
from .arguments import PostTrainingArguments
from .checks import check_labels
from .data import TaskArguments, check_splits, data_folder, label_names_in_words, load_splits, most_common_rate
from .trainer import PostTrainer

logger = logging.get_logger(__name__)


def post_train(model_args: ModelArguments, data_args: TaskArguments, args: PostTrainingArguments) -> dict[str, float]:
    """Post-train on PTB-XL -> what `all_results.json` in `args.output_dir` holds."""
    return make_trainer(model_args, data_args, args).post_train()


def make_trainer(model_args: ModelArguments, data_args: TaskArguments, args: PostTrainingArguments) -> PostTrainer:
    """The records and the model that the arguments ask for, ready to train."""
    if args.feature_cache is None and data_args.cache_dir is not None:
        args.feature_cache = str(pathlib.Path(data_args.cache_dir) / "features")
    args.prepared_cache = args.prepared_cache or data_args.cache_dir
    if "lora" in args.stages and model_args.model_name_or_path is None:
        logger.warning(
            "The stage `lora` keeps the encoder's weights, and these are random: give a pre-trained one by "
            "`--model_name_or_path`."
        )
    with args.main_process_first(desc="reading the records"):
        splits = load_splits(data_folder(data_args, args.output_dir), data_args, args.seed)
    check_splits(splits, FOLDS if data_args.evaluate_test else ("train", "validation"), data_args)
    set_seed(args.seed)
    model, feature_extractor = load_model(model_args, data_args, splits["train"])
    set_attention(model, model_args.attn_implementation, args)
    return PostTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        test_dataset=splits["test"] if data_args.evaluate_test else None,
        feature_extractor=feature_extractor,
        recipe=recipe_of(model_args, data_args),
    )


def load_model(
    model_args: ModelArguments, data_args: TaskArguments, train: datasets.Dataset
) -> tuple[ECGTransformerForMultiLabel, ECGTransformerFeatureExtractor]:
    """The model with a head for the task, and its feature extractor; a new one is normalised by the training split."""
    labels = label_names_of(train)
    id2label, names = dict(enumerate(labels)), label_names_in_words(data_args, labels)
    problem_type = data_args.problem_type or MULTI_LABEL
    if model_args.model_name_or_path is None:
        return _new_model(model_args, data_args, train, id2label, names, problem_type)
    feature_extractor = pretrained_feature_extractor(model_args)
    model = pretrained_model(ECGTransformerForMultiLabel, model_args)
    if (leads := model_leads(data_args.lead_names, model.config.lead_names)) is not None:
        model, feature_extractor = restrict_leads(model, feature_extractor, leads)
    if model.head_is_random:
        model.replace_head(id2label, names, problem_type)
    elif (sorted(model.config.labels), model.config.problem_type) != (sorted(labels), problem_type):
        logger.warning(
            f"`{model_args.model_name_or_path}` was trained for other labels "
            f"({', '.join(model.config.labels[:5])}, ...) than the records have: a new head is put on it."
        )
        model.replace_head(id2label, names, problem_type)
    return model, feature_extractor


def _new_model(model_args, data_args, train, id2label, names, problem_type):
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    rate = data_args.sampling_rate if data_args.reads_ptbxl else most_common_rate(train)
    if (leads := model_leads(data_args.lead_names, LEAD_NAMES)) is not None:
        labels["lead_names"] = leads
    config = new_config(model_args, rate, **labels, label_names=names, problem_type=problem_type)
    if data_args.reads_ptbxl:
        mean, std = lead_statistics(train, config.lead_names)
    else:
        # Own records may lack leads, or have them at several rates: what counts is what the model will see.
        plain = new_feature_extractor(model_args, config, 0.0, 1.0)
        check_leads = not were_guarded([train])
        windows = TrainingWindows(train, without_normalisation(plain), seed=0, check_leads=check_leads)
        mean, std = window_statistics(windows)
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
    if data_args.demo:
        raise ValueError("`--demo` is for training: give the folder of its records, OUTPUT_DIR-data, as `--data_dir`.")
    data_dir = data_folder(data_args, evaluation_args.output_dir)
    path = evaluation_args.model_name_or_path
    model = ECGTransformerForMultiLabel.from_pretrained(path)
    if model.head_is_random:
        raise ValueError(f"`{path}` has no trained head: post-train it before it is evaluated.")
    labels = model.config.labels
    if data_args.reads_ptbxl and sorted(labels) != sorted(task_labels(data_args.task)):
        raise ValueError(
            f"`{path}` gives the labels {', '.join(labels)}, the task `{data_args.task}` has "
            f"{', '.join(task_labels(data_args.task))}: choose the task that the checkpoint was trained for."
        )
    splits = load_splits(data_dir, data_args, seed=0, labels=labels, problem_type=model.config.problem_type)
    check_splits(splits, [evaluation_args.split], data_args)
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
    target = trainer.target
    check_labels(evaluation_args.split, dataset, target)
    output = trainer.predict(dataset)
    metrics = target.split_metrics(dataset, output, evaluation_args.num_bootstrap_resamples)
    if metrics is None:
        problem = target.undefined.format("")
        raise ValueError(f"{problem[0].upper()}{problem[1:]} among the {len(dataset)} records: take more.")
    metrics = {
        "split": evaluation_args.split,
        **({"task": data_args.task} if data_args.reads_ptbxl else {"data": dataset.info.dataset_name}),
        "loss": output.metrics["test_loss"],
        **metrics,
    }
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        target.predictions_table(dataset, output).to_csv(output_dir / "predictions.csv", index=False)
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
