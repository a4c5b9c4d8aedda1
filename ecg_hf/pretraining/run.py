"""What `ecg-hf pretrain` does: from arguments to an encoder that post-training starts from."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from transformers import set_seed

from ..cards import SIMULATED_DEVICE, UNKNOWN_FOLD
from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForPreTraining
from ..ptbxl.builder import PTBXL
from ..ptbxl.labels import encode_labels, task_labels
from ..ptbxl.table import FOLDS, read_table
from ..readers.channels import Said, canonical_leads
from ..runs.arguments import (
    PTBXL_DEFAULT_RATE,
    DataArguments,
    ModelArguments,
    check_streaming,
    given_fields,
    recipe_of,
    refuse_given,
    shuffle_field,
    streaming_field,
)
from ..runs.attention import set_attention
from ..runs.leads import model_leads, restrict_feature_extractor, restrict_model
from ..runs.models import new_config, new_feature_extractor, pretrained_feature_extractor, pretrained_model
from ..runs.shards import ShardedRecords
from .arguments import PreTrainingArguments
from .crops import crop_statistics
from .overlap import ptbxl_folds, refuse_test_folds
from .probe import LinearProbe
from .records import RecordFiles, folder_files, load_records, ptbxl_files, table_files
from .trainer import OWN_RECORDS, PreTrainer

_STATED_BY_SHARDS = ("table", "record_column", "patient_column", "sampling_rate", "units", "max_skipped", "num_proc")

logger = logging.getLogger(__name__)


@dataclass
class RecordArguments(DataArguments):
    """The records to pre-train on."""

    data_dir: str | None = field(
        default=None,
        metadata={"help": "PTB-XL folder, of which the training folds are read, or any folder of ECG files."},
    )
    allow_test_folds: bool = field(
        default=False,
        metadata={
            "help": "Read records of PTB-XL's folds 9 and 10 too, or ones whose fold is not known. A model that is "
            "post-trained from such an encoder cannot be judged on PTB-XL, as its card will say."
        },
    )
    probe_data_dir: str | None = field(
        default=None, metadata={"help": "PTB-XL folder for the probe; default: `data_dir`, where it is one."}
    )

    streaming: bool = streaming_field()
    shuffle_shards: int = shuffle_field()

    def __post_init__(self):
        super().__post_init__()
        check_streaming(self, _STATED_BY_SHARDS)
        if self.data_dir is None and self.table is None:
            raise ValueError("Give `--data_dir`, a folder of records, or `--table`, a table of their paths.")
        if self.table is None and not self.streaming:
            refuse_given(self, ["record_column", "patient_column"], "is a column of `--table`: give that")
        if self.reads_ptbxl:
            refuse_given(self, ["units"], "is for own records, PTB-XL's state it: leave it out")

    @property
    def reads_ptbxl(self) -> bool:
        return not self.streaming and super().reads_ptbxl


def pretrain(model_args: ModelArguments, record_args: RecordArguments, args: PreTrainingArguments) -> dict[str, float]:
    """Pre-train on records without labels -> what `all_results.json` in `args.output_dir` holds."""
    return make_trainer(model_args, record_args, args).pretrain()


def make_trainer(model_args: ModelArguments, record_args: RecordArguments, args: PreTrainingArguments) -> PreTrainer:
    """The records, the model and the probe that the arguments ask for, ready to train."""
    _check_reports(record_args, args)
    args.prepared_cache = args.prepared_cache or record_args.cache_dir
    config, feature_extractor = _model_settings(model_args, record_args)
    crop_seconds = _crop_seconds(args, config)
    with args.main_process_first(desc="reading the records"):
        dataset = load_training_records(record_args, crop_seconds, args.report_column)
        probe_splits = _probe_splits(record_args, args)
    if feature_extractor is None:
        statistics = crop_statistics(dataset, new_feature_extractor(model_args, config, 0.0, 1.0))
        feature_extractor = new_feature_extractor(model_args, config, *statistics)
    set_seed(args.seed)
    model = _model(model_args, record_args, config)
    set_attention(model, model_args.attn_implementation, args)
    probe = None
    if probe_splits:
        batch_size = args.per_device_eval_batch_size
        probe = LinearProbe(*probe_splits, feature_extractor, batch_size, cache_dir=args.prepared_folder)
    return PreTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        feature_extractor=feature_extractor,
        probe=probe,
        recipe=recipe_of(model_args, record_args),
        data=dataset.manifest["data"] if record_args.streaming else data_facts(record_args),
    )


def _check_reports(record_args: RecordArguments, args: PreTrainingArguments) -> None:
    if args.report_column is None:
        return
    if record_args.allow_test_folds:
        raise ValueError(
            "`allow_test_folds` is refused beside `report_column`: PTB-XL's statements were made from its reports, so "
            "that those of the validation and test folds are never read. Leave one of the two out."
        )
    if record_args.table is None and not record_args.reads_ptbxl:
        raise ValueError(
            f"`report_column` needs a table: a folder of records ({record_args.data_dir}) has no reports. Give "
            "`--table`, with a row for each record, or PTB-XL's folder."
        )


def _model_settings(model_args: ModelArguments, record_args: RecordArguments):
    """The configuration, and the feature extractor unless it is a new one, which needs the records' statistics."""
    path = model_args.model_name_or_path
    if path is None:
        leads = model_leads(record_args.lead_names, LEAD_NAMES)
        fields = {} if leads is None else {"lead_names": leads}
        return new_config(model_args, record_args.sampling_rate or PTBXL_DEFAULT_RATE, **fields), None
    feature_extractor = pretrained_feature_extractor(model_args)
    config = ECGTransformerConfig.from_pretrained(path)
    if (leads := model_leads(record_args.lead_names, config.lead_names)) is not None:
        feature_extractor = restrict_feature_extractor(feature_extractor, leads)
    return config, feature_extractor


