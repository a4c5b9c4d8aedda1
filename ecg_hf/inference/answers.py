"""What a pipeline answers for many records: in batches, and whatever is wrong with one stays with that one."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm

from .sources import Item

NAMED_IN_A_MESSAGE = 10
_MANY_RECORDS = 10
"""More than these get a progress bar."""


@dataclass
class Answer:
    """What is known of a record: `value`, the pipeline's answer, or `problem`; and warnings, of either."""

    name: str
    value: Any = None
    problem: str | None = None
    notes: list[str] = field(default_factory=list)
    windows: list[dict] = field(default_factory=list, repr=False)


def answers(pipeline, items: Sequence[Item], batch_size: int, **postprocess) -> Iterator[Answer]:
    """The answers of a pipeline of ECG records, in the order of `items`, `batch_size` windows in a forward pass.

    As many records are read as fill a batch, so that the memory does not depend on their number.
    """
    waiting: list[Answer] = []
    for item in items:
        waiting.append(_read(pipeline, item))
        if sum(len(answer.windows) for answer in waiting) >= batch_size:
            yield from _finish(pipeline, waiting, batch_size, postprocess)
            waiting = []
    yield from _finish(pipeline, waiting, batch_size, postprocess)


def _read(pipeline, item: Item) -> Answer:
    answer = Answer(item.name)
    # What a warning says is of this record, and Python would show the same text only once.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            record = item.read(pipeline.wanted_leads)
            recording = {
                "signal": record.signal,
                "sampling_rate": record.sampling_rate,
                "lead_names": record.lead_names,
                "units": "uV",
            }
            answer.windows = list(pipeline.preprocess(recording))
        # Whatever a stranger's file makes a decoder raise is a fault of that record alone: the others are answered.
        except Exception as error:
            answer.problem = str(error) or type(error).__name__
    if answer.problem is None:
        answer.notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return answer


def _finish(pipeline, waiting: list[Answer], batch_size: int, postprocess: dict) -> Iterator[Answer]:
    windows = [window for answer in waiting for window in answer.windows]
    outputs: list[torch.Tensor] = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        outputs += pipeline.forward({name: [window[name] for window in batch] for name in batch[0]})["output"]
    rows = iter(outputs)
    for answer in waiting:
        if answer.problem is None:
            output = torch.stack([next(rows) for _ in answer.windows])
            try:
                answer.value = pipeline.postprocess([{"record": "the record", "output": output}], **postprocess)
            except ValueError as error:  # NaN in the output
                answer.problem = str(error)
        answer.windows = []
        yield answer


class Report:
    """Passes answers on, says the warnings on stderr with a progress bar, and at the end names what was not answered.

    Args:
        num_records: of all of them.
        verb: what could not be done with the broken ones, such as ``"classified"``.
    """

    def __init__(self, num_records: int, verb: str):
        self.num_records, self.verb = num_records, verb
        self.problems: list[str] = []

    def answered(self, found: Iterator[Answer]) -> Iterator[tuple[str, Any]]:
        """(name, value) of the records that have an answer."""
        bar = tqdm(found, total=self.num_records, unit="record", disable=self.num_records <= _MANY_RECORDS)
        for answer in bar:
            for note in answer.notes:
                bar.write(_with_name(answer.name, note), file=sys.stderr)
            if answer.problem is None:
                yield answer.name, answer.value
            else:
                self.problems.append(_with_name(answer.name, answer.problem))

    def end(self, output: str | os.PathLike | None = None) -> None:
        """Say on stderr what was written to `output`, and raise `SystemExit` with the number of broken records, if
        there are any, once ten are named there."""
        if output is not None and (count := self.num_records - len(self.problems)):
            print(f"{count:,} records {self.verb}: {os.fspath(output)}", file=sys.stderr)
        if not self.problems:
            return
        for problem in self.problems[:NAMED_IN_A_MESSAGE]:
            print(problem, file=sys.stderr)
        if (more := len(self.problems) - NAMED_IN_A_MESSAGE) > 0:
            print(f"and {more} more", file=sys.stderr)
        raise SystemExit(f"{len(self.problems)} of {self.num_records} records could not be {self.verb}.")


def _with_name(name: str, text: str) -> str:
    return text if name in text else f"{name}: {text}"


__all__ = ["Answer", "Report", "answers"]
