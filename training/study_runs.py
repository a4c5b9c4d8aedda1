"""One run of a study: training it, its line of `runs.jsonl`, and what is kept of it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from study_grid import POST_TRAIN, Run
from task_specific import train_task_specific
from transformers import HfArgumentParser

from ecg_hf.cli import post_training_arguments
from ecg_hf.evaluation import EvaluationArguments, evaluate
from ecg_hf.files import whole_file, whole_folder
from ecg_hf.post_training.run import TaskArguments, post_train

RUNS_FILE = "runs.jsonl"
MODELS_FOLDER = "models"
PREDICTIONS = "{split}.npz"
_MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "model.pt", "all_results.json")
_LINE = ("name", "task", "train_fraction", "method", "searched", "seed", "arguments")


def make_run(
    run: Run, work_dir: pathlib.Path, machine_args: Mapping[str, Any], source: pathlib.Path | None, keeps: bool
) -> dict:
    """Make a run in its folder in `work_dir`, or go on there, and keep its model if the study `keeps` -> its line."""
    folder = work_dir / run.name
    line = line_of(run, folder, machine_args, source)
    if keeps:
        keep(run, folder, work_dir, machine_args)
    return line


def line_of(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any], source: pathlib.Path | None) -> dict:
    """Train `run` in `folder`, or go on there -> its line. `source` is the folder of the model that a refit takes."""
    facts = {"weights": weights(run), "bf16": machine_args.get("bf16", False)}
    if source is not None:
        facts["refit_from"] = source.name
    results = train(run, folder, machine_args, source)
    metrics = json.loads((folder / "metrics.json").read_text())
    learnable = _learnable_metrics(metrics["validation"]["per_label"], metrics["data"]["unlearnable_labels"])
    more = {"simulated": metrics["data"].get("simulated", False), "curve": _curve(folder)}
    return {**{name: getattr(run, name) for name in _LINE}, **facts, **results, **learnable, **more}


def train(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any], source: pathlib.Path | None) -> dict:
    """What `all_results.json` of the run holds."""
    if run.trainer != POST_TRAIN:
        return _train_network(run, folder, machine_args, "validation")
    fields = {
        **run.arguments,
        **machine_args,
        "evaluate_test": False,
        "output_dir": str(folder),
        "resume_from_checkpoint": "true",
    }
    if source is not None:
        fields["model_name_or_path"] = str(source)
    return post_train(*HfArgumentParser(post_training_arguments()).parse_dict(fields))


def _train_network(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any], *splits: str) -> dict:
    shared = {name: machine_args[name] for name in ("use_cpu", "bf16") if name in machine_args}
    places = {name: machine_args.get(name) for name in ("data_dir", "cache_dir")}
    return train_task_specific(output_dir=folder, predict=splits, **places, **shared, **run.arguments)


def train_with_test(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any]) -> tuple[dict, dict]:
    """Make a run of `task_specific` again -> its results, and its metrics on the test fold."""
    results = _train_network(run, folder, machine_args, "validation", "test")
    return results, json.loads((folder / "metrics.json").read_text())["test"]


def _learnable_metrics(per_label: Mapping[str, dict], unlearnable: list[str]) -> dict[str, float]:
    """The macro metrics of the labels that the training records have in both classes, and the number of the others."""
    values = [value for label, value in per_label.items() if label not in unlearnable and value["auroc"] is not None]
    return {
        "num_unlearnable": len(unlearnable),
        "learnable_macro_auroc": float(np.mean([value["auroc"] for value in values])),
        "learnable_macro_auprc": float(np.mean([value["auprc"] for value in values])),
    }


def _curve(folder: pathlib.Path) -> list[list[float]]:
    """[step, macro AUROC, macro AUPRC] of each validation while all weights learn."""
    if (folder / "curve.json").is_file():
        entries = json.loads((folder / "curve.json").read_text())
        return [[entry["step"], entry["macro_auroc"], entry["macro_auprc"]] for entry in entries]
    names = ("step", "eval_macro_auroc", "eval_macro_auprc")
    entries = json.loads((folder / "log_history.json").read_text())
    return [[entry[name] for name in names] for entry in entries if all(name in entry for name in names)]


def weights(run: Run) -> str | None:
    """SHA-256 of the checkpoint that a run starts from; None for random weights and for one on the Hub."""
    folder = run.arguments.get("model_name_or_path")
    if folder is None or not (file := pathlib.Path(folder) / "model.safetensors").is_file():
        return None
    return _sha256(file)


@functools.cache
def _sha256(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- Lines ----


def drop_cut_line(path: pathlib.Path) -> None:
    """A kill can cut the last line off; what is added later must not follow its beginning."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def append_line(path: pathlib.Path, line: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a file; none if there is no such file. A last line that was cut off is ignored."""
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line]


