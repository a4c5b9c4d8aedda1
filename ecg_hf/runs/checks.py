"""What the library takes from arguments and stumbles over later, looked at before a run begins."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.utils.checkpoint
from accelerate.utils import DynamoBackend
from transformers import SchedulerType, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerModel


class Range(NamedTuple):
    """Numbers from `low` to `high`, without `low` itself if `above`, and beside them `off`, the library's "not given".

    Infinity and NaN are never among them.
    """

    low: float
    high: float = math.inf
    above: bool = False
    off: float | None = None

    def __contains__(self, value: float) -> bool:
        if value == self.off:
            return True
        above = self.low < value if self.above else self.low <= value
        return above and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        words = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        words += f" and at most {self.high}" if self.high < math.inf else ""
        return words if self.off is None else f"{words}, or {self.off} as if not given"


_COUNT, _NOT_NEGATIVE, _POSITIVE = Range(1), Range(0), Range(0, above=True)
_SEED = Range(0, 2**32 - 1)  # NumPy takes no other

RANGES = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "save_total_limit", "eval_accumulation_steps"), _COUNT),
    **dict.fromkeys(("patch_size", "dataloader_prefetch_factor", "probe_max_train_records"), _COUNT),
    **dict.fromkeys(("ddp_timeout", "ddp_bucket_cap_mb"), _COUNT),
    "max_steps": Range(1, off=-1),
    **dict.fromkeys(("seed", "data_seed", "split_seed"), _SEED),
    **dict.fromkeys(("num_train_epochs", "logging_steps", "eval_steps", "save_steps"), _POSITIVE),
    **dict.fromkeys(("probe_learning_rate", "lora_learning_rate", "contrastive_temperature"), _POSITIVE),
    **dict.fromkeys(("model_sampling_rate", "sampling_rate", "window_seconds", "window_stride_seconds"), _POSITIVE),
    **dict.fromkeys(
        ("learning_rate", "weight_decay", "probe_weight_decay", "adam_epsilon", "max_grad_norm"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("dataloader_num_workers", "eval_delay", "warmup_steps"), _NOT_NEGATIVE),
    **dict.fromkeys(("probe_every", "collapse_feature_std"), _NOT_NEGATIVE),
}
"""Fields of the arguments of runs, and what they may be; those that depend on others are checked where they belong."""


def check_ranges(args: object) -> None:
    """`ValueError` for a number of a dataclass that is outside its range in `RANGES`; None is allowed."""
    for item in dataclasses.fields(args):
        value, allowed = getattr(args, item.name), RANGES.get(item.name)
        if allowed is not None and value is not None and value not in allowed:
            finite = "" if math.isfinite(value) else " and finite"
            raise ValueError(f"`{item.name}` must be {allowed}{finite}, got {value}.")


def check_output_dir(folder: str) -> None:
    """`FileExistsError` where a file stands in the place of the folder, or of one that it is to be in."""
    path = pathlib.Path(folder).expanduser().absolute()
    found = next(place for place in (path, *path.parents) if place.exists())
    if not found.is_dir():
        raise FileExistsError(f"`--output_dir` {folder} cannot be a folder, {found} is a file: choose another name.")


def check_is_dictionary(args: TrainingArguments, name: str) -> None:
    """`ValueError` for text that is not JSON of a dictionary."""
    value = getattr(args, name)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        found = value
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"""`{name}` must be a dictionary, as '{{"name": 0.1}}', got `{value}`.""")


def check_reports(names: list[str]) -> None:
    """`ValueError` for a place of the library's logs that there is not, or whose package is not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"`report_to` must be none, all or among {', '.join(sorted(INTEGRATION_TO_CALLBACK))}; got `{name}`."
            )
        if name in get_available_reporting_integrations():
            continue
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"`report_to` cannot be `{name}` here: {error} Or leave it out.") from error


