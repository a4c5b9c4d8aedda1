"""What `ecg-hf train` does: from arguments to a saved, evaluated checkpoint."""

from __future__ import annotations

import pathlib

import datasets
from transformers import set_seed
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES, MULTI_LABEL
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..ptbxl.label_order import label_names_of
from ..ptbxl.table import FOLDS
from ..runs.arguments import ModelArguments, recipe_of
from ..runs.attention import set_attention
from ..runs.labelled_shards import LabelledShards
from ..runs.leads import model_leads, restrict_leads
from ..runs.models import new_config, new_feature_extractor, pretrained_feature_extractor, pretrained_model
from ..runs.statistics import lead_statistics, window_statistics, without_normalisation
from ..runs.windows import TrainingWindows
from .arguments import PostTrainingArguments
from .checks import warn_of_learned
from .data import TaskArguments, check_splits, data_folder, label_names_in_words, load_splits, most_common_rate
from .trainer import PostTrainer

logger = logging.get_logger(__name__)


def post_train(model_args: ModelArguments, data_args: TaskArguments, args: PostTrainingArguments) -> dict[str, float]:
    """Post-train on labelled records -> what `all_results.json` in `args.output_dir` holds."""
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
    if model_args.model_name_or_path is not None:
        pretrained_feature_extractor(model_args)  # a wrong name is found before the records are read
    with args.main_process_first(desc="reading the records"):
        splits = load_splits(data_folder(data_args, args.output_dir), data_args, args.seed)
    given = [split for split in FOLDS if data_args.evaluate_test or split != "test"]
    check_splits(splits, given, data_args)
    if model_args.model_name_or_path is not None:
        effects = {"validation": "they choose the epoch by what the model knows", "test": "their figures are too good"}
        for split in given[1:]:
            warn_of_learned(model_args.model_name_or_path, split, splits[split], effects[split])
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
    id2label = dict(enumerate(labels))
    is_streamed = isinstance(train, LabelledShards)
    names = train.labelled["titles"] if is_streamed else label_names_in_words(data_args, labels)
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
            f"`{model_args.model_name_or_path}` was trained for other labels or another kind of label "
            f"({', '.join(model.config.labels[:5])}, ...; {model.config.problem_type}) than the records have: a new "
            "head is put on it."
        )
        model.replace_head(id2label, names, problem_type)
    return model, feature_extractor


def _new_model(model_args, data_args, train, id2label, names, problem_type):
    labels = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    rate = data_args.sampling_rate if data_args.reads_ptbxl else most_common_rate(train)
    if (leads := model_leads(data_args.lead_names, LEAD_NAMES)) is not None:
        labels["lead_names"] = leads
    config = new_config(model_args, rate, **labels, label_names=names, problem_type=problem_type)
    if data_args.task is not None:  # PTB-XL's, wherever it is read from
        mean, std = lead_statistics(train, config.lead_names)
    else:
        # Own records may lack leads, or have them at several rates: what counts is what the model will see.
        plain = new_feature_extractor(model_args, config, 0.0, 1.0)
        windows = TrainingWindows(train, without_normalisation(plain), seed=0, check_leads=False)  # training checks
        mean, std = window_statistics(windows)
    return ECGTransformerForMultiLabel(config), new_feature_extractor(model_args, config, mean, std)


__all__ = [
    "TaskArguments",
    "load_model",
    "load_splits",
    "make_trainer",
    "post_train",
]
