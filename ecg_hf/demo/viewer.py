"""What the page shows: the answers of a model, and a record on ECG paper."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES, MICROVOLTS, MULTI_LABEL, REGRESSION
from ..ecg_transformer.wfdb_ecg_transformer import Record
from ..inference.answers import Answer, answers
from ..inference.attribution import Segment, explain
from ..inference.classify import wide_csv
from ..inference.explain import plot_attribution
from ..inference.models import load_pipeline
from ..plotting import MAX_PAPER_SECONDS, plot_ecg
from .calibration import calibration_of
from .uploads import Upload

BATCH_SIZE = 32
SEGMENTS = 5
"""Of an attribution that are put into words."""
VERDICTS = {True: "present", False: "absent"}


class Viewer:
    """A trained model, and what it says of uploaded records.

    Args:
        model: folder or Hub id of a post-trained checkpoint.
    """

    def __init__(self, model: str):
        self.model = model
        self.classifier = load_pipeline("ecg-classification", model)
        self.calibration = calibration_of(model)

    @property
    def config(self):
        return self.classifier.model.config

    @property
    def is_regression(self) -> bool:
        return self.config.problem_type == REGRESSION

    def answer(self, upload: Upload) -> Iterator[Answer]:
        """The answers of all records, which the upload keeps, too."""
        upload.answers = []
        for answer in answers(self.classifier, upload.items, BATCH_SIZE):
            upload.answers.append(answer)
            yield answer

    def overview(self, upload: Upload) -> list[list[str]]:
        """A row for each record: its name, what was found, and what is wrong with it."""
        return [[answer.name, self._in_short(answer), upload.bare(answer.problem or "")] for answer in upload.answers]

    def _in_short(self, answer: Answer) -> str:
        if answer.problem is not None:
            return ""
        if self.is_regression:
            return ", ".join(f"{finding['label']} {finding['value']:.4g}" for finding in answer.value)
        present = [f"{finding['label']} {finding['score']:.2f}" for finding in answer.value if finding["positive"]]
        return ", ".join(present) or "nothing above its threshold"

    def csv(self, upload: Upload) -> str:
        """As `ecg-hf classify --wide` writes it: a row for each record that has an answer, a column for each label."""
        found = ((answer.name, answer.value) for answer in upload.answers if answer.problem is None)
        return "".join(wide_csv(found, self.config.labels))

    def columns(self) -> list[str]:
        """The titles of `findings`."""
        if self.is_regression:
            return ["code", "value", "meaning"]
        titles = ["code", "verdict", "probability"]
        if self.has_thresholds:
            titles.append("threshold")
        if self.calibration is not None:
            titles.append("had it at such a probability")
        return [*titles, "meaning"]

    @property
    def has_thresholds(self) -> bool:
        """Where one of several classes is chosen there are none."""
        return self.config.problem_type == MULTI_LABEL

    def words_on_calibration(self) -> str:
        """What the column of the calibration says, or why there is none."""
        if self.is_regression:
            return "The values are in the units of the training records."
        if self.calibration is None:
            return (
                "How often a finding is there at such a probability is not known: the checkpoint has no reliability "
                "bins in its metrics.json, which `ecg-hf train` writes."
            )
        return (
            f"“Had it”: of the {self.calibration.split} records to which the model gave a probability in the same "
            "tenth, the share that had the finding, with its 95 % interval and the number of records. It holds for "
            "patients like those."
        )

    def findings(self, answer: Answer) -> list[list[str]]:
        """A row for each label, in the order of the answer."""
        return [self._row(finding) for finding in answer.value]

    def _row(self, finding: dict[str, Any]) -> list[str]:
        label, name = finding["label"], finding["name"]
        if self.is_regression:
            return [label, f"{finding['value']:.4g}", name]
        cells = [label, VERDICTS[finding["positive"]], f"{finding['score']:.3f}"]
        if self.has_thresholds:
            cells.append(f"{finding['threshold']:.3f}")
        if self.calibration is not None:
            cells.append(self.calibration.said_of(label, finding["score"]))
        return [*cells, name]

    def read(self, upload: Upload, index: int) -> tuple[Record, list[str]]:
        """A record with all its leads, of which the first minute is shown, and what is to be said of it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            record = upload.items[index].read(LEAD_NAMES)
        notes = [upload.bare(str(warning.message)) for warning in caught]
        seconds = record.signal.shape[1] / record.sampling_rate
        if seconds > MAX_PAPER_SECONDS:
            notes.append(f"The first {MAX_PAPER_SECONDS} s of {seconds:.0f} s are drawn; the findings are of all.")
            kept = record.signal[:, : int(MAX_PAPER_SECONDS * record.sampling_rate)]
            record = dataclasses.replace(record, signal=kept)
        return record, notes

    def attribution(self, upload: Upload, index: int, label: str) -> str:
        """HTML of what a label's score rests on: its picture and, in words, the stretches with the largest shares.

        Raises `ValueError` for a record of more than 60 s.
        """
        record = upload.items[index].read(self.classifier.wanted_leads)
        classifier = self.classifier
        (found,) = explain(classifier.model, classifier.feature_extractor, record, labels=[label])
        stretches = "; ".join(_in_words(segment) for segment in found.segments(SEGMENTS))
        sentence = (
            f"What {label} ({found.name}) rests on, by integrated gradients: orange speaks for it, blue against it. "
            f"Most weight, as a share of all: {stretches}. It tells what the model looks at, not what is wrong with "
            "the heart."
        )
        return picture(plot_attribution(found), sentence) + messages([sentence], "note")


def _in_words(segment: Segment) -> str:
    return f"{segment.lead} {segment.start:.2f} to {segment.end:.2f} s ({segment.share:+.1%})".replace("%", " %")


def paper(record: Record, title: str) -> str:
    """HTML of a record on ECG paper."""
    figure = plot_ecg(
        record.signal / np.float32(MICROVOLTS["mv"]),
        sampling_rate=record.sampling_rate,
        lead_names=record.lead_names,
        title=title,
    )
    leads = ", ".join(record.lead_names)
    return picture(figure, f"ECG of {title}: leads {leads}")


def picture(figure, description: str) -> str:
    """A figure as HTML that needs no file: wide ones scroll sideways, so that a phone shows their lines."""
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    data = base64.b64encode(stored.getvalue()).decode("ascii")
    source = f"data:image/png;base64,{data}"
    return f'<div class="ecg-paper"><img src="{source}" alt="{html.escape(description, quote=True)}"></div>'


def messages(texts: Iterable[str], kind: str) -> str:
    """HTML of sentences, whatever is in them; `kind` is `"error"` or `"note"`."""
    return "".join(f'<p class="ecg-{kind}" role="status">{html.escape(text)}</p>' for text in texts)


__all__ = ["Viewer", "messages", "paper", "picture"]
