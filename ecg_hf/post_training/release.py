"""`ecg-hf release` of a classifier: its thresholds and figures are those of the weights that are published."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from transformers import set_seed
from transformers.trainer_utils import PredictionOutput

from ..card_curves import curve_figures
from ..cards import ENCODER_CLASS, MEASURED, read_fact, read_facts
from ..ecg_transformer.common_ecg_transformer import REGRESSION
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..hub import rounded, write_release
from ..model_folder import check_model_folder
from .arguments import PostTrainingArguments
from .checks import check_labels
from .data import TaskArguments, check_splits, data_folder, load_splits
from .trainer import PostTrainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = {
    "data_dir": "the folder of the records, such as PTB-XL's",
    "dataset_name": "PTB-XL on the Hub, or a folder as `prepare-ptbxl` makes it",
    "table": "the table of own records",
    "validation_table": "the table of the validation records",
    "test_table": "the table of the test records",
    "cache_dir": "where `datasets` keeps the Arrow copy",
}
"""Where records are: what a recipe says of it was true on another machine, or of another folder."""

_PREFIXES = {"validation": "eval", "test": "test"}


def release(
    run: str | os.PathLike,
    output_dir: str | os.PathLike,
    records: Mapping[str, Any] | None = None,
    *,
    evaluate_test: bool | None = None,
    batch_size: int = 128,
    use_cpu: bool = False,
    with_code: bool = False,
) -> Path:
    """Write a finished run as it is published, see `write_release`, and measure the rounded weights -> `output_dir`.

    Thresholds are chosen anew on the validation records, and the figures of validation and test and the card's curves
    are replaced by those of the 16-bit weights, computed in 32 bit as whoever loads them will. Nothing is written
    before all is measured.

    Args:
        run: folder of a finished run.
        output_dir: a new or empty folder.
        records: where the records of the run are now, fields of `PLACES`; the recipe says which of them, and which
            labels. None keeps the figures of the run, which are of 32-bit weights.
        evaluate_test: whether the test records are judged; by default as in the run.
        batch_size: records in one batch.
        use_cpu: do not use a GPU.
        with_code: as in `write_release`.

    Raises:
        FileNotFoundError, FileExistsError: as in `write_release`.
        ValueError: `run` is an encoder, or the records are others than those that it was judged on.
    """
    folder = Path(run)
    changes, curves = None, {}
    if records:
        config = read_facts(folder, "config.json")  # says what a finished run has
        check_model_folder(folder)
        if config.get("architectures") == [ENCODER_CLASS]:
            raise ValueError(
                f"`{folder}` is an encoder, which has no labels to judge: leave `--{next(iter(records))}` out."
            )
        _check_places(records)
        changes, curves = _measured(folder, _task_arguments(folder, records, evaluate_test), batch_size, use_cpu)
    elif evaluate_test is not None:
        raise ValueError("`evaluate_test` needs the records: give them by `--data_dir`, or as the run was given them.")
    return write_release(folder, output_dir, changes, curves, with_code=with_code)


def _check_places(records: Mapping[str, Any]) -> None:
    for name in ("data_dir", "table", "validation_table", "test_table"):
        if name in records and "://" not in str(records[name]) and not Path(records[name]).exists():
            raise FileNotFoundError(f"`--{name}` {records[name]} does not exist: give the records of the run.")


def _recipe(folder: Path) -> dict[str, Any]:
    return yaml.safe_load(read_fact(folder, "recipe.yaml"))


def _task_arguments(folder: Path, records: Mapping[str, Any], evaluate_test: bool | None) -> TaskArguments:
    names = {item.name for item in dataclasses.fields(TaskArguments)} - {*PLACES, "demo"}
    values = {name: value for name, value in _recipe(folder).items() if name in names}
    if evaluate_test is not None:
        values["evaluate_test"] = evaluate_test
    return TaskArguments(**values, **records)


def _measured(
    folder: Path, data_args: TaskArguments, batch_size: int, use_cpu: bool
) -> tuple[dict[str, dict], dict[str, Figure]]:
    """The JSON files of a run with what the rounded weights change in them, by their names, and the card's curves."""
    recipe = _recipe(folder)
    stored, metrics, results = (
        read_facts(folder, name) for name in ("config.json", "metrics.json", "all_results.json")
    )
    trainer = _judge(folder, batch_size, use_cpu)
    config, target = trainer.model.config, trainer.target
    set_seed(recipe["seed"])
    splits = load_splits(
        data_folder(data_args, str(folder)), data_args, recipe["seed"], config.labels, config.problem_type
    )
    judged = ["validation", *(["test"] if data_args.evaluate_test else [])]
    check_splits(splits, judged, data_args)
    for name in judged:
        _check_same_records(folder, name, len(splits[name]), metrics["data"]["num_records"])
        check_labels(name, splits[name], target)
    outputs: dict[str, PredictionOutput] = {}
    for name in judged:
        outputs[name] = trainer.predict(splits[name], metric_key_prefix=_PREFIXES[name])
        if name == "validation":
            target.choose_thresholds(outputs[name])
    resamples = recipe["num_bootstrap_resamples"]
    figures = {name: target.split_metrics(splits[name], outputs[name], resamples) for name in judged}
    kept = {name: values for name, values in metrics.items() if name not in _PREFIXES}
    kept["data"]["num_records"] |= {name: len(splits[name]) for name in judged}
    changes = {
        "config.json": {**stored, "thresholds": config.thresholds},
        "metrics.json": {**kept, **{name: values for name, values in figures.items() if values}, MEASURED: "float16"},
        "all_results.json": {**_without_figures(results), **_results(outputs, figures, target.figures)},
    }
    if config.problem_type == REGRESSION:
        return changes, {}
    last = [name for name in judged if figures[name]][-1]  # of which the card has the figures
    return changes, curve_figures(target.predictions_table(splits[last], outputs[last]), last, config.labels)


def _judge(folder: Path, batch_size: int, use_cpu: bool) -> PostTrainer:
    """Evaluates the model of a folder as it will be published."""
    model = ECGTransformerForMultiLabel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in rounded(model.state_dict()).items():
            model.get_parameter_or_buffer(name).copy_(weight)
    args = PostTrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=batch_size,
        use_cpu=use_cpu,
        report_to="none",
    )
    feature_extractor = ECGTransformerFeatureExtractor.from_pretrained(folder)
    return PostTrainer(model=model, args=args, feature_extractor=feature_extractor)


def _check_same_records(folder: Path, split: str, count: int, expected: Mapping[str, int]) -> None:
    if split in expected and expected[split] != count:
        raise ValueError(
            f"The run in `{folder}` was judged on {expected[split]:,} {split} records, and {count:,} are given: give "
            "the records that it was trained with."
        )


def _without_figures(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if not name.startswith(tuple(_PREFIXES.values()))}


def _results(outputs: Mapping[str, PredictionOutput], figures: Mapping[str, dict], names) -> dict[str, float | None]:
    """The entries of `all_results.json`, as the run has them; None for what is undefined."""
    found = {
        f"{_PREFIXES[split]}_{name}": output.metrics[f"{_PREFIXES[split]}_{name}"]
        for split, output in outputs.items()
        for name in names
    }
    found = {name: None if math.isnan(value) else value for name, value in found.items()}
    if figures.get("test"):
        intervals = figures["test"]["intervals"]
        found |= {f"test_{name}_{end}": intervals[name][end] for name in names for end in ("low", "high")}
    return found


__all__ = ["PLACES", "release"]
