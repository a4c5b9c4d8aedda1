"""`ecg-hf classify`: the findings of any number of records, as text, JSON or a table."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch
from transformers import Pipeline

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..files import whole_file
from .answers import Report, answers
from .models import load_pipeline
from .output import check_batch_size, check_no_input, check_output
from .sources import RECORD_COLUMN, Facts, find_records

FORMATS = ("table", "json", "jsonl", "csv")
ENDINGS = {"": "table", ".txt": "table", ".json": "json", ".jsonl": "jsonl", ".csv": "csv"}
"""Of output files, and the format that each asks for."""

Findings = tuple[str, list[dict]]
"""The name of a record and its findings, as the pipeline gives them."""


def classify_records(
    records: Sequence[str],
    model: str,
    *,
    output_format: str | None = None,
    output: str | os.PathLike | None = None,
    wide: bool = False,
    top_k: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    record_column: str = RECORD_COLUMN,
    data_dir: str | None = None,
    table: str | None = None,
    facts: Facts | None = None,
) -> None:
    """Write the findings of records to `output`, or print them; all of them are answered that can be.

    Args:
        records: files, folders and tables, see `find_records`.
        model: folder or Hub id of a post-trained checkpoint.
        output_format: one of `FORMATS`; by default by the ending of `output`, else a table for reading.
        output: a file that is written whole or not at all.
        wide: CSV with one row for each record and one column of scores for each label; else a row for each of both.
        top_k: only so many labels of each record, with the highest scores.
        batch_size: windows in one forward pass.
        device: as of the library's pipelines, ``"cpu"`` or ``"cuda"``.
        record_column, data_dir: of tables: their column of paths, and where these begin.
        table: one more, behind the `records`.
        facts: what files do not state.

    Raises:
        ValueError: arguments that do not fit.
        SystemExit: some records could not be classified; up to ten are named on stderr.
    """
    output_format = _format(output_format, output)
    if wide and (output_format != "csv" or top_k is not None):
        raise ValueError(f"`wide` is for CSV with all labels; got the format {output_format} and top_k {top_k}.")
    check_output(output)
    check_batch_size(batch_size)
    items = find_records(records, facts or Facts(), record_column, data_dir, table)
    check_no_input(output, [*records, *filter(None, [table]), *(item.name for item in items)])

    classifier = load_pipeline("ecg-classification", model, device, top_k=top_k)
    report = Report(len(items), "classified")
    found = report.answered(answers(classifier, items, batch_size, **({} if top_k is None else {"top_k": top_k})))
    labels = classifier.model.config.labels
    if output_format == "csv":
        chunks = wide_csv(found, labels) if wide else _long_csv(found, _fields_of_findings(classifier))
    else:
        chunks = {"table": _as_text, "json": _as_json, "jsonl": _as_json_lines}[output_format](found)
    with _stream(output) as stream:
        for chunk in chunks:
            stream.write(chunk)
    report.end(output)


def _format(output_format: str | None, output: str | os.PathLike | None) -> str:
    if output_format is None:
        ending = ".txt" if output is None else Path(output).suffix.lower()
        if ending not in ENDINGS:
            raise ValueError(
                f"`--output` {output} must end in {', '.join(filter(None, ENDINGS))} or nothing: name it so, or say "
                f"what is written by `--format`, one of {', '.join(FORMATS)}."
            )
        return ENDINGS[ending]
    check_choice("format", output_format, FORMATS)
    return output_format


@contextlib.contextmanager
def _stream(output: str | os.PathLike | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with whole_file(output) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        yield file


def _as_text(found: Iterable[Findings]) -> Iterator[str]:
    for name, findings in found:
        yield "".join(f"{line}\n" for line in [name, *map(_line, findings)])


def _line(finding: dict) -> str:
    """The answer of a model for one label, of whatever kind."""
    if "value" in finding:
        return f"  {finding['label']:8} {finding['value']:.4g}  {finding['name']}"
    verdict, score = "present" if finding["positive"] else "absent ", f"{finding['score']:.3f}"
    if "threshold" in finding:
        score += f" (threshold {finding['threshold']:.3f})"
    return f"  {verdict}  {finding['label']:8} {score}  {finding['name']}"


def _as_json(found: Iterable[Findings]) -> Iterator[str]:
    mark = "["
    for name, findings in found:
        yield f"{mark}\n{_json(name, findings)}"
        mark = ","
    yield "[]\n" if mark == "[" else "\n]\n"


def _as_json_lines(found: Iterable[Findings]) -> Iterator[str]:
    for name, findings in found:
        yield _json(name, findings) + "\n"


def _json(name: str, findings: list[dict]) -> str:
    return json.dumps({"record": name, "findings": findings}, allow_nan=False, ensure_ascii=False)


def _fields_of_findings(classifier: Pipeline) -> list[str]:
    """What the pipeline says of a label; known without a record, so that a table of none has its columns too."""
    nothing = torch.zeros(1, len(classifier.model.config.labels))
    return list(classifier.postprocess([{"record": "no record", "output": nothing}])[0])


def _long_csv(found: Iterable[Findings], fields: Sequence[str]) -> Iterator[str]:
    """A row for each record and label, with what the pipeline says of a finding."""
    yield _csv([["record", *fields]])
    for name, findings in found:
        yield _csv([name, *(finding[field] for field in fields)] for finding in findings)


def wide_csv(found: Iterable[Findings], labels: Sequence[str]) -> Iterator[str]:
    """A row for each record, with the score of each label in the model's order."""
    yield _csv([["record", *labels]])
    for name, findings in found:
        scores = {finding["label"]: finding["score" if "score" in finding else "value"] for finding in findings}
        yield _csv([[name, *(scores[label] for label in labels)]])


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


__all__ = ["FORMATS", "classify_records", "wide_csv"]
