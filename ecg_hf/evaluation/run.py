"""What `ecg-hf evaluate` does: from arguments to metrics, predictions and the report of a checkpoint."""

from __future__ import annotations

import json
import logging
import pathlib

import datasets

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import json_text, write_atomic
from ..model_folder import checkpoint_of
from ..post_training import PostTrainingArguments
from ..post_training.checks import check_labels, check_something_is_known, warn_of_learned
from ..post_training.data import TaskArguments, check_splits, data_folder, load_splits, refuse_flags_of_training
from ..post_training.reports import results_table
from ..post_training.targets import target_of
from ..ptbxl.labels import task_labels
from ..runs.folder import STAGES_FOLDER
from ..runs.progress import warned_once
from .arguments import EvaluationArguments
from .calibration import (
    calibration_report,
    check_can_update,
    filled_thresholds,
    fit_temperature,
    update_checkpoint,
)
from .comparison import check_comparable, compare
from .figures import FOLDER, draw_figures
from .measures import measure_of
from .operating_points import STORED, choose_points, judge_points
from .predictions import Judge, Predictions, predict
from .report import difference_text, report_text
from .robustness import robustness
from .subgroups import groups_of_records, judge_groups

logger = logging.getLogger(__name__)


def evaluate(evaluation_args: EvaluationArguments, data_args: TaskArguments) -> dict:
    """Judge a checkpoint, with 95 % intervals by patient -> what `metrics.json` in the output folder holds.

    Thresholds and temperature are chosen on the split `validation` of the same data, where there is one.

    Raises `FileExistsError` for the output folder of a run or a model, whose `metrics.json` its card is made from, and
    `ValueError` for arguments or labels that do not fit.
    """
    args, output_dir = evaluation_args, pathlib.Path(evaluation_args.output_dir)
    _check_output_folder(output_dir)
    if args.update_model:
        check_can_update(args.model_name_or_path)
    model = _load_model(args.model_name_or_path, data_args)
    _check_kind(args, model.config.problem_type)
    other = None
    if args.compare_with is not None:
        other = _load_model(args.compare_with, data_args)
        check_comparable(args.model_name_or_path, model.config, args.compare_with, other.config)
    dataset, validation = _load_records(args, data_args, model)
    groups = groups_of_records(dataset, data_args, args.split, args.subgroup_columns) if args.report else {}
    for name, records in (("validation", validation), (args.split, dataset)):
        if records is not None:
            check_labels(name, records, target_of(model.config))
            check_something_is_known(name, records, model.config.labels)
    if other is not None:
        check_labels(args.split, dataset, target_of(other.config))
    judge = _judge(args, args.model_name_or_path, model)
    stored_temperature = model.config.temperature
    chosen_on = None if validation is None else predict(judge, validation, "Validation")
    fitted = None
    if chosen_on is not None and model.config.problem_type != REGRESSION:
        fitted = fit_temperature(model.config, chosen_on)
    if args.fit_temperature:
        model.config.temperature = fitted
    if chosen_on is None or args.split != "validation":
        judged = predict(judge, dataset, args.split.capitalize())
    else:
        judged = chosen_on
    output = judged.output(judge)
    with warned_once(judge):
        metrics = _metrics(args, data_args, judge, judged, output)
    if other is not None:
        found = compare(judge, judged, _judge(args, args.compare_with, other), args.num_bootstrap_resamples)
        metrics["comparison"] = {"model": _model_name(args.compare_with), **found}
    if judge.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        judge.target.predictions_table(dataset, output).to_csv(output_dir / "predictions.csv", index=False)
        write_atomic(output_dir / "metrics.json", json_text(metrics))
    if args.report:
        report = _report(args, judge, chosen_on, judged, metrics, groups, (stored_temperature, fitted))
        _write(args, report, judge, judged)
    return metrics


def _load_model(path: str, data_args: TaskArguments) -> ECGTransformerForMultiLabel:
    if data_args.demo:
        raise ValueError("`--demo` is for training: give the folder of its records, OUTPUT_DIR-data, as `--data_dir`.")
    refuse_flags_of_training(data_args)
    with checkpoint_of(path):
        model = ECGTransformerForMultiLabel.from_pretrained(path)
    if model.head_is_random:
        raise ValueError(f"`{path}` has no trained head: post-train it before it is evaluated.")
    labels = model.config.labels
    if data_args.reads_ptbxl and sorted(labels) != sorted(task_labels(data_args.task)):
        raise ValueError(
            f"`{path}` gives the labels {', '.join(labels)}, the task `{data_args.task}` has "
            f"{', '.join(task_labels(data_args.task))}: choose the task that the checkpoint was trained for."
        )
    return model