def _crop_seconds(args: PreTrainingArguments, config: ECGTransformerConfig) -> float:
    window_seconds = config.num_samples / config.sampling_rate
    if args.crop_seconds is None:
        return window_seconds
    if not config.min_samples / config.sampling_rate <= args.crop_seconds <= window_seconds:
        raise ValueError(
            f"`crop_seconds` must lie between one token of the model, {config.min_samples / config.sampling_rate:g} "
            f"s, and its window, {window_seconds:g} s; got {args.crop_seconds:g} s."
        )
    return args.crop_seconds


def _model(
    model_args: ModelArguments, record_args: RecordArguments, config: ECGTransformerConfig
) -> ECGTransformerForPreTraining:
    if model_args.model_name_or_path is None:
        return ECGTransformerForPreTraining(config)
    model = pretrained_model(ECGTransformerForPreTraining, model_args)
    leads = model_leads(record_args.lead_names, model.config.lead_names)
    return model if leads is None else restrict_model(model, leads)


# ---- Records ----


def load_training_records(
    record_args: RecordArguments, crop_seconds: float, report_column: str | None = None
) -> datasets.Dataset | ShardedRecords:
    """The records to pre-train on, at least as long as a crop; with a column `report` where one is named.

    Of PTB-XL, wherever its records are found, the training folds alone, unless `allow_test_folds`; else `ValueError`.
    """
    if record_args.streaming:
        if report_column is not None:
            raise ValueError(
                "`--report_column` cannot be read from shards, which hold no reports: leave out `--streaming`."
            )
        return _open_shards(record_args, crop_seconds)
    files = training_files(record_args, report_column)
    if not record_args.allow_test_folds:
        refuse_test_folds(seen_folds(record_args, files), len(files))
    dataset = load_records(
        files,
        crop_seconds,
        record_args.cache_dir,
        max_skipped=record_args.max_skipped,
        num_proc=record_args.num_proc,
        with_reports=report_column is not None,
    )
    if record_args.reads_ptbxl:
        _assert_folds(record_args, dataset)
    if record_args.max_train_records is not None and record_args.max_train_records < len(dataset):
        dataset = dataset.select(range(record_args.max_train_records))
    return dataset


def _open_shards(record_args: RecordArguments, crop_seconds: float) -> ShardedRecords:
    """The training records of a folder of shards, which must be as long as a crop; errors as in [`ShardedRecords`]."""
    records = ShardedRecords(
        record_args.data_dir, num_held=record_args.shuffle_shards, max_records=record_args.max_train_records
    )
    shortest = records.manifest["shortest_seconds"]
    if shortest < crop_seconds:
        raise ValueError(
            f"The shards in `{record_args.data_dir}` have records of {shortest:g} s, a crop has {crop_seconds:g} s: "
            f"write them again by `ecg-hf prepare --min_seconds {crop_seconds:g}`, or give a shorter `--crop_seconds`."
        )
    if not record_args.allow_test_folds:
        counts = records.manifest["ptbxl_records"]
        refuse_test_folds(
            Counter({int(fold) if fold.isdigit() else fold: counts[fold] for fold in counts}), len(records)
        )
    return records


def _wanted_folds(record_args: RecordArguments) -> list[int]:
    kinds = FOLDS if record_args.allow_test_folds else ("train",)
    return [fold for kind in kinds for fold in FOLDS[kind]]


def training_files(record_args: RecordArguments, report_column: str | None = None) -> RecordFiles:
    """The files of the records to pre-train on, each with its text where `report_column` names one."""
    if record_args.table is not None:
        return table_files(
            record_args.table,
            record_args.record_column,
            record_args.patient_column,
            record_args.data_dir,
            record_args.sampling_rate,
            record_args.units,
            record_args.lead_names,
            report_column,
        )
    if record_args.reads_ptbxl:
        folds = _wanted_folds(record_args)
        return ptbxl_files(record_args.data_dir, record_args.sampling_rate, folds, report_column)
    said = Said(record_args.sampling_rate, record_args.units, canonical_leads(record_args.lead_names))
    return folder_files(record_args.data_dir, record_args.allow_test_folds, said)


