"""Tables of records in the forms that people keep them: CSV, Parquet, pandas, `datasets`."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from ..arrow import texts_of
from ..ecg_transformer.wfdb_ecg_transformer import RecordError
from ..ptbxl.table import NOTHING
from ..readers.channels import Said, canonical_lead, microvolts_in, microvolts_of
from ..readers.checks import marks_thousands
from .store import NAMED_IN_A_MESSAGE, Files, PathsBelow, Rows, Same, Source

logger = logging.getLogger(__name__)

TableLike = str | os.PathLike | pd.DataFrame | datasets.Dataset

_SPLIT_NAMES = {
    "train": ("train", "training", "tr", "fit"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "te", "heldout", "held-out"),
}
SPLITS = tuple(_SPLIT_NAMES)

_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?[,;\t]*\s*', re.IGNORECASE)

# Characters of a cell in a message.
_MAX_CELL = 60


@dataclass(frozen=True)
class Table:
    """A table as it was given.

    Attributes:
        cells: all columns but one of signals; text where the table is a CSV.
        name: what messages call it.
        folder: where the paths of its records begin; None for a table that is no file, whose paths begin at the
            working folder.
        has_decimal_commas: whether numbers may be written with a comma.
        dataset: the data set behind it, where a column holds signals.
        class_names: of columns that hold the places of classes among their names (`ClassLabel` of `datasets`).
    """

    cells: pd.DataFrame
    name: str
    folder: Path | None = None
    has_decimal_commas: bool = False
    dataset: datasets.Dataset | None = None
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells)

    def column(self, option: str, name: str) -> pd.Series:
        """A column; `ValueError` where it is missing or there twice, naming the option that asked for it."""
        if name not in self.cells.columns:
            known = ", ".join(map(str, self.cells.columns))
            raise ValueError(f"`{option}`: {self.name} has no column `{name}`; it has {known}.")
        column = self.cells[name]
        if isinstance(column, pd.DataFrame):
            raise ValueError(f"`{option}`: {self.name} has {column.shape[1]} columns with the name `{name}`.")
        return column

    def classes(self, option: str, name: str) -> pd.Series:
        """A column as [`column`], with the names of classes in the place of their numbers."""
        column = self.column(option, name)
        return (
            column if name not in self.class_names else column.map(lambda cell: _named(cell, self.class_names[name]))
        )

    def rows_in_words(self, rows: Sequence[int], values: pd.Series) -> str:
        """`row 3 ('x')`, ten at most and the number of the others; row 1 is the first below the header."""
        cells = values.astype(object)
        named = ", ".join(f"row {row + 1} ({_shortened(repr(cells.iloc[row]))})" for row in rows[:NAMED_IN_A_MESSAGE])
        more = len(rows) - NAMED_IN_A_MESSAGE
        return f"{named} and {more} more" if more > 0 else named


def _named(cell: object, names: Sequence[str]) -> object:
    """The name of a class, or of each of a list; None where the number says that none is known (-1, or empty)."""
    if is_list(cell):
        return [_named(part, names) for part in cell]
    return None if is_empty(cell) or cell < 0 else names[int(cell)]


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 3]}..."


def open_table(
    table: TableLike, record_column: str = "path", data_dir: str | os.PathLike | None = None
) -> Table | dict[str, Table]:
    """The table, or one for each split where a folder of `datasets` has splits.

    Args:
        table: a CSV file (comma, semicolon or tab; UTF-8), a Parquet file, a folder that `save_to_disk` wrote, a frame
            or a data set.
        record_column: if it holds signals, it stays in the data set, since it may be larger than memory.
        data_dir: where the paths of records begin; by default the folder of the file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        TypeError: it is none of these.
        ValueError: it cannot be read as a table, or has no rows.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if isinstance(table, pd.DataFrame):
        if table.columns.nlevels > 1:
            raise ValueError(f"The frame has columns of {table.columns.nlevels} levels: give each a single name.")
        return _checked(Table(table.reset_index(drop=True).rename(columns=str), "the frame", folder))
    if isinstance(table, datasets.Dataset):
        return _checked(_of_dataset(table, "the data set", record_column, folder))
    if isinstance(table, datasets.DatasetDict):
        return {
            name: _checked(_of_dataset(split, f"the split {name}", record_column, folder))
            for name, split in table.items()
        }
    if not isinstance(table, str | os.PathLike):
        raise TypeError(
            f"The table is of the type {type(table).__name__}: give a path, a pandas frame, or a `Dataset` or "
            "`DatasetDict` of `datasets` that is not streamed."
        )
    path = Path(table).expanduser()
    if path.is_dir():
        return open_table(_saved_dataset(path), record_column, path.parent if folder is None else folder)
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"The table {path} {problem}: give a CSV or Parquet file with a row for each record.")
    folder = path.parent if folder is None else folder
    if _begins_with(path, b"PAR1"):
        return _checked(_of_dataset(_parquet(path), f"the table {path}", record_column, folder))
    return _checked(_read_csv(path, folder))


