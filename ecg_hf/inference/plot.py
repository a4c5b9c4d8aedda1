"""`ecg-hf plot`: a record on ECG paper, with the findings of a model beside it."""

from __future__ import annotations

import os

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES, MICROVOLTS
from ..pipelines import read_for_model
from ..plotting import plot_ecg
from .models import load_pipeline
from .output import check_output
from .sources import Facts

ENDINGS = (".png", ".svg", ".pdf")


def plot_record(
    record: str | os.PathLike,
    output: str | os.PathLike,
    *,
    model: str | None = None,
    facts: Facts | None = None,
) -> None:
    """Draw a record as `plot_ecg` does, and beside it the findings of `model`, if one is given.

    Args:
        record: an ECG file of any format that is read, of at most 60 s.
        output: a `.png`, `.svg` or `.pdf`, written whole or not at all.
        model: folder or Hub id of a post-trained checkpoint.
        facts: what the file does not state.

    Raises:
        RecordError: the record cannot be read.
        ValueError: the ending is another, the record is longer than 60 s, or the model cannot use it.
    """
    check_output(output, ENDINGS)
    read = read_for_model(record, LEAD_NAMES, (facts or Facts()).as_dict())
    findings = None
    if model is not None:
        classifier = load_pipeline("ecg-classification", model)
        recording = {"signal": read.signal, "units": "uV"}
        findings = classifier({**recording, "sampling_rate": read.sampling_rate, "lead_names": read.lead_names})
    plot_ecg(
        read.signal / MICROVOLTS["mv"],
        sampling_rate=read.sampling_rate,
        lead_names=read.lead_names,
        path=output,
        title=os.path.basename(record),
        findings=findings,
    )


__all__ = ["plot_record"]
