"""PreTrainer: contrastive pre-training on crops of records, beside words of their reports where these are asked for,
with the encoder's quality read along the way."""

from __future__ import annotations

import copy
import math
from dataclasses import fields

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

from ..cards import UNKNOWN_FOLD, folds_in_words, package_versions
from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForPreTraining
from ..files import write_atomic
from ..runs.columns import check_columns, check_is_dataset, num_patients, unformatted
from ..runs.parts import check_extractor, check_is_of, check_model
from ..runs.provenance import note_pretraining
from ..runs.shards import ShardedRecords
from ..runs.timing import FirstSteps
from ..runs.trainer import REFUSED_KEYWORDS, RunTrainer, accepted_keywords
from ..runs.windows import EvaluationWindows
from .arguments import PreTrainingArguments
from .crops import Augmentation, Crops
from .probe import LinearProbe
from .records import REPORT
from .reports import header, plan
from .timing import probe_seconds
from .words import ReportWords, word_loss

STAGE = "pretrain"
WORDS_FILE = "report_words.csv"
"""In the folder of a finished run: the words that were learned, and in how many reports each occurs."""
OWN_RECORDS = {
    "name": "own records",
    "simulated": False,
    "license": None,
    "citation": None,
    "homepage": None,
    "ptbxl_folds": [UNKNOWN_FOLD],
}


class CollapseError(RuntimeError):
    """All crops are mapped to nearly the same feature, or to none: there is nothing left to learn from."""


