"""What `--help` prints. Making it from the parsers takes the libraries, so it is written ahead, as `help_texts/*.txt`.

`python training/write_help.py` writes the texts anew after a change of flags.
"""

from __future__ import annotations

import inspect
import pathlib
import textwrap
from collections.abc import Callable, Mapping

TEXTS = pathlib.Path(__file__).parent / "help_texts"
WIDTH = 100


def help_of(command: str) -> str:
    """The flags of a command; of a run without those that are only the library's."""
    return (TEXTS / f"{command}.txt").read_text(encoding="utf-8").rstrip("\n")


def overview(commands: Mapping[str, Callable]) -> str:
    """A line of what each command does, which is the first of its docstring."""
    column = max(map(len, commands)) + 4
    lines = [
        textwrap.fill(
            inspect.getdoc(function).splitlines()[0],
            WIDTH,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
        )
        for name, function in commands.items()
    ]
    return "\n".join(
        [
            "usage: ecg-hf COMMAND [FLAGS ...] [--debug]",
            "       ecg-hf --version",
            "",
            "ECG Transformers: pre-training, post-training, findings.",
            "",
            "commands:",
            *lines,
            "",
            "`ecg-hf COMMAND --help` lists the flags of a command; with `--debug`, errors show where they come from.",
        ]
    )


__all__ = ["TEXTS", "WIDTH", "help_of", "overview"]
