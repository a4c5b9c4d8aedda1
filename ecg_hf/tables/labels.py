"""The labels of a table: columns of 0 and 1, a column of codes, one of classes, or numbers."""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..ecg_transformer.common_ecg_transformer import (
    MULTI_LABEL,
    PROBLEM_TYPES,
    REGRESSION,
    SINGLE_LABEL,
    UNKNOWN_LABEL,
    check_choice,
)
from .store import NAMED_IN_A_MESSAGE
from .table import Table, is_empty, is_list, number_of_cell, refuse_thousands, seen

logger = logging.getLogger(__name__)

_CODE_SEPARATORS = ";|,"
# By these no text is parted, but what they part may be codes that stand alone in other rows.
_OTHER_SEPARATORS = "/+& \t\n；，、｜\u3000"

_BRACKETS = ("[]", "{}", "()")
# As Python prints other collections, and NumPy 2 its numbers and texts: `set()`, `array(['AF'], dtype=object)`,
# `[np.str_('AF')]`.
_PRINTED_COLLECTION = re.compile(r"(?:set|frozenset|array|dict_keys)\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_PRINTED_SCALAR = re.compile(r"\bnp\.\w+\(([^()]*)\)")

_TRUE_OR_FALSE = {"true": 1.0, "false": 0.0}


def table_labels(
    table: Table,
    label_columns: str | Sequence[str] | None,
    label_column: str | None,
    problem_type: str = MULTI_LABEL,
    labels: Sequence[str] | None = None,
) -> tuple[list[str], np.ndarray]:
    """Names of the labels, and float32 (rows, labels) as the column `labels` of a data set has them.

    Args:
        table: the table.
        label_columns: columns, by name or by pattern (`dx_*`): of 0 and 1, or of numbers for a regression.
        label_column: instead of them one column: of lists or separated codes, of classes, or of numbers.
        problem_type: one of `PROBLEM_TYPES`.
        labels: names and order, for one column of codes or classes; by default all that occur, sorted.

    An empty cell is unknown: -100, or NaN in a regression. Raises `ValueError` for other cells, which it names.
    """
    check_choice("problem_type", problem_type, PROBLEM_TYPES)
    if (label_columns is None) == (label_column is None):
        raise ValueError("Give either `label_columns`, one for each label, or `label_column`, one with all of them.")
    if isinstance(labels, str):
        raise ValueError(f"`labels` must be a list of names, got {labels!r}.")
    if problem_type == REGRESSION:
        if labels is not None:
            raise ValueError(
                "`labels` names codes or classes; the targets of a regression are the columns: leave it out."
            )
        names = [label_column] if label_columns is None else matching_columns(table, label_columns)
        return names, np.stack([_numbers(table, name) for name in names], axis=1)
    if label_columns is not None:
        if labels is not None:
            raise ValueError("`labels` is for one `label_column`; with `label_columns` their names are the labels.")
        names = matching_columns(table, label_columns)
        matrix = np.stack([_zeros_and_ones(table, name) for name in names], axis=1)
        return names, _one_hot(table, matrix) if problem_type == SINGLE_LABEL else matrix
    column = _whole_numbers(table, table.classes("label_column", label_column))
    find = _classes if problem_type == SINGLE_LABEL else _codes
    cells = find(table, label_column, column)
    return _matrix(table, label_column, cells, labels, problem_type)


def warn_of_spellings(label_column: str, names: Sequence[str]) -> None:
    """Labels that look the same, or differ in upper and lower case alone, are hardly meant to be two."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(_look_of(name), []).append(name)
    # In ASCII, in which what cannot be seen is written out.
    if several := [" and ".join(map(ascii, alike)) for alike in spellings.values() if len(alike) > 1]:
        logger.warning(
            f"The label column `{label_column}` has labels that look the same, or differ in upper and lower case "
            f"alone: {', '.join(several[:NAMED_IN_A_MESSAGE])}. Each is a label of its own: write them alike if they "
            "are one."
        )


def _look_of(name: str) -> str:
    """The same for names that differ in case, in how an accent is stored, or in characters without width."""
    return seen(name).casefold()


def matching_columns(table: Table, patterns: str | Sequence[str]) -> list[str]:
    """The columns that names or patterns choose, in the table's order for a pattern; each once."""
    found: dict[str, None] = {}
    for pattern in map(str, [patterns] if isinstance(patterns, str) else patterns):
        if pattern in table.cells.columns:
            found[pattern] = None
            continue
        columns = [name for name in table.cells.columns if fnmatch.fnmatchcase(name, pattern)]
        if not columns:
            table.column("label_columns", pattern)  # says which columns there are
        found |= dict.fromkeys(columns)
    if not found:
        raise ValueError("`label_columns` is empty: name the columns of the labels.")
    return list(found)


def _name(cell: object) -> str:
    """`1.0`, as pandas writes a whole number in a column with empty cells, is `1`."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _whole_numbers(table: Table, column: pd.Series) -> pd.Series:
    """A column of text in which each cell is `1.0` (or `1,0`), as pandas writes whole numbers beside empty cells, as
    `_name` has it in a frame; others as they are: `427.0` beside `427.31` is a code."""
    written = re.compile(r"\s*([-+]?[0-9]+)[.,]0\s*" if table.has_decimal_commas else r"\s*([-+]?[0-9]+)\.0\s*")
    filled = [cell for cell in column if not is_empty(cell)]
    if not filled or not all(isinstance(cell, str) and written.fullmatch(cell) for cell in filled):
        return column
    return column.map(lambda cell: cell if is_empty(cell) else written.fullmatch(cell)[1])


def _zeros_and_ones(table: Table, name: str) -> np.ndarray:
    column = table.classes("label_columns", name)
    texts = ["" if is_empty(cell) else str(cell).strip().casefold() for cell in column]
    # Few values occur again and again.
    value_of = {text: _zero_or_one(text) for text in set(texts)}
    values = np.array([value_of[text] for text in texts], dtype=np.float64)
    _refuse(table, name, column, np.isnan(values), "0, 1 or empty")
    return values.astype(np.float32)


def _zero_or_one(text: str) -> float:
    """NaN for anything but 0, 1 and empty."""
    if not text:
        return UNKNOWN_LABEL
    number = _TRUE_OR_FALSE.get(text, number_of_cell(text, has_decimal_commas=True))
    return number if number in (0, 1) else np.nan


def _numbers(table: Table, name: str) -> np.ndarray:
    column = table.classes("label_columns", name)
    values = [np.nan if is_empty(cell) else number_of_cell(cell, table.has_decimal_commas) for cell in column]
    _refuse(table, name, column, [value is None for value in values], "a number or empty")
    _refuse(table, name, column, np.abs(values) > np.finfo(np.float32).max, "below 3e38, as float32 has it")
    refuse_thousands(table, name, column)
    if table.has_decimal_commas:
        texts = column.astype(str)
        if texts.str.contains(",").any():
            # `3.068` beside `52,0` may well be three thousand.
            _refuse(table, name, column, texts.str.contains(".", regex=False), "written with a comma, as others are")
    return np.array(values, dtype=np.float32)


def _refuse(table: Table, name: str, column: pd.Series, wrong: Sequence[bool], expected: str) -> None:
    if len(rows := np.flatnonzero(wrong)):
        raise ValueError(
            f"The label column `{name}` of {table.name} must be {expected}; it is not in "
            f"{table.rows_in_words(rows, column)}."
        )


def _one_hot(table: Table, matrix: np.ndarray) -> np.ndarray:
    """Columns of 0 and 1 as classes: exactly one is 1 in each row, or all are empty."""
    known = (matrix != UNKNOWN_LABEL).any(axis=1)
    matrix = np.where(known[:, None] & (matrix == UNKNOWN_LABEL), 0, matrix)
    if len(rows := np.flatnonzero(known & ((matrix == 1).sum(axis=1) != 1))):
        counts = pd.Series((matrix == 1).sum(axis=1))
        raise ValueError(
            f"With one label for each record exactly one of the label columns must be 1; {table.name} has other "
            f"counts in {table.rows_in_words(rows, counts)}."
        )
    return matrix.astype(np.float32)


def _classes(table: Table, name: str, column: pd.Series) -> list[list[str] | None]:
    """The class of each cell, which may stand alone in a list; None for an empty cell."""
    cells = [_members(cell) if is_list(cell) else cell for cell in map(_unprinted, column)]
    wrong = [
        len(cell) != 1 or is_list(cell[0]) or is_empty(cell[0]) if is_list(cell) else _is_dictionary(cell)
        for cell in cells
    ]
    _refuse(table, name, column, wrong, "one class, or a list of one, or empty (unknown)")
    return [None if is_empty(cell) else [_name(cell[0] if is_list(cell) else cell)] for cell in cells]


def _codes(table: Table, name: str, column: pd.Series) -> list[list[str] | None]:
    """The codes of each cell, a list or text with separators; None for an empty cell."""
    texts = [cell for cell in column if isinstance(cell, str)]
    separator = next((mark for mark in _CODE_SEPARATORS if any(mark in text for text in texts)), None)
    cells = list(map(_unprinted, column))
    _refuse_dictionaries_of_zeros_and_ones(table, name, cells)
    parts_of = [None if is_empty(cell) else _parts_of(cell, separator) for cell in cells]
    wrong = [
        _is_dictionary(cell) or any(map(is_list, parts or ())) for cell, parts in zip(cells, parts_of, strict=True)
    ]
    _refuse(table, name, column, wrong, "codes, or a flat list of codes")
    codes = [None if parts is None else [_name(part) for part in parts if not is_empty(part)] for parts in parts_of]
    _refuse_other_separators(table, name, column, codes)
    _refuse_rows_of_zeros_and_ones(table, name, cells, codes)
    return codes


def _refuse_rows_of_zeros_and_ones(
    table: Table, name: str, cells: Sequence[object], codes: list[list[str] | None]
) -> None:
    """`ValueError` for a 0 or 1 for each label, which would be taken for labels called 0 and 1: one is there twice in
    a row, both are in all rows, or each row is that of a single label, as the column `labels` of a data set."""
    named = [cell for cell in codes if cell]
    is_binary = any({code for cell in named for code in cell} <= pair for pair in ({"0", "1"}, {"True", "False"}))
    are_rows = (
        any(len(set(cell)) < len(cell) for cell in named)
        or all(len(cell) == 2 for cell in named)
        or all(_is_row_of_one(cell) for cell in cells if not is_empty(cell))
    )
    if named and is_binary and are_rows:
        raise ValueError(
            f"The label column `{name}` of {table.name} has lists of zeros and ones, which do not tell what their "
            "labels are called: make a column of each, and name these columns by `label_columns`."
        )


def _is_row_of_one(cell: object) -> bool:
    members = _members(cell) if is_list(cell) else []
    return len(members) == 1 and isinstance(members[0], float | np.floating | bool | np.bool_)


def _refuse_dictionaries_of_zeros_and_ones(table: Table, name: str, cells: Sequence[object]) -> None:
    """`ValueError` for dictionaries that say of each code whether a record has it, or say nothing of any: keys are
    codes whatever their likelihood is, as in PTB-XL, where 0 stands for an unknown one."""
    dictionaries = [cell for cell in cells if isinstance(cell, dict) and cell]
    values = {str(value).strip().casefold() for cell in dictionaries for value in cell.values() if not is_empty(value)}
    if "false" in values or {*map(_zero_or_one, values)} == {0, 1} or (dictionaries and not values):
        raise ValueError(
            f"The label column `{name}` of {table.name} has dictionaries of zeros and ones, or of nothing; expected "
            "those of the codes that a record has, with their likelihoods: make a column of each code, and name these "
            "columns by `label_columns`."
        )


def _parts_of(cell: object, separator: str | None) -> Sequence[object]:
    """The codes in a cell that is not empty, as they stand there."""
    if is_list(cell):
        return _members(cell)
    if not isinstance(cell, str):
        return [cell]
    text = cell.strip()
    if _has_brackets(text):
        text = text[1:-1]
    return [part.strip(" '\"") for part in (text.split(separator) if separator else [text])]


def _members(cell: object) -> list:
    """The members of a list; of a dictionary the keys that have a value: in a Parquet file each row has all keys."""
    return [key for key, value in cell.items() if not is_empty(value)] if isinstance(cell, dict) else list(cell)


def _unprinted(cell: object) -> object:
    """The list or dictionary that a program has printed into a cell; other cells as they are."""
    text = _PRINTED_SCALAR.sub(r"\1", cell.strip()) if isinstance(cell, str) else ""
    if (collection := _PRINTED_COLLECTION.fullmatch(text)) is not None:
        text = collection[1] or "[]"
    if not _has_brackets(text):
        return cell
    if (members := _printed_array(text)) is not None:
        return members
    for read in (ast.literal_eval, json.loads):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            if is_list(value := read(text)):
                return value
    return cell


def _has_brackets(text: str) -> bool:
    return text[:1] + text[-1:] in _BRACKETS


def _is_dictionary(cell: object) -> bool:
    """Whether a cell is the text of a dictionary that cannot be read as one (`{'AF': np.float64(1.0)}`)."""
    text = cell.strip() if isinstance(cell, str) else ""
    return text.startswith("{") and re.search(r"""['"]\s*:""", text) is not None


def _printed_array(text: str) -> list[str] | None:
    """The members of an array as NumPy prints it, with blanks between them (`['AF' 'LBBB']`, `[1 2]`); None for other
    text. Python would take the first for one text."""
    if re.search(r"""['"]\s+['"]""", text):
        return [first or second for first, second in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    numbers = text[1:-1].split()
    is_array = len(numbers) > 1 and all(re.fullmatch(r"-?\d+\.?", number) for number in numbers)
    return [number.rstrip(".") for number in numbers] if is_array else None


def _refuse_other_separators(table: Table, name: str, column: pd.Series, codes: list[list[str] | None]) -> None:
    """`ValueError` for a code that is several known ones with another separator between them, or one that is none."""
    known = {code for cell in codes if cell for code in cell}
    joined = {
        code
        for code in known
        for mark in _CODE_SEPARATORS + _OTHER_SEPARATORS
        if mark in code and known.issuperset(part.strip() for part in code.split(mark))
    }
    wrong = [cell is not None and not joined.isdisjoint(cell) for cell in codes]
    _refuse(table, name, column, wrong, "codes with one separator (; | or ,) in all rows")


def _matrix(
    table: Table, name: str, cells: Sequence[list[str] | None], labels: Sequence[str] | None, problem_type: str
) -> tuple[list[str], np.ndarray]:
    counts = Counter(code for codes in cells if codes for code in set(codes))
    names = sorted(counts) if labels is None else [_name(label) for label in labels]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"The label column `{name}` of {table.name} has no labels, or `labels` names one twice.")
    if others := {code: count for code, count in counts.items() if code not in set(names)}:
        _report_others(table, name, others, names, problem_type, has_names=not counts.keys().isdisjoint(names))
    index = {code: place for place, code in enumerate(names)}
    matrix = np.zeros((len(cells), len(names)), dtype=np.float32)
    num_empty = 0
    for row, codes in enumerate(cells):
        if codes is None:
            num_empty += 1
            matrix[row] = UNKNOWN_LABEL
        for code in codes or ():
            if code in index:
                matrix[row, index[code]] = 1
    if num_empty and problem_type == MULTI_LABEL:
        logger.warning(
            f"The label column `{name}` of {table.name} is empty in {num_empty} of {len(cells)} rows: their labels "
            "are unknown, neither learned nor judged. Write `[]` where a record has none."
        )
    return names, matrix


def _report_others(
    table: Table, name: str, others: dict[str, int], names: Sequence[str], problem_type: str, has_names: bool
) -> None:
    common = sorted(others, key=others.get, reverse=True)[:NAMED_IN_A_MESSAGE]
    listed = ", ".join(f"{code!r} ({others[code]} rows)" for code in common)
    text = f"The label column `{name}` of {table.name} has {len(others)} labels beside those asked for: {listed}"
    if problem_type == SINGLE_LABEL:
        raise ValueError(f"{text}. Each record must have one of the classes, or an empty cell.")
    if not has_names:
        asked = ", ".join(map(repr, names[:NAMED_IN_A_MESSAGE]))
        raise ValueError(
            f"{text}, and none of those: {asked}. Write them in the column as they are asked for (a model that is "
            "judged asks for its own), and `[]` where a record has none."
        )
    logger.warning(f"{text}. They are not learned or judged.")
    asked_for = set(map(_look_of, names))
    warn_of_spellings(name, [*names, *(code for code in others if _look_of(code) in asked_for)])


__all__ = ["matching_columns", "table_labels", "warn_of_spellings"]
