"""Arguments of pre-training: crops, augmentation and the probe, beside the plain `TrainingArguments`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from ..runs.arguments import RunArguments, check_at_least, check_numbers
from .words import WORD_WEIGHTS

REPORT_FIELDS = ("report_column", "report_min_count", "report_weight", "report_word_weights", "contrastive_weight")
"""What only pre-training by reports has."""


@dataclass
class PreTrainingArguments(RunArguments):
    """[`RunArguments`] with the fields of contrastive pre-training."""

    crop_seconds: float | None = field(
        default=None, metadata={"help": "Length of a crop; default: the model's window."}
    )
    crops_per_record: int = field(
        default=2, metadata={"help": "Crops of each record in a step: the positives of each other."}
    )
    lead_mask_probability: float = field(
        default=0.5,
        metadata={
            "help": "Share of a crop's leads that is hidden: each is zero with this probability; where leads have "
            "tokens of their own, this share of them is absent. 0.5 is what Oh et al. (arXiv 2203.06889) use."
        },
    )
    gain: float = field(
        default=0.2, metadata={"help": "Each crop is multiplied by a factor drawn from 1 - gain to 1 + gain."}
    )
    noise: float = field(
        default=0.4,
        metadata={
            "help": "White noise is added to each crop of the normalised signal, its deviation drawn from 0 to this. "
            "With the two below it keeps the device's own noise from telling which crops belong together."
        },
    )
    wander: float = field(
        default=0.5,
        metadata={"help": "A sine of 0.05 to 0.7 Hz is added to each lead, its amplitude drawn from 0 to this."},
    )
    smoothing_seconds: float = field(
        default=0.05, metadata={"help": "Each crop becomes a moving average over a time drawn from 0 to this."}
    )
    contrastive_temperature: float | None = field(
        default=None, metadata={"help": "Divides the similarities of crops; default: the model's, 0.1 in a new one."}
    )
    report_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the records' reports, whose words the encoder learns to tell beside the contrast of "
            "crops: of `--table`, or `report` of PTB-XL. Records without a text have the contrast alone."
        },
    )
    report_min_count: int = field(
        default=20, metadata={"help": "Words are learned that occur in the reports of at least so many records."}
    )
    report_weight: float = field(
        default=1.0, metadata={"help": "Factor of the words' loss: the mean binary cross-entropy over words."}
    )
    report_word_weights: str = field(
        default="none",
        metadata={
            "help": "How much each word counts: `none`, all the same, or `rarity`, by the inverse square root of the "
            "number of reports that have it; 1 on average."
        },
    )
    contrastive_weight: float = field(
        default=1.0,
        metadata={
            "help": "Factor of the contrastive loss beside `--report_column`; 0: words alone, of records with a text, "
            "for which `--crops_per_record 1` is enough."
        },
    )
    probe_every: int = field(
        default=5, metadata={"help": "Epochs between two linear probes of the encoder; 0: never."}
    )
    probe_task: str = field(
        default="superdiagnostic", metadata={"help": "PTB-XL's task whose labels the probe reads."}
    )
    probe_fold: int = field(
        default=8,
        metadata={
            "help": "PTB-XL's fold that the probe is evaluated on; it is fitted on the folds before. Of folds 1 to 8 "
            "the encoder has seen the records, never the labels, but with `--report_column` the reports that these "
            "were made from. 9 reads the validation fold, for the probe alone."
        },
    )
    probe_max_train_records: int = field(
        default=4000, metadata={"help": "Records that the probe is fitted on, drawn with `--seed`."}
    )
    collapse_feature_std: float = field(
        default=0.02,
        metadata={"help": "Stop when, after the warm-up, the deviation of the features between two logs is less."},
    )

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share of all if below 1."})
    num_train_epochs: float = field(default=100, metadata={"help": "Passes over the records."})
    per_device_train_batch_size: int = field(
        default=256, metadata={"help": "Records in one step on one device: the crops of all others are negatives."}
    )
    # A string for the parser alone, so that it can be None; afterwards a number or None.
    save_total_limit: str | None = field(
        default=2, metadata={"help": "Checkpoints kept, each thrice the model; `None` keeps all."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Must stay true: a last, small batch has too few negatives."}
    )

    def __post_init__(self):
        check_numbers(self)
        limits = {"lead_mask_probability": 1, "gain": 1, "noise": math.inf, "wander": math.inf, "smoothing_seconds": 1}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"`{name}` must lie in [0, {limit}), got {getattr(self, name)}.")
        _check_report_fields(self)
        fewest = 2 if self.contrastive_weight else 1
        if self.crops_per_record < fewest:
            partner = ": one has no partner" if fewest == 2 else ""
            raise ValueError(f"`crops_per_record` must be at least {fewest}, got {self.crops_per_record}{partner}.")
        if not 2 <= self.probe_fold <= 9:
            raise ValueError(
                f"`probe_fold` must lie between 2 and 9, got {self.probe_fold}: fold 10 is for the test alone."
            )
        if not self.dataloader_drop_last:
            raise ValueError("`dataloader_drop_last` must be true: a last, small batch has too few negatives.")
        if getattr(self.eval_strategy, "value", self.eval_strategy) != "no":
            raise ValueError("`eval_strategy` must be `no`: pre-training has no evaluation records, but a probe.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` is not supported: pre-training has no labels. Leave it at 0.")
        if self.push_to_hub:
            raise ValueError("`push_to_hub` is not supported in pre-training: push the folder that it leaves.")
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"Pre-training uses {self.n_gpu} GPUs by a process for each, as only processes compare their records "
                f"with each other: start it by `torchrun --nproc_per_node {self.n_gpu} -m ecg_hf.cli pretrain ...`, "
                "or leave one GPU visible by `CUDA_VISIBLE_DEVICES=0`."
            )
        if self.contrastive_weight and self.world_size * self.per_device_train_batch_size < 2:
            raise ValueError(
                "One record in a batch has no other to be told from: set `per_device_train_batch_size` to 2 or more."
            )

    def recipe(self) -> dict:
        """As in [`RunArguments`]; runs without reports have none of their fields."""
        left_out = () if self.report_column is not None else REPORT_FIELDS
        return {name: value for name, value in super().recipe().items() if name not in left_out}


def _check_report_fields(args: PreTrainingArguments) -> None:
    if args.report_column is None:
        defaults = {item.name: item.default for item in fields(args)}
        given = [name for name in REPORT_FIELDS if getattr(args, name) != defaults[name]]
        if given:
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in given)} can only be set with `report_column`, the column of the "
                "records' reports: give it, or leave the others out."
            )
    check_at_least("report_min_count", args.report_min_count, 1)
    if not 0 < args.report_weight < math.inf:
        raise ValueError(f"`report_weight` must be above 0 and finite, got {args.report_weight}.")
    if not 0 <= args.contrastive_weight < math.inf:
        raise ValueError(f"`contrastive_weight` must be at least 0 and finite, got {args.contrastive_weight}.")
    if args.report_word_weights not in WORD_WEIGHTS:
        raise ValueError(
            f"`report_word_weights` must be {' or '.join(WORD_WEIGHTS)}, got `{args.report_word_weights}`."
        )


__all__ = ["PreTrainingArguments"]