class PreTrainer(RunTrainer):
    """A [`Trainer`] whose `pretrain()` trains an encoder without labels and leaves it in `args.output_dir`.

    Args:
        model ([`ECGTransformerForPreTraining`]): The encoder with its projection head.
        args ([`PreTrainingArguments`])
        train_dataset (`datasets.Dataset` or [`ShardedRecords`]): Records with the columns of [`load_records`], with
            `args.report_column` also `report`, their texts, null or blank where there is none; or records in shards
            that are read while training, which are prepared in each batch.
        feature_extractor ([`ECGTransformerFeatureExtractor`]): Makes crops of records, and is saved with the encoder.
        probe ([`LinearProbe`], *optional*): Called before the first epoch and every `args.probe_every` epochs.
        recipe (`dict`, *optional*): Further facts of the run for `recipe.yaml`; compared when the run is resumed.
        data (`dict`, *optional*): The records' `name`, `simulated`, `license`, `citation`, `homepage`, for the card,
            and `ptbxl_folds`: of which folds of PTB-XL records are among them, `"unknown"` where that is not known.

    Further keyword arguments go to [`Trainer`].
    """

    def __init__(
        self,
        *,
        model: ECGTransformerForPreTraining,
        args: PreTrainingArguments,
        train_dataset: datasets.Dataset | ShardedRecords,
        feature_extractor: ECGTransformerFeatureExtractor,
        probe: LinearProbe | None = None,
        recipe: dict | None = None,
        data: dict | None = None,
        **kwargs,
    ):
        check_is_of(args, PreTrainingArguments)
        refused = {
            **REFUSED_KEYWORDS,
            "compute_loss_func": "pre-training has its own loss",
            "eval_dataset": "pre-training has no evaluation records, but a `probe`",
        }
        kwargs = accepted_keywords(kwargs, refused)
        check_model(model, "projection_head", "AutoModelForPreTraining")
        check_extractor(model, feature_extractor)
        check_is_dataset("train_dataset", train_dataset)
        check_columns(train_dataset, Crops.columns)
        train_dataset = unformatted(train_dataset)
        if args.contrastive_temperature is not None:
            model.config.contrastive_temperature = args.contrastive_temperature
        self.reports, train_dataset = _reports(train_dataset, args)
        _check_records(train_dataset, args)
        model.set_report_words(None if self.reports is None else torch.from_numpy(self.reports.log_odds()))
        if not args.contrastive_weight:
            model.projection_head.requires_grad_(False)  # it takes no part
        self.probe = probe
        self.data = {**OWN_RECORDS, **(data or {})}
        self._steps: list[dict[str, torch.Tensor]] = []  # what is logged of each step since the last log
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            feature_extractor=feature_extractor,
            recipe=recipe,
            **kwargs,
        )
        if self.reports is not None:
            weights = torch.from_numpy(self.reports.weights(args.report_word_weights)).float()
            self._word_weights = weights.to(args.device)
        records = _description(self.data, len(train_dataset))
        reports = None if self.reports is None else f"{self.reports.in_words()}, of {records}"
        note_pretraining(model.config, records, self.data["ptbxl_folds"], reports)
        self.add_callback(FirstSteps(self, probe_seconds))
        if probe is not None and args.probe_every:
            self.add_callback(_Probe(self))

    def training_windows(self, dataset: datasets.Dataset | ShardedRecords) -> Crops:
        extractor = self.processing_class
        if self.args.crop_seconds is not None:
            extractor = copy.deepcopy(extractor)
            extractor.num_samples = round(self.args.crop_seconds * extractor.sampling_rate)
            extractor.window_stride = None
        augmentation = Augmentation(**{item.name: getattr(self.args, item.name) for item in fields(Augmentation)})
        return Crops(
            dataset,
            extractor,
            augmentation,
            self.args.seed,
            self.args.crops_per_record,
            reports=self.reports,
            **self.preparation_of(dataset),
        )

    def evaluation_windows(self, dataset: datasets.Dataset, feature_extractor, **kwargs) -> EvaluationWindows:
        raise ValueError("Pre-training has no evaluation records: give it a `probe`.")

    def data_fingerprints(self) -> dict[str, str | list[str]]:
        dataset = self.train_dataset
        columns = Crops.columns if self.reports is None else (*Crops.columns, REPORT)
        words = {} if self.reports is None else {"report_words": self.reports.words}
        return {"train": self.fingerprint_of(dataset, columns), **self.order_facts(dataset), **words}

    def pretrain(self, resume_from_checkpoint: bool | str | None = None) -> dict[str, float]:
        """Train, write the encoder and its curves into `args.output_dir`, and return what `all_results.json` holds.

        With `resume_from_checkpoint` (or the argument of that name) true, a stopped run is resumed from its last
        complete checkpoint, and a finished one returns its results; with the name of a checkpoint, from that one. With
        `args.dry_run` it only prints what it would do, and returns nothing.
        """
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        try:
            self.check_arguments()
            if self.args.dry_run:
                return self.say_plan(plan(self), resume)
            results = self.open_run(resume)
            if results is not None:
                return results
            self.say(header(self))
            self.enter_stage(STAGE)
            self._steps.clear()
            self.train_stage(resume, keep_start=True)
            return self._finish()
        finally:
            self.close_run()

    # ---- Loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        targets = inputs.get("report_words")
        left_out = {"report_words"} if self.args.contrastive_weight else {"report_words", "record_ids", "patient_ids"}
        outputs = model(**{name: values for name, values in inputs.items() if name not in left_out})
        figures = {"accuracy": outputs.accuracy, "feature_std": outputs.feature_std}
        loss = outputs.loss
        if targets is not None:
            figures |= {"contrastive_loss": loss, "word_loss": self._word_loss(outputs.word_logits, targets)}
            loss = self.args.report_weight * figures["word_loss"]
            if self.args.contrastive_weight:
                loss = loss + self.args.contrastive_weight * outputs.loss
        self._steps.append({name: value.detach() for name, value in figures.items() if value is not None})
        return (loss, outputs) if return_outputs else loss

    def _word_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the crops with a report of all processes, whose gradients are averaged."""
        with_text = (targets[:, 0] != UNKNOWN_LABEL).sum().float()
        share = self.accelerator.reduce(with_text, "mean").clamp(min=1 / self.args.world_size)
        return word_loss(logits, targets, self._word_weights, share)

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._steps:
            figures = torch.stack([torch.stack(list(step.values())) for step in self._steps]).mean(dim=0)
            if self.reports is not None:  # each process knows its own words
                figures = self.accelerator.reduce(figures, "mean")
            logs |= dict(zip(self._steps[0], figures.tolist(), strict=True))
            self._steps.clear()
        super().log(logs, start_time)
        if "feature_std" in logs:
            self._check_collapse(logs)

    def _check_collapse(self, logs: dict[str, float]) -> None:
        warm = self.state.global_step > self.args.get_warmup_steps(self.state.max_steps)
        if math.isfinite(logs["feature_std"]) and (not warm or logs["feature_std"] >= self.args.collapse_feature_std):
            return
        raise CollapseError(
            f"The features have collapsed: at step {self.state.global_step} their deviation is "
            f"{logs['feature_std']:.2g} (loss {logs['loss']:.3g}), less than `collapse_feature_std` "
            f"({self.args.collapse_feature_std}). Use a lower `learning_rate`, more `warmup_steps`, or larger batches."
        )

    # ---- The final files ----

    def _finish(self) -> dict[str, float]:
        """The encoder without its projection head, results and curves; `config.json` moves in last."""
        results = {"num_records": len(self.train_dataset), "epochs": self.state.epoch}
        latest = {name: value for entry in self.state.log_history for name, value in entry.items()}
        names = ("loss", "contrastive_loss", "word_loss", "accuracy", "feature_std")
        names = (*names, "probe_macro_auroc", "probe_macro_auprc")
        results.update({name: latest[name] for name in names if name in latest})
        results.update(pretrain_seconds=round(self.stage_seconds(), 2), world_size=self.args.world_size)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        num_words = vars(model.config).pop("num_report_words", None)  # the encoder has no head
        folder = self.begin_final_files(model.base_model, prefix=f"{model.base_model_prefix}.")
        if num_words is not None:
            model.config.num_report_words = num_words
        if self.is_world_process_zero():
            if self.reports is not None:
                write_atomic(folder / WORDS_FILE, self.reports.as_csv())
            self.publish_final_files(folder, results, self._metrics())
        self.accelerator.wait_for_everyone()
        return results

    def _metrics(self) -> dict:
        """What `metrics.json` holds: the data, the first and the last reading of the probe, and the versions."""
        metrics = {"data": self.data, "versions": package_versions()}
        readings = [entry for entry in self.state.log_history if "probe_macro_auroc" in entry]
        if readings:
            first, last = (
                {name: entry[f"probe_{name}"] for name in ("macro_auroc", "macro_auprc")}
                for entry in (readings[0], readings[-1])
            )
            metrics["probe"] = {
                "task": self.args.probe_task,
                "fold": self.args.probe_fold,
                "num_train_records": len(self.probe.train),
                "num_records": len(self.probe.evaluation),
                "first": first,
                "last": last,
            }
        return metrics


class _Probe(TrainerCallback):
    """Logs the encoder's quality before the first epoch, every few epochs and at the end."""

    def __init__(self, trainer: PreTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._read()

    def on_epoch_end(self, args, state, control, **kwargs):
        epoch = round(state.epoch)
        if epoch % args.probe_every == 0 or state.global_step >= state.max_steps:
            self._read()

    def _read(self):
        trainer = self.trainer
        metrics = {}
        model = _whole_model(trainer)
        if trainer.is_world_process_zero():
            encoder = model.base_model.to(trainer.args.device)
            metrics = trainer.probe(encoder, trainer.compute_loss_context_manager())
        trainer.accelerator.wait_for_everyone()
        trainer.log({f"probe_{name}": value for name, value in metrics.items()})


def _whole_model(trainer: PreTrainer) -> ECGTransformerForPreTraining:
    """The model, without wrappers; where it is sharded, a copy with all weights in the main process, and the shards in
    the others. Called by all."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.is_fsdp_enabled:
        return model
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return model
    with torch.random.fork_rng(devices=[]):  # training draws the same numbers as without a probe
        whole = ECGTransformerForPreTraining(copy.deepcopy(model.config))
    whole.load_state_dict(state)
    return whole


def _description(data: dict, num_records: int) -> str:
    if data["name"] == "PTB-XL":
        return f"{num_records:,} records of PTB-XL's {folds_in_words(data['ptbxl_folds'])}"
    known = [fold for fold in data["ptbxl_folds"] if fold != UNKNOWN_FOLD]
    among = f", among them records of PTB-XL's {folds_in_words(known)}" if known else ""
    if data.get("num_ptbxl_records") and not known:
        among = f", {data['num_ptbxl_records']:,} of them PTB-XL's, of folds that are not known"
    return f"{num_records:,} {data['name']}{among}"


def _reports(
    dataset: datasets.Dataset | ShardedRecords, args: PreTrainingArguments
) -> tuple[ReportWords | None, datasets.Dataset | ShardedRecords]:
    """The words of the records' reports, None where they are not asked for, and the records that have a part."""
    if args.report_column is None:
        return None, dataset
    if isinstance(dataset, ShardedRecords) or REPORT not in dataset.column_names:
        raise ValueError(
            f"`report_column` is `{args.report_column}`, but the records have no column `{REPORT}` with their texts: "
            "load them by `load_training_records(..., report_column=...)`, or add it."
        )
    reports = ReportWords(dataset[REPORT], args.report_min_count)
    if args.contrastive_weight or reports.has_text.all():
        return reports, dataset
    dataset = dataset.select(np.flatnonzero(reports.has_text))
    return ReportWords(dataset[REPORT], args.report_min_count), dataset


def _check_records(dataset: datasets.Dataset | ShardedRecords, args: PreTrainingArguments) -> None:
    batch_size = args.world_size * args.per_device_train_batch_size
    if len(dataset) < batch_size:
        raise ValueError(
            f"{len(dataset)} records do not fill a batch of {batch_size}: set `per_device_train_batch_size` to "
            f"{len(dataset) // args.world_size} or less, or give more records. At least two are needed."
        )
    patients = dataset.num_patients if isinstance(dataset, ShardedRecords) else num_patients(dataset)
    if args.contrastive_weight and patients == 1:
        raise ValueError(f"All {len(dataset)} records are of one patient: there is no other to tell them from.")


__all__ = ["CollapseError", "PreTrainer"]
