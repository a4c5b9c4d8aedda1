"""Text with a column for each lead, or a row: ``.csv`` and ``.txt``."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..ecg_transformer.common_ecg_transformer import named_channels
from ..ecg_transformer.wfdb_ecg_transformer import Record, RecordError
from .arrays import check_no_part, record_of_array
from .channels import Channel, Said, canonical_lead, microvolts_in, microvolts_of, record_of
from .checks import marks_thousands
from .sidecar import Stated, read_sidecar

MAX_TEXT_BYTES = 2**28
"""The largest text that is read: half an hour of twelve leads at 1000 Hz has some 2e8 bytes."""

_UNIT = re.compile(r"(.*?)\s*[(\[]\s*([^()\[\]]*?)\s*[)\]]", re.DOTALL)
_UNIT_WITHOUT_BRACKETS = re.compile(r"(.*?)[\s_/]+([^\s_/]+)", re.DOTALL)
_BLANK_BEFORE_UNIT = re.compile(r"(?<=[^\s)\]])\s+(?=[(\[])")
_BETWEEN_WORDS = re.compile(r"[\W_]+|^(?:lead|ecg|ekg|ch|channel|sig|signal)(?=[^\W_])", re.IGNORECASE)
_ZERO_IN_FRONT = re.compile(r"0[0-9]")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_DECIMAL_COMMA = r"[-+]?[0-9]+(?:,[0-9]+)?(?:[eE][-+]?[0-9]+)?"
# Several numbers with blanks between them: `0,123 -0,435`, but neither `1, 2` nor `1 ,2`.
_SEPARATED_BY_BLANKS = re.compile(rf"\s*{_DECIMAL_COMMA}(?:\s+{_DECIMAL_COMMA})+\s*")
_WITHOUT_DECIMAL_COMMAS = "Write points, or save it with semicolons or tabs between the columns."
_TIME = ("time", "t", "elapsed time", "seconds", "sec", "s", "milliseconds", "ms")
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "μs": 1e-6}


class _Table(NamedTuple):
    """`names` are those of a header with leads, or with channels that the caller names; `units` what stands with them;
    `values` is (rows, columns); `time` is the column that a header without such names calls so."""

    names: tuple[str, ...] | None
    units: tuple[str | None, ...]
    values: np.ndarray
    time: int | None


def read(path: str, part: str | None, said: Said) -> Record:
    """Read a text of numbers, separated by commas, semicolons, tabs or blanks.

    A header with names of leads names the columns, and may give their unit, ``I (mV)`` or ``I_mV``; what stands in
    columns of other names, such as the time of day or marks of beats, may be any text. Without one, the
    columns or rows are those of the caller's lead names. The decimal mark may be a comma where commas don't separate.
    Lines that begin with ``#`` or ``%`` are skipped, but for names of leads at the top, and so are titles above the
    numbers. A lead without any value is missing. A column of time (by its name, or one column more than leads that
    grows evenly) only checks the rate.

    Raises `RecordError` for a cell that is no number, by its line; a header of more or fewer columns; a lead with some
    empty cells; rows of several lengths; marks behind the thousands; a time that does not fit the rate.
    """
    check_no_part(part)
    beside = read_sidecar(path)
    table = _parse(*_lines(path), beside.lead_names or said.channel_names)
    return (_unnamed if table.names is None else _named)(table, path, beside, said)


def _lines(path: str) -> tuple[list[str], list[tuple[int, str]]]:
    """The comments at the top, and the lines that are neither empty nor comments, with their numbers from 1."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_TEXT_BYTES:
            raise RecordError(f"it has {size} bytes; text of {MAX_TEXT_BYTES} is read at most. Save it as .npy.")
        content = file.read()
    lines = enumerate(_decoded(content).replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)
    lines = [(number, line) for number, line in lines if line.strip()]
    top = [line.strip("#% \t") for _, line in itertools.takewhile(lambda each: _is_comment(each[1]), lines)]
    lines = [(number, line) for number, line in lines if not _is_comment(line)]
    if not lines:
        raise RecordError("it has no line of numbers.")
    return top, lines


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "%"))


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _parse(comments: list[str], lines: list[tuple[int, str]], lead_names: Sequence[str] | None) -> _Table:
    separator, width = _layout(lines)
    start = _first_row(lines, separator, width)
    if start is None:
        raise RecordError(f"it has no line of numbers{_separated_by(separator)}.")
    are_whole = all(map(_WHOLE.fullmatch, _cells(lines[-1][1], separator)))
    above = [(number, _header_cells(line, separator, width)) for number, line in lines[:start]]
    for number, cells in above:
        if all(map(_is_number, cells)):
            raise RecordError(f"line {number} has {len(cells)} numbers{_separated_by(separator)}, expected {width}.")
        is_half = are_whole and width == 2 * len(cells)
        if separator == "," and (is_half or len(cells) + 1 < width <= 2 * len(cells)) and _names_leads(cells):
            raise RecordError(
                f"line {number} names {len(cells)} columns, and the numbers below have {width} cells (separated by "
                f"commas): with decimal commas they cannot be told apart. {_WITHOUT_DECIMAL_COMMAS}"
            )
        if len(cells) != width and _names_nothing_else(cells):
            raise RecordError(
                f"line {number} names {len(cells)} columns, and the lines below have {width} cells"
                f"{_separated_by(separator)}: give each column a name."
            )
    # `numpy.savetxt` writes a header as a comment.
    header = [cells for line in comments if _names_nothing_else(cells := _header_cells(line, separator, width))]
    header = [cells for cells in [*header, *(cells for _, cells in above)] if len(cells) == width]
    names, units = _names_and_units(header, lead_names)
    others = {place for place, name in enumerate(names or ()) if canonical_lead(name) is None}
    values = _numbers(lines[start:], width, separator, others)
    if not header and width > 2 and values[0][0] in (0, 1) and (np.diff(values[0]) == 1).all():
        raise RecordError(f"line {lines[start][0]} only counts the columns: put the names of the leads there.")
    is_time = [place for cells in header for place, cell in enumerate(cells) if _bare(cell)[0].casefold() in _TIME]
    return _Table(names, units, values, is_time[0] if is_time and names is None else None)


