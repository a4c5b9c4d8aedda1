"""`ecg-hf embed`: one vector for each record, as NumPy or Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from ..files import whole_file
from .answers import Report, answers
from .models import load_pipeline
from .output import check_batch_size, check_no_input, check_output
from .sources import RECORD_COLUMN, Facts, find_records

ENDINGS = (".npy", ".parquet")


def embed_records(
    records: Sequence[str],
    model: str,
    output: str | os.PathLike,
    *,
    batch_size: int = 32,
    device: str | None = None,
    record_column: str = RECORD_COLUMN,
    data_dir: str | None = None,
    table: str | None = None,
    facts: Facts | None = None,
) -> None:
    """Write one vector for each record: the mean over its windows of the model's `pooler_output`, as float32.

    Args:
        records: files, folders and tables, see `find_records`.
        model: folder or Hub id of an encoder, or of a classifier, of which the head is left out.
        output: a `.npy` of shape (records, hidden_size) with a `.csv` of the same name beside it, whose column
            `record` names the rows; or a `.parquet` with the columns `record` and `embedding`. Each file is written
            whole or not at all; broken records have no row.
        batch_size, device, record_column, data_dir, table, facts: as for `classify_records`.

    Raises:
        ValueError: arguments that do not fit.
        SystemExit: some records have no vector; up to ten are named on stderr.
    """
    check_output(output, ENDINGS)
    check_batch_size(batch_size)
    items = find_records(records, facts or Facts(), record_column, data_dir, table)
    inputs = [*records, *filter(None, [table]), *(item.name for item in items)]
    for file in _files(Path(output)):
        check_no_input(file, inputs)

    extractor = load_pipeline("feature-extraction", model, device)
    report = Report(len(items), "embedded")
    names, vectors = [], []
    for name, vector in report.answered(answers(extractor, items, batch_size, return_tensors=True)):
        names.append(name)
        vectors.append(vector.numpy())
    if vectors:
        _write(Path(output), names, np.stack(vectors))
    report.end(output)


def _files(output: Path) -> list[Path]:
    return [output] if output.suffix.lower() == ".parquet" else [output.with_suffix(".csv"), output]


def _write(output: Path, names: list[str], vectors: np.ndarray) -> None:
    if output.suffix.lower() == ".parquet":
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        with whole_file(output) as unfinished:
            pa.parquet.write_table(pa.table({"record": pa.array(names), "embedding": column}), unfinished)
        return
    # The names first: where the vectors are, they are complete.
    with whole_file(output.with_suffix(".csv")) as unfinished:
        pd.DataFrame({"record": names}).to_csv(unfinished, index=False)
    with whole_file(output) as unfinished:
        np.save(unfinished, vectors)


__all__ = ["embed_records"]
