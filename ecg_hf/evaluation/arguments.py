"""The flags of `ecg-hf evaluate`, beside those of the records."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..ptbxl.table import FOLDS
from ..runs.arguments import check_at_least, check_numbers, given_fields

_TARGETS = ("target_sensitivity", "target_specificity")
# What has a place only in the report.
_OF_REPORT = ("subgroup_columns", "robustness", "fit_temperature", *_TARGETS)


@dataclass
class EvaluationArguments:
    """A trained checkpoint and the records to judge it on."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of a post-trained checkpoint."})
    output_dir: str = field(
        metadata={"help": "Where `report.md`, `report.json`, `figures`, `metrics.json` and `predictions.csv` go."}
    )
    split: str = field(default="test", metadata={"help": "train, validation or test."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Records in one batch."})
    num_bootstrap_resamples: int = field(default=1000, metadata={"help": "Resamples of the intervals."})
    use_cpu: bool = field(default=False, metadata={"help": "Do not use a GPU."})
    report: bool = field(default=True, metadata={"help": "False writes `metrics.json` and `predictions.csv` alone."})
    target_sensitivity: float = field(
        default=0.9, metadata={"help": "A threshold of each label has at least this sensitivity on validation."}
    )
    target_specificity: float = field(
        default=0.9, metadata={"help": "Another has at least this specificity on validation."}
    )
    fit_temperature: bool = field(
        default=False,
        metadata={"help": "Judge the model at the temperature that fits the validation records best."},
    )
    update_model: bool = field(
        default=False,
        metadata={"help": "Write that temperature, and the thresholds of the best F1 at it, into the checkpoint."},
    )
    compare_with: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of another checkpoint with the same labels, judged on the same records: the "
            "differences have intervals, in pairs."
        },
    )
    subgroup_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the records' table whose groups are judged by themselves; by default sex, age, "
            "device, site and PTB-XL's signal quality, where there are such."
        },
    )
    robustness: bool = field(
        default=False,
        metadata={"help": "Judge the model on the same records with faults and noise, in some twenty passes."},
    )
    robustness_max_records: int | None = field(
        default=None, metadata={"help": "Maximum number of records, drawn at random, for these passes."}
    )

    def __post_init__(self):
        check_numbers(self)
        check_choice("split", self.split, FOLDS)
        check_at_least("num_bootstrap_resamples", self.num_bootstrap_resamples, 2)
        check_at_least("robustness_max_records", self.robustness_max_records, 1)
        for name in _TARGETS:
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")
        if not self.report and (given := given_fields(self, _OF_REPORT)):
            raise ValueError(f"`--{given[0]}` is for the report: leave `--report false` out.")
        if self.update_model and not self.fit_temperature:
            raise ValueError("`--update_model` writes what `--fit_temperature` finds: give both.")
        if self.robustness_max_records is not None and not self.robustness:
            raise ValueError("`--robustness_max_records` is for `--robustness`: give both.")

    def given_targets(self) -> list[str]:
        """The rates that thresholds shall reach, where they are not as by default."""
        return given_fields(self, _TARGETS)


__all__ = ["EvaluationArguments"]
