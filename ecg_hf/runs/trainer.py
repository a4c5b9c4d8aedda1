"""RunTrainer: what the trainers of post-training and of pre-training have in common.

Of the library's trainer only public methods are overridden. One private name is needed, see `_forget_preparation`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import pathlib
import shutil
import time
import traceback

import datasets
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, SchedulerType, Trainer, set_seed
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from transformers.utils import logging

from ..cards import write_model_card
from ..command import without_progress_bars
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..files import json_text, whole_file, write_atomic
from ..plotting import plot_learning_curves
from .arguments import RunArguments
from .callbacks import KeepBest, SetEpoch
from .checks import check_optim_args
from .folder import (
    PROCESSES,
    RunFolder,
    best_checkpoint,
    check_is_of_model,
    checkpoint_problem,
    differences,
    free_mebibytes,
    last_complete_checkpoint,
    room_for,
)
from .machines import CompleteCheckpoints, agreed_checkpoint, check_each_node
from .progress import report_progress, say, show_messages
from .provenance import note_base
from .records import RecordOrder
from .windows import EpochSampler, identity_collate

logger = logging.get_logger(__name__)

START_FILE = "start.safetensors"

FOLLOW_THE_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)

_CHOOSE_OPTIMIZER = (
    "the optimizer belongs to the recipe of a run. Choose it by `optim`, `optim_args`, `learning_rate` and "
    "`lr_scheduler_type`, or override `create_optimizer` in a subclass"
)
REFUSED_KEYWORDS = {
    "optimizers": _CHOOSE_OPTIMIZER,
    "optimizer_cls_and_kwargs": _CHOOSE_OPTIMIZER,
    "data_collator": "the windows of records arrive as complete batches",
    "processing_class": "it is the `feature_extractor`, under that name",
    "compute_metrics": "the metrics that choose the epoch are fixed. Compute others from the output of `predict`",
    "preprocess_logits_for_metrics": "the metrics are fixed. Compute others from the output of `predict`",
}
"""Arguments of the library's trainer that a run cannot honour, and why."""

# Of the configuration: what saving and loading set, and what the weights don't depend on. Labels are compared apart.
PASSING_FIELDS = (
    *("architectures", "auto_map", "dtype", "transformers_version", "_name_or_path", "provenance"),
    *("id2label", "label2id"),
)