def _check_kind(args: EvaluationArguments, problem_type: str) -> None:
    if args.fit_temperature and problem_type == REGRESSION:
        raise ValueError("`--fit_temperature` is for probabilities; the checkpoint predicts numbers: leave it out.")
    if problem_type != MULTI_LABEL and (given := args.given_targets()):
        raise ValueError(
            f"`--{given[0]}` is for the thresholds of several labels; the checkpoint predicts "
            f"{'numbers' if problem_type == REGRESSION else 'one class'}, without thresholds: leave it out."
        )


def _load_records(
    args: EvaluationArguments, data_args: TaskArguments, model: ECGTransformerForMultiLabel
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """The records that judge, and the validation records, None where there are none or nothing is chosen on them."""
    data_dir, config = data_folder(data_args, args.output_dir), model.config
    splits = load_splits(data_dir, data_args, seed=0, labels=config.labels, problem_type=config.problem_type)
    check_splits(splits, [args.split], data_args)
    dataset = splits[args.split]
    judged = dataset
    if data_args.max_eval_records is not None:  # of the training split, too
        dataset = dataset.select(range(min(data_args.max_eval_records, len(dataset))))
    validation = splits.get("validation") if args.report and config.problem_type != REGRESSION else None
    if validation is not None and not len(validation):
        validation = None
    chosen = ["fit_temperature"] * args.fit_temperature + args.given_targets()
    if chosen and validation is None:
        raise ValueError(
            f"`--{chosen[0]}` needs validation records: give a table with some, by `--split_column`, "
            "`--validation_table` or `--split_fractions`."
        )
    if args.split != "train":
        for path in filter(None, (args.model_name_or_path, args.compare_with)):
            warn_of_learned(path, args.split, judged, "their figures are too good")
    if validation is not None and args.split != "validation":
        chosen = "thresholds and temperature fit records that the model knows, not new ones"
        warn_of_learned(args.model_name_or_path, "validation", validation, chosen)
    return dataset, validation


def _judge(args: EvaluationArguments, path: str, model: ECGTransformerForMultiLabel) -> Judge:
    return Judge(
        model=model,
        args=PostTrainingArguments(
            output_dir=args.output_dir,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            use_cpu=args.use_cpu,
        ),
        feature_extractor=ECGTransformerFeatureExtractor.from_pretrained(path),
    )


def _model_name(name_or_path: str) -> str:
    path = pathlib.Path(name_or_path)
    return path.absolute().name if path.is_dir() else name_or_path


def _metrics(args: EvaluationArguments, data_args: TaskArguments, judge: Judge, judged: Predictions, output) -> dict:
    """What `metrics.json` holds."""
    dataset = judged.dataset
    metrics = judge.target.split_metrics(dataset, output, args.num_bootstrap_resamples)
    if metrics is None:
        problem = judge.target.undefined.format("")
        raise ValueError(f"{problem[0].upper()}{problem[1:]} among the {len(dataset)} records: take more.")
    return {
        "split": args.split,
        **({"task": data_args.task} if data_args.reads_ptbxl else {"data": dataset.info.dataset_name}),
        "loss": output.metrics["test_loss"],
        **metrics,
    }


# ---- The report ----


def _report(
    args: EvaluationArguments,
    judge: Judge,
    validation: Predictions | None,
    judged: Predictions,
    metrics: dict,
    groups: dict[str, list[str]],
    temperatures: tuple[float, float | None],
) -> dict:
    """What `report.json` holds; `temperatures` are that of the checkpoint, and the fitted one or None."""
    config, resamples = judge.model.config, args.num_bootstrap_resamples
    measure, scores, patients = measure_of(config.problem_type), judged.scores(config), judged.patients()
    found = None
    if args.robustness:
        found = robustness(judge, judged.dataset, measure, resamples, args.robustness_max_records)
    return {
        "model": _model_name(args.model_name_or_path),
        "problem_type": config.problem_type,
        "labels": list(config.labels),
        "data": f"PTB-XL, task {metrics['task']}" if "task" in metrics else metrics["data"],
        "split": args.split,
        "num_patients": int(patients.max()) + 1,
        "metrics": metrics,
        "operating_points": _points(args, config, validation, judged, temperatures[0]),
        "calibration": _calibration(args, config, validation, judged, temperatures),
        "subgroups": judge_groups(groups, judged.labels, scores, patients, measure, resamples),
        "robustness": found,
    }


def _points(
    args: EvaluationArguments, config, validation: Predictions | None, judged: Predictions, stored_temperature: float
) -> dict | None:
    if config.problem_type != MULTI_LABEL:
        return None
    targets = {"sensitivity": args.target_sensitivity, "specificity": args.target_specificity}
    rules = {}
    if validation is not None:
        rules = choose_points(validation.labels, validation.scores(config), **targets)
    shared = (judged.patients(), args.num_bootstrap_resamples, config.labels)
    scores = judged.scores(config)
    found = {rule: judge_points(judged.labels, scores, thresholds, *shared) for rule, thresholds in rules.items()}
    # What the checkpoint does as it is: its thresholds are for its own temperature.
    scores = judged.scores(config, stored_temperature)
    found[STORED] = judge_points(judged.labels, scores, config.thresholds or [0.5] * len(config.labels), *shared)
    return {
        "chosen_on": None if validation is None else "validation",
        "num_validation_records": 0 if validation is None else len(validation.dataset),
        "targets": targets,
        "has_stored": config.thresholds is not None,
        "rules": found,
    }


def _calibration(
    args: EvaluationArguments,
    config,
    validation: Predictions | None,
    judged: Predictions,
    temperatures: tuple[float, float | None],
) -> dict | None:
    if config.problem_type == REGRESSION:
        return None
    stored, fitted = temperatures
    named = {"before": stored} if fitted is None else {"before": stored, "after": fitted}
    if stored != 1:  # of a checkpoint that was calibrated on these very records, before and after are alike
        named = {"uncalibrated": 1.0, **named}
    return {
        "fitted_on": None if fitted is None else "validation",
        "fitted_temperature": fitted,
        "is_used": args.fit_temperature,
        "is_written": args.update_model,
        "curves": calibration_report(config, named, validation, judged, args.num_bootstrap_resamples),
    }


def _write(args: EvaluationArguments, report: dict, judge: Judge, judged: Predictions) -> None:
    """The figures, if wanted what was found into the checkpoint, and the report, which says so."""
    if not judge.is_world_process_zero():
        return
    folder, config = pathlib.Path(args.output_dir), judge.model.config
    measure = measure_of(config.problem_type)
    figures = draw_figures(folder / FOLDER, report, measure, judged.labels, judged.scores(config))
    if args.update_model:
        thresholds = None
        if config.problem_type == MULTI_LABEL:
            found = report["operating_points"]["rules"]["max_f1"].values()
            chosen = [None if of_label is None else of_label["threshold"] for of_label in found]
            thresholds = filled_thresholds(config, chosen, report["calibration"]["curves"]["before"]["temperature"])
        update_checkpoint(args.model_name_or_path, report["calibration"]["fitted_temperature"], thresholds)
    write_atomic(folder / "report.json", json_text(report))
    write_atomic(folder / "report.md", report_text(report, measure, figures))


def summary(metrics: dict, args: EvaluationArguments) -> str:
    """What the command prints: the table of the metrics, and where the files are."""
    kinds = [kind for name, kind in (("mae", REGRESSION), ("accuracy", SINGLE_LABEL)) if name in metrics]
    kind = kinds[0] if kinds else MULTI_LABEL
    table = results_table(args.split, metrics, kind)
    if comparison := metrics.get("comparison"):
        table += f"\nCompared with {comparison['model']} on the same records: {difference_text(comparison)}"
    folder = pathlib.Path(args.output_dir)
    if not args.report:
        return f"{table}\nmetrics.json and predictions.csv are in {folder}"
    thresholds = ", and thresholds" if kind == MULTI_LABEL else ""
    written = f"\n{args.model_name_or_path} has the fitted temperature{thresholds}." if args.update_model else ""
    return (
        f"{table}\nThe report is {folder / 'report.md'}; the figures, report.json, metrics.json and predictions.csv "
        f"are beside it.{written}"
    )


def _check_output_folder(folder: pathlib.Path) -> None:
    of_a_run = ["config.json", "preprocessor_config.json", "recipe.yaml", "all_results.json", STAGES_FOLDER]
    found = [name for name in of_a_run if (folder / name).exists()]
    if STAGES_FOLDER in folder.absolute().parts:
        found.append(STAGES_FOLDER)
    if not found and (folder / "metrics.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        found = [] if isinstance(metrics, dict) and "split" in metrics else ["metrics.json"]  # of an evaluation
    if found:
        raise FileExistsError(
            f"`--output_dir` {folder} holds a run or a model ({', '.join(found)}), whose `metrics.json` an evaluation "
            "would overwrite: choose another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`--output_dir` {folder} is a file: choose another name.")


__all__ = ["evaluate", "summary"]
