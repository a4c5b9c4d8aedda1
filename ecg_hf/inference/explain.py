"""`ecg-hf explain`: where a model's answer for a record comes from, drawn over ECG paper, as lines or JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..ecg_transformer.common_ecg_transformer import check_choice
from ..plotting import plot_ecg
from .attribution import METHODS, STEPS, Attribution, explain
from .models import load_pipeline
from .sources import Facts, find_records

FORMATS = ("png", "svg")
NOTE = "Research only, not a medical device: this shows what the model reacts to, not what is wrong with the heart."
SEGMENTS_IN_TEXT, SEGMENTS_IN_JSON = 3, 10


def explain_record(
    record: str,
    model: str,
    output_dir: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    method: str = "integrated_gradients",
    steps: int = STEPS,
    picture_format: str = "png",
    as_json: bool = False,
    device: str | None = None,
    facts: Facts | None = None,
) -> None:
    """Draw the attribution of each label to `output_dir`/RECORD-LABEL.png, and print its strongest segments.

    Args:
        record: an ECG file of any format that is read, of at most 60 s.
        model: folder or Hub id of a post-trained checkpoint.
        output_dir: made if it is not there; pictures of the same names are replaced, each whole or not at all.
        labels, method, steps: as of `explain`.
        picture_format: one of `FORMATS`.
        as_json: print one JSON object in place of lines.
        device: as of the library's pipelines, ``"cpu"`` or ``"cuda"``.
        facts: what the file does not state.

    Raises:
        RecordError: the record cannot be read.
        ValueError: it cannot be used, or another argument does not fit.
        NotADirectoryError: `output_dir` is a file.
    """
    check_choice("format", picture_format, FORMATS)
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`--output_dir` {output_dir} is a file: give the name of a folder.")
    classifier = load_pipeline("ecg-classification", model, device)
    item = _only_record(record, facts or Facts())
    read = item.read(classifier.wanted_leads)
    found = explain(classifier.model, classifier.feature_extractor, read, labels, method, steps)
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem(record)
    pictures = [folder / f"{stem}-{name}.{picture_format}" for name in _file_names(each.label for each in found)]
    for attribution, picture in zip(found, pictures, strict=True):
        plot_attribution(attribution, picture, title=os.path.basename(record))
    if as_json:
        print(json.dumps(_as_json(item.name, found, pictures), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        print("\n".join(line for pair in zip(found, pictures, strict=True) for line in _lines(*pair)))


def plot_attribution(attribution: Attribution, path: str | os.PathLike | None = None, title: str | None = None):
    """The record on ECG paper, with `attribution` in colour behind its traces: orange for the label, blue against it.

    Colours are the moving average over 0.1 s, per second of signal: integrated gradients in units of the output, so
    that a second of the same colour adds as much to it; roll-out in % of the attention.

    Args:
        attribution: of `explain`.
        path: file of the figure (the suffix selects the format); not saved if None.
        title: before the label.

    Returns the matplotlib figure.
    """
    by_gradients = attribution.method == "integrated_gradients"
    factor, unit = (1, attribution.quantity) if by_gradients else (100, "% of the attention")
    about = f"{attribution.label}: {answer_text(attribution.finding)}, by {attribution.method.replace('_', ' ')}"
    return plot_ecg(
        attribution.signal,
        sampling_rate=attribution.sampling_rate,
        lead_names=attribution.lead_names,
        path=path,
        title=about if title is None else f"{title}\n{about}",
        marks=attribution.smoothed() * attribution.sampling_rate * factor,
        marks_unit=f"{unit} per second, {'blue against the label, orange for it' if by_gradients else 'in each lead'}",
        note=NOTE,
    )


def answer_text(finding: Mapping) -> str:
    """What the pipeline says of a label, as words."""
    name = "" if finding["name"] == finding["label"] else f"{finding['name']}, "
    if "value" in finding:
        return f"{name}value {finding['value']:.4g}"
    threshold = f" (threshold {finding['threshold']:.3f})" if "threshold" in finding else ""
    return f"{name}{'present' if finding['positive'] else 'absent'}, probability {finding['score']:.3f}{threshold}"


def _only_record(record: str, facts: Facts):
    if os.path.isdir(record):
        raise ValueError(f"`{record}` is a folder: give one ECG file.")
    items = find_records([record], facts)
    if len(items) != 1:
        raise ValueError(f"`{record}` is a table of {len(items)} records: give one ECG file.")
    return items[0]


def _stem(record: str) -> str:
    """What a record's pictures are called by. Only a file has an ending to leave out: the `#row=12` of a file of
    several tells a record from others."""
    path = Path(record)
    return path.stem if path.is_file() else _file_name(path.name)


def _file_name(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.+-]+", "_", text)


def _file_names(labels: Iterator[str]) -> list[str]:
    """One for each label, none twice."""
    names = []
    for label in labels:
        name = _file_name(label)
        names.append(f"{name}-{len(names)}" if name.casefold() in {taken.casefold() for taken in names} else name)
    return names


def _lines(attribution: Attribution, picture: Path) -> Iterator[str]:
    yield f"{attribution.label}  {answer_text(attribution.finding)}"
    for segment in attribution.segments(SEGMENTS_IN_TEXT):
        yield f"  {segment.lead:4} {segment.start:6.2f} to {segment.end:6.2f} s  {segment.share:+.1%}"
    if attribution.completeness_error is not None:
        before, error = attribution.baseline_output, attribution.completeness_error
        yield (
            f"  {attribution.quantity} {attribution.output:.3f}, of a record of 0 mV {before:.3f}; the attributions "
            f"sum to the difference {attribution.output - before:.3f} but for {error:+.3f}"
        )
    yield f"  {picture}"


def _as_json(record: str, found: Sequence[Attribution], pictures: Sequence[Path]) -> dict:
    return {
        "record": record,
        "method": found[0].method,
        "explanations": [
            {
                **each.finding,
                "quantity": each.quantity,
                "output": each.output,
                "baseline_output": each.baseline_output,
                "completeness_error": each.completeness_error,
                "segments": [segment._asdict() for segment in each.segments(SEGMENTS_IN_JSON)],
                "picture": str(picture),
            }
            for each, picture in zip(found, pictures, strict=True)
        ],
        "note": NOTE,
    }


__all__ = ["FORMATS", "METHODS", "STEPS", "answer_text", "explain_record", "plot_attribution"]
