"""Arguments of post-training: `probe_*` for the linear probe, the plain `TrainingArguments` for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..runs.arguments import RunArguments, check_at_least, check_numbers

STAGE_NAMES = ("probe", "finetune")
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
    keep_best_stage: bool = field(
        default=True,
        metadata={
            "help": "Publish the probe where fine-tuning ends below it, by `metric_for_best_model` on the validation "
            "records. False publishes the last stage."
        },
    )
    num_bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples of the confidence intervals of the test metrics."}
    )

    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of fine-tuning."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or their share of all if below 1."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Records in one step on one device."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `epoch` or `steps`."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best one."})
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
        check_at_least("num_bootstrap_resamples", self.num_bootstrap_resamples, 2)
        if self.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` is not supported: with several labels for a record there is no smoothed "
                "target that probe and fine-tuning share. Leave it at 0."
            )
        if self.label_names != ["labels"]:
            raise ValueError("`label_names` must be `labels`: so the column of a data set's labels is called.")
        check_choice("metric_for_best_model", self.metric_for_best_model.removeprefix("eval_"), EVALUATION_METRICS)
        self._check_direction()
        self.greater_is_better = not self._lower_is_better
        if self.push_to_hub and self.hub_strategy not in ("end", "every_save"):
            raise ValueError("`hub_strategy` must be `end`: half-trained weights are not published.")
        self.hub_strategy = "end"
        super().__post_init__()
        if isinstance(self.resume_from_checkpoint, str):
            raise ValueError(
                f"`resume_from_checkpoint` is true or false, got `{self.resume_from_checkpoint}`: a run is resumed in "
                "its own `output_dir`, whichever stage it was in."
            )

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
