"""PreTrainer: contrastive pre-training on crops of records, with the encoder's quality read along the way."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pathlib
import shutil
import time
from dataclasses import fields

import datasets
import torch
import yaml
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..cards import package_versions, write_model_card
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForPreTraining
from ..files import write_atomic
from ..plotting import plot_learning_curves
from ..post_training.stages import differences, last_complete_checkpoint
from ..post_training.windows import EpochSampler, SetEpoch, identity_collate
from .arguments import PreTrainingArguments
from .crops import Augmentation, Crops
from .probe import LinearProbe

logger = logging.get_logger(__name__)

STAGE = "pretrain"
RUN_FILE = "run.json"
UNKNOWN_DATA = {"name": "own records", "simulated": False, "license": None, "citation": None, "homepage": None}

# Of the configuration: what saving and loading set, and what the encoder's weights don't depend on.
_PASSING_FIELDS = ("architectures", "auto_map", "dtype", "transformers_version", "_name_or_path", "provenance")


class CollapseError(RuntimeError):
    """All crops are mapped to nearly the same feature, or to none: there is nothing left to learn from."""


class PreTrainer(Trainer):
    """A [`Trainer`] whose `pretrain()` trains an encoder without labels and leaves it in `args.output_dir`.

    Args:
        model ([`ECGTransformerForPreTraining`]): The encoder with its projection head.
        args ([`PreTrainingArguments`])
        train_dataset (`datasets.Dataset`): Records with the columns of [`load_records`].
        feature_extractor ([`ECGTransformerFeatureExtractor`]): Makes crops of records, and is saved with the encoder.
        probe ([`LinearProbe`], *optional*): Called before the first epoch and every `args.probe_every` epochs.
        recipe (`dict`, *optional*): Further facts of the run for `recipe.yaml`; compared when the run is resumed.
        data (`dict`, *optional*): The records' `name`, `simulated`, `license`, `citation`, `homepage`, for the card.

    Further keyword arguments go to [`Trainer`].
    """

    def __init__(
        self,
        *,
        model: ECGTransformerForPreTraining,
        args: PreTrainingArguments,
        train_dataset: datasets.Dataset,
        feature_extractor: ECGTransformerFeatureExtractor,
        probe: LinearProbe | None = None,
        recipe: dict | None = None,
        data: dict | None = None,
        **kwargs,
    ):
        _check_records(train_dataset, args)
        if args.contrastive_temperature is not None:
            model.config.contrastive_temperature = args.contrastive_temperature
        self.run_folder = pathlib.Path(args.output_dir)
        self.recipe = {**(recipe or {}), **args.recipe()}
        self.probe = probe
        self.data = {**UNKNOWN_DATA, **(data or {})}
        self.epoch_sampler: EpochSampler | None = None
        self._steps: list[torch.Tensor] = []  # accuracy and deviation of each step since the last log
        self._started, self._seconds_before = time.perf_counter(), 0.0
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=identity_collate,
            processing_class=feature_extractor,
            **kwargs,
        )
        self.add_callback(SetEpoch(self))
        self.add_callback(_LogLastStep())
        if probe is not None and args.probe_every:
            self.add_callback(_Probe(self))

    def pretrain(self, resume_from_checkpoint: bool | str | None = None) -> dict[str, float]:
        """Train, write the encoder and its curves into `args.output_dir`, and return what `all_results.json` holds.

        With `resume_from_checkpoint` (or the argument of that name) true, a run that was stopped goes on from its last
        whole checkpoint; with the name of a checkpoint, from that one.
        """
        resume = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        if resume is True and (self.run_folder / "config.json").is_file():
            self._check_run(self.run_folder)
            logger.warning(f"The run in `{self.run_folder}` is finished: its results are returned.")
            return json.loads((self.run_folder / "all_results.json").read_text())
        checkpoint = self._checkpoint_to_resume(resume)
        self.accelerator.wait_for_everyone()  # no process shall find what another begins to write
        set_seed(self.args.seed)
        self._started = time.perf_counter()
        if checkpoint is not None:
            state = json.loads((pathlib.Path(checkpoint) / "trainer_state.json").read_text())
            self._seconds_before = max((entry.get("seconds", 0.0) for entry in state["log_history"]), default=0.0)
        self.train(resume_from_checkpoint=checkpoint)
        return self._finish()

    # ---- Crops in, loss out ----

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        extractor = self.processing_class
        if self.args.crop_seconds is not None:
            extractor = copy.deepcopy(extractor)
            extractor.num_samples = round(self.args.crop_seconds * extractor.sampling_rate)
            extractor.window_stride = None
        augmentation = Augmentation(**{item.name: getattr(self.args, item.name) for item in fields(Augmentation)})
        dataset = Crops(dataset, extractor, augmentation, self.args.seed, self.args.crops_per_record)
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        self.epoch_sampler = EpochSampler(len(train_dataset), self.args.seed)
        return self.epoch_sampler

    def get_decay_parameter_names(self, model) -> list[str]:
        """Weight decay pulls at matrices only, and not at tokens and positions."""
        model = self.accelerator.unwrap_model(model)
        without_decay = model.no_weight_decay()
        return [
            name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in without_decay
        ]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self._steps.append(torch.stack([outputs.accuracy, outputs.feature_std]).detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._steps:
            accuracy, feature_std = torch.stack(self._steps).mean(dim=0).tolist()
            logs |= {"accuracy": accuracy, "feature_std": feature_std}
            self._steps.clear()
        super().log(logs, start_time)
        self.state.log_history[-1].update(stage=STAGE, seconds=round(self._seconds(), 2))
        if "feature_std" in logs:
            self._check_collapse(logs)

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _check_collapse(self, logs: dict[str, float]) -> None:
        warm = self.state.global_step > self.args.get_warmup_steps(self.state.max_steps)
        if math.isfinite(logs["feature_std"]) and (not warm or logs["feature_std"] >= self.args.collapse_feature_std):
            return
        raise CollapseError(
            f"The features have collapsed: at step {self.state.global_step} their deviation is "
            f"{logs['feature_std']:.2g} (loss {logs['loss']:.3g}), less than `collapse_feature_std` "
            f"({self.args.collapse_feature_std}). Use a lower `learning_rate`, more `warmup_steps`, or larger batches."
        )

    # ---- The run's folder ----

    def _get_output_dir(self, trial) -> str:
        return str(self.run_folder / "_stages" / STAGE)

    def _facts(self) -> dict:
        """What must be the same for a run to go on."""
        config = self.model.config.to_dict()
        facts = {
            "recipe": self.recipe,
            "model": {name: value for name, value in config.items() if name not in _PASSING_FIELDS},
            "feature_extractor": json.loads(self.processing_class.to_json_string()),
            "records": _fingerprint_of_records(self.train_dataset),
        }
        return json.loads(json.dumps(facts))

    def _checkpoint_to_resume(self, resume: bool | str | None) -> str | None:
        if not resume:
            if any(self.run_folder.glob("*")):
                raise FileExistsError(
                    f"`{self.run_folder}` holds files of another run: choose another `output_dir`, or go on with it "
                    "by `--resume_from_checkpoint true`."
                )
            return None
        checkpoint = resume
        if resume is True:
            checkpoint = last_complete_checkpoint(self._get_output_dir(None), self.args.world_size)
            if checkpoint is None:
                logger.warning(f"There is no whole checkpoint in `{self.run_folder}`: pre-training begins anew.")
                return None
        self._check_run(pathlib.Path(checkpoint))
        return str(checkpoint)

    def _check_run(self, folder: pathlib.Path) -> None:
        if not (folder / RUN_FILE).is_file():
            raise FileNotFoundError(f"`{folder}` is not a checkpoint of pre-training: it has no {RUN_FILE}.")
        if changes := list(differences(json.loads((folder / RUN_FILE).read_text()), self._facts())):
            raise ValueError(
                f"`{folder}` cannot go on with other settings: {'; '.join(changes)}. Use its own settings, or begin a "
                "run from it by `--model_name_or_path`, in another `output_dir`."
            )

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            write_atomic(pathlib.Path(output_dir) / RUN_FILE, json.dumps(self._facts(), indent=2))

    def _save_checkpoint(self, model, trial) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = pathlib.Path(self._get_output_dir(trial))
            shutil.rmtree(folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", ignore_errors=True)
            whole = last_complete_checkpoint(folder, self.args.world_size)
            free = shutil.disk_usage(self.run_folder).free / 2**20
            raise OSError(
                f"The checkpoint of step {self.state.global_step} could not be written to `{folder}` ({error}; "
                f"{free:.0f} MiB are free). "
                + (f"{pathlib.Path(whole).name} is whole" if whole else "There is no earlier one")
                + ": make room, and go on by `--resume_from_checkpoint true`."
            ) from error

    def _finish(self) -> dict[str, float]:
        """The encoder without its projection head, results and curves; `config.json` moves in last."""
        history = self.state.log_history
        results = {"num_records": len(self.train_dataset), "epochs": self.state.epoch}
        latest = {name: value for entry in history for name, value in entry.items()}
        names = ("loss", "accuracy", "feature_std", "probe_macro_auroc", "probe_macro_auprc")
        results.update({name: latest[name] for name in names if name in latest})
        results.update(pretrain_seconds=round(self._seconds(), 2), world_size=self.args.world_size)
        if self.is_world_process_zero():
            folder = self.run_folder / "_stages" / "final"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.accelerator.unwrap_model(self.model).base_model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)
            write_atomic(folder / RUN_FILE, json.dumps(self._facts(), indent=2))
            (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe, sort_keys=False))
            (folder / "log_history.json").write_text(json.dumps(history, indent=1))
            plot_learning_curves(history, folder / "learning_curves.png")
            write_atomic(folder / "all_results.json", json.dumps(results, indent=2) + "\n")
            write_atomic(folder / "metrics.json", json.dumps(self._metrics(), indent=1) + "\n")
            write_model_card(folder)
            for file in sorted(folder.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(self.run_folder / file.name)
            folder.rmdir()
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


class _LogLastStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= state.global_step >= state.max_steps


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
        if trainer.is_world_process_zero():
            encoder = trainer.accelerator.unwrap_model(trainer.model).base_model
            metrics = trainer.probe(encoder.to(trainer.args.device), trainer.compute_loss_context_manager())
        trainer.accelerator.wait_for_everyone()
        trainer.log({f"probe_{name}": value for name, value in metrics.items()})


def _check_records(dataset: datasets.Dataset, args: PreTrainingArguments) -> None:
    batch_size = args.world_size * args.per_device_train_batch_size
    if len(dataset) < batch_size:
        raise ValueError(
            f"{len(dataset)} records do not fill a batch of {batch_size}: set `per_device_train_batch_size` to "
            f"{len(dataset) // args.world_size} or less, or give more records. At least two are needed."
        )
    patients = dataset.data.column("patient_id")
    if not patients.null_count and len(patients.unique()) == 1:
        raise ValueError(f"All {len(dataset)} records are of one patient: there is no other to tell them from.")


def _fingerprint_of_records(dataset: datasets.Dataset) -> str:
    table = dataset.select_columns(["ecg_id", "patient_id"]).with_format("arrow")[:]
    digest = hashlib.sha256(table["ecg_id"].to_numpy().tobytes())
    digest.update(table["patient_id"].to_numpy().tobytes())
    return digest.hexdigest()


__all__ = ["CollapseError", "PreTrainer"]