class RunTrainer(RecordOrder, Trainer):
    """A [`Trainer`] of one run in one folder, which can be stopped and resumed, bit-identically on a CPU.

    A subclass has the methods `training_windows(dataset)` and `evaluation_windows(dataset, feature_extractor,
    **kwargs)`, which give data sets whose `__getitems__` makes a batch of keys (epoch, index) or of indices, and
    `data_fingerprints()`, a dictionary of what changes when the records do.

    Args:
        model (`PreTrainedModel`, *optional*): What is trained; if None, what `model_init` makes.
        args ([`RunArguments`])
        feature_extractor ([`ECGTransformerFeatureExtractor`]): Makes windows of records, and is saved with the model.
        recipe (`dict`, *optional*): Further facts of the run for `recipe.yaml`; compared when the run is resumed.

    Further keyword arguments go to [`Trainer`].
    """

    layer_decay = 1.0
    """Factor of the learning rate from each layer to the one below it."""

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate of the top layer when the schedule stands at its maximum."""
        return self.args.learning_rate

    def __init__(
        self,
        *,
        model: PreTrainedModel | None,
        args: RunArguments,
        feature_extractor: ECGTransformerFeatureExtractor,
        recipe: dict | None = None,
        **kwargs,
    ):
        show_messages(args)
        self.run_folder = RunFolder(args.output_dir)
        self._args_recipe = args.recipe()
        self.recipe = {**(recipe or {}), **self._args_recipe}
        self.stage = ""
        self.epoch_sampler: EpochSampler | None = None
        self._train_loader: DataLoader | None = None
        self._epoch_windows: Dataset | None = None
        self._stage_started, self._seconds_before = time.perf_counter(), 0.0
        super().__init__(
            model=model, args=args, data_collator=identity_collate, processing_class=feature_extractor, **kwargs
        )
        if self.is_fsdp_enabled:
            _keep_outputs(self.accelerator.state.fsdp_plugin)
        note_base(self.model.config)
        # What counts is what the launcher set, too.
        self.recipe |= {name: self.accelerator.mixed_precision == name for name in ("bf16", "fp16")}
        report_progress(self)
        self.add_callback(SetEpoch(self))
        self.add_callback(KeepBest(self))
        self.add_callback(CompleteCheckpoints())
        # Taken once: later the model has other weights, and the recipe more entries.
        self._facts = None
        if self.train_dataset is None:
            return
        self._check_optimizer()
        check_each_node(self)
        if self.is_world_process_zero():
            self._facts = json.loads(json.dumps(self._describe_run()))

    def __repr__(self) -> str:
        splits = {"training": self.train_dataset, "validation": self.eval_dataset}
        splits["test"] = getattr(self, "test_dataset", None)
        records = [f"{len(dataset):,} {name}" for name, dataset in splits.items() if dataset is not None]
        # A search frees the model after each trial.
        count = f" with {self.model.num_parameters():,} parameters" if self.model is not None else ""
        return (
            f"{type(self).__name__}({type(self.model).__name__}{count}, "
            f"{', '.join(records) or 'no'} records, output_dir={str(self.run_folder.path)!r})"
        )

    # ---- The run ----

    def _describe_run(self) -> dict:
        config = self.model.config.to_dict()
        return {
            "recipe": self.recipe,
            PROCESSES: self.args.world_size,
            "labels": self.model.config.labels,
            "model": {name: value for name, value in config.items() if name not in PASSING_FIELDS},
            "weights": fingerprint_of_weights(self.model.state_dict()),
            "data": self.data_fingerprints(),
            "feature_extractor": json.loads(self.processing_class.to_json_string()),
        }

    def check_arguments(self) -> None:
        """`ValueError` where `args` says something else than when the trainer was made."""
        if changes := list(differences(self._args_recipe, self.args.recipe(), "args.")):
            raise ValueError(
                f"`args` was changed after the trainer was made: {'; '.join(changes)}. Make a new trainer, so that "
                "its recipe is that of the run."
            )

    def open_run(self, resume: bool | str | None) -> dict | None:
        """Begin the run, or resume it -> its results if it is finished; errors as in [`RunFolder.open`].

        One process looks and tells the others, which could find what it has just written. With the name of a
        checkpoint that one must be of a run with the same settings. The folder is this run's until `close_run()`.
        """
        found = None
        if self.is_world_process_zero():
            # Windows are made by the extractor as it is now, whatever it was when the trainer was made.
            self._facts["feature_extractor"] = json.loads(self.processing_class.to_json_string())
            try:
                if isinstance(resume, str):
                    source = RunFolder.of_checkpoint(resume)
                    source.check(self._facts)
                    resume = source.path == self.run_folder.path.absolute()
                found = self.run_folder.open(self._facts, bool(resume))
            except (OSError, ValueError) as error:
                found = error
        found = broadcast_object_list([found])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def say(self, text: str) -> None:
        """Print a text for people, on stderr, by the main process."""
        if self.is_world_process_zero():
            say(text)

    def say_plan(self, plan: str, resume: bool | str | None) -> dict:
        """What a dry run does in place of `open_run` and all that follows; errors as there -> no results."""
        if self.is_world_process_zero():
            self.run_folder.look(self._facts, bool(resume))
        self.say(plan)
        return {}

    def close_run(self) -> None:
        """Give the folder of the run free; without effect where it is not claimed."""
        self.run_folder.close()

    def enter_stage(self, stage: str) -> None:
        """Begin a stage: every entry of the log has its name and seconds from now on."""
        self.stage = stage
        self._stage_started, self._seconds_before = time.perf_counter(), 0.0

    def stage_seconds(self) -> float:
        """Seconds of this stage so far, with those before the run was stopped."""
        return self._seconds_before + time.perf_counter() - self._stage_started

    def train_stage(self, resume: bool | str, keep_start: bool) -> None:
        """`train()` from the last complete checkpoint of the stage, from the one named, or from its beginning.

        `keep_start` writes the weights of the beginning down, for a stage to which no other one hands over weights in
        a file: a resumed run without a checkpoint then begins with those, even if the model in memory has moved on.
        """
        folder = self.run_folder.stage(self.stage)
        checkpoint = resume
        if not isinstance(resume, str):
            checkpoint = agreed_checkpoint(folder, self.args.world_size) if resume else None
        start = folder / START_FILE
        if checkpoint is None and keep_start:
            if resume and start.is_file():
                self.model.load_state_dict(load_file(start))
            elif self.is_world_process_zero():
                folder.mkdir(parents=True, exist_ok=True)
                with room_for("the first weights of the stage", folder):
                    self.write_weights(start)
            self.accelerator.wait_for_everyone()
        # With `model_init` the library would begin with another model than the stage before has left.
        model_init, self.model_init = self.model_init, None
        try:
            self.train(checkpoint)
        finally:
            self.model_init = model_init

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """One gradient stage, with a fresh start of optimizer, schedule and random numbers, from the beginning or from
        the checkpoint named; True is the last one of the stage.

        Raises `ValueError` where there is none, or one of another stage or model, and `OSError` where one cannot be
        written; the message says from which one the run can be resumed.
        """
        if isinstance(resume_from_checkpoint, bool):
            resume_from_checkpoint = self._last_checkpoint() if resume_from_checkpoint else None
        set_seed(self.args.seed)
        self.optimizer = self.lr_scheduler = self._epoch_windows = None
        self._forget_preparation()
        if resume_from_checkpoint is not None:
            check_is_of_model(resume_from_checkpoint, set(self.model.state_dict()))
            state = json.loads((pathlib.Path(resume_from_checkpoint) / "trainer_state.json").read_text())
            self._seconds_before = max((entry.get("seconds", 0.0) for entry in state["log_history"]), default=0.0)
        # The library keeps its checkpoints in `output_dir`.
        output_dir, self.args.output_dir = self.args.output_dir, str(self.run_folder.stage(self.stage))
        self.checkpoints_folder = pathlib.Path(resume_from_checkpoint or f"{self.args.output_dir}/none").parent
        try:
            if resume_from_checkpoint is not None and _stopped_early(state):
                return self._end_as_stopped(pathlib.Path(resume_from_checkpoint))
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                # Of a lost one the library only warns, and ends with the last weights.
                best_checkpoint(pathlib.Path(self.state.best_model_checkpoint).parent, self.state.best_global_step)
            return output
        except (OSError, RuntimeError, SafetensorError) as error:
            self._raise_if_checkpoint_failed(error)
            if "DataLoader worker (pid" in str(error):
                raise ChildProcessError(
                    f"A process that prepares batches has ended ({str(error).strip()}), often since memory ran out: "
                    "use fewer `dataloader_num_workers`, and resume by `--resume_from_checkpoint true`."
                ) from error
            with room_for("a checkpoint", self.run_folder.path):
                raise
        finally:
            self.args.output_dir = output_dir
            self._stop_workers()

    def hyperparameter_search(self, hp_space=None, compute_objective=None, n_trials=20, direction=None, **kwargs):
        """As in the library; without `compute_objective` the best trial is that by `args.metric_for_best_model`."""
        if compute_objective is None:
            # The library would take the least sum of all metrics.
            name = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
            compute_objective = operator.itemgetter(name)
            direction = direction or ("maximize" if self.args.greater_is_better else "minimize")
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction or "minimize", **kwargs)

    def _last_checkpoint(self) -> str:
        folder = self.run_folder.stage(self.stage)
        if (found := agreed_checkpoint(folder, self.args.world_size)) is None:
            raise ValueError(f"There is no complete checkpoint in `{folder}`: leave `resume_from_checkpoint` out.")
        return found

    def _end_as_stopped(self, checkpoint: pathlib.Path) -> TrainOutput:
        """The end of a stage that an `EarlyStoppingCallback` had ended, when the run was stopped after its last
        checkpoint; the library would train on."""
        self.state = TrainerState.load_from_json(checkpoint / "trainer_state.json")
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self.load_weights(pathlib.Path(best or checkpoint) / "model.safetensors")
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else float("nan"), {})

    def write_weights(self, file: pathlib.Path) -> None:
        """Write those of this process, unsharded; `save_pretrained` (transformers 5.23) does so in the first alone."""
        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        with whole_file(file) as unfinished:
            save_file(state, unfinished)

    def load_weights(self, file: pathlib.Path) -> None:
        """Give the model, sharded or not, the weights of a file."""
        if self.is_fsdp_enabled:
            set_model_state_dict(self.model, load_file(file), options=StateDictOptions(full_state_dict=True))
        else:
            self.model.load_state_dict(load_file(file))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the library; also under FSDP whose state is saved in shards, where the library writes no model."""
        if self.is_fsdp_enabled and "SHARDED" in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            state = self.accelerator.get_state_dict(self.model)  # by all processes
            if self.args.should_save:
                folder = output_dir or self.args.output_dir
                self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state)
                self.processing_class.save_pretrained(folder)
        with without_progress_bars():
            super().save_model(output_dir, _internal_call)

    def _forget_preparation(self) -> None:
        """After an `evaluate()` the first step would otherwise get the bare model, without DDP, and the processes
        would diverge silently: accelerate marks a model that it has prepared, and wraps it no second time."""
        self.model_wrapped = self.model
        if self.model is not None:  # a search frees it after each trial
            self.model._is_accelerate_prepared = False

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.args.world_size > 1 and not self.is_fsdp_enabled and not _is_wrapped(model):
            raise RuntimeError(
                f"{self.args.world_size} processes train, but the model is not wrapped: their weights would diverge. "
                "Start training through `post_train()`, `pretrain()` or `train()`."
            )
        return super().training_step(model, inputs, num_items_in_batch)

    def _raise_if_checkpoint_failed(self, error: Exception) -> None:
        # Another process may still write the checkpoint of this step, while something else has failed in this one.
        frames = traceback.walk_tb(error.__traceback__)
        if not self.args.should_save or all(frame.f_code.co_name != "_save_checkpoint" for frame, _ in frames):
            return
        folder = pathlib.Path(self.args.output_dir)
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not checkpoint.is_dir() or checkpoint_problem(checkpoint, self.args.world_size) is None:
            return
        shutil.rmtree(checkpoint, ignore_errors=True)
        complete = last_complete_checkpoint(folder, self.args.world_size)
        raise OSError(
            f"The checkpoint of step {self.state.global_step} could not be written to `{folder}` ({error}; "
            f"{free_mebibytes(folder):.0f} MiB are free). "
            + (f"{pathlib.Path(complete).name} is complete" if complete else "There is no earlier one")
            + ": make room, and resume by `--resume_from_checkpoint true`."
        ) from error

    # ---- Batches ----

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        windows = self.training_windows(self.train_dataset)
        # Not `args.train_batch_size`, which `auto_find_batch_size` leaves as it was.
        steps = self.args.gradient_accumulation_steps * self.args.world_size
        batch_size = self.get_total_train_batch_size(self.args) // steps
        self.epoch_sampler = self.training_sampler(len(windows), batch_size)
        self._train_loader = self._loader(
            windows,
            batch_size,
            sampler=self.epoch_sampler,
            drop_last=self.args.dataloader_drop_last,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        return self._train_loader

    @property
    def workers_wait(self) -> bool:
        """Whether persistent workers of the training batches wait for the next epoch."""
        return self._train_loader is not None and _unprepared(self._train_loader)._iterator is not None

    def _stop_workers(self) -> None:
        # Persistent ones end with their iterator, to which accelerate keeps a reference.
        if self.workers_wait:
            loader = _unprepared(self._train_loader)
            loader._iterator._shutdown_workers()
            loader._iterator = None

    def get_eval_dataloader(self, eval_dataset: datasets.Dataset | None = None) -> DataLoader:
        """Of prepared records in training, between epochs; otherwise as for a test, from the records themselves."""
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        if not self.is_in_train or eval_dataset is not self.eval_dataset:
            return self.get_test_dataloader(eval_dataset)
        if self._epoch_windows is None:
            extractor = self.epoch_extractor
            self._epoch_windows = self.evaluation_windows(eval_dataset, extractor, **self.preparation_of(eval_dataset))
        return self._loader(self._epoch_windows, self.args.eval_batch_size)

    @property
    def epoch_extractor(self) -> ECGTransformerFeatureExtractor:
        """Makes the windows of the evaluations between epochs."""
        return self.processing_class

    def get_feature_dataloader(self, dataset: datasets.Dataset) -> DataLoader:
        """All windows of prepared records, in the order of [`RecordOrder.feature_order`]."""
        windows = self.evaluation_windows(dataset, self.processing_class, **self.preparation_of(dataset))
        return self._loader(windows, self.args.eval_batch_size, sampler=self.feature_order(dataset))

    def get_test_dataloader(self, test_dataset: datasets.Dataset) -> DataLoader:
        windows = self.evaluation_windows(test_dataset, self.processing_class)
        return self._loader(windows, self.args.eval_batch_size)

    def _loader(self, windows: Dataset, batch_size: int, **kwargs) -> DataLoader:
        args = self.args
        loader = DataLoader(
            windows,
            batch_size,
            **kwargs,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
        )
        return self.accelerator.prepare(loader)

    # ---- The optimizer ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer of `args.optim` of what is not frozen; weight decay on matrices only, `layer_decay` over the
        depth."""
        if self.optimizer is None:
            module = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, module)
            # The schedules with a lowest rate compare it with this one, not with that of the groups.
            kwargs |= {"lr": self.peak_learning_rate} if "lr" in kwargs else {}
            self.optimizer = optimizer_class(self.parameter_groups(module), **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None) -> torch.optim.lr_scheduler.LRScheduler:
        """As in the library; a schedule that follows the metric knows in which direction that is better, while the
        library's default is less."""
        kwargs = self.args.lr_scheduler_kwargs
        if self.args.lr_scheduler_type in FOLLOW_THE_METRIC and self.args.greater_is_better:
            self.args.lr_scheduler_kwargs = {"mode": "max", **(kwargs or {})}
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.lr_scheduler_kwargs = kwargs

    def _check_optimizer(self) -> None:
        """Makes an optimizer and forgets it, so that an impossible one is refused before any training."""
        name = getattr(self.args.optim, "value", self.args.optim)
        try:
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            is_class = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)
            if not is_class or {"params", "model", "optimizer_dict"} & kwargs.keys():
                raise ValueError("it groups the parameters itself, which weight decay and `layer_decay` need to do")
            optimizer_class(self.parameter_groups(self.model), **kwargs)
            check_optim_args(self.args, lambda args: self.get_optimizer_cls_and_kwargs(args, self.model))
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"`optim` cannot be `{name}`: {error}") from error

    def parameter_groups(self, module) -> list[dict]:
        """The groups of the optimizer, the head's first: `params`, `lr` at the schedule's maximum, `weight_decay`."""
        model = self.accelerator.unwrap_model(module)
        without_decay = model.no_weight_decay()
        groups: dict[tuple[int, bool], list] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            # Tokens and positions are no matrices of a linear map.
            decays = parameter.ndim > 1 and name not in without_decay
            layer = model.layer_id(name) if self.layer_decay < 1 else 0
            groups.setdefault((layer, decays), []).append(parameter)
        if not groups:
            raise ValueError("all weights are frozen (`requires_grad` is False): leave some to be trained")
        top = max(layer for layer, _ in groups)
        return [
            {
                "params": parameters,
                "lr": self.peak_learning_rate * self.layer_decay ** (top - layer),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            # The rate that is logged is that of the first group: the head's.
            for (layer, decays), parameters in sorted(groups.items(), reverse=True)
        ]

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        self.state.log_history[-1].update(stage=self.stage, seconds=round(self.stage_seconds(), 2))

    # ---- The final files ----

    def begin_final_files(self, module: PreTrainedModel, prefix: str = "") -> pathlib.Path:
        """A folder with the model and its feature extractor, for the other final files; called by all processes.

        `module` is the model without wrappers, or the part of it whose weights begin with `prefix`.
        """
        folder = self.run_folder.stage("final")
        # Gathered from all processes where the model is sharded.
        state = self.accelerator.get_state_dict(self.model)
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            with room_for("the final files", self.run_folder.path), without_progress_bars():
                module.save_pretrained(folder, state_dict=state)
                self.processing_class.save_pretrained(folder)
        return folder

    def publish_final_files(self, folder: pathlib.Path, results: dict, metrics: dict) -> None:
        """Complete the folder by results, metrics, recipe, curves and card, and move it all to its place; called by
        the main process."""
        if self.args.auto_find_batch_size and self.state.train_batch_size:
            self.recipe["per_device_train_batch_size"] = self.state.train_batch_size // max(1, self.args.n_gpu)
        with room_for("the final files", self.run_folder.path):
            write_atomic(folder / "all_results.json", json_text(results))
            write_atomic(folder / "metrics.json", json_text(metrics))
            write_atomic(folder / "recipe.yaml", yaml.safe_dump(self.recipe, sort_keys=False))
            write_atomic(folder / "log_history.json", json.dumps(self.state.log_history, indent=1))
            metric = self.args.metric_for_best_model
            plot_learning_curves(self.state.log_history, folder / "learning_curves.png", metric)
            write_model_card(folder, title=self.run_folder.path.absolute().name)
            self.run_folder.publish(folder)
        self.run_folder.stage(self.stage).joinpath(START_FILE).unlink(missing_ok=True)


def accepted_keywords(kwargs: dict, refused: dict[str, str]) -> dict:
    """The keyword arguments for the library's trainer; `ValueError` for one that is `refused`, with the reason."""
    for name, reason in refused.items():
        if kwargs.get(name) not in (None, (None, None)):
            raise ValueError(f"`{name}` is not supported: {reason}.")
    return {name: value for name, value in kwargs.items() if name not in refused}


def _keep_outputs(plugin: FullyShardedDataParallelPlugin) -> None:
    """FSDP2 would round to its 16 bits also what the model itself gives in float32, such as an age of 70.3 to 70.5."""
    if plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None)


def _is_wrapped(model: torch.nn.Module) -> bool:
    compiled = getattr(model, "_orig_mod", model)  # accelerate compiles what it has wrapped
    return isinstance(compiled, DistributedDataParallel)


def _stopped_early(state: dict) -> bool:
    control = state["stateful_callbacks"].get("TrainerControl", {"args": {}})
    return control["args"].get("should_training_stop", False) and state["global_step"] < state["max_steps"]


def _unprepared(loader: DataLoader) -> DataLoader:
    """torch's loader within accelerate's."""
    return getattr(loader, "base_dataloader", loader)


def fingerprint_of_weights(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


__all__ = [
    "PASSING_FIELDS",
    "REFUSED_KEYWORDS",
    "RunTrainer",
    "accepted_keywords",
    "fingerprint_of_weights",
]