def _first_row(lines: list[tuple[int, str]], separator: str | None, width: int) -> int | None:
    """The place of the first line of numbers. One with other cells, too, is a title unless such lines follow it."""
    rows = (_cells(line, separator) for _, line in [*lines, lines[-1]])
    for place, (cells, after) in enumerate(itertools.pairwise(rows)):
        if _is_data(cells, width) and (
            all(cell == "" or _is_number(cell) for cell in cells) or _is_data(after, width)
        ):
            return place
    return None


def _layout(lines: list[tuple[int, str]]) -> tuple[str | None, int]:
    """The separator and the number of cells that most lines have: the first may be titles, others may be damaged."""
    layouts = Counter()
    for _, line in lines[:: -max(1, len(lines) // 100)]:
        separator = next((mark for mark in "\t;," if mark in line), None)
        if separator == "," and _SEPARATED_BY_BLANKS.fullmatch(line.replace('"', "")):
            separator = None
        layouts[separator, len(_cells(line, separator))] += 1
    return layouts.most_common(1)[0][0]


def _cells(line: str, separator: str | None) -> list[str]:
    return [_bare_cell(cell) for cell in line.split(separator)]


def _header_cells(line: str, separator: str | None, width: int) -> list[str]:
    """As [`_cells`]; where blanks separate, a single column may have them in its name, and others before a bracket."""
    if separator is None and width == 1:
        return [_bare_cell(line)]
    cells = _cells(line, separator)
    joined = cells if separator else _cells(_BLANK_BEFORE_UNIT.sub("", line), None)
    return joined if len(joined) == width else cells


def _bare_cell(cell: str) -> str:
    return cell.strip().strip("\"'").strip()


def _separated_by(separator: str | None) -> str:
    name = {"\t": "tabs", ";": "semicolons", ",": "commas", None: "blanks"}[separator]
    return f" (separated by {name})"


def _is_data(cells: list[str], width: int) -> bool:
    return len(cells) == width and any(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        _number(cell.replace(",", "."))
    except ValueError:
        return False
    return cell != ""


def _number(cell: str) -> float:
    return _plain_number(_bare_cell(cell) or "nan")


def _numbers(lines: list[tuple[int, str]], width: int, separator: str | None, others: set[int]) -> np.ndarray:
    """(lines, columns), NaN for empty cells, infinite for text in the columns `others`, which are no leads."""
    has_commas = separator != "," and _have(",", lines, separator, others)
    if has_commas and _have(".", lines, separator, others):
        raise RecordError(f"it has numbers with a point and numbers with a comma{_separated_by(separator)}.")
    values = np.empty((len(lines), width))
    for row, (number, line) in enumerate(lines):
        cells = (line.replace(",", ".") if has_commas else line).split(separator)
        if len(cells) != width:
            raise RecordError(f"line {number} has {len(cells)} cells{_separated_by(separator)}, expected {width}.")
        try:
            values[row] = list(map(_plain_number, cells))
        except ValueError:
            values[row] = [
                _number_or_text(cell) if place in others else _checked_number(place + 1, cell, number, separator)
                for place, cell in enumerate(cells)
            ]
    _check_thousands(lines, values, separator, others)
    _check_decimals(lines, values, separator, others)
    return values


def _have(mark: str, lines: list[tuple[int, str]], separator: str | None, others: set[int]) -> bool:
    """Whether a number of a lead has a mark."""
    if not others:
        return any(mark in line for _, line in lines)
    return any(mark in cell for cell in _cells_of_leads(lines, separator, others))


def _cells_of_leads(lines: list[tuple[int, str]], separator: str | None, others: set[int]) -> Iterator[str]:
    for _, line in lines:
        yield from (cell for place, cell in enumerate(_cells(line, separator)) if place not in others)


def _check_thousands(
    lines: list[tuple[int, str]], values: np.ndarray, separator: str | None, others: set[int]
) -> None:
    """`RecordError` where `1,015` beside `975` is a thousand and fifteen."""
    known = values[np.isfinite(values)]
    fractions = np.abs(known[known % 1 != 0])
    # The cells are looked at where none is a fraction of 1, as nearly each record of voltages has.
    if len(fractions) and fractions.min() >= 1 and marks_thousands(_cells_of_leads(lines, separator, others)):
        raise RecordError(
            "its numbers seem to have a mark behind the thousands, as in 1,015 beside 975: write them without it."
        )


def _check_decimals(lines: list[tuple[int, str]], values: np.ndarray, separator: str | None, others: set[int]) -> None:
    """`RecordError` where the commas between whole numbers are decimal ones, too: `0,015` leaves a cell `015`."""
    if separator != "," or (values[np.isfinite(values)] % 1).any():
        return
    if cell := next(filter(_ZERO_IN_FRONT.match, _cells_of_leads(lines, separator, others)), None):
        raise RecordError(
            f"it has whole numbers with a zero in front, separated by commas ({cell[:20]}): with decimal commas "
            f"they cannot be told apart. {_WITHOUT_DECIMAL_COMMAS}"
        )


def _plain_number(cell: str) -> float:
    # "1_000" is a number for Python alone.
    return float(cell if "_" not in cell else "")


def _number_or_text(cell: str) -> float:
    """A number, which may have a decimal comma where those of leads are whole; infinite for any other text."""
    try:
        return _number(cell.replace(",", "."))
    except ValueError:
        return np.inf


def _checked_number(column: int, cell: str, line: int, separator: str | None) -> float:
    """A number that may stand in quotes, NaN for an empty cell. What stands there otherwise may be a name."""
    try:
        return _number(cell)
    except ValueError:
        raise RecordError(f"line {line}, column {column} is not a number{_separated_by(separator)}.") from None


def _names_and_units(
    header: list[list[str]], lead_names: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, tuple[str | None, ...]]:
    """The last line with a name of a lead, and the units behind the names or in a line of their own.

    Channels that tell no lead, such as ECG, have their names from `lead_names`. Raises `RecordError` where all names
    of leads have something else in brackets: the caller's order of the leads may be another, and the unit too.
    """
    named = [place for place, cells in enumerate(header) if _names_leads(cells, lead_names)]
    if not named:
        for match in filter(None, map(_UNIT.fullmatch, itertools.chain.from_iterable(header))):
            if canonical_lead(match[1]):
                raise RecordError(
                    f"its header has {match[0][:40]!r}, and {match[2][:40]!r} is no unit of voltage; expected V, mV, "
                    "uV or nV behind the name of a lead, or nothing."
                )
        _check_order(header, lead_names)
        return None, ()
    units = tuple(_bare(cell)[1] for cell in header[named[-1]])
    names = _names_of(header[named[-1]], lead_names)
    for cells in header[named[-1] + 1 :]:
        below = [cell.strip("()[]").strip() for cell in cells]
        of_leads = [cell for cell, name in zip(below, names, strict=True) if canonical_lead(name)]
        if all(cell == "" or _is_unit(cell) for cell in of_leads):
            units = tuple(unit or other or None for unit, other in zip(units, below, strict=True))
    return names, units


def _check_order(header: list[list[str]], lead_names: Sequence[str] | None) -> None:
    """`RecordError` where names such as `ECG.V6` or `V6_filtered` tell another order of the leads than the caller."""
    for cells in itertools.filterfalse(_counts_columns, header):
        words = [[canonical_lead(word) for word in _BETWEEN_WORDS.split(_bare(cell)[0])] for cell in cells]
        meant = {cell: lead for cell, leads in zip(cells, words, strict=True) for lead in leads if lead}
        if lead_names is not None and meant and [*meant.values()] != [*map(canonical_lead, lead_names)]:
            cell, lead = next(iter(meant.items()))
            raise RecordError(
                f"its header has {cell[:40]!r}, as if it were lead {lead}, and other leads or another order of them "
                f"are said. Call the columns by the names of their leads alone, such as {lead}."
            )


def _names_of(cells: list[str], lead_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names in a line, as [`named_channels`], which would take an empty cell for a channel."""
    names = [_bare(cell)[0] for cell in cells]
    filled = iter(named_channels(list(filter(None, names)), lead_names))
    return tuple(next(filled) if name else "" for name in names)


def _names_leads(cells: list[str], lead_names: Sequence[str] | None = None) -> bool:
    return any(map(canonical_lead, _names_of(cells, lead_names))) and not _counts_columns(cells)


def _counts_columns(cells: list[str]) -> bool:
    """Whether a header is V1, V2, ..., V12, as R counts columns whatever they are; V1 to V6 may be the chest leads."""
    names = [_bare(cell)[0].casefold() for cell in cells]
    return "v10" in names or (len(names) > 6 and names == [f"v{place}" for place in range(1, len(names) + 1)])


def _names_nothing_else(cells: list[str]) -> bool:
    """Whether all cells are names of leads, or of a time beside them."""
    names = [_bare(cell)[0] for cell in cells if cell]
    return _names_leads(cells) and all(canonical_lead(name) or name.casefold() in _TIME for name in names)


def _is_unit(text: str) -> bool:
    return microvolts_in(text) is not None or text.casefold() in _SECONDS


def _bare(cell: str) -> tuple[str, str | None]:
    """``"I (mV)"``, ``"I_mV"`` -> ``("I", "mV")``."""
    match = _UNIT.fullmatch(cell) or _UNIT_WITHOUT_BRACKETS.fullmatch(cell)
    return (match[1], match[2]) if match and _is_unit(match[2]) else (cell, None)


def _named(table: _Table, path: str, beside: Stated, said: Said) -> Record:
    unit_of_all = beside.units or said.units
    _check_header(table, beside)
    channels = []
    for place, (name, unit) in enumerate(zip(table.names, table.units, strict=True)):
        column = table.values[:, place]
        if name.casefold() in _TIME and not np.isinf(column).any():
            _check_time(column, _SECONDS.get((unit or name).casefold()), beside.sampling_rate or said.sampling_rate)
        elif not ((canonical_lead(name) or name == "") and np.isnan(column).all()):
            channels.append(Channel(name or f"column {place + 1}", column, unit or unit_of_all))
    return record_of(channels, beside.sampling_rate, said)


def _check_header(table: _Table, beside: Stated) -> None:
    """`RecordError` where the JSON beside the file says other leads or another unit than the header."""
    leads = {canonical_lead(name) for name in table.names} - {None}
    if beside.lead_names is not None and leads != set(map(canonical_lead, beside.lead_names)) - {None}:
        raise RecordError("its header has other leads than the `lead_names` of the JSON beside it.")
    for name, unit in zip(table.names, table.units, strict=True):
        if beside.units and unit and canonical_lead(name):
            where = f"lead {name}"
            if microvolts_of(unit, where) != microvolts_of(beside.units, "`units` of the JSON beside it"):
                raise RecordError(f"{where} is in {unit}, and the JSON beside the file says {beside.units}.")


def _unnamed(table: _Table, path: str, beside: Stated, said: Said) -> Record:
    names = beside.lead_names or said.channel_names or ()
    values = table.values
    if table.time is not None and _grows(values[:, table.time]):
        _check_time(values[:, table.time], None, beside.sampling_rate or said.sampling_rate)
        values = np.delete(values, table.time, axis=1)
    if values.shape[1] == len(names) + 1 and len(names) not in values.shape:
        # One column more than leads is that of time, or stands behind a separator that ends each line.
        if _grows(values[:, 0]):
            _check_time(values[:, 0], None, beside.sampling_rate or said.sampling_rate)
            values = values[:, 1:]
        elif np.isnan(values[:, -1]).all():
            values = values[:, :-1]
    elif 1 < len(names) == values.shape[1] < len(values) and _grows(values[:, 0]):
        raise RecordError(
            f"its first column grows from row to row, from {values[0, 0]:g} to {values[-1, 0]:g}, as times and "
            f"numbers of samples do, and would be lead {names[0]}: call it `time` in a header, or leave it out."
        )
    if len(names) in values.shape:
        axis = values.shape.index(len(names))
        is_there = ~np.isnan(values).all(axis=1 - axis)
        kept = tuple(name for name, there in zip(names, is_there, strict=True) if there)
        if kept and len(kept) < len(names):
            values = values[is_there] if axis == 0 else values[:, is_there]
            said = said if beside.lead_names or said.channels else dataclasses.replace(said, lead_names=kept)
            beside = beside._replace(lead_names=kept)
    if values.shape[1] == 2 * len(names) and (values % 1 == 0).all():
        raise RecordError(
            f"it has {values.shape[1]} columns of whole numbers, twice as many as `lead_names`: if these are numbers "
            f"with decimal commas, they cannot be told apart. {_WITHOUT_DECIMAL_COMMAS}"
        )
    return record_of_array(values, beside, path, said)


def _grows(column: np.ndarray) -> bool:
    return len(column) > 2 and bool(np.all(np.diff(column) > 0))


def _check_time(column: np.ndarray, seconds: float | None, rate: float | None) -> None:
    """`RecordError` unless times in units of `seconds` (None: s, ms or samples) fit the rate in Hz, if it is said."""
    if rate is None or len(column) < 2 or not rate > 0:
        return
    expected = np.arange(len(column))
    for unit in (1.0, 1e-3, 1 / rate) if seconds is None else (seconds,):
        # Times are rounded, but neither by a whole sample nor to the same value.
        if np.all(np.abs((column - column[0]) * unit * rate - expected) < 1):
            return
    step = (column[-1] - column[0]) / (len(column) - 1)
    step = f"{step:g}" if math.isfinite(step) else "no even steps"
    raise RecordError(f"its column of time has steps of {step} on average, which do not fit {rate:g} Hz.")


__all__ = ["MAX_TEXT_BYTES", "read"]
