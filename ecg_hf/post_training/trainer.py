"""PostTrainer: preview linear probing, then fine-tuning with stochastic depth (arXiv 2509.12991)."""

from __future__ import annotations

import copy
import json
import math
import pathlib
import shutil

import datasets
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalPrediction, PredictionOutput
from transformers.utils import logging

from ..cards import DATA_NAMES, describe_data, folds_of, package_versions, write_model_card
from ..command import without_progress_bars
from ..ecg_transformer.common_ecg_transformer import REGRESSION
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..ecg_transformer.targets_ecg_transformer import mean_loss
from ..files import write_atomic
from ..hub import create_repository, push_model
from ..runs.columns import check_is_dataset
from ..runs.folder import room_for
from ..runs.machines import is_so_on_all
from ..runs.parts import check_is_of, check_model
from ..runs.progress import METRIC_NAMES, STAGE_TITLES, warned_once
from ..runs.provenance import note_posttraining
from ..runs.timing import FirstSteps
from ..runs.trainer import REFUSED_KEYWORDS, RunTrainer, accepted_keywords
from ..runs.windows import EvaluationWindows, TrainingWindows
from ..tables.guards import were_guarded
from .arguments import PostTrainingArguments
from .callbacks import AverageWeights, SetDropPath
from .checks import (
    check_can_choose,
    check_fit,
    check_labels,
    check_something_is_known,
    checked_split,
    count_positives,
    in_order,
    labels_of,
    unlearnable_labels,
    warn_of_leaks,
    warn_of_unlearnable,
)
from .evaluation import DivergenceError, choosing_metric, logits_of_windows, splits_table
from .features import CachedFeatures, cache_features, forget_features
from .lora import ADAPTER_FOLDER, adapted, num_trained_parameters, write_adapter
from .mixing import check_soft_targets, fingerprint_of_teachers, read_teachers, soft_windows
from .probe import fit_linear_probe, head_outputs
from .reports import header, plan
from .targets import MultiLabel, macro_metrics, target_of, without_nan
from .timing import stage_evaluations

logger = logging.get_logger(__name__)

_HEAD = ("classifier", "AutoModelForSequenceClassification")
# The argument of the learning rate of each stage of gradient descent.
_RATES = {"finetune": "learning_rate", "lora": "lora_learning_rate"}


