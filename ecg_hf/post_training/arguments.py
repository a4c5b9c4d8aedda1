"""Arguments of post-training: `probe_*` for the linear probe, the plain `TrainingArguments` for fine-tuning.

`lora_*` are for the stage `lora`, which the plain ones serve too, but for `learning_rate`.
"""

from __future__ import annotations

import copy
import importlib.util
import pathlib
from dataclasses import dataclass, field

from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..ecg_transformer.configuration_ecg_transformer import WINDOW_AGGREGATIONS
from ..runs.arguments import RunArguments, check_at_least, check_numbers, given_fields

logger = logging.get_logger(__name__)

STAGE_NAMES = ("probe", "finetune", "lora")
# Of all kinds of targets; `ecg_hf.post_training.targets` says which belong to which.
EVALUATION_METRICS = ("accuracy", "mae", "r2", "macro_auroc", "macro_auprc", "f_max", "loss")
LOWER_IS_BETTER = ("mae", "loss")


@dataclass
class PostTrainingArguments(RunArguments):
    """[`RunArguments`] of fine-tuning, with the fields of the stage before it.

    The defaults differ from the library's where the method says so: evaluation and saving once an epoch, the best
    epoch by validation macro AUROC, a cosine schedule with 10 % warm-up, weight decay 0.05 (DeiT, arXiv 2012.12877).
    """

    stages: list[str] = field(
        default_factory=lambda: ["probe", "finetune"],
        metadata={
            "help": "Stages in order: `probe` (only the head learns, on frozen features), then `finetune` (all "
            "learns) or `lora` (the head and low-rank adapters of the blocks learn; needs the extra `peft`)."
        },
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
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps the features of the probe for other runs on the same records with the same "
            "encoder: another head is then fitted in seconds. Default: `features` in `--cache_dir`, if that is given."
        },
    )
    lora_rank: int = field(
        default=8,
        metadata={"help": "Rank of the adapters, which must be at least 1; 8 is the default of `peft`."},
    )
    lora_alpha: float = field(
        default=16.0,
        metadata={"help": "An adapter is scaled by this number divided by its rank: 16 scales that of rank 8 by 2."},
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the input of the adapters."})
    lora_learning_rate: float = field(
        default=3e-3,
        metadata={
            "help": "Peak learning rate of stage `lora`. Measured with 1,400 records of PTB-XL: macro AUROC .884, and "
            ".879 at 1e-3, .875 at 3e-4; with 350: .876, .873, .877 (500 validation records, one seed)."
        },
    )
    lora_mlp: bool = field(
        default=False, metadata={"help": "Adapters also in the MLP of each block, not in its attention alone."}
    )
    # A string for the parser alone, so that it can be None; afterwards a number or None.
    drop_path_rate: str | None = field(
        default=0.1,
        metadata={
            "help": "Stochastic depth of fine-tuning and LoRA: the rate of the last block, linear from 0 at the "
            "first. `None` keeps the model's. 0.1 is what DeiT uses for small models; the paper's value is not known."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Each layer learns at this factor times the rate of the layer above it; 1 is off."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate and keep an exponential moving average of fine-tuning's weights, with this decay a step "
            "(0.999 averages over about 1,000 steps; shorter at the beginning). By default no average."
        },
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Fine-tune on means of two windows of a batch and of their labels, by shares from Beta(alpha, "
            "alpha), as 0.2; 0 is off. For several labels alone."
        },
    )
    teacher_predictions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Distillation: tables of the training records' probabilities by other models, as `ecg-hf evaluate "
            "--split train` writes them. Fine-tuning learns from their mean and from the labels. For several labels "
            "alone."
        },
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "Weight of the teachers' probabilities; the labels have the rest."}
    )
    keep_best_stage: bool = field(
        default=True,
        metadata={
            "help": "Publish the probe where the stage after it ends below it, by `metric_for_best_model` on the "
            "validation records. False publishes the last stage."
        },
    )
    eval_overlap: bool = field(
        default=True,
        metadata={
            "help": "Evaluate on overlapping windows also between epochs. False leaves out the overlap there, which "
            "takes less than half the time, and the figures of epochs no longer begin at those of the probe; the "
            "probe, thresholds and final metrics use all windows either way."
        },
    )
    window_aggregation: str | None = field(
        default=None,
        metadata={
            "help": "How the outputs of a record's windows become one: `mean_logit`, `mean_probability` or "
            "`max_probability`. By default the model's, `mean_logit` with a new head. Training stays the same, but "
            "not the figures of records. Kept in the checkpoint."
        },
    )
    num_bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples of the confidence intervals of validation and test metrics."}
    )

    push_to_hub: bool = field(
        default=False, metadata={"help": "Publish the finished run on the Hub, as `--hub_model_id`."}
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of fine-tuning."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or their share of all if below 1."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Records in one step on one device."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `epoch` or `steps`."})
    # A string as above.
    save_total_limit: str | None = field(
        default=1, metadata={"help": "Checkpoints kept beside the best one; `None` keeps all."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best epoch's weights."})
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "Validation metric that selects the best epoch. Several labels: macro_auroc (the default), "
            "macro_auprc, f_max or loss; one of several classes: macro_auroc (the default), accuracy or loss; "
            "regression: mae (the default), r2 or loss."
        },
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Fixed: `labels`."})

    def __post_init__(self):
        check_numbers(self)
        # The trainer, which knows the targets, settles it.
        self.metric_is_open = self.metric_for_best_model is None
        self.metric_for_best_model = self.metric_for_best_model or "macro_auroc"
        self._check_stages()
        if self.drop_path_rate is not None and not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate` must lie in [0, 1), got {self.drop_path_rate}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must lie in (0, 1], got {self.layer_decay}.")
        counts = (self.probe_num_train_epochs, self.probe_train_batch_size)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError("`probe_num_train_epochs` and `probe_train_batch_size` must be at least 1.")
        check_at_least("num_bootstrap_resamples", self.num_bootstrap_resamples, 2)
        if self.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` is not supported: with several labels for a record there is no smoothed "
                "target that probe and fine-tuning share. Leave it at 0."
            )
        if self.label_names != ["labels"]:
            raise ValueError("`label_names` must be `labels`: so the column of a data set's labels is called.")
        check_choice("metric_for_best_model", self.metric_for_best_model.removeprefix("eval_"), EVALUATION_METRICS)
        if self.window_aggregation is not None:
            check_choice("window_aggregation", self.window_aggregation, WINDOW_AGGREGATIONS)
        self._check_direction()
        self.greater_is_better = not self._lower_is_better
        if self.push_to_hub and self.hub_strategy not in ("end", "every_save"):
            raise ValueError("`hub_strategy` must be `end`: half-trained weights are not published.")
        self.hub_strategy = "end"
        self._check_evaluations()
        super().__post_init__()
        self._check_lora()
        self._check_soft_targets()
        self._warn_of_absent_stages()
        if isinstance(self.resume_from_checkpoint, str):
            raise ValueError(
                f"`resume_from_checkpoint` is true or false, got `{self.resume_from_checkpoint}`: a run is resumed in "
                "its own `output_dir`, whichever stage it was in."
            )

    def _check_evaluations(self) -> None:
        """In the place of the library, whose message has three lines and no remedy."""
        evaluates, saves = IntervalStrategy(self.eval_strategy).value, SaveStrategy(self.save_strategy).value
        if self.load_best_model_at_end and (evaluates == "no" or saves not in ("best", evaluates)):
            raise ValueError(
                f"The best epoch cannot be kept with `eval_strategy` {evaluates} and `save_strategy` {saves}: let "
                "both be `epoch` or both `steps`, or keep the last epoch by `--load_best_model_at_end false`."
            )

    def recipe(self) -> dict:
        """As in [`RunArguments`]; fields of LoRA, mixup and distillation are part of it only where these are used."""
        values = super().recipe()
        unused = set() if self.mixup_alpha else {"mixup_alpha"}
        if self.teacher_predictions:
            values["teacher_predictions"] = [pathlib.Path(path).name for path in self.teacher_predictions]
        else:
            unused.add("distillation_weight")
        if "lora" not in self.stages:
            unused |= {name for name in values if name.startswith("lora_")}
        return {name: value for name, value in values.items() if name not in unused}

    def _check_soft_targets(self) -> None:
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must lie in (0, 1), got {self.ema_decay}.")
        if self.mixup_alpha < 0:
            raise ValueError(f"`mixup_alpha` must be 0 or more, got {self.mixup_alpha}.")
        if not 0 < self.distillation_weight <= 1:
            raise ValueError(f"`distillation_weight` must lie in (0, 1], got {self.distillation_weight}.")
        if self.distillation_weight != 0.5 and not self.teacher_predictions:
            raise ValueError("`distillation_weight` has no effect without `teacher_predictions`: give both.")
        given = [name for name in ("ema_decay", "mixup_alpha", "teacher_predictions") if getattr(self, name)]
        if given and "finetune" not in self.stages:
            raise ValueError(f"`{given[0]}` is for the stage `finetune`, which is not among `stages`: leave it out.")

    def _check_stages(self) -> None:
        if {"finetune", "lora"} <= set(self.stages):
            raise ValueError(
                "`stages` cannot have both finetune and lora: fine-tuning would change the weights that the adapters "
                "belong to. Start another run from the folder of the first by `--model_name_or_path`."
            )
        unknown = [name for name in self.stages if name not in STAGE_NAMES]
        if unknown or not self.stages or list(self.stages) != [name for name in STAGE_NAMES if name in self.stages]:
            raise ValueError(
                "`stages` must be one or both of probe, finetune, in this order, or lora in place of finetune; got "
                f"{', '.join(self.stages) or 'none'}."
            )

    def _warn_of_absent_stages(self) -> None:
        """Of settings of a stage that the run has not: of a whole recipe, which may be carried out in part."""
        if self.stages == ["probe"]:
            absent, names = "fine-tuning", ("learning_rate", "num_train_epochs", "layer_decay", "drop_path_rate")
        elif "probe" not in self.stages:
            absent, names = "the probe", ("probe_learning_rate", "probe_weight_decay", "probe_train_batch_size")
        else:
            return
        if given := [f"`{name}`" for name in given_fields(self, names)]:
            logger.warning(
                f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for {absent}, which is not among `stages` "
                f"({', '.join(self.stages)}): without effect."
            )

    def _check_lora(self) -> None:
        given = [name for name in given_fields(self) if name.startswith("lora_")]
        if "lora" not in self.stages:
            if given:
                raise ValueError(f"`{given[0]}` is for the stage `lora`, which is not among `stages`: add it there.")
            return
        check_at_least("lora_rank", self.lora_rank, 1)
        if not self.lora_alpha > 0:
            raise ValueError(f"`lora_alpha` must be above 0, got {self.lora_alpha}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must lie in [0, 1), got {self.lora_dropout}.")
        if self.layer_decay != 1:
            raise ValueError(
                f"`layer_decay` must be 1 with the stage `lora`, got {self.layer_decay}: adapters begin at zero in "
                "all layers, and learn at one rate."
            )
        for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
            if (getattr(self, name, None) or {}).get("use_reentrant"):
                raise ValueError(
                    f"`{name}` cannot ask for `use_reentrant` with the stage `lora`: adapters in blocks whose input "
                    "has no gradient would not learn. Leave it out."
                )
        if given_fields(self, ["learning_rate"]):
            logger.warning(
                f"`learning_rate` {self.learning_rate:g} is that of fine-tuning, which is not among `stages`: the "
                f"stage `lora` learns at `lora_learning_rate` {self.lora_learning_rate:g}."
            )
        if importlib.util.find_spec("peft") is None:
            raise ImportError("The stage `lora` needs the package peft: pip install 'ecg-hf[peft]'.")

    @property
    def peak_learning_rate(self) -> float:
        """That of the stage of gradient descent."""
        return self.lora_learning_rate if "lora" in self.stages else self.learning_rate

    def without_training(self) -> PostTrainingArguments:
        """A copy for `predict` and `evaluate` alone: the library asks for records to choose an epoch by."""
        args = copy.copy(self)
        args.eval_strategy = args.save_strategy = IntervalStrategy.NO
        args.load_best_model_at_end = False
        return args

    def choose_by(self, metric: str) -> None:
        """Let the validation metric `metric` select the best epoch."""
        self.metric_for_best_model = metric
        self.greater_is_better = not self._lower_is_better

    @property
    def _lower_is_better(self) -> bool:
        return self.metric_for_best_model.removeprefix("eval_") in LOWER_IS_BETTER

    def _check_direction(self) -> None:
        better = not self._lower_is_better
        if self.greater_is_better not in (None, better):
            raise ValueError(
                f"`greater_is_better` must be {better} for `{self.metric_for_best_model}`: leave it out, or the worst "
                "epoch would be kept."
            )


__all__ = ["PostTrainingArguments"]