def seen_folds(record_args: RecordArguments, files: RecordFiles) -> Counter[int | str]:
    """How many records are of each fold of PTB-XL; see [`ptbxl_folds`]."""
    if record_args.reads_ptbxl:
        return Counter()  # the table has chosen them
    # Of a table `data_dir` is where paths begin, which may be far above the records.
    searched = record_args.data_dir if record_args.table is None else None
    return ptbxl_folds(files.paths, (searched, record_args.probe_data_dir))


def _assert_folds(record_args: RecordArguments, dataset: datasets.Dataset) -> None:
    table = read_table(record_args.data_dir, record_args.sampling_rate, ("strat_fold",))
    fold_of = dict(zip(table["ecg_id"].to_pylist(), table["strat_fold"].to_pylist(), strict=True))
    wanted = _wanted_folds(record_args)
    others = [ecg_id for ecg_id in dataset["ecg_id"] if fold_of.get(ecg_id) not in wanted]
    if others:
        raise RuntimeError(f"{len(others)} records are not of PTB-XL's folds {wanted}, the first is {others[0]}.")


def _probe_splits(
    record_args: RecordArguments, args: PreTrainingArguments
) -> tuple[datasets.Dataset, datasets.Dataset] | None:
    """Labelled records of PTB-XL to fit the probe on, and those of `args.probe_fold` to judge it on."""
    folder = record_args.probe_data_dir or (record_args.data_dir if record_args.reads_ptbxl else None)
    if not args.probe_every:
        return None
    if folder is None:
        if given := [name for name in given_fields(args) if name.startswith("probe_")]:
            logger.warning(
                f"`{given[0]}` is without effect: the probe reads PTB-XL's labels. Give its folder as "
                "`--probe_data_dir`."
            )
        return None
    task_labels(args.probe_task)  # an unknown task fails before the records are read
    train = _labelled(record_args, folder, FOLDS["train"], args.probe_task)
    folds = np.asarray(train["strat_fold"])
    if args.probe_fold in FOLDS["train"]:
        evaluation = train.select(np.flatnonzero(folds == args.probe_fold))
    else:
        evaluation = _labelled(record_args, folder, [args.probe_fold], args.probe_task)
    rows = np.random.default_rng(args.seed).permutation(np.flatnonzero(folds < args.probe_fold))
    return train.select(np.sort(rows[: args.probe_max_train_records])), evaluation


def _labelled(record_args: RecordArguments, folder: str, folds, task: str) -> datasets.Dataset:
    """Records of some folds with `labels` and `strat_fold`; those without a statement of the task are excluded."""
    rate = record_args.sampling_rate if record_args.reads_ptbxl else PTBXL_DEFAULT_RATE
    dataset = load_records(ptbxl_files(folder, rate, folds), 0.0, record_args.cache_dir)
    table = read_table(folder, rate, ("scp_codes", "strat_fold"))
    row_of = {ecg_id: row for row, ecg_id in enumerate(table["ecg_id"].to_pylist())}
    table = table.take([row_of[ecg_id] for ecg_id in dataset["ecg_id"]])
    labels = encode_labels([[item["code"] for item in items] for items in table["scp_codes"].to_pylist()], task)
    dataset = dataset.add_column("labels", labels.tolist()).add_column("strat_fold", table["strat_fold"].to_pylist())
    return dataset.select(np.flatnonzero(labels.any(axis=1)))


def data_facts(record_args: RecordArguments) -> dict[str, Any]:
    """What the card says of the records, as far as it is known."""
    if not record_args.reads_ptbxl:
        files = training_files(record_args)
        folds = seen_folds(record_args, files)
        known = sorted(folds.keys() - {UNKNOWN_FOLD})
        all_known = folds.total() == len(files) and UNKNOWN_FOLD not in folds
        return {
            **OWN_RECORDS,
            "ptbxl_folds": known if all_known else [*known, UNKNOWN_FOLD],
            "num_ptbxl_records": folds.total(),
        }
    table = read_table(record_args.data_dir, record_args.sampling_rate, ("device",))
    devices = table["device"].unique().to_pylist()
    if devices == [SIMULATED_DEVICE]:
        return {"name": "simulated ECGs", "simulated": True, "ptbxl_folds": []}
    source = {name: PTBXL.SOURCE[name] for name in ("license", "citation", "homepage")}
    return {"name": "PTB-XL", **source, "ptbxl_folds": _wanted_folds(record_args)}


__all__ = [
    "RecordArguments",
    "data_facts",
    "load_training_records",
    "make_trainer",
    "pretrain",
    "seen_folds",
    "training_files",
]