def read_runs(output_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of `runs.jsonl` in a folder, as [`read_lines`]."""
    return read_lines(pathlib.Path(output_dir) / RUNS_FILE)


class ReusedLines:
    """Finished runs of other studies, found by their arguments and weights, whatever their names.

    Raises `FileNotFoundError` for a file that is not there.
    """

    def __init__(self, files: Iterable[str | os.PathLike]):
        self._lines: dict[str, dict] = {}
        for file in files:
            if not pathlib.Path(file).is_file():
                raise FileNotFoundError(
                    f"`reuse` of the grid names `{file}`, which is not there: start in its folder."
                )
            for line in read_lines(file):
                self._lines.setdefault(_key(line["arguments"], line["weights"]), line)

    def of(self, runs: Iterable[Run]) -> dict[str, dict]:
        """By the name of each run that is among them its line, under the names of this study."""
        found = {}
        for run in runs:
            line = self._lines.get(_key(run.arguments, weights(run)))
            if line is not None and run.refit_of is None:
                found[run.name] = {**line, "name": run.name, "method": run.method, "reused_from": line["name"]}
        return found


def _key(arguments: Mapping[str, Any], weights_hash: str | None) -> str:
    return json.dumps([arguments, weights_hash], sort_keys=True)


# ---- Models and predictions that are kept ----


def kept_folder(work_dir: pathlib.Path, run: Run) -> pathlib.Path:
    return work_dir / MODELS_FOLDER / run.name


def keep(run: Run, folder: pathlib.Path, work_dir: pathlib.Path, machine_args: Mapping[str, Any]) -> None:
    """Copy the final model of `run` from `folder`, with its predictions of the validation fold, into `work_dir`."""
    target = kept_folder(work_dir, run)
    shutil.rmtree(target, ignore_errors=True)  # of a process that was stopped before the run's line was written
    with whole_folder(target) as unfinished:
        for name in _MODEL_FILES:
            if (folder / name).is_file():
                shutil.copy2(folder / name, unfinished / name)
        table = _validation_table(run, folder, machine_args)
        save_predictions(unfinished, "validation", table, machine_args["data_dir"])


def _validation_table(run: Run, folder: pathlib.Path, machine_args: Mapping[str, Any]) -> pd.DataFrame:
    if (folder / "predictions_validation.csv").is_file():
        return pd.read_csv(folder / "predictions_validation.csv")
    target = folder.with_name(folder.name + "-validation")
    evaluate_kept(run, folder, target, "validation", machine_args, num_resamples=2)
    table = pd.read_csv(target / "predictions.csv")
    shutil.rmtree(target)
    return table


def evaluate_kept(
    run: Run,
    model: pathlib.Path,
    output: pathlib.Path,
    split: str,
    machine_args: Mapping[str, Any],
    num_resamples: int,
) -> dict:
    """The metrics of a finished Transformer on a split, with intervals by patient."""
    arguments = EvaluationArguments(
        model_name_or_path=str(model),
        output_dir=str(output),
        split=split,
        num_bootstrap_resamples=num_resamples,
        use_cpu=machine_args.get("use_cpu", False),
        report=False,
    )
    places = {name: machine_args.get(name) for name in ("data_dir", "cache_dir")}
    rate = {"sampling_rate": run.arguments["sampling_rate"]} if "sampling_rate" in run.arguments else {}
    return evaluate(arguments, TaskArguments(task=run.task, **places, **rate))


def patients_of(data_dir: str | os.PathLike, ecg_ids: Sequence[int]) -> np.ndarray:
    """The patient of each record, from PTB-XL's table."""
    table = pd.read_csv(pathlib.Path(data_dir) / "ptbxl_database.csv", usecols=["ecg_id", "patient_id"])
    return table.set_index("ecg_id")["patient_id"].loc[list(ecg_ids)].to_numpy(dtype=np.int64)


def save_predictions(folder: pathlib.Path, split: str, table: pd.DataFrame, data_dir: str | os.PathLike) -> None:
    """`logits` (records, labels) float16, `labels` (records, labels) int8, `ecg_ids` and `patients` (records,)."""
    patients = patients_of(data_dir, table["ecg_id"])
    # The sigmoid in float64 is 1 from 37 on: its logit is cut off there, where float16 has steps of 1/32.
    scores = table.filter(regex="^prob_").to_numpy()
    logits = np.clip(logit(scores), -36, 36).astype(np.float16)
    labels = table.filter(regex="^true_").to_numpy().astype(np.int8)
    with whole_file(folder / PREDICTIONS.format(split=split)) as unfinished:
        np.savez_compressed(unfinished, logits=logits, labels=labels, ecg_ids=table["ecg_id"], patients=patients)
