"""Arguments that post-training and pre-training share, and what of them belongs to the recipe of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import types
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from ..cards import TABLES
from ..ecg_transformer.configuration_ecg_transformer import PRESETS
from ..ptbxl.table import is_ptbxl_folder
from ..readers.channels import canonical_leads
from .checks import (
    check_attention,
    check_compiler,
    check_has_effect,
    check_is_dictionary,
    check_is_supported,
    check_output_dir,
    check_ranges,
    check_reports,
    check_schedule,
)
from .devices import has_accelerator, resolve_bf16

# Fields of `TrainingArguments` that change how a run is carried out, logged or published, and not its result. All
# others are written to `recipe.yaml` and compared when a run is resumed.
NOT_IN_RECIPE = frozenset(
    {
        # Places, devices, processes
        *("output_dir", "dry_run", "use_cpu", "local_rank", "expect_world_size", "fsdp", "fsdp_config"),
        *("feature_cache", "prepared_cache"),
        *("ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
        *("ddp_find_unused_parameters", "ddp_static_graph"),
        # Speed and memory
        *("torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
        *("per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches"),
        *("eval_use_gather_object", "skip_memory_metrics", "debug"),
        # Logs
        *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter"),
        *("include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name"),
        *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        # Checkpoints and the Hub
        *("resume_from_checkpoint", "restore_callback_states_from_checkpoint", "save_total_limit", "save_only_model"),
        *("save_on_each_node", "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo"),
        *("hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        # Without a meaning here: fixed, or for language models
        *("remove_unused_columns", "label_names", "do_train", "do_eval", "do_predict", "include_for_metrics"),
        *("batch_eval_metrics", "prediction_loss_only", "length_column_name", "use_cache", "use_liger_kernel"),
        *("liger_kernel_config", "average_tokens_across_devices", "deepspeed", "parallelism_config"),
        # Said by the same fields with `gradient` in their names, until these are gone
        *("activation_checkpointing", "activation_checkpointing_kwargs"),
    }
)

# The best known of the others come first in a recipe.
MAIN_FIELDS = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "optim"),
    *("lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "bf16", "fp16", "seed"),
)

# Fields of the arguments of model and data that name a place on this machine.
MACHINE_FIELDS = ("data_dir", "probe_data_dir", "cache_dir", "num_proc")

MAY_BE_NONE = {"drop_path_rate": float, "save_total_limit": int}
"""Numbers that may be None while their default is not: so `None` on the command line, or null in YAML, says. For the
parser they are strings, see `check_numbers`."""

PTBXL_DEFAULT_RATE = 100
"""Hz of the files of PTB-XL that are read unless 500 are asked for."""

# Fields that are for own records alone: a recipe has them where they were given.
OWN_DATA_FIELDS = ("record_column", "max_skipped", "split_fractions", "split_seed", "streaming", "shuffle_shards")


@dataclass
class RunArguments(TrainingArguments):
    """[`TrainingArguments`] with the defaults, checks and the recipe that both kinds of runs share."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the run, which is new or empty, or that of a run to resume."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "`true` resumes the run in `--output_dir`, or reports one that is finished."}
    )
    expect_world_size: int | None = field(
        default=None, metadata={"help": "Stop at once unless this many processes were started."}
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Read arguments and records, print what the run would do (stages, learning rates, steps, memory, "
            "time, from a few steps), and stop before anything is written to `--output_dir` or published."
        },
    )
    # A string for the parser alone, which otherwise takes true and false; afterwards a bool.
    bf16: str = field(
        default=False,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Compute in bfloat16: true, false, or `auto`, where the device has instructions for it.",
        },
    )
    use_cpu: bool = field(
        default=False, metadata={"help": "Do not use a GPU. Without one the CPU is used in any case."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay, on matrices only."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Records in one evaluation batch."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the training log."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "True logs other steps' loss instead of NaN, which hides a divergence."}
    )
    log_level_replica: str = field(
        default="error",
        metadata={
            **TrainingArguments.__dataclass_fields__["log_level_replica"].metadata,
            "help": "As `--log_level`, of processes beside the first one of a machine.",
        },
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on with the patience of an `EarlyStoppingCallback`."}
    )
    prepare_records: bool = field(
        default=True,
        metadata={
            "help": "Resample and filter records once, before the first epoch, and keep them in `--prepared_cache` as "
            "int16 in µV; false does it for every window anew."
        },
    )
    prepared_cache: str | None = field(
        default=None,
        metadata={
            "help": "Where such records are kept for all runs. Default: `--cache_dir`, else that of `datasets`."
        },
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: `epoch` or `steps`."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: windows need all columns."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter has a gradient in every step, so there is nothing to find."}
    )

    def __post_init__(self):
        check_numbers(self)
        for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
            check_is_dictionary(self, name)
        if self.output_dir is not None:
            check_output_dir(self.output_dir)
        if str(self.resume_from_checkpoint).lower() in ("true", "false"):
            self.resume_from_checkpoint = str(self.resume_from_checkpoint).lower() == "true"
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be false: windows are made from all columns.")
        if self.save_only_model:
            raise ValueError("`save_only_model` is not supported: a run cannot be resumed from such checkpoints.")
        check_is_supported(self)
        # The library refuses bfloat16, and pins memory, as if a GPU were there, unless it is told.
        self.use_cpu = self.use_cpu or not has_accelerator()
        self.bf16 = resolve_bf16(self.bf16, self.use_cpu, self.fp16)
        if self.dry_run:
            self.push_to_hub = False
        # Recipes have the old names, which mean the same until they are gone: no warning to who replays one.
        for end in ("checkpointing", "checkpointing_kwargs"):
            if getattr(self, f"activation_{end}") is None:
                setattr(self, f"activation_{end}", getattr(self, f"gradient_{end}"))
        super().__post_init__()
        self.do_eval = False  # the library's mark of `eval_strategy`, which `dataclasses.replace` would give back
        check_reports(self.report_to)
        check_compiler(self)
        check_has_effect(self)
        check_schedule(self, self.peak_learning_rate)
        _check_world_size(self)
        _warn_of_slow_bf16(self)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate of the top layer when the schedule stands at its maximum."""
        return self.learning_rate

    @property
    def should_save(self) -> bool:
        """As in the library; a dry run writes nothing."""
        return not self.dry_run and super().should_save

    @property
    def prepared_folder(self) -> str | None:
        """Where records that are prepared once are kept; None where they are not to be."""
        if not self.prepare_records:
            return None
        return self.prepared_cache or str(datasets.config.HF_DATASETS_CACHE)

    def recipe(self) -> dict:
        """The fields that change the result, as plain values: those of this class, then the library's.

        Fields that are None are left out where that is their default.
        """
        values = json.loads(self.to_json_string())
        library = {item.name for item in dataclasses.fields(TrainingArguments)}
        own = [item.name for item in dataclasses.fields(self) if item.name not in library]
        names = [*own, *MAIN_FIELDS, *(name for name in values if name in library and name not in MAIN_FIELDS)]
        return {
            name: values[name]
            for name in names
            if name not in NOT_IN_RECIPE and (values[name] is not None or name in MAY_BE_NONE)
        }


def check_numbers(args: object) -> None:
    """`TypeError` for a string in a dataclass field that expects a number or a list, `ValueError` for a number out of
    its range.

    Of `MAY_BE_NONE` strings become numbers, or None. Paths and numbers of numpy become text and numbers of Python, as
    recipes hold them.
    """
    names, lists = number_fields(type(args)), list_fields(type(args))
    for item in dataclasses.fields(args):
        value = _plain(getattr(args, item.name))
        setattr(args, item.name, value)
        if item.name in lists and isinstance(value, str):
            raise TypeError(f"`{item.name}` is the text '{value}' where a list is expected: give ['{value}'].")
        if item.name in MAY_BE_NONE and isinstance(value, str):
            setattr(args, item.name, _number_or_none(item.name, value))
        elif item.name in names:
            check_is_number(item.name, value)
    check_ranges(args)


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _number_or_none(name: str, text: str) -> float | None:
    if text == "None":
        return None
    try:
        return MAY_BE_NONE[name](text)
    except ValueError as error:
        kind = "a whole number" if MAY_BE_NONE[name] is int else "a number"
        raise ValueError(f"`{name}` must be {kind} or None, got `{text}`.") from error


def number_fields(kind: type) -> set[str]:
    """The fields of a dataclass that expect a number."""
    kinds = _types_of_fields(kind)
    return {name for name, found in kinds.items() if found <= {int, float, type(None)} or name in MAY_BE_NONE}


def list_fields(kind: type) -> set[str]:
    """The fields of a dataclass that expect a list, and no single text."""
    kinds = _types_of_fields(kind)
    return {
        name
        for name, found in kinds.items()
        if all(typing.get_origin(one) is list or one is type(None) for one in found)
    }


def _types_of_fields(kind: type) -> dict[str, set]:
    """The types that each field of a dataclass may have."""
    # Not `field.type`, which HfArgumentParser overwrites.
    hints = typing.get_type_hints(kind)
    return {name: _types_of(hints[name]) for name in (item.name for item in dataclasses.fields(kind))}


def _types_of(hint: object) -> set:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return set(typing.get_args(hint)) if is_union else {hint}


def check_is_number(name: str, value: object) -> None:
    """`TypeError` for a string."""
    if isinstance(value, str):
        raise TypeError(
            f"`{name}` is the string '{value}' where a number is expected; YAML needs 1.0e-3 or 0.001 for 1e-3."
        )


def check_at_least(name: str, value: int | None, minimum: int) -> None:
    """`ValueError` for a number below `minimum`; None is allowed."""
    if value is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def _check_world_size(args: RunArguments) -> None:
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError(
            "`fsdp` shares the weights out among processes, and this is the only one: leave it out, or start more by "
            "`torchrun` or `accelerate launch`, see training/guides/many-machines.md."
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "`average_tokens_across_devices` must be true: each known label counts the same, whichever process has it."
        )
    if args.expect_world_size is not None and args.expect_world_size != args.world_size:
        raise ValueError(
            f"Asked for {args.expect_world_size} processes but the world size is {args.world_size}; start with "
            "`torchrun` or `accelerate launch --multi_gpu`, or see training/guides/many-machines.md."
        )


def _warn_of_slow_bf16(args: RunArguments) -> None:
    # A build of torch without MKLDNN lacks the question, too.
    is_native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if args.bf16 and args.device.type == "cpu" and not is_native:
        warnings.warn(
            "This CPU has no native bfloat16 support, so a step takes about ten times as long as in float32: pass "
            "`--bf16 false`.",
            stacklevel=3,
        )


@dataclass
class ModelArguments:
    """The encoder to train: a checkpoint, or an architecture with random weights."""

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
            "help": "sdpa, eager or flash_attention_2. Default: eager on a CPU in bfloat16 with windows of up to 400 "
            "tokens, which takes half to nine tenths of the time of sdpa; else sdpa."
        },
    )

    def __post_init__(self):
        check_numbers(self)
        if self.attn_implementation is not None:
            check_attention(self.attn_implementation)
        of_new_models = ("model_sampling_rate", "window_seconds", "patch_size", "pooling")
        given = [f"--{name}" for name in of_new_models if getattr(self, name) is not None]
        if self.model_name_or_path is not None and given:
            raise ValueError(
                f"{', '.join(given)} would change what the checkpoint `{self.model_name_or_path}` was trained with; "
                "they are for a new model (`--architecture`). Leave them out."
            )


@dataclass
class DataArguments:
    """Where the records are: in a folder, or named by a table."""

    data_dir: str | None = field(default=None, metadata={"help": "PTB-XL folder in PhysioNet's layout."})
    table: str | None = field(
        default=None,
        metadata={
            "aliases": ["--train_table"],
            "help": "Own records: a CSV or Parquet file, or a folder of `datasets`, with one row for each record.",
        },
    )
    record_column: str = field(
        default="path", metadata={"help": "The table's column of paths, from its folder or from `--data_dir`."}
    )
    patient_column: str | None = field(
        default=None, metadata={"help": "The table's column of patients, of whom all records stay together."}
    )
    sampling_rate: float | None = field(
        default=None,
        metadata={
            "help": "Hz of own files that do not state it; of PTB-XL which files to read, 100 (default) or 500."
        },
    )
    units: str | None = field(default=None, metadata={"help": "Unit of own files that do not state it: mV or uV."})
    lead_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Leads in order: the names of the channels of files that do not name them; of others the leads to "
            "take. A model that cannot compute its other leads from them is made one of these leads."
        },
    )
    max_skipped: float = field(
        default=0.01, metadata={"help": "Largest share of own records that is skipped since they cannot be used."}
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that read own records."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where the Arrow copy of the records is kept."})
    max_train_records: int | None = field(
        default=None, metadata={"help": "Maximum number of training records, for a quick try."}
    )

    def __post_init__(self):
        check_numbers(self)
        check_at_least("max_train_records", self.max_train_records, 1)
        check_at_least("num_proc", self.num_proc, 1)
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"`max_skipped` must lie in [0, 1), got {self.max_skipped}.")
        if self.lead_names is not None:
            self.lead_names = list(canonical_leads(self.lead_names))
        if self.sampling_rate is None and self.reads_ptbxl:
            self.sampling_rate = PTBXL_DEFAULT_RATE
        if self.sampling_rate is not None and float(self.sampling_rate).is_integer():
            self.sampling_rate = int(self.sampling_rate)

    @property
    def reads_ptbxl(self) -> bool:
        """Whether the records are PTB-XL's, by the table in their folder."""
        return self.table is None and (self.data_dir is None or is_ptbxl_folder(self.data_dir))


def streaming_field() -> bool:
    """The field `streaming` of arguments of records."""
    return field(
        default=False,
        metadata={
            "help": "Read the shards that `ecg-hf prepare` has written to `--data_dir` while training, without a copy "
            "on this machine; then it may be `hf://datasets/OWNER/NAME`, `s3://...` or another address of fsspec. "
            "Such records are resampled and filtered in each batch."
        },
    )


def shuffle_field() -> int:
    """The field `shuffle_shards` beside it."""
    return field(
        default=4,
        metadata={"help": "Of streamed records: how many shards each worker holds, to draw records from at random."},
    )


def check_streaming(args: DataArguments, stated: Sequence[str]) -> None:
    """`ValueError` for what shards state themselves, by the names of the fields, and without their place."""
    check_at_least("shuffle_shards", args.shuffle_shards, 1)
    if not args.streaming:
        if given_fields(args, ["shuffle_shards"]):
            raise ValueError("`--shuffle_shards` is for the shards of `--streaming`: leave it out, or add that.")
        return
    if args.data_dir is None:
        raise ValueError("`--streaming` needs `--data_dir`, the folder of shards of `ecg-hf prepare`.")
    refuse_given(args, stated, "is for `ecg-hf prepare`; the shards of `--streaming` state it: leave it out")


def refuse_given(args: DataArguments, names: Sequence[str], reason: str) -> None:
    """`ValueError` with the reason where one of these fields is not as by default."""
    for name in given_fields(args, names):
        raise ValueError(f"`--{name}` {reason}.")


def given_fields(args: object, names: Sequence[str] | None = None) -> list[str]:
    """The fields of a dataclass that are not as by default, in its order; of `names` alone in theirs."""
    defaults = {item.name: _default(item) for item in dataclasses.fields(args)}
    names = defaults if names is None else [name for name in names if name in defaults]
    return [name for name in names if getattr(args, name) != defaults[name]]


def _default(item: dataclasses.Field) -> object:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def recipe_of(*groups: object) -> dict:
    """The fields of the arguments of model and data, without paths of this machine: of a file its name stays."""
    facts = {
        item.name: getattr(group, item.name)
        for group in groups
        for item in dataclasses.fields(group)
        if not (item.name in OWN_DATA_FIELDS and getattr(group, item.name) == _default(item))
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    for name in ("model_name_or_path", "dataset_name", *TABLES):
        if name in facts and pathlib.Path(facts[name]).exists():
            facts[name] = pathlib.Path(facts[name]).resolve().name
    # The architecture is for a new model; beside a checkpoint it played no part.
    left_out = (*MACHINE_FIELDS, *(["architecture"] if "model_name_or_path" in facts else []))
    return {name: value for name, value in facts.items() if name not in left_out}


__all__ = [
    "DataArguments",
    "ModelArguments",
    "RunArguments",
    "check_at_least",
    "check_is_number",
    "check_numbers",
    "check_streaming",
    "number_fields",
    "given_fields",
    "recipe_of",
    "refuse_given",
    "shuffle_field",
    "streaming_field",
]
