"""Pooled features of the frozen encoder, computed once for the linear probe and kept in files.

Of one run they lie in its own folder, and are gone when the probe is fitted. In a cache that runs share they are named
by all that they are computed from, so that what has changed is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers.utils import logging

from ..cards import package_versions
from ..ecg_transformer.configuration_ecg_transformer import HEAD_SETTINGS, LABEL_SETTINGS
from ..files import whole_file, whole_folder
from ..runs.folder import room_for
from ..runs.statistics import RunningMoments
from ..runs.trainer import PASSING_FIELDS, RunTrainer, fingerprint_of_weights

logger = logging.get_logger(__name__)

FEATURES_FILE, COUNTS_FILE = "features.bin", "records.npz"

# Of the configuration: what belongs to the head, and what is off while features are computed.
_NOT_OF_FEATURES = (
    *PASSING_FIELDS,
    *HEAD_SETTINGS,
    *LABEL_SETTINGS,
    *("problem_type", "classifier_type", "classifier_bias", "classifier_hidden_size", "classifier_act"),
    *("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"),
)


@dataclass
class CachedFeatures:
    """Pooled features of all evaluation windows of a split, mapped from a file, and the labels of its records.

    features: float32 (windows, hidden), the windows of a record one after another; counts: int64 (records,);
    labels: float32 (records, labels).
    """

    features: np.ndarray
    counts: np.ndarray
    labels: np.ndarray

    @classmethod
    def write(cls, folder: pathlib.Path, batches: Iterable[tuple[np.ndarray, np.ndarray]]):
        """Write batches of (features (records, windows, hidden), mask (records, windows)) as they come."""
        folder.mkdir(parents=True, exist_ok=True)
        counts = []
        with open(folder / FEATURES_FILE, "wb") as file:
            for features, mask in batches:
                file.write(np.ascontiguousarray(features[mask], dtype=np.float32).data)
                counts.append(mask.sum(axis=1))
        # Written last, and complete: its presence says that the features are.
        with whole_file(folder / COUNTS_FILE) as unfinished:
            np.savez(unfinished, counts=np.concatenate(counts))

    @classmethod
    def read(cls, folder: pathlib.Path, labels: np.ndarray) -> CachedFeatures:
        """The features in a folder, of records that have these labels."""
        with np.load(folder / COUNTS_FILE) as records:
            counts = records["counts"]
        values = np.memmap(folder / FEATURES_FILE, dtype=np.float32, mode="r")
        return cls(values.reshape(counts.sum(), -1), counts, labels)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature, in one pass that holds a chunk at a time."""
        moments = RunningMoments(self.features.shape[1])
        for start in range(0, len(self.features), 8192):
            moments.add(self.features[start : start + 8192], axis=1)
        return moments.mean(), moments.std()


def cache_features(trainer: RunTrainer, split: str, dataset: datasets.Dataset, resume: bool) -> pathlib.Path:
    """The folder of the features of a split, which are computed unless they are there; called by all processes.

    They are there in the cache of `args.feature_cache`, or, of a run that is resumed, in its own folder.
    """
    trainer.model.to(trainer.args.device).eval()
    found = None
    if trainer.is_world_process_zero():
        found = _place(trainer, split, dataset, resume)
    # One process looks and tells the others.
    folder, is_there = broadcast_object_list([found])[0]
    if is_there:
        logger.info(f"The features of {split} are read from `{folder}`.")
        return folder
    batches = _feature_batches(trainer, split, dataset)
    if not trainer.is_world_process_zero():
        for _ in batches:  # takes part in the gathering
            continue
    elif trainer.args.feature_cache is None:
        with room_for("the features of the probe", folder):
            CachedFeatures.write(folder, batches)
    else:
        _write_shared(folder, batches)
    trainer.accelerator.wait_for_everyone()
    return folder


def forget_features(trainer: RunTrainer) -> None:
    """Remove those in the run's own folder; a cache that runs share is kept."""
    shutil.rmtree(_own_folder(trainer), ignore_errors=True)