def _checked(table: Table) -> Table:
    if not len(table):
        raise ValueError(f"{table.name} has no rows.")
    return table


def _begins_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(mark)) == mark


def _parquet(path: Path) -> datasets.Dataset:
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        _check_columns(path, metadata.schema.to_arrow_schema())
        if not metadata.num_rows:
            raise ValueError(f"The table {path} has no rows.")
        return datasets.Dataset.from_parquet(str(path))
    except (pa.ArrowInvalid, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"The table {path} is not a whole Parquet file: write or download it again.") from error


def _check_columns(path: Path, schema: pa.Schema) -> None:
    """`ValueError` for columns that `datasets` cannot hold: of one name, or of a type that it does not know."""
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise ValueError(f"The table {path} has several columns with the name `{twice[0]}`: give each its own.")
    for name, kind in zip(schema.names, schema.types, strict=True):
        try:
            datasets.Features.from_arrow_schema(pa.schema({name: kind}))
        except ValueError as error:
            raise ValueError(
                f"The column `{name}` of the table {path} has the type {kind}, which cannot be read: write it as text "
                "or as lists, or leave it out."
            ) from error


def _saved_dataset(path: Path) -> datasets.Dataset | datasets.DatasetDict:
    try:
        return datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The table {path} is not a regular file, and no folder that `datasets` saved: give a CSV or Parquet "
            "file, or such a folder."
        ) from error
    except (pa.ArrowInvalid, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"The table {path} is not a whole folder of `datasets` ({error}): save or copy it again."
        ) from error


def _of_dataset(dataset: datasets.Dataset, name: str, record_column: str, folder: Path | None) -> Table:
    has_signals = record_column in dataset.features and _holds_signals(dataset.features[record_column])
    columns = [column for column in dataset.column_names if not (has_signals and column == record_column)]
    # Whole numbers stay whole beside empty cells: as floats, long ids of patients would be rounded to others.
    cells = dataset.select_columns(columns).with_format("arrow")[:].to_pandas(integer_object_nulls=True)
    if not columns:
        cells = pd.DataFrame(index=range(len(dataset)))
    labels = {column: _innermost(dataset.features[column]) for column in columns}
    class_names = {column: label.names for column, label in labels.items() if isinstance(label, datasets.ClassLabel)}
    return Table(cells, name, folder, dataset=dataset if has_signals else None, class_names=class_names)


def _holds_signals(feature: Any) -> bool:
    """Whether the cells of a column are lists of numbers, or lists of such lists."""
    if isinstance(feature, datasets.Array2D):
        return True
    inner = _innermost(feature)
    return inner is not feature and re.match(r"(u?int|float)\d+", getattr(inner, "dtype", "")) is not None


def _innermost(feature: Any) -> Any:
    """The feature of the members of a list, or of lists of lists."""
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    return feature


def _read_csv(path: Path, folder: Path) -> Table:
    if _holds_nul(path):
        raise ValueError(
            f"The table {path} is no text in UTF-8 (a spreadsheet, an archive or UTF-16?): save it as CSV in UTF-8 or "
            "as Parquet."
        )
    head = head_of(path)
    separator = head.separator
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=2**24, skip_rows=head.num_above),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(_header(path, head), pa.string()), strings_can_be_null=False
            ),
        )
        table = table.rename_columns([name.strip() for name in table.column_names])
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        # What follows the first line of the message quotes cells, which may be a patient's.
        reason = str(error).partition("\n")[0].partition(": ")
        detail = reason[2].partition(":")[0] if reason[0].startswith("CSV parse error") else reason[0]
        raise ValueError(
            f"The table {path} cannot be read ({detail[:80]}): it must be UTF-8 with a header, separated by comma, "
            f"semicolon or tab (here {_in_words(separator)}), and have equally many cells in each row."
        ) from error
    cells = table.to_pandas()
    # Spreadsheets write rows of separators alone behind the last one.
    filled = np.flatnonzero((cells != "").any(axis=1))
    cells = cells[: filled[-1] + 1 if len(filled) else 0]
    return Table(cells, f"the table {path}", folder, has_decimal_commas=separator != ",")


