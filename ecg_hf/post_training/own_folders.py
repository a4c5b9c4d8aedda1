"""Folders that `--data_dir` may name beside PTB-XL's: those of the PhysioNet/CinC Challenges, and CODE-15 %."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets

from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION
from ..ptbxl.table import TABLE_NAME as PTBXL_TABLE
from ..runs.arguments import DataArguments, refuse_given
from ..runs.shards import MANIFEST
from ..tables import code15, load_challenge, load_code15, snomed
from ..tables.challenge import ALL_LABELS, SCORED_LABELS, has_headers

CHALLENGE_FOLDER = "a PhysioNet/CinC Challenge's"
CODE15_FOLDER = "CODE-15 %'s"

# Of tables, or of files that do not say it themselves.
_NOT_OF_FOLDERS = (
    *("label_columns", "label_column", "patient_column", "split_column", "validation_table", "record_column"),
)
_STATED = ("sampling_rate", "units")
_PROBLEM_TYPES = {CHALLENGE_FOLDER: (MULTI_LABEL,), CODE15_FOLDER: (MULTI_LABEL, REGRESSION)}


def kind_of_folder(path: str | os.PathLike) -> str:
    """`CODE15_FOLDER` or `CHALLENGE_FOLDER`, by what is in it.

    Raises `FileNotFoundError` where there is no folder, or none of their files in it.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"`data_dir` {path} does not exist: give the folder of the records.")
    if code15.is_code15_folder(path):
        return CODE15_FOLDER
    if has_headers(path):
        return CHALLENGE_FOLDER
    if (path / MANIFEST).is_file():
        raise FileNotFoundError(
            f"`data_dir` {path} holds shards of `ecg-hf prepare` ({MANIFEST}), which are read with `--streaming true`."
        )
    raise FileNotFoundError(
        f"`data_dir` {path} has neither PTB-XL's table ({PTBXL_TABLE}) nor that of CODE-15 % ({code15.TABLE_NAME}) "
        "nor WFDB headers (.hea), as folders of the PhysioNet/CinC Challenges have: give one of these, or own records "
        "by `--table`."
    )


def check_arguments(args: DataArguments) -> None:
    """`ValueError` for an argument that has no meaning for a folder that is not PTB-XL's."""
    refuse_given(args, _NOT_OF_FOLDERS, "is for own records: give their table by `--table`")
    refuse_given(args, _STATED, "is stated by the records in `data_dir`: leave it out")


def load_folder(
    data_dir: str, args: DataArguments, labels: Sequence[str] | None, problem_type: str
) -> datasets.DatasetDict:
    """The splits of a folder; `labels` are those of a trained model, unless the arguments name others."""
    kind = kind_of_folder(data_dir)
    if problem_type not in _PROBLEM_TYPES[kind]:
        allowed = " or ".join(_PROBLEM_TYPES[kind])
        raise ValueError(f"`problem_type` of records in {kind} form must be {allowed}, got {problem_type}.")
    wanted = args.labels or labels
    shared = {
        "lead_names": args.lead_names,
        "split_fractions": args.split_fractions,
        "seed": args.split_seed,
        "max_skipped": args.max_skipped,
        "num_proc": args.num_proc,
        "cache_dir": args.cache_dir,
    }
    if kind == CODE15_FOLDER:
        return load_code15(data_dir, wanted, problem_type=problem_type, **shared)
    if wanted is None or list(wanted) in ([ALL_LABELS], [SCORED_LABELS]):
        wanted = (wanted or [ALL_LABELS])[0]
    return load_challenge(data_dir, wanted, **shared)


def names_of_folder(data_dir: str, labels: Sequence[str]) -> Mapping[str, str]:
    """Full names of the labels of a folder, where they are known."""
    if kind_of_folder(data_dir) == CHALLENGE_FOLDER:
        return snomed.names_in_words(labels)
    return {label: code15.LABELS[label] for label in labels if label in code15.LABELS}


__all__ = ["check_arguments", "kind_of_folder", "load_folder", "names_of_folder"]
