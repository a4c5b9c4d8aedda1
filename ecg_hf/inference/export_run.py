"""`ecg-hf export` as a command: the files, and their macro AUROC where records are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import datasets
import torch

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION, check_choice
from ..metrics import multilabel_metrics
from ..post_training.data import (
    TaskArguments,
    check_splits,
    data_folder,
    has_table,
    load_splits,
    refuse_flags_of_training,
)
from ..ptbxl.label_order import label_names_of
from ..ptbxl.table import FOLDS
from ..runs.arguments import given_fields
from ..runs.windows import EvaluationWindows
from .export import Exported, check_export, export_onnx, load_exported, run_session, session_of

_SPLIT = "validation"
_RECORDS_PER_BATCH = 32
_SMALLEST = 1e-7
"""Probabilities nearer to 0 or 1 are not told apart in float32."""


@dataclass
class ExportArguments:
    """A trained checkpoint, and where its ONNX file goes."""

    model: str = field(metadata={"help": "Folder or Hub id of a post-trained checkpoint."})
    output: str = field(metadata={"help": "X.onnx; preprocessor_config.json goes beside it."})
    int8: bool = field(default=False, metadata={"help": "Also write X.int8.onnx, with linear layers in 8 bits."})
    split: str = field(default=_SPLIT, metadata={"help": "Of the records that are given: train, validation or test."})


def export(args: ExportArguments, data_args: TaskArguments) -> dict:
    """Write the files, and judge them on the records that `data_args` names, if it names any.

    Returns:
        `files`, for each file `path`, `megabytes`, `difference` and `macro_auroc` (None without records), the
        `macro_auroc` of the checkpoint on the same records, and `text`, all this in words.
    """
    check_choice("split", args.split, FOLDS)
    check_export(args.output)
    exported = load_exported(args.model)
    dataset = _records(exported, args, data_args)
    files = [file._asdict() for file in export_onnx(args.model, args.output, int8=args.int8)]
    report = {"files": files, "macro_auroc": None}
    if dataset is not None:
        report["macro_auroc"] = macro_auroc(exported, dataset)
    for file in files:
        file["macro_auroc"] = None if dataset is None else macro_auroc(exported, dataset, session_of(file["path"]))
        file["path"] = str(file["path"])
    return {**report, "text": _in_words(exported, report, args.split)}


def macro_auroc(exported: Exported, dataset: datasets.Dataset, session=None) -> float:
    """Over the records of a data set, by an `onnxruntime` session, or by the model itself.

    Raises `ValueError` where no label has both a positive and a negative.
    """
    columns = _columns_of_labels(exported, dataset)
    windows = EvaluationWindows(dataset, exported.extractor)
    scores, truth = [], []
    for start in range(0, len(dataset), _RECORDS_PER_BATCH):
        batch = windows.__getitems__(range(start, min(start + _RECORDS_PER_BATCH, len(dataset))))
        scores.append(_record_logits(exported, batch, session))
        truth.append(batch["labels"][:, columns])
    return multilabel_metrics(torch.cat(truth).numpy(), torch.cat(scores).numpy())["macro_auroc"]


def _columns_of_labels(exported: Exported, dataset: datasets.Dataset) -> list[int]:
    """For each label of the model its column; `ValueError` where the data set lacks one."""
    names = label_names_of(dataset) or []
    labels = exported.scores.model.config.labels
    if missing := [label for label in labels if label not in names]:
        raise ValueError(f"The records have no label {', '.join(missing)}; they have {', '.join(names)}.")
    return [names.index(label) for label in labels]


def _record_logits(exported: Exported, batch: dict[str, torch.Tensor], session) -> torch.Tensor:
    """(records, labels): the outputs of the windows, aggregated as the model says."""
    model, mask = exported.scores.model, batch["window_mask"]
    inputs = [batch["input_values"][mask]]
    if exported.extractor.return_attention_mask:
        whole = torch.ones(mask.shape + batch["input_values"].shape[-1:], dtype=torch.long)
        inputs.append(batch.get("attention_mask", whole)[mask])
    with torch.no_grad():
        found = exported.scores(*inputs) if session is None else torch.from_numpy(run_session(session, inputs))
    found = found.clamp(_SMALLEST, 1 - _SMALLEST)
    is_multi_label = model.config.problem_type == MULTI_LABEL
    logits = (found.logit() if is_multi_label else found.log()) * model.config.temperature
    windows = logits.new_zeros((*mask.shape, logits.shape[-1]))
    windows[mask] = logits
    return model.aggregate_windows(windows, mask)


def _records(exported: Exported, args: ExportArguments, data_args: TaskArguments) -> datasets.Dataset | None:
    if data_args.demo:
        raise ValueError("`--demo` is for training: give records by `--table` or `--data_dir`, or none.")
    refuse_flags_of_training(data_args)
    if not has_table(data_args) and data_args.data_dir is None and data_args.dataset_name is None:
        none = vars(TaskArguments())  # not the defaults of the fields: the task is filled in
        if given := given_fields(args, ["split"]) + [name for name in none if getattr(data_args, name) != none[name]]:
            raise ValueError(f"`--{given[0]}` is of records, and none are given: leave it out, or give them.")
        return None
    config = exported.scores.model.config
    if config.problem_type == REGRESSION:
        raise ValueError("Values of a regression have no AUROC: leave the records out.")
    folder = data_folder(data_args, args.output)
    splits = load_splits(folder, data_args, seed=0, labels=config.labels, problem_type=config.problem_type)
    check_splits(splits, [args.split], data_args)
    _columns_of_labels(exported, splits[args.split])
    return splits[args.split]


def _in_words(exported: Exported, report: dict, split: str) -> str:
    leads, samples = len(exported.extractor.lead_names), exported.extractor.num_samples
    lines = [
        f"Input `{exported.input_names[0]}` (batch, {leads}, {samples}), output `{exported.scores.output_name}` "
        f"(batch, {len(exported.scores.model.config.labels)}): any batch; {leads} leads and {samples} samples at "
        f"{exported.extractor.sampling_rate:g} Hz are fixed."
    ]
    for name in exported.input_names[1:]:
        lines.append(
            f"Input `{name}` (batch, {samples}), int64: 1 for a sample, 0 for padding; all 1 where the feature "
            "extractor gives none."
        )
    for file in report["files"]:
        line = (
            f"{file['path']}: {file['megabytes']:.1f} MB, differs from the model by {file['difference']:.1e} at most"
        )
        if file["macro_auroc"] is not None:
            line += f"; macro AUROC {file['macro_auroc']:.4f} on the {split} records"
        lines.append(line)
    if report["macro_auroc"] is None:
        lines.append("AUROC was not measured: give records by `--data_dir` or `--table`.")
    else:
        lines.append(f"The checkpoint has macro AUROC {report['macro_auroc']:.4f} on the same records.")
    return "\n".join(lines)


__all__ = ["ExportArguments", "export", "macro_auroc"]