_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_compiler(args: TrainingArguments) -> None:
    """`ValueError` for a `torch_compile_backend` that accelerate does not know, or a mode that torch does not."""
    if args.torch_compile and args.torch_compile_backend.upper() not in DynamoBackend.__members__:
        known = ", ".join(name.lower() for name in DynamoBackend.__members__ if name != "NO")
        raise ValueError(f"`torch_compile_backend` must be one of {known}; got `{args.torch_compile_backend}`.")
    if args.torch_compile_mode not in (None, *_COMPILE_MODES):
        known = ", ".join(_COMPILE_MODES)
        raise ValueError(f"`torch_compile_mode` must be one of {known}; got `{args.torch_compile_mode}`.")


def check_is_supported(args: TrainingArguments) -> None:
    """`ValueError` for a setting of the library that a run refuses, before the library has changed any."""
    for name in ("do_eval", "do_predict"):
        if getattr(args, name):
            raise ValueError(
                f"`{name}` is not supported: a run always trains, and evaluates on its way. Leave it out, or use "
                "`ecg-hf evaluate` for a checkpoint."
            )
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(args, name):
            raise ValueError(
                f"`{name}` is not supported: it would change the weights that are saved. `{name[:4]}` computes in 16 "
                "bits and keeps them."
            )
    for name, refused in (("batch_eval_metrics", True), ("eval_do_concat_batches", False)):
        if getattr(args, name) == refused:
            raise ValueError(
                f"`{name}` cannot be {str(refused).lower()}: the metrics of records are taken over all of them at "
                "once. Leave it out."
            )
    # The launcher says it by the environment.
    if args.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(
            "`deepspeed` is not supported: its checkpoints are of another kind. Use `fsdp` for models that do not fit "
            "on one device, see training/guides/many-machines.md."
        )
    if args.parallelism_config is not None:
        raise ValueError(
            "`parallelism_config` is not supported: records are shared out among processes, and with `fsdp` weights."
        )
    if args.use_liger_kernel:
        raise ValueError("`use_liger_kernel` is not supported: its kernels are for language models. Leave it out.")
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError("`dataloader_persistent_workers` needs `dataloader_num_workers` of at least 1.")
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy` must be `random`, got `{args.train_sampling_strategy}`: each epoch has an "
            "order of its own, drawn with `data_seed` or `seed`."
        )


_WITHOUT_EFFECT = {
    "include_for_metrics": ([], "the metrics are fixed. Compute others from the output of `predict`"),
    "include_num_input_tokens_seen": ("no", "records have no tokens of text"),
    "length_column_name": ("length", "all windows have one length"),
    "liger_kernel_config": (None, "its kernels are for language models"),
    "optim_target_modules": (None, "it is for optimizers that choose the weights themselves, which a run refuses"),
    "prediction_loss_only": (False, "the metrics choose the epoch"),
    "use_cache": (False, "it is for models that write text"),
}
"""Fields of the library that nothing here looks at: their defaults, and why."""

_LOADERS = {
    "split_batches": (False, "batches are those of `per_device_train_batch_size` in each process"),
    "dispatch_batches": (None, "each process makes its own batches"),
    "even_batches": (True, "processes with other numbers of batches would wait for each other"),
    "use_seedable_sampler": (True, "the order of an epoch follows from `data_seed` or `seed`"),
    "gradient_accumulation_kwargs": (None, "the field `gradient_accumulation_steps` says it"),
}
"""The same of `accelerator_config`."""


def check_has_effect(args: TrainingArguments) -> None:
    """`ValueError` for a setting of the library that a run would pass over, or not survive."""
    for name, (default, reason) in _WITHOUT_EFFECT.items():
        if getattr(args, name) != default:
            raise ValueError(f"`{name}` has no effect here: {reason}. Leave it out.")
    for name, (default, reason) in _LOADERS.items():
        if getattr(args.accelerator_config, name) != default:
            raise ValueError(f"`accelerator_config` cannot change `{name}`: {reason}. Leave it out.")
    if args.mixed_precision == "fp16" and args.device.type == "cpu":
        raise ValueError("`fp16` needs a GPU, a CPU would compute in float32 all the same: use `bf16` there.")
    _check_checkpointing(args)
    if args.dataloader_multiprocessing_context is not None and not args.dataloader_num_workers:
        raise ValueError("`dataloader_multiprocessing_context` needs `dataloader_num_workers` of at least 1.")


def _check_checkpointing(args: TrainingArguments) -> None:
    for prefix in ("gradient", "activation"):
        name = f"{prefix}_checkpointing"
        if not (kwargs := getattr(args, f"{name}_kwargs", None)):
            continue
        if not any(getattr(args, f"{kind}_checkpointing", False) for kind in ("gradient", "activation")):
            raise ValueError(f"`{name}_kwargs` have no effect without `{name}`: give both.")
        values = torch.ones(1, requires_grad=True)
        try:
            torch.utils.checkpoint.checkpoint(torch.neg, values, **{"use_reentrant": False, **kwargs})
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}_kwargs` {kwargs} do not fit: {error}") from error


