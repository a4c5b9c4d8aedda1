"""PostTrainer: preview linear probing, then fine-tuning with stochastic depth (arXiv 2509.12991)."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Iterator

import datasets
import numpy as np
import torch
import yaml
from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm
from transformers import Trainer, set_seed
from transformers.trainer_utils import PredictionOutput
from transformers.utils import logging

from ..cards import describe_data, package_versions, write_model_card
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import write_atomic
from ..hub import create_repository, push_model
from ..metrics import choose_thresholds
from ..plotting import plot_learning_curves
from .arguments import PostTrainingArguments
from .evaluation import (
    choosing_metric,
    evaluation_metrics,
    predictions_table,
    probabilities,
    record_losses,
    split_metrics,
    with_both_classes,
)
from .stages import CachedFeatures, differences, fit_linear_probe, last_complete_checkpoint
from .windows import EpochSampler, EvaluationWindows, SetEpoch, TrainingWindows, identity_collate, label_matrix

logger = logging.get_logger(__name__)

STAGES_FOLDER = "_stages"


class PostTrainer(Trainer):
    """A [`Trainer`] whose `post_train()` runs the stages of post-training one after another.

    Args:
        model ([`ECGTransformerForMultiLabel`]): Pre-trained encoder with a head for the labels of the data.
        args ([`PostTrainingArguments`]): `stages`, `probe_*` for the probe, the plain fields for fine-tuning.
        train_dataset, eval_dataset, test_dataset (`datasets.Dataset`, *optional*):
            Splits with the columns of [`load_ptbxl`]. Epochs and thresholds are chosen on `eval_dataset`;
            `test_dataset` is read once, at the end.
        feature_extractor ([`ECGTransformerFeatureExtractor`]): Makes windows of records, and is saved with the model.
        recipe (`dict`, *optional*): Further facts of the run for `recipe.yaml`; compared when the run is resumed.

    Further keyword arguments go to [`Trainer`].
    """

    def __init__(
        self,
        *,
        model: ECGTransformerForMultiLabel,
        args: PostTrainingArguments,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | None = None,
        test_dataset: datasets.Dataset | None = None,
        feature_extractor: ECGTransformerFeatureExtractor,
        recipe: dict | None = None,
        **kwargs,
    ):
        _check_fit(model, feature_extractor, train_dataset, eval_dataset, test_dataset)
        if "probe" in args.stages:
            # The probe fits weights and a bias from zeros; a converted head may have another form.
            model.use_linear_head()
        self.stage = "finetune"
        self.test_dataset = test_dataset
        self.run_folder = pathlib.Path(args.output_dir)
        self.recipe = {**(recipe or {}), **args.recipe()}
        self.epoch_sampler: EpochSampler | None = None
        self._stage_started, self._seconds_before = time.perf_counter(), 0.0
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=identity_collate,
            processing_class=feature_extractor,
            compute_metrics=lambda prediction: evaluation_metrics(prediction.label_ids, *prediction.predictions),
            **kwargs,
        )
        self.add_callback(SetEpoch(self))

    # ---- The stages ----

    def post_train(self, resume_from_checkpoint: bool | None = None) -> dict[str, float]:
        """Run `args.stages`, write the final files into `args.output_dir`, and return what `all_results.json` holds.

        With `resume_from_checkpoint` (or the argument of that name) a run that was stopped goes on where it was, and a
        finished one returns its results. With `args.push_to_hub` the folder is then published, also that of a finished
        run: so a push that failed is tried again.
        """
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        results = self._open_run(resume)
        if results is None:
            results = {"world_size": self.args.world_size}
            for name in self.args.stages:
                results.update(self._probe(resume) if name == "probe" else self._finetune(resume))
            results = self._finish(results)
        if self.args.push_to_hub:
            self.push_to_hub()
        return results

    def _probe(self, resume: bool) -> dict[str, float]:
        self._enter_stage("probe")
        folder = self._stage_folder("probe")
        if not (resume and (folder / "log.json").is_file()):
            self.model.to(self.args.device).eval()
            train = self._cache_features("train", self.train_dataset, resume)
            validation = self._cache_features("validation", self.eval_dataset, resume)
            fitted = None
            if self.is_world_process_zero():
                fitted = fit_linear_probe(
                    CachedFeatures.read(train), CachedFeatures.read(validation), self._aggregate_windows, self.args
                )
            # The head is fitted by one process, so that all processes go on from the same bits.
            state, logs, best = broadcast_object_list([fitted])[0]
            self.model.classifier.load_state_dict(state)
            self.model.head_is_random = False
            if self.is_world_process_zero():
                self.model.save_pretrained(folder)
                self.processing_class.save_pretrained(folder)
                write_atomic(folder / "log.json", json.dumps({"logs": logs, "best": best, "seconds": self._seconds()}))
                shutil.rmtree(train.parent)
            self.accelerator.wait_for_everyone()
        self._load_weights(folder / "model.safetensors")
        log = json.loads((folder / "log.json").read_text())
        self.state.log_history = log["logs"]
        self.recipe["probe_num_train_epochs"] = log["logs"][-1]["epoch"]
        best = {f"probe_eval_{name}": log["best"][name] for name in ("macro_auroc", "macro_auprc", "loss")}
        return {**best, "probe_seconds": log["seconds"]}

    def _finetune(self, resume: bool) -> dict[str, float]:
        folder = self._stage_folder("finetune")
        self.train(last_complete_checkpoint(folder, self.args.world_size) if resume else None)
        return {"finetune_seconds": self._seconds()}

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Fine-tuning alone, with stochastic depth, from the head that the model has."""
        self._enter_stage("finetune")
        earlier = [entry for entry in self.state.log_history if entry.get("stage") != "finetune"]
        # A fresh start for gradients: after an `evaluate()` the first step would otherwise get the bare model, without
        # DDP, and the processes would diverge without a word.
        set_seed(self.args.seed)
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model
        self.model._is_accelerate_prepared = False
        if self.args.drop_path_rate is not None:
            self.model.set_drop_path_rate(self.args.drop_path_rate)
        if resume_from_checkpoint is not None:
            state = json.loads((pathlib.Path(resume_from_checkpoint) / "trainer_state.json").read_text())
            self._seconds_before = max((entry.get("seconds", 0.0) for entry in state["log_history"]), default=0.0)
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.model.head_is_random = False
        self.state.log_history = earlier + self.state.log_history
        return output

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.args.world_size > 1 and not self.is_fsdp_enabled and not isinstance(model, DistributedDataParallel):
            raise RuntimeError(
                f"{self.args.world_size} processes train, but the model is not wrapped: their weights would diverge. "
                "Start training through `post_train()` or `train()`."
            )
        return super().training_step(model, inputs, num_items_in_batch)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer of `args.optim`, with `layer_decay` over the depth and no weight decay on vectors."""
        if self.optimizer is None:
            module = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, module)
            self.optimizer = optimizer_class(self._parameter_groups(module), **kwargs)
        return self.optimizer

    def _parameter_groups(self, module) -> list[dict]:
        model = self.accelerator.unwrap_model(module)
        without_decay = model.no_weight_decay()
        groups: dict[tuple[int, bool], list] = {}
        for name, parameter in model.named_parameters():
            decays = parameter.ndim > 1 and name not in without_decay
            groups.setdefault((model.layer_id(name), decays), []).append(parameter)
        top = max(layer for layer, _ in groups)
        return [
            {
                "params": parameters,
                "lr": self.args.learning_rate * self.args.layer_decay ** (top - layer),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            # The rate that is logged is that of the first group: the head's.
            for (layer, decays), parameters in sorted(groups.items(), reverse=True)
        ]

    # ---- Windows in and out ----

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        if is_training:
            dataset = TrainingWindows(dataset, self.processing_class, self.args.seed)
        else:
            dataset = EvaluationWindows(dataset, self.processing_class)
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        self.epoch_sampler = EpochSampler(len(train_dataset), self.args.seed)
        return self.epoch_sampler

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(None, (logits (records, labels), losses (records,)), labels): one row for each record."""
        inputs = self._prepare_inputs(inputs)
        labels, window_mask = inputs.pop("labels"), inputs.pop("window_mask")
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = model(**{name: values[window_mask] for name, values in inputs.items()}).logits.float()
        window_logits = rows.new_zeros((*window_mask.shape, rows.shape[-1]))
        window_logits[window_mask] = rows
        losses = record_losses(window_logits, window_mask, labels)
        return None, (self._aggregate_windows(window_logits, window_mask), losses), labels

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As in the library; raises `ValueError` where the metric that chooses the epoch is undefined."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        choosing_metric(metrics, f"{metric_key_prefix}_{self.args.metric_for_best_model.removeprefix('eval_')}")
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """As in the library; `predictions` are the logits (records, labels) of the records, in their order."""
        output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        return output._replace(predictions=output.predictions[0])

    def _aggregate_windows(self, window_logits, window_mask):
        return self.accelerator.unwrap_model(self.model).aggregate_windows(window_logits, window_mask)

    def _cache_features(self, split: str, dataset: datasets.Dataset, resume: bool) -> pathlib.Path:
        """Compute the pooled features of all windows once; a whole cache of the same weights and data is kept."""
        folder = self._stage_folder("probe") / "features" / split
        if not (resume and (folder / "records.npz").is_file()):
            batches = self._feature_batches(split, dataset)
            if self.is_world_process_zero():
                CachedFeatures.write(folder, batches)
            else:
                for _ in batches:  # takes part in the gathering
                    continue
        self.accelerator.wait_for_everyone()
        return folder

    def _feature_batches(self, split: str, dataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        loader = self._get_dataloader(dataset, "Features", self.args.eval_batch_size, self._get_eval_sampler)
        hidden_size = self.model.config.hidden_size
        silent = self.args.disable_tqdm or not self.is_world_process_zero()
        for inputs in tqdm(loader, desc=f"Features of {split}", disable=silent):
            inputs = self._prepare_inputs(inputs)
            labels, window_mask = inputs.pop("labels"), inputs.pop("window_mask")
            with torch.no_grad(), self.compute_loss_context_manager():
                rows = self.model.base_model(**{name: values[window_mask] for name, values in inputs.items()})
            features = torch.zeros((*window_mask.shape, hidden_size), device=self.args.device)
            features[window_mask] = rows.pooler_output.float()
            # Processes may hold records of different numbers of windows.
            padded = self.accelerator.pad_across_processes((features, window_mask.long()), dim=1)
            gathered = self.accelerator.gather_for_metrics((*padded, labels))
            features, window_mask, labels = (tensor.cpu().numpy() for tensor in gathered)
            yield features, window_mask.astype(bool), labels

    # ---- The run's folder ----

    def _get_output_dir(self, trial) -> str:
        return str(self._stage_folder("finetune"))

    def _stage_folder(self, stage: str) -> pathlib.Path:
        return self.run_folder / STAGES_FOLDER / stage

    def _open_run(self, resume: bool) -> dict | None:
        """Refuse a folder that holds another run; the results of this one if it is finished.

        One process looks and tells the others: they could find what it has just written.
        """
        found = None
        if self.is_world_process_zero():
            try:
                found = self._find_run(resume)
            except (OSError, ValueError) as error:
                found = error
        found = broadcast_object_list([found])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def _find_run(self, resume: bool) -> dict | None:
        record = self.run_folder / STAGES_FOLDER / "run.json"
        run = self._describe_run()
        if not record.is_file():
            # A kill before the first stage leaves an empty folder; anything else in it is somebody's.
            if any(self.run_folder.glob("*")) and not _only_stages(self.run_folder):
                raise FileExistsError(
                    f"`{self.run_folder}` holds files of another run: choose another `output_dir`, or empty it."
                )
            if unlearnable := self._unlearnable_labels():
                logger.warning(
                    f"{len(unlearnable)} of {self.model.config.num_labels} labels are the same in all training "
                    f"records and cannot be learned: {', '.join(unlearnable)}. Macro metrics count them where the "
                    "evaluation records have both classes."
                )
            if resume:
                logger.warning(f"There is no run in `{self.run_folder}` yet: post-training starts from the beginning.")
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(record, json.dumps(run, indent=2))
            return None
        if not resume:
            raise FileExistsError(
                f"`{self.run_folder}` holds another run: choose another `output_dir`, or go on with it by "
                "`--resume_from_checkpoint true`."
            )
        if changes := list(differences(json.loads(record.read_text()), run)):
            raise ValueError(
                f"The run in `{self.run_folder}` cannot go on with other settings: {'; '.join(changes)}. Use the "
                "run's own settings, or another `output_dir`."
            )
        if (self.run_folder / "config.json").is_file():
            logger.warning(f"The run in `{self.run_folder}` is finished: its results are returned.")
            return json.loads((self.run_folder / "all_results.json").read_text())
        return None

    def _describe_run(self) -> dict:
        """What must be the same for a run to go on."""
        return {
            "labels": list(self.model.config.label2id),
            "recipe": json.loads(json.dumps(self.recipe)),
            "weights": _fingerprint(self.model.state_dict()),
            "data": {
                name: _fingerprint_of_data(dataset)
                for name, dataset in (("train", self.train_dataset), ("validation", self.eval_dataset))
            },
            "feature_extractor": json.loads(self.processing_class.to_json_string()),
        }

    def _finish(self, results: dict[str, float]) -> dict[str, float]:
        """Thresholds, metrics, pictures; then all files move into the run's folder, `config.json` last."""
        folder = self._stage_folder("final")
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        config = self.accelerator.unwrap_model(self.model).config
        labels = list(config.label2id)
        outputs = {"validation": self.predict(self.eval_dataset, metric_key_prefix="eval")}
        config.thresholds = choose_thresholds(
            outputs["validation"].label_ids, probabilities(outputs["validation"].predictions), labels
        )
        if self.test_dataset is not None:
            outputs["test"] = self.predict(self.test_dataset)
        results.update(_macro_metrics(outputs))
        self.save_model(str(folder), _internal_call=True)
        if self.is_world_process_zero():
            _warn_if_the_probe_was_better(results)
            metrics = self._split_metrics(outputs, labels)
            if "test" in outputs:
                predictions = predictions_table(self.test_dataset, labels, outputs["test"])
                predictions.to_csv(folder / "test_predictions.csv", index=False)
            if "test" in metrics:
                for name in ("macro_auroc", "macro_auprc"):
                    interval = metrics["test"]["intervals"][name]
                    results.update({f"test_{name}_{end}": interval[end] for end in ("low", "high")})
            (folder / "training_args.bin").unlink(missing_ok=True)
            write_atomic(folder / "all_results.json", json.dumps(results, indent=2) + "\n")
            write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
            (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe, sort_keys=False))
            (folder / "log_history.json").write_text(json.dumps(self.state.log_history, indent=1))
            plot_learning_curves(self.state.log_history, folder / "learning_curves.png")
            write_model_card(folder)
            files = sorted(folder.iterdir(), key=lambda file: file.name == "config.json")
            for file in files:
                file.replace(self.run_folder / file.name)
            folder.rmdir()
        self.accelerator.wait_for_everyone()
        return results

    def _split_metrics(self, outputs: dict[str, PredictionOutput], labels: list[str]) -> dict:
        """What `metrics.json` holds: the data, the metrics of each split that has any, and the versions."""
        datasets_of = {"train": self.train_dataset, "validation": self.eval_dataset, "test": self.test_dataset}
        metrics = {
            name: split_metrics(datasets_of[name], output, labels, self.args.num_bootstrap_resamples)
            for name, output in outputs.items()
        }
        return {
            "data": {
                **describe_data({name: dataset for name, dataset in datasets_of.items() if dataset is not None}),
                "unlearnable_labels": self._unlearnable_labels(),
            },
            **{name: values for name, values in metrics.items() if values is not None},
            "versions": package_versions(),
        }

    def _unlearnable_labels(self) -> list[str]:
        table = self.train_dataset.select_columns(["labels"]).with_format("arrow")[:]
        learnable = with_both_classes(label_matrix(table).numpy())
        return [label for label, known in zip(self.model.config.label2id, learnable, strict=True) if not known]

    def _load_weights(self, path: pathlib.Path):
        self.model.load_state_dict(load_file(path))
        self.model.head_is_random = False

    # ---- The Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository `args.hub_model_id`, by default named after the run's folder, unless it exists.

        Called when training begins, so that a missing token is no surprise at its end. Errors as in `push_model`.
        """
        if self.is_world_process_zero():
            self.hub_model_id = create_repository(
                self.args.hub_model_id or self.run_folder.absolute().name,
                token=token or self.args.hub_token,
                private=self.args.hub_private_repo if private is None else private,
            )

    def create_model_card(self, **kwargs) -> None:
        """Write the card of the finished run, `README.md`; see `ecg_hf.cards.write_model_card`."""
        if self.is_world_process_zero():
            write_model_card(self.run_folder)

    def push_to_hub(
        self,
        commit_message: str = "Post-trained ECG Transformer",
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | None:
        """Publish the finished run, in one commit, as `args.hub_model_id`; see `ecg_hf.hub.push_model` for errors.

        Nothing is saved anew: what is published are the files that `post_train` left in `args.output_dir`.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        if not self.is_world_process_zero():
            return None
        return push_model(
            self.run_folder,
            self.hub_model_id,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        self.state.log_history[-1].update(stage=self.stage, seconds=round(self._seconds(), 2))

    def _enter_stage(self, stage: str):
        self.stage = stage
        self._stage_started, self._seconds_before = time.perf_counter(), 0.0

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._stage_started


def _macro_metrics(outputs: dict[str, PredictionOutput]) -> dict[str, float | None]:
    """The macro metrics of validation and test; None, with a warning, where no label has both values."""
    prefixes = {"validation": "eval", "test": "test"}
    results = {
        f"{prefixes[split]}_{name}": output.metrics[f"{prefixes[split]}_{name}"]
        for split, output in outputs.items()
        for name in ("macro_auroc", "macro_auprc")
    }
    if undefined := [name for name, value in results.items() if np.isnan(value)]:
        logger.warning(f"{', '.join(undefined)}: undefined, no label of the records has both values.")
    return {name: None if np.isnan(value) else value for name, value in results.items()}


def _check_fit(model, feature_extractor, *splits: datasets.Dataset | None):
    for name in ("sampling_rate", "num_samples"):
        expected, given = getattr(model.config, name), getattr(feature_extractor, name)
        if expected != given:
            raise ValueError(
                f"`{name}` is {expected} in the model and {given} in the feature extractor: load both from one folder."
            )
    for dataset in splits:
        if dataset is not None and (length := len(dataset[0]["labels"])) != model.config.num_labels:
            raise ValueError(
                f"The records have {length} labels, the model {model.config.num_labels}: give it a head for them by "
                "`model.replace_head(id2label)`."
            )


def _warn_if_the_probe_was_better(results: dict[str, float]):
    if not {"probe_seconds", "finetune_seconds"} <= results.keys():
        return
    before, after = results["probe_eval_macro_auroc"], results["eval_macro_auroc"]
    if after < before:
        logger.warning(
            f"Fine-tuning ended below the probe that it began with: validation macro AUROC {after:.4f} after "
            f"{before:.4f}. A lower `learning_rate` may help; `--stages probe` keeps the probe."
        )


def _fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_of_data(dataset: datasets.Dataset) -> str:
    table = dataset.select_columns(["ecg_id", "labels"]).with_format("arrow")[:]
    digest = hashlib.sha256(table["ecg_id"].to_numpy().tobytes())
    digest.update(label_matrix(table).numpy().tobytes())
    return digest.hexdigest()


def _only_stages(folder: pathlib.Path) -> bool:
    return [file.name for file in folder.iterdir()] == [STAGES_FOLDER]


__all__ = ["PostTrainer"]
