"""Arguments of post-training: `probe_*` for the linear probe, the plain `TrainingArguments` for fine-tuning."""

from __future__ import annotations

import dataclasses
import typing
import warnings
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

STAGE_NAMES = ("probe", "finetune")
EVALUATION_METRICS = ("macro_auroc", "macro_auprc", "f_max", "loss")

OPTIMIZATION_FIELDS = (
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "seed",
)

# What makes two runs different: written to `recipe.yaml`, and compared when a run is resumed.
RECIPE_FIELDS = (
    "stages",
    "probe_learning_rate",
    "probe_weight_decay",
    "probe_num_train_epochs",
    "probe_train_batch_size",
    "drop_path_rate",
    "layer_decay",
    "metric_for_best_model",
    *OPTIMIZATION_FIELDS,
)


@dataclass
class PostTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] of fine-tuning, with the fields of the stage before it.

    The defaults differ from the library's where the method says so: evaluation and saving once an epoch, the best
    epoch by validation macro AUROC, a cosine schedule with 10 % warm-up, weight decay 0.05 (DeiT, arXiv 2012.12877).
    """

    stages: list[str] = field(
        default_factory=lambda: list(STAGE_NAMES),
        metadata={"help": "Stages in order: `probe` (only the head learns, on frozen features), `finetune`."},
    )
    probe_learning_rate: float = field(
        default=1e-3,
        metadata={"help": "AdamW learning rate of the probe's head; 1e-3 is the value of Weimann's ECG-JEPA probe."},
    )
    probe_weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of the probe's head."})
    probe_num_train_epochs: int | None = field(
        default=None,
        metadata={
            "help": "Passes of the probe over the cached features; by default 20, with few records as many as make "
            "1000 steps."
        },
    )
    probe_train_batch_size: int = field(default=512, metadata={"help": "Windows in one step of the probe."})
    drop_path_rate: float | None = field(
        default=0.1,
        metadata={
            "help": "Stochastic depth of fine-tuning: the rate of the last block, linear from 0 at the first. `None` "
            "keeps the model's. 0.1 is what DeiT uses for small models; the paper's value is not known."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Each layer learns at this factor times the rate of the layer above it; 1 is off."},
    )
    expect_world_size: int | None = field(
        default=None, metadata={"help": "Stop at once unless this many processes were started."}
    )
    num_bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples of the confidence intervals of the test metrics."}
    )

    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of fine-tuning."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of fine-tuning, on matrices only."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of fine-tuning."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or their share of all if below 1."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Records in one step on one device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Records in one evaluation batch."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the training log."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `epoch` or `steps`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; the same as `eval_strategy`."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best epoch's weights."})
    metric_for_best_model: str = field(
        default="macro_auroc",
        metadata={"help": f"Validation metric that chooses the epoch: {', '.join(EVALUATION_METRICS)}."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: windows need all columns."})
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Fixed: `labels`."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Every parameter has a gradient in every step, so there is nothing to find."}
    )

    def __post_init__(self):
        check_numbers(self)
        self.resume_from_checkpoint = _as_flag(self.resume_from_checkpoint, "resume_from_checkpoint")
        unknown = [name for name in self.stages if name not in STAGE_NAMES]
        if unknown or not self.stages or list(self.stages) != [name for name in STAGE_NAMES if name in self.stages]:
            raise ValueError(
                f"`stages` must be one or both of {', '.join(STAGE_NAMES)}, in this order; got "
                f"{', '.join(self.stages) or 'none'}."
            )
        if self.drop_path_rate is not None and not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {self.drop_path_rate}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must lie in (0, 1], got {self.layer_decay}.")
        counts = (self.probe_num_train_epochs, self.probe_train_batch_size)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError("`probe_num_train_epochs` and `probe_train_batch_size` must be at least 1.")
        if self.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` is not supported: with several labels for a record there is no smoothed "
                "target that probe and fine-tuning share. Leave it at 0."
            )
        if self.remove_unused_columns or self.label_names != ["labels"]:
            raise ValueError("`remove_unused_columns` must be false and `label_names` `labels`: windows need them so.")
        metric = self.metric_for_best_model.removeprefix("eval_")
        if metric not in EVALUATION_METRICS:
            raise ValueError(
                f"`metric_for_best_model` must be one of {', '.join(EVALUATION_METRICS)}, got `{metric}`."
            )
        if self.push_to_hub and self.hub_strategy not in ("end", "every_save"):
            raise ValueError("`hub_strategy` must be `end`: half-trained weights are not published.")
        self.hub_strategy = "end"
        super().__post_init__()
        check_world_size(self)
        warn_of_slow_bf16(self)

    def recipe(self) -> dict:
        """The fields that make a run what it is, as plain values."""
        values = self.to_dict()
        return {name: values[name] for name in RECIPE_FIELDS}


def check_numbers(args: TrainingArguments) -> None:
    """`TypeError` for a string where a number is expected."""
    # Not `field.type`, which HfArgumentParser overwrites.
    hints = typing.get_type_hints(type(args))
    for item in dataclasses.fields(args):
        value = getattr(args, item.name)
        kinds = set(typing.get_args(hints[item.name])) or {hints[item.name]}
        if kinds <= {int, float, type(None)} and isinstance(value, str):
            raise TypeError(
                f"`{item.name}` is the string '{value}' where a number is expected; YAML needs 1.0e-3 or 0.001 for "
                "1e-3."
            )


def check_world_size(args: TrainingArguments) -> None:
    """`ValueError` unless as many processes were started as `args.expect_world_size` says."""
    if args.expect_world_size is not None and args.expect_world_size != args.world_size:
        raise ValueError(
            f"Asked for {args.expect_world_size} processes but the world size is {args.world_size}; start with "
            "`torchrun` or `accelerate launch --multi_gpu`, or see the launch section of the README."
        )


def warn_of_slow_bf16(args: TrainingArguments) -> None:
    """A warning where bfloat16 is asked for on a processor that has to emulate it."""
    if args.bf16 and args.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(
            "This processor has no arithmetic for bfloat16, so a step takes about ten times as long as in float32: "
            "pass `--bf16 false`.",
            stacklevel=3,
        )


def _as_flag(value: bool | str | None, name: str) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(
        f"`{name}` is true or false, got `{value}`: a run goes on in its own `output_dir`, whichever stage it was in."
    )


__all__ = ["OPTIMIZATION_FIELDS", "PostTrainingArguments", "check_numbers", "check_world_size", "warn_of_slow_bf16"]