def _holds_nul(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"\0" in file.read(2**10)


def _in_words(separator: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab"}[separator]


class Head(NamedTuple):
    """The first line of a table with the names of its columns, and how many stand above it."""

    line: str
    separator: str
    num_above: int


def head_of(path: str | os.PathLike) -> Head:
    """The separator is comma, semicolon or tab, by the names of the columns, of which one in quotes may have others;
    or what Excel's line `sep=;` above them says."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(2**20)
        if said := _SEPARATOR_LINE.fullmatch(line):
            return Head(file.readline(2**20), said[1], 1)
    return Head(line, max(",;\t", key=re.sub(r'"[^"]*"?', "", line).count), 0)


def _header(path: Path, head: Head) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        names = next(csv.reader(itertools.islice(file, head.num_above, None), delimiter=head.separator), [])
    if not names:
        raise ValueError(f"The table {path} is empty: its first line must name the columns.")
    if len(names) == 1 and re.search(r"[|: ]", names[0]):
        raise ValueError(
            f"The table {path} has the single column {names[0][:60]!r}: separate its cells by comma, semicolon or tab."
        )
    return names


# ---- Cells ----


def is_empty(cell: object) -> bool:
    """Whether a cell is null, NaN, blank, or the text by which programs write that (`NA`)."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    if isinstance(cell, float):
        return cell != cell
    return isinstance(cell, str) and cell.strip() in NOTHING


def seen(text: str) -> str:
    """The same text for texts that look the same: characters have one width and one code, and those of no width are
    left out."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def is_list(cell: object) -> bool:
    """Whether a cell has members: a list, a set, an array, a dictionary with its keys."""
    return isinstance(cell, list | tuple | set | frozenset | dict) or (isinstance(cell, np.ndarray) and cell.ndim > 0)


def number_of_cell(cell: object, has_decimal_commas: bool) -> float | None:
    """A cell as a finite number; None if it is none."""
    if isinstance(cell, bool | np.bool_):
        return float(cell)
    text = str(cell).strip()
    if has_decimal_commas and re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", text):
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in text else None


def refuse_thousands(table: Table, name: str, column: pd.Series) -> None:
    """`ValueError` for a column of numbers where `1.500` beside `500` is a thousand and a half."""
    if table.has_decimal_commas and marks_thousands(cell for cell in column if not is_empty(cell)):
        rows = np.flatnonzero(column.str.contains("[.,]"))
        raise ValueError(
            f"The column `{name}` of {table.name} seems to have a mark behind the thousands, beside whole numbers: "
            f"{table.rows_in_words(rows, column)}. Write the numbers without it."
        )


def names_of_patients(column: pd.Series) -> pa.StringArray:
    """As [`patients_in`]; a warning names a patient who seems to stand for unknown ones."""
    names = patients_in(column)
    _warn_of_a_frequent_patient(str(column.name), names)
    return names


def patients_in(cells: Iterable) -> pa.StringArray:
    """The patients of the rows as text: the same where their cells are, but for blanks around, a `.0` or `,0` behind,
    and what a reader does not see (wide digits, characters without width); an empty cell is a patient of its own,
    null."""
    return texts_of(None if is_empty(cell) else _patient(str(cell).strip()) for cell in cells)


def _warn_of_a_frequent_patient(column: str, names: pa.StringArray) -> None:
    counts = pc.value_counts(names.drop_null())
    numbers = counts.field("counts").to_numpy()
    if len(numbers) < 2:
        return
    most, usual = numbers.max(), np.median(numbers)
    # As no patient of PTB-XL: the most frequent has ten of 21,799 records.
    if most >= 20 and most >= 10 * usual and most >= 0.02 * len(names):
        logger.warning(
            f"The patient {counts.field('values')[int(numbers.argmax())].as_py()!r} of `{column}` has {most} of the "
            f"{len(names)} records, where {usual:g} are usual: if that stands for unknown patients, leave their cells "
            "empty, or they all come into one split and count as one patient in intervals."
        )


def _patient(name: str) -> str | None:
    name = name if name.isascii() else seen(name).strip()
    return None if name == "None" else re.sub(r"^([+-]?\d+)(\.0*|,0+)$", r"\1", name)


def splits_of(table: Table, split_column: str) -> np.ndarray:
    """The split of each row, one of `SPLITS`; `ValueError` for any other cell."""
    canonical = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
    column = table.classes("split_column", split_column)
    found = [canonical.get(str(cell).strip().casefold(), "") for cell in column]
    if wrong := [row for row, split in enumerate(found) if not split]:
        raise ValueError(
            f"`split_column`: `{split_column}` of {table.name} must be train, validation or test; it is not in "
            f"{table.rows_in_words(wrong, column)}."
        )
    return np.array(found, object)


# ---- Records ----


def source_of(
    table: Table,
    record_column: str,
    sampling_rate: float | None = None,
    units: str | None = None,
    lead_names: Sequence[str] | None = None,
    *,
    once: bool = True,
) -> tuple[Source, pa.Array]:
    """The records of a table, and their ids: the cells of `record_column`, or the row numbers of signals.

    What the arguments leave open is taken from columns `sampling_rate`, `units` and `lead_names`, where there are any;
    a column of leads names channels, and the argument says which of them to take. With `once` no record may have
    several rows.

    Raises `ValueError` for a path that is empty, there twice, or outside the table's folder; for signals in the cells
    of a frame; and for an empty id of signals (`ecg_id`).
    """
    said = _said_of_rows(table, sampling_rate, units, lead_names)
    if table.dataset is not None and record_column in table.dataset.column_names:
        ids = pa.array(np.arange(len(table)))
        if "ecg_id" in table.cells:
            column = table.column("ecg_id", "ecg_id")
            _refuse_rows(table, "ecg_id", column, map(is_empty, column), "is empty")
            ids = pa.array(column.tolist())
        return Rows(table.dataset, record_column, ids, said), ids
    column = table.classes("record_column", record_column)
    if any(is_list(cell) or isinstance(cell, bytes) for cell in column):
        raise ValueError(
            f"The column `{record_column}` of {table.name} holds neither paths nor signals that can be read. Signals "
            "are lists of integers or floats, in a Parquet file or a data set of `datasets`: give "
            "`Dataset.from_pandas(frame)` of a frame, and such lists in the place of bytes and of other types."
        )
    _refuse_rows(table, record_column, column, map(is_empty, column), "is empty")
    ids = texts_of(str(cell).strip() for cell in column)
    base = os.path.abspath(table.folder or ".")
    inside = texts_of(_inside(base, _with_slashes(base, path.as_py())) for path in ids)
    _refuse_rows(
        table,
        record_column,
        column,
        inside.is_null().to_numpy(zero_copy_only=False),
        f"is outside of the folder {base} (write paths from a folder above all records, and give it as `data_dir`)",
    )
    if once:
        _refuse_twice(table, record_column, inside)
    names = texts_of(_bare(base, name.as_py()) for name in inside)
    return Files(PathsBelow(base, names), said), ids


def _refuse_rows(table: Table, name: str, column: pd.Series, wrong: Iterable[bool], what: str) -> None:
    if rows := [row for row, is_wrong in enumerate(wrong) if is_wrong]:
        raise ValueError(f"The column `{name}` of {table.name} {what} in {table.rows_in_words(rows, column)}.")


def _refuse_twice(table: Table, name: str, paths: pa.StringArray) -> None:
    bare = pc.replace_substring_regex(paths, r"\.(hea|dat|mat)$", "")
    if len(rows := np.flatnonzero(bare.to_pandas().duplicated())):
        cells = table.classes("record_column", name)
        raise ValueError(
            f"The column `{name}` of {table.name} names a record again in {table.rows_in_words(rows, cells)}: give "
            "each record one row, with all of its labels."
        )


def _with_slashes(base: str, path: str) -> str:
    """A path of a table from Windows as this system writes it; a name that has a backslash here keeps it."""
    if "\\" not in path or any(os.path.lexists(os.path.join(base, path + ending)) for ending in ("", ".hea")):
        return path
    return path.replace("\\", "/")


def _inside(base: str, path: str) -> str | None:
    """The path of a record from `base`, or None if it is outside of it; links inside it are followed."""
    above = base.rstrip(os.sep) + os.sep
    full = os.path.normpath(os.path.join(base, os.path.expanduser(path)))
    return full.removeprefix(above) if full.startswith(above) and "\0" not in full else None


def _bare(base: str, path: str) -> str:
    """Without the ending of a WFDB record, any of which names it."""
    stem, ending = os.path.splitext(path)
    is_wfdb = ending in (".hea", ".dat", ".mat") and os.path.isfile(os.path.join(base, f"{stem}.hea"))
    return stem if is_wfdb else path


def _said_of_rows(table: Table, sampling_rate, units, lead_names) -> Sequence[Said]:
    rate_of_cell = functools.partial(number_of_cell, has_decimal_commas=table.has_decimal_commas)
    _refuse_other_cells(table, "sampling_rate", sampling_rate, rate_of_cell)
    _refuse_other_cells(table, "units", units, lambda cell: microvolts_in(str(cell)))
    given = {"sampling_rate": sampling_rate, "units": units, "lead_names": None}
    if all(value is not None or name not in table.cells.columns for name, value in given.items()):
        return Same(
            Said(_rate(sampling_rate, table, 0), _unit(units, table, 0), _names(lead_names, table, 0)), len(table)
        )
    columns: list[Iterable] = []
    for name, value in given.items():
        if value is None and name in table.cells.columns:
            if name == "sampling_rate":
                refuse_thousands(table, name, table.column(name, name))
            columns.append(None if is_empty(cell) else cell for cell in table.classes(name, name))
        else:
            columns.append(itertools.repeat(value, len(table)))
    rows = zip(*columns, strict=True)
    said = (
        Said(_rate(rate, table, row), _unit(unit, table, row), **_leads(lead_names, names, table, row))
        for row, (rate, unit, names) in enumerate(rows)
    )
    known: dict[Said, Said] = {}  # each once, whatever the number of rows of which it is said
    return [known.setdefault(each, each) for each in said]


def _refuse_other_cells(table: Table, name: str, value: object, read: Callable[[object], float | None]) -> None:
    """`ValueError` where a column says something else than the argument of its name."""
    if value is None or name not in table.cells.columns or (given := read(value)) is None:
        return
    column = table.classes(name, name)
    wrong = [not is_empty(cell) and read(cell) not in (None, given) for cell in column]
    _refuse_rows(table, name, column, wrong, f"contradicts `{name}` as it is given, {value} (leave one of them out),")


def _leads(taken: Sequence[str] | None, cell: object, table: Table, row: int) -> dict[str, tuple[str, ...] | None]:
    """What `Said` has of the leads: those of the cell, or `taken` and the channels that the cell names."""
    lead_names = _names(cell if taken is None else taken, table, row)
    if taken is None or cell is None:
        return {"lead_names": lead_names}
    channels = _names(cell, table, row)
    return {"lead_names": lead_names, "channels": None if channels == lead_names else channels}


def _rate(cell: object, table: Table, row: int) -> float | None:
    if cell is None:
        return None
    rate = number_of_cell(cell, table.has_decimal_commas)
    if rate is None or rate <= 0:
        raise ValueError(f"`sampling_rate` of {table.name}, row {row + 1}, is {cell!r}; expected Hz above 0.")
    return rate


def _unit(cell: object, table: Table, row: int) -> str | None:
    if cell is not None:
        try:
            microvolts_of(str(cell), f"`units` of {table.name}, row {row + 1},")
        except RecordError as error:
            raise ValueError(str(error)) from None
    return None if cell is None else str(cell)


def _names(cell: object, table: Table, row: int) -> tuple[str, ...] | None:
    if cell is None:
        return None
    listed = re.split(r"[\s,;|]+", re.sub(r"[\[\]()'\"]", "", cell).strip()) if isinstance(cell, str) else list(cell)
    names = tuple(canonical_lead(str(name)) for name in listed)
    if not names or None in names or len(set(names)) < len(names):
        raise ValueError(f"`lead_names` of {table.name}, row {row + 1}, are {listed}; expected leads, each once.")
    return names


__all__ = [
    "SPLITS",
    "Table",
    "TableLike",
    "head_of",
    "is_empty",
    "is_list",
    "names_of_patients",
    "number_of_cell",
    "open_table",
    "patients_in",
    "refuse_thousands",
    "seen",
    "source_of",
    "splits_of",
]