_OF_ADAM = {"adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
"""Fields, and under which name the optimizers that use them get them."""


def check_optim_args(args: TrainingArguments, optimizer_of: Callable[[TrainingArguments], tuple]) -> None:
    """`ValueError` for an entry of `optim_args`, or a field for Adam, that the library does not hand to the optimizer,
    whose class and keyword arguments `optimizer_of` gives for arguments."""
    _, kwargs = optimizer_of(args)
    for name, keyword in _OF_ADAM.items():
        if keyword not in kwargs and getattr(args, name) != TrainingArguments.__dataclass_fields__[name].default:
            raise ValueError(f"it does not use `{name}`: leave that out")
    for entry in (args.optim_args or "").replace(" ", "").split(","):
        name, _, _ = entry.partition("=")
        if name in ("lr", "weight_decay"):
            raise ValueError(f"`optim_args` cannot set `{name}`: give `{'learning_rate' if name == 'lr' else name}`")
        if entry and not _is_heard(args, name, optimizer_of):
            raise ValueError(f"it takes no `{name}` from `optim_args` in this version of the library: leave it out")


def _is_heard(args, name: str, optimizer_of) -> bool:
    """Whether a value that cannot be meant is an error, or is handed on."""
    absurd, without = copy.copy(args), copy.copy(args)
    absurd.optim_args, without.optim_args = f"{name}=?", None
    try:
        return optimizer_of(absurd) != optimizer_of(without)
    except (AttributeError, ValueError):
        return True


def check_schedule(args: TrainingArguments, learning_rate: float) -> None:
    """`ValueError` where `lr_scheduler_kwargs` do not fit `lr_scheduler_type`: makes a schedule and forgets it."""
    kind, kwargs = args.lr_scheduler_type, args.lr_scheduler_kwargs
    if kwargs and kind in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
        raise ValueError(
            f"`lr_scheduler_kwargs` have no effect with `lr_scheduler_type` {kind.value}: leave them out."
        )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], learning_rate)
    try:
        get_scheduler(kind, optimizer, num_warmup_steps=0, num_training_steps=10, scheduler_specific_kwargs=kwargs)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` {kwargs or 'none'} do not fit `lr_scheduler_type` {kind.value}: {error}"
        ) from error


def check_attention(name: str) -> None:
    """`ValueError` for a way to compute attention that the library does not know, or that is not installed."""
    with torch.device("meta"):  # no weights are drawn
        model = ECGTransformerModel(ECGTransformerConfig.from_preset("tiny"))
    try:
        model.set_attn_implementation(name)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"`attn_implementation` cannot be `{name}` here: {error}") from error


__all__ = [
    "RANGES",
    "check_attention",
    "check_compiler",
    "check_has_effect",
    "check_is_dictionary",
    "check_is_supported",
    "check_optim_args",
    "check_output_dir",
    "check_ranges",
    "check_reports",
    "check_schedule",
]