def feature_key(trainer: RunTrainer, dataset: datasets.Dataset) -> str:
    """Hexadecimal name of the features of a data set: the same only where these are the same, whatever the labels.

    Of the encoder it holds weights and configuration, of the records the signals and all that is read with them; then
    the feature extractor, and what changes the rounding: precision, device, attention, batches and versions.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    config, versions = model.config.to_dict(), package_versions()
    facts = {
        "weights": fingerprint_of_weights(model.base_model.state_dict()),
        "config": {name: value for name, value in config.items() if name not in _NOT_OF_FEATURES},
        "attention": model.config._attn_implementation,
        "feature_extractor": json.loads(trainer.processing_class.to_json_string()),
        "records": trainer.fingerprint_of(dataset, ("signal", "sampling_rate", "lead_names")),
        "prepared": trainer.args.prepare_records,
        "precision": trainer.accelerator.mixed_precision,
        "tf32": trainer.args.tf32,
        "device": trainer.args.device.type,
        "batch": [trainer.args.eval_batch_size, trainer.args.world_size],
        "versions": {name: versions[name] for name in ("ecg_hf", "torch", "transformers", "numpy")},
    }
    if (order := trainer.feature_order(dataset)) is not None:
        facts["order"] = hashlib.sha256(json.dumps(order).encode()).hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _own_folder(trainer: RunTrainer) -> pathlib.Path:
    return trainer.run_folder.stage("probe") / "features"


def _place(trainer: RunTrainer, split: str, dataset: datasets.Dataset, resume: bool) -> tuple[pathlib.Path, bool]:
    """The folder of the features of a split, and whether they are there."""
    if trainer.args.feature_cache is None:
        folder = _own_folder(trainer) / split
        return folder, resume and (folder / COUNTS_FILE).is_file()
    folder = pathlib.Path(trainer.args.feature_cache).expanduser() / feature_key(trainer, dataset)
    if not folder.is_dir():
        return folder, False
    if _is_whole(folder, len(dataset), trainer.model.config.hidden_size):
        return folder, True
    logger.warning(f"The features in `{folder}` are cut short: they are computed again.")
    shutil.rmtree(folder)
    return folder, False


def _is_whole(folder: pathlib.Path, num_records: int, hidden_size: int) -> bool:
    if not all((folder / name).is_file() for name in (FEATURES_FILE, COUNTS_FILE)):
        return False
    try:
        with np.load(folder / COUNTS_FILE) as records:
            counts = records["counts"]
    except (EOFError, ValueError, zipfile.BadZipFile):
        return False
    size = int(counts.sum()) * hidden_size * np.dtype(np.float32).itemsize
    return len(counts) == num_records and (folder / FEATURES_FILE).stat().st_size == size


def _write_shared(folder: pathlib.Path, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with room_for("the features of the probe", folder.parent), whole_folder(folder) as unfinished:
            CachedFeatures.write(unfinished, batches)
    except OSError as error:
        # Another run was faster; its features are the same.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not os.path.isdir(folder):
            raise


def _feature_batches(trainer: RunTrainer, split: str, dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    loader, accelerator = trainer.get_feature_dataloader(dataset), trainer.accelerator
    hidden_size = trainer.model.config.hidden_size
    silent = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    for inputs in tqdm(loader, desc=f"Features of {split}", disable=silent):
        window_mask = inputs.pop("window_mask")
        windows = {name: values[window_mask] for name, values in inputs.items() if name != "labels"}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            rows = trainer.model.base_model(**windows)
        features = torch.zeros((*window_mask.shape, hidden_size), device=trainer.args.device)
        features[window_mask] = rows.pooler_output.float()
        # Processes may hold records of different numbers of windows.
        padded = accelerator.pad_across_processes((features, window_mask.long()), dim=1)
        features, window_mask = (tensor.cpu().numpy() for tensor in accelerator.gather_for_metrics(padded))
        yield features, window_mask.astype(bool)


__all__ = ["CachedFeatures", "cache_features", "feature_key", "forget_features"]
