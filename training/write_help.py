"""Write what `ecg-hf COMMAND --help` prints, after a change of flags: `python training/write_help.py`."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import os
from unittest import mock

from ecg_hf import cli
from ecg_hf.command import RUNS, dataclass_parser
from ecg_hf.help import TEXTS, WIDTH

KINDS = {
    "pretrain": cli.pretraining_arguments,
    "train": cli.post_training_arguments,
    "evaluate": cli.evaluation_arguments,
    "export": cli.export_arguments,
}
"""The commands whose flags are the fields of dataclasses."""


def help_texts() -> dict[str, str]:
    """The text of each command, made from its parser."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH + 2)}):
        return {name: _of_dataclasses(name) if name in KINDS else _of_parser(name) for name in cli.COMMANDS}


def _of_parser(name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.COMMANDS[name](["--help"])
    return printed.getvalue()


def _of_dataclasses(name: str) -> str:
    parts = [f"usage: ecg-hf {name} [--config FILE.yaml] [--FLAG VALUE ...]", inspect.getdoc(cli.COMMANDS[name])]
    parts.append("`--config FILE.yaml` holds flags as `name: value` lines, which those of the command line override.")
    parts += [_group(kind) for kind in KINDS[name]()]
    if name in RUNS:
        parts.append(f"`ecg-hf {name} --help-all` also lists the other flags of transformers' TrainingArguments.")
    return "\n\n".join(parts) + "\n"


def _group(kind: type) -> str:
    """The fields that a dataclass has from this package, under the first line of its docstring."""
    parser = dataclass_parser([kind], usage=argparse.SUPPRESS, add_help=False)
    bases = [base for base in kind.__mro__ if base.__module__.startswith("ecg_hf.")]
    own = {name for base in bases for name in vars(base).get("__annotations__", {})}
    for action in parser._actions:
        if action.dest not in own:
            action.help = argparse.SUPPRESS
    title = inspect.getdoc(kind).splitlines()[0].rstrip(".").replace("[`", "").replace("`]", "")
    return parser.format_help().strip().replace("options:", f"{title}:", 1)


def main() -> None:
    TEXTS.mkdir(exist_ok=True)
    for file in TEXTS.glob("*.txt"):
        file.unlink()
    for name, text in help_texts().items():
        (TEXTS / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