class PostTrainer(RunTrainer):
    """A [`Trainer`] whose `post_train()` runs the stages of post-training one after another.

    Args:
        model ([`ECGTransformerForMultiLabel`], *optional*):
            Pre-trained encoder with a head for the labels of the data, whose `config.problem_type` says what they are:
            several labels, one of several classes, or numbers, which are standardised by the training records. Instead
            of it `model_init`, a function that makes it, for `hyperparameter_search`, whose trials are fine-tuning
            alone.
        args ([`PostTrainingArguments`]): `stages`, `probe_*` for the probe, the plain fields for fine-tuning, and with
            `lora_*` for LoRA.
        train_dataset, eval_dataset, test_dataset (`datasets.Dataset`, *optional*):
            Splits with the columns of [`load_ptbxl`]; for training [`LabelledShards`], too. Epochs and thresholds are
            chosen on `eval_dataset`; `test_dataset` is read once, at the end.
        feature_extractor ([`ECGTransformerFeatureExtractor`]): Makes windows of records, and is saved with the model.
        recipe (`dict`, *optional*): Further facts of the run for `recipe.yaml`; compared when the run is resumed.

    Further keyword arguments go to [`Trainer`].
    """

    def __init__(
        self,
        *,
        model: ECGTransformerForMultiLabel | None = None,
        args: PostTrainingArguments,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | None = None,
        test_dataset: datasets.Dataset | None = None,
        feature_extractor: ECGTransformerFeatureExtractor,
        recipe: dict | None = None,
        **kwargs,
    ):
        check_is_of(args, PostTrainingArguments)
        refused = dict(REFUSED_KEYWORDS)
        if "probe" in args.stages:
            refused["compute_loss_func"] = "the probe learns by the model's own loss. Leave it out of `stages`"
        kwargs = accepted_keywords(kwargs, refused)
        given = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "test_dataset": test_dataset}
        splits = [checked_split(name, dataset) for name, dataset in given.items()]
        train_dataset, eval_dataset, test_dataset = splits
        if model is not None:
            check_model(model, *_HEAD, trains=train_dataset is not None)
            check_fit(model, feature_extractor, *splits)
            # Before the recipe and the facts of the run are taken down.
            labels = None if train_dataset is None else labels_of(train_dataset, model.config.labels)
            target_of(model.config).prepare(args, labels)
            check_soft_targets(args, model.config)
        if train_dataset is None and eval_dataset is None:
            args = args.without_training()
        self.test_dataset = test_dataset
        self._stage_metrics: dict[str, dict[str, float]] = {}  # of the validation records, after each stage
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            feature_extractor=feature_extractor,
            recipe=recipe,
            compute_metrics=self._evaluation_metrics,
            **kwargs,
        )
        if model is None:
            check_model(self.model, *_HEAD)
            check_fit(self.model, feature_extractor, *splits)
            target_of(self.model.config).check_is_prepared(args)
        if args.ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` is not supported under FSDP, which shards the weights.")
        if self.is_fsdp_enabled and self.compute_loss_func is None:
            self.compute_loss_func = self._loss_outside
        self._average = AverageWeights(self)
        self.add_callback(self._average)
        self.add_callback(SetDropPath(self))
        self.add_callback(FirstSteps(self, stage_evaluations))
        self.stage = "finetune"
        self.is_adapted = False  # whether the model has adapters, which `train()` then trains

    @property
    def layer_decay(self) -> float:
        """Factor of the learning rate from each layer to the one below it."""
        return self.args.layer_decay

    def training_windows(self, dataset: datasets.Dataset) -> torch.utils.data.Dataset:
        checks = {"check_leads": not were_guarded([dataset])}
        checks |= self.preparation_of(dataset)
        windows = TrainingWindows(dataset, self.processing_class, self.args.seed, **checks)
        windows = in_order(windows, dataset, self._labels())
        return soft_windows(windows, dataset, self._labels(), self.args)

    def evaluation_windows(self, dataset: datasets.Dataset, feature_extractor, **kwargs) -> torch.utils.data.Dataset:
        check_is_dataset("dataset", dataset)
        checks = {"check_leads": not were_guarded([dataset])}
        return in_order(EvaluationWindows(dataset, feature_extractor, **checks, **kwargs), dataset, self._labels())

    @property
    def epoch_extractor(self) -> ECGTransformerFeatureExtractor:
        """Its windows do not overlap, unless `args.eval_overlap` asks for it or the records have a fixed number."""
        plain = self.processing_class
        if self.args.eval_overlap or plain.num_windows is not None or plain.window_stride in (None, plain.num_samples):
            return plain
        extractor = copy.deepcopy(plain)
        extractor.window_stride = None
        return extractor

    def _labels(self) -> list[str]:
        return self.target.config.labels

    @property
    def target(self) -> MultiLabel:
        """The kind of targets of the model."""
        model = self.model
        if not isinstance(model, PreTrainedModel):  # asked for at each step, and to look takes accelerate a while
            model = self.accelerator.unwrap_model(model)
        return target_of(model.config)

    def data_fingerprints(self) -> dict[str, str]:
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        fingerprints = {
            name: self.fingerprint_of(dataset, TrainingWindows.columns)
            for name, dataset in splits.items()
            if dataset is not None
        }
        if self.train_dataset is not None:
            fingerprints |= self.order_facts(self.train_dataset)
        if self.args.teacher_predictions:
            fingerprints["teachers"] = fingerprint_of_teachers(self.args.teacher_predictions)
        return fingerprints

    # ---- The stages ----

    def post_train(self, resume_from_checkpoint: bool | None = None) -> dict[str, float]:
        """Run `args.stages`, write the final files into `args.output_dir`, and return what `all_results.json` holds.

        With `resume_from_checkpoint` (or the argument of that name) a stopped run is resumed, and a finished one
        returns its results. With `args.push_to_hub` the folder is then published, also that of a finished run: so a
        push that failed is tried again. With `args.dry_run` it only prints what it would do, and returns nothing.
        """
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        try:
            self.check_arguments()
            self._check_records()
            if self.args.dry_run:
                return self.say_plan(plan(self), resume)
            results = self.open_run(resume)
            if results is None:
                self.say(header(self))
                if self.is_world_process_zero():
                    warn_of_unlearnable(self.train_dataset, self.target)
                results = {"world_size": self.args.world_size}
                run_stage = {"probe": self._probe, "finetune": self._finetune, "lora": self._lora}
                for name in self.args.stages:
                    results.update(run_stage[name](resume))
                results = self._finish(results)
            if self.args.push_to_hub:
                self.push_to_hub()
            return results
        finally:
            self.close_run()

    def _check_records(self) -> None:
        """`ValueError` where the run could not end well, and warnings, before anything is written."""
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        check_can_choose(self.eval_dataset, self.args.metric_for_best_model.removeprefix("eval_"), self.target)
        splits = self.splits()
        for name, dataset in splits.items():
            check_labels(name, dataset, self.target)
        check_something_is_known("training", self.train_dataset, self.model.config.labels)
        if self.args.teacher_predictions:
            read_teachers(self.args.teacher_predictions, self.train_dataset["ecg_id"], self._labels())
        batch_size = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < batch_size:
            raise ValueError(
                f"{len(self.train_dataset)} training records do not fill a batch of {batch_size}, and "
                "`dataloader_drop_last` drops it: set it to false, or `per_device_train_batch_size` lower."
            )
        if "lora" in self.args.stages and self.is_fsdp_enabled:
            raise ValueError(
                "The stage `lora` is not supported under FSDP, whose shards cannot be merged: start the processes "
                "with plain data parallelism (DDP)."
            )
        if self.is_world_process_zero():
            warn_of_leaks(splits, self.model.config.labels)

    def _probe(self, resume: bool) -> dict[str, float]:
        self.enter_stage("probe")
        # The probe fits weights and a bias from zeros; a converted head may have another form.
        self.model.use_linear_head()
        folder = self.run_folder.stage("probe")
        if not is_so_on_all(bool(resume) and (folder / "log.json").is_file(), self.args.world_size):
            train = self._cache_features("train", self.train_dataset, resume)
            validation = self._cache_features("validation", self.eval_dataset, resume)
            state, logs, best = self._fit_probe(train, validation)
            self.model.classifier.load_state_dict(state)
            self.model.head_is_random = False
            if self.args.should_save:  # on each machine that shares no folder with the first
                with room_for("the probe", folder), without_progress_bars():
                    self.model.save_pretrained(folder)
                    self.processing_class.save_pretrained(folder)
                    if not self.is_world_process_zero():
                        self.model.config.save_pretrained(folder)
                        self.write_weights(folder / "model.safetensors")
                    write_atomic(
                        folder / "log.json", json.dumps({"logs": logs, "best": best, "seconds": self.stage_seconds()})
                    )
                forget_features(self)
            self.accelerator.wait_for_everyone()
        self.load_weights(folder / "model.safetensors")
        self.model.head_is_random = False
        log = json.loads((folder / "log.json").read_text())
        self.state.log_history = log["logs"]
        self.recipe["probe_num_train_epochs"] = log["logs"][-1]["epoch"]
        self._stage_metrics["probe"] = log["best"]
        return {**self._figures("probe", log["best"]), "probe_seconds": log["seconds"]}

    def _fit_probe(self, train: pathlib.Path, validation: pathlib.Path) -> tuple[dict, list[dict], dict]:
        """The head is fitted by one process, so that all processes continue from identical weights, or all stop."""
        fitted = None
        if self.is_world_process_zero():
            try:
                fitted = fit_linear_probe(
                    CachedFeatures.read(train, self._labels_of_features(self.train_dataset)),
                    CachedFeatures.read(validation, labels_of(self.eval_dataset, self._labels())),
                    self._aggregate_windows,
                    self.args,
                    self.target,
                )
            except (DivergenceError, ValueError) as error:
                fitted = error
        fitted = broadcast_object_list([fitted])[0]
        if isinstance(fitted, Exception):
            raise fitted
        return fitted

    def _labels_of_features(self, dataset: datasets.Dataset) -> np.ndarray:
        labels, order = labels_of(dataset, self._labels()), self.feature_order(dataset)
        return labels if order is None else labels[order]

    def _finetune(self, resume: bool) -> dict[str, float]:
        self.enter_stage("finetune")
        self.train_stage(resume, keep_start="probe" not in self.args.stages)
        return {"finetune_seconds": self.stage_seconds()}

    def _lora(self, resume: bool) -> dict[str, float]:
        self.enter_stage("lora")
        with adapted(self.model, self.args) as view:
            count = num_trained_parameters(self.model)
            self.is_adapted = True
            try:
                self.train_stage(resume, keep_start="probe" not in self.args.stages)
            finally:
                self.is_adapted = False
            if self.is_world_process_zero():
                folder = self._adapter_folder()
                with room_for("the adapter", folder.parent):
                    write_adapter(view, folder)
        self._forget_preparation()
        return {"lora_seconds": self.stage_seconds(), "lora_trained_parameters": count}

    def _adapter_folder(self) -> pathlib.Path:
        return self.run_folder.stage("lora") / ADAPTER_FOLDER

    @property
    def peak_learning_rate(self) -> float:
        """That of the stage."""
        return self.args.lora_learning_rate if self.stage == "lora" else self.args.learning_rate

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Fine-tuning alone, with stochastic depth, from the head that the model has.

        Checkpoints are in `_stages/finetune` of `args.output_dir`, where `True` finds the last one. Raises
        `ValueError` where there is none, and where `stages` asks for LoRA instead.
        """
        if not self.is_adapted:
            if "lora" in self.args.stages:
                raise ValueError(
                    "`train()` is fine-tuning, and `stages` has `lora` instead: call `post_train()`, or leave it out."
                )
            self.enter_stage("finetune")
        earlier = [entry for entry in self.state.log_history if entry.get("stage") != self.stage]
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.model.head_is_random = False
        self.state.log_history = earlier + self.state.log_history
        return output

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in the library, which counts the values that a loss is divided by, and NaN, an unknown one, with them."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if count is None or self.target.config.problem_type != REGRESSION:
            return batches, count
        unknown = sum(batch["labels"].isnan().sum() for batch in batches).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            unknown = self.accelerator.gather(unknown).sum()
        return batches, count - unknown

    def _loss_outside(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """The model's own loss; FSDP2 would round labels that go through the model to its 16 bits."""
        return mean_loss(self.target.config, outputs.logits, labels, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        is_of_epoch = self.is_in_train and any(name.startswith("eval_") for name in logs)
        if is_of_epoch and self.epoch_extractor is not self.processing_class:
            self.state.log_history[-1]["windows"] = "without overlap"
        for name in ("loss", "train_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                self._raise_diverged(f"the loss is {logs[name]}", logs.get("learning_rate"))

    def _raise_diverged(self, what: str, learning_rate: float | None) -> None:
        title, field = STAGE_TITLES[self.stage], _RATES[self.stage]
        rate = self.peak_learning_rate if learning_rate is None else learning_rate
        raise DivergenceError(
            f"{title} has diverged: at step {self.state.global_step} {what}, at the learning rate {rate:.2g}. Use "
            f"a lower `{field}` than {self.peak_learning_rate:g}, more `warmup_steps`, or a lower `max_grad_norm`."
        )

    # ---- Evaluation ----

    def _evaluation_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, losses = prediction.predictions
        if not (finite := np.isfinite(logits).all(axis=1)).all():
            count = f"of {np.sum(~finite)} of {len(finite)} records the scores are not finite"
            if self.is_in_train:
                self._raise_diverged(count, None)
            raise ValueError(f"{count.capitalize()}: the model's weights are damaged, or their training has diverged.")
        return self.target.evaluation_metrics(prediction.label_ids, logits, losses)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, (logits (records, labels), losses (records,)), labels): one row for each record."""
        labels, window_mask = inputs.pop("labels"), inputs.pop("window_mask")
        with torch.no_grad(), self.compute_loss_context_manager():
            window_logits = logits_of_windows(model, inputs, window_mask)
        losses = self.target.record_losses(window_logits, window_mask, labels)
        return None, (self._aggregate_windows(window_logits, window_mask), losses), labels

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As in the library, with NaN for what the records do not define; while training `ValueError` where that is
        the metric that chooses the epoch."""
        self._average.show()
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.is_in_train:
            name = f"{metric_key_prefix}_{self.args.metric_for_best_model.removeprefix('eval_')}"
            choosing_metric(metrics, name, self.target.undefined.format(""))
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the library; of fine-tuning with `args.ema_decay` the average is the model."""
        self._average.show()
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self._average.save(pathlib.Path(output_dir or self.args.output_dir))

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """As in the library; `predictions` are the logits (records, labels) of the records, in their order.

        Of one of several classes these are logarithms of the classes' probabilities, of a regression the values in the
        units of the targets: see `aggregate_windows` of the model.
        """
        output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        return output._replace(predictions=output.predictions[0])

    def _aggregate_windows(self, window_logits, window_mask):
        return self.accelerator.unwrap_model(self.model).aggregate_windows(window_logits, window_mask)

    def _cache_features(self, split: str, dataset: datasets.Dataset, resume: bool) -> pathlib.Path:
        return cache_features(self, split, dataset, resume)

    def _predict_split(self, split: str, dataset: datasets.Dataset, prefix: str) -> PredictionOutput:
        """`predict`, or what it would give, from features that runs share: then a probe alone takes seconds."""
        if list(self.args.stages) != ["probe"] or self.args.feature_cache is None or self.args.world_size > 1:
            return self.predict(dataset, metric_key_prefix=prefix)
        labels = labels_of(dataset, self._labels())
        features = CachedFeatures.read(self._cache_features(split, dataset, resume=True), labels)
        head = {name: value.float().cpu() for name, value in self.model.classifier.state_dict().items()}
        logits, losses = head_outputs(head, features, self._aggregate_windows, self.target)
        metrics = self.target.evaluation_metrics(labels, logits, losses)
        return PredictionOutput(logits, labels, {f"{prefix}_{name}": value for name, value in metrics.items()})

    def _finish(self, results: dict[str, float]) -> dict[str, float]:
        """The better stage, thresholds, metrics, pictures; then all files move into the run's folder, `config.json`
        last."""
        config, target = self.model.config, self.target
        kept, outputs = self._keep_stage(results)
        with warned_once(self):
            target.choose_thresholds(outputs["validation"])
        if self.test_dataset is not None:
            outputs["test"] = self._predict_split("test", self.test_dataset, "test")
        results.update(macro_metrics(outputs, target))
        note_posttraining(config, folds_of(self.train_dataset))
        folder = self.begin_final_files(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        if self.is_world_process_zero():
            metrics = self._split_metrics(outputs)
            metrics |= {
                "kept_stage": kept,
                "stages": {stage: without_nan(values) for stage, values in self._stage_metrics.items()},
            }
            if kept == "lora":
                with room_for("the final files", self.run_folder.path):
                    shutil.copytree(self._adapter_folder(), folder / ADAPTER_FOLDER)
            self._write_tables(folder, outputs)
            if "test" in metrics:
                for name in target.figures:
                    interval = metrics["test"]["intervals"][name]
                    results.update({f"test_{name}_{end}": interval[end] for end in ("low", "high")})
            self.publish_final_files(folder, results, metrics)
        self.accelerator.wait_for_everyone()
        return results

    def _write_tables(self, folder: pathlib.Path, outputs: dict[str, PredictionOutput]) -> None:
        with room_for("the final files", self.run_folder.path):
            if "test" in outputs:
                predictions = self.target.predictions_table(self.test_dataset, outputs["test"])
                predictions.to_csv(folder / "test_predictions.csv", index=False)
            if not self._is_of_known_folds():
                splits_table(self.splits()).to_csv(folder / "splits.csv", index=False)

    def splits(self) -> dict[str, datasets.Dataset]:
        """Those of train, validation and test that there are."""
        splits = {"train": self.train_dataset, "validation": self.eval_dataset, "test": self.test_dataset}
        return {name: dataset for name, dataset in splits.items() if dataset is not None}

    def _keep_stage(self, results: dict) -> tuple[str, dict[str, PredictionOutput]]:
        """The stage whose weights the model has from now on, and its validation output; `results` get its name and
        the figures of the stage after the probe."""
        kept = self.args.stages[-1]
        output = self._predict_split("validation", self.eval_dataset, "eval")
        if kept != "probe":
            self._stage_metrics[kept] = {name: output.metrics[f"eval_{name}"] for name in self.target.of_stages}
            results.update(self._figures(kept, self._stage_metrics[kept]))
            if self._probe_was_better(kept) and self.args.keep_best_stage:
                kept = "probe"
                self._return_to_probe()
                output = self.predict(self.eval_dataset, metric_key_prefix="eval")
        results["kept_stage"] = kept
        return kept, {"validation": output}

    def _probe_was_better(self, last: str) -> bool:
        if "probe" not in self._stage_metrics:
            return False
        metric = self.args.metric_for_best_model.removeprefix("eval_")
        before, after = (self._stage_metrics[stage][metric] for stage in ("probe", last))
        if before <= after if self.args.greater_is_better else before >= after:
            return False
        title, field = STAGE_TITLES[last], _RATES[last]
        logger.warning(
            f"{title} ended worse than the probe that it began with: validation {METRIC_NAMES[metric]} {after:.4f} "
            f"after {before:.4f}. "
            + ("The probe is kept" if self.args.keep_best_stage else "It is kept all the same (`keep_best_stage`)")
            + f"; a lower `{field}` may help."
        )
        return True

    def _return_to_probe(self) -> None:
        folder = self.run_folder.stage("probe")
        self.load_weights(folder / "model.safetensors")
        drop_path_rate = json.loads((folder / "config.json").read_text())["drop_path_rate"]
        self.accelerator.unwrap_model(self.model).set_drop_path_rate(drop_path_rate)

    def _figures(self, stage: str, metrics: dict[str, float]) -> dict[str, float | None]:
        """The entries of `all_results.json` of a stage; None for what is undefined."""
        return without_nan({f"{stage}_eval_{name}": metrics[name] for name in (*self.target.figures, "loss")})

    def _split_metrics(self, outputs: dict[str, PredictionOutput]) -> dict:
        """What `metrics.json` holds: the data, the metrics of each split that has any, and the versions."""
        datasets_of = self.splits()
        metrics = {
            name: self.target.split_metrics(datasets_of[name], output, self.args.num_bootstrap_resamples)
            for name, output in outputs.items()
        }
        return {
            "data": {
                **describe_data(datasets_of),
                **({} if self._is_of_known_folds() else count_positives(datasets_of, self.target)),
                "unlearnable_labels": self._unlearnable_labels(),
            },
            **{name: values for name, values in metrics.items() if values is not None},
            "versions": package_versions(),
        }

    def _is_of_known_folds(self) -> bool:
        return self.train_dataset.info.dataset_name in DATA_NAMES

    def _unlearnable_labels(self) -> list[str]:
        return unlearnable_labels(self.train_dataset, self.target)

    # ---- The Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository `args.hub_model_id`, by default named after the run's folder, unless it exists.

        Called when training begins, so that a missing token is no surprise at its end. Errors as in `push_model`.
        """
        if self.is_world_process_zero():
            self.hub_model_id = create_repository(
                self.args.hub_model_id or self.run_folder.path.absolute().name,
                token=token or self.args.hub_token,
                private=self.args.hub_private_repo if private is None else private,
            )

    def create_model_card(self) -> None:
        """Write the card of the finished run, `README.md`; see `ecg_hf.cards.write_model_card`."""
        if self.is_world_process_zero():
            write_model_card(self.run_folder.path)

    def push_to_hub(
        self,
        commit_message: str = "Post-trained ECG Transformer",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | None:
        """Publish the finished run, in one commit, as `args.hub_model_id`; see `ecg_hf.hub.push_model` for errors.

        Nothing is saved again: the files that `post_train` left in `args.output_dir` are published.
        """
        if not blocking:
            raise ValueError("`blocking` must be true: the repository is complete when this returns.")
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        if not self.is_world_process_zero():
            return None
        return push_model(
            self.run_folder.path,
            self.hub_model_id,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )


__all__ = ["PostTrainer"]
