"""Checks of what a command is to write, before its work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..ecg_transformer.common_ecg_transformer import check_choice


def check_output(output: str | os.PathLike | None, endings: tuple[str, ...] = ()) -> None:
    """Raise `ValueError`, `IsADirectoryError` or `FileNotFoundError` where `--output` cannot be such a file."""
    if output is None:
        return
    if endings:
        check_choice("the ending of --output", Path(output).suffix.lower(), endings)
    if os.path.isdir(output):
        raise IsADirectoryError(f"`--output` {output} is a folder: give the name of a file.")
    if not Path(output).absolute().parent.is_dir():
        raise FileNotFoundError(f"`--output` {output}: its folder does not exist; make it first.")


def check_no_input(output: str | os.PathLike | None, inputs: Iterable[str]) -> None:
    """Raise `FileExistsError` where a file that is to be written is one of those that are read."""
    if output is None or not os.path.exists(output):
        return
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(path, output):
            raise FileExistsError(f"`--output` would replace {os.fspath(output)}, which is read: give another name.")


def check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1 window, got {batch_size}.")


__all__ = ["check_batch_size", "check_no_input", "check_output"]
