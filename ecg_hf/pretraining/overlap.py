"""Which of the records to pre-train on are PTB-XL's: its folds 9 and 10 judge models, and must not be seen before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..cards import UNKNOWN_FOLD
from ..ptbxl.copies import ecg_id_of_header
from ..ptbxl.table import FILENAME_COLUMNS, FOLDS, TABLE_NAME, read_table


def ptbxl_folds(paths: Iterable[str], folders: Iterable[str | os.PathLike | None]) -> Counter[int | str]:
    """How many of the records are of each fold of PTB-XL (1 to 10, or `UNKNOWN_FOLD`); other records are not counted.

    A record is PTB-XL's where it lies, links followed, in a folder with PTB-XL's table, or where its file or header
    has a name of PTB-XL's or of PhysioNet/CinC 2021's copy and the header fits: twelve leads, ten seconds at any rate.
    The fold is that of the tables found above the records and at or below `folders`.
    """
    tables = _Tables(folder for folder in folders if folder is not None)
    folds = (_fold(path, tables) for path in paths)
    return Counter(fold for fold in folds if fold is not None)


def refuse_test_folds(folds: Counter[int | str], num_files: int) -> None:
    """`ValueError` where `ptbxl_folds` found records outside PTB-XL's training folds."""
    found = [f"{count} of fold {fold}" for fold, count in sorted(folds.items(), key=str) if fold not in FOLDS["train"]]
    if not found:
        return
    text = ", ".join(found).replace(f"of fold {UNKNOWN_FOLD}", "of a fold that no table tells")
    raise ValueError(
        f"Of the {num_files} records to pre-train on these are PTB-XL's and not known to be of its training folds "
        f"(1 to 8): {text}. A model that saw them cannot be judged on PTB-XL's validation and test folds (9 and 10). "
        "Give PTB-XL's own folder as `--data_dir`, of which the training folds are read; leave these records out, by "
        "a `--table` of the others; or take them by `--allow_test_folds true`, which the card will say. "
        f"`--probe_data_dir` with PTB-XL's table ({TABLE_NAME}) tells the folds of copies."
    )


class _Tables:
    """The tables of PTB-XL that are known, and where the records of each folder lie."""

    def __init__(self, folders: Iterable[str | os.PathLike]):
        self._above: dict[str, str | None] = {}
        self._folds: dict[str, dict[str, int]] = {}
        for folder in folders:
            for table in sorted(Path(folder).rglob(TABLE_NAME)):
                self.of(str(table.parent))

    def above(self, folder: str) -> str | None:
        """The folder with a table that is `folder` or one above it."""
        if folder not in self._above:
            parent = os.path.dirname(folder)
            has_table = os.path.isfile(os.path.join(folder, TABLE_NAME))
            self._above[folder] = folder if has_table else None if parent == folder else self.above(parent)
        return self._above[folder]

    def of(self, folder: str) -> dict[str, int]:
        """The fold of each file name and each ecg_id (as text) of the table in `folder`."""
        if folder not in self._folds:
            folds = {}
            for rate in FILENAME_COLUMNS:
                table = read_table(folder, rate, ("strat_fold", "filename"))
                for name, ecg_id, fold in zip(
                    *(table[column].to_pylist() for column in ("filename", "ecg_id", "strat_fold")), strict=True
                ):
                    folds |= {os.path.normpath(name): fold, str(ecg_id): fold}
            self._folds[folder] = folds
        return self._folds[folder]

    def of_id(self, ecg_id: int) -> int | str:
        found = (folds.get(str(ecg_id)) for folds in self._folds.values())
        return next((fold for fold in found if fold is not None), UNKNOWN_FOLD)


def _fold(path: str, tables: _Tables) -> int | str | None:
    """The fold of a record, `UNKNOWN_FOLD`, or None for a record that is not PTB-XL's."""
    header = os.path.realpath(f"{path}.hea")
    folder = tables.above(os.path.dirname(header))
    if folder is not None:
        name = os.path.relpath(header, folder).removesuffix(".hea")
        if name in tables.of(folder):
            return tables.of(folder)[name]
    ecg_id = _ecg_id(header)
    if ecg_id is not None:
        return tables.of_id(ecg_id)
    return None if folder is None else UNKNOWN_FOLD


def _ecg_id(header: str) -> int | None:
    """The id in PTB-XL of a record whose name and header are as there; None for any other record."""
    if not os.path.isfile(header):
        return None  # reported when the record is read
    with open(header, "rb") as file:
        text = file.read(2**16).decode("latin-1")
    return ecg_id_of_header(os.path.basename(header).removesuffix(".hea"), text)


__all__ = ["ptbxl_folds", "refuse_test_folds"]
