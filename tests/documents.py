"""The fenced blocks of README and guides, and how they are run within one process.

Commands run as a user calls them, but for a few flags that shorten them. A block whose first line is a comment
`# needs ...` (the network, several GPUs, hours) is only parsed: flags by their parsers, Python by its imports.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import pathlib
import re
import runpy
import shlex
import sys
import tomllib
from typing import NamedTuple

import pytest
import torch.distributed.run
from accelerate.commands.launch import launch_command_parser

from ecg_hf import cli
from ecg_hf.command import Parser, dataclass_parser, unknown_flags

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = ROOT / "training/guides"
DOCUMENTS = [
    ROOT / "README.md",
    *(GUIDES / f"{name}.md" for name in ("own-data", "post-training", "pre-training", "public-checkpoints")),
    *(GUIDES / f"{name}.md" for name in ("evaluation", "publishing", "many-machines", "results", "ptbxl")),
    ROOT / "CONTRIBUTING.md",
]
LANGUAGES = {"sh", "python", "text", "bibtex"}

# A user has time: one epoch of few records tells as much here.
_CPU = ["--use_cpu", "true"]
_RUN = [*_CPU, "--bf16", "false", "--disable_tqdm", "true", "--max_train_records", "16"]
_TRAIN = [*_RUN, "--num_train_epochs", "1", "--probe_num_train_epochs", "1", "--num_bootstrap_resamples", "2"]
_HURRY = {
    "train": [*_TRAIN, "--max_eval_records", "16", "--per_device_train_batch_size", "16"],
    # Words are learned that 20 reports have.
    "pretrain": [*_RUN, "--max_train_records", "60", "--max_steps", "1", "--per_device_train_batch_size", "8"],
    "evaluate": [*_CPU, "--num_bootstrap_resamples", "2"],
    "benchmark pretrain": [
        *_RUN,
        "--num_records",
        "16",
        "--num_steps",
        "1",
        "--num_rounds",
        "1",
        "--per_device_train_batch_size",
        "8",
    ],
    "benchmark reading": ["--num_records", "2", "--num_rounds", "1"],
}
_SIMULATED = (", 500,", ", 100,")
# Of the small models in tests/fixtures, of which no tensor tells it.
_HEADS = {"multiblock_epoch100.pth": "4", "checkpoint.pth": "3"}
_ARGUMENTS = {
    "PostTrainingArguments": "probe_num_train_epochs=1, num_train_epochs=1, num_bootstrap_resamples=2, use_cpu=True, "
    "disable_tqdm=True",
    "TrainingArguments": "max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy='no'",
}
_SCRIPTS = {"train": "train", "pretrain": "pretrain", "evaluate_model": "evaluate"}


class Block(NamedTuple):
    """Of a document; `line` is that of its fence."""

    path: pathlib.Path
    line: int
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.text.startswith("# needs ")

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: pathlib.Path, text: str | None = None) -> list[Block]:
    text = path.read_text(encoding="utf-8") if text is None else text
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(path, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


class Parsed(Exception):
    """Raised once the flags of a command have been parsed, in place of what would follow."""


@contextlib.contextmanager
def parsing_alone():
    """A block in which a command ends when its flags are parsed, and has to."""

    def parse_dataclasses(argv, kinds):
        # Without making the objects, which look for the GPUs and processes of their flags.
        parser = dataclass_parser(kinds)
        _, rest = parser.parse_known_args(argv)
        assert not rest, unknown_flags(parser, rest)
        raise Parsed

    def ends(parse):
        def parse_and_end(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return parse_and_end

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parse_dataclasses", parse_dataclasses)
        for parser in (Parser, argparse.ArgumentParser):
            patch.setattr(parser, "parse_args", ends(parser.parse_args))
        with pytest.raises(Parsed):
            yield


def run_block(block: Block, scope: dict) -> None:
    """Run it, or parse it where it needs what is not here. `scope` has the names of Python in the document."""
    if block.language == "python":
        _run_python(block, scope)
    elif block.language == "sh":
        for words in block.commands:
            run_command(words, block.is_run)


def _run_python(block: Block, scope: dict) -> None:
    text = block.text
    for name, more in _ARGUMENTS.items():
        text = re.sub(rf"\b({name})\((.*?)\)", rf"\1(\2, {more})", text)
    # Traceback lines are those of the document.
    tree = ast.increment_lineno(ast.parse(text), block.line)
    if not block.is_run:
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, str(block.path), "exec"), scope)


def run_command(words: list[str], is_run: bool) -> None:
    """One line of shell. `AssertionError` for a command that is neither run nor looked at."""
    program, *rest = words
    if program == "ecg-hf":
        _run_ours(rest[0], rest[1:], is_run)
    elif program == "python" and rest[0] == "-c":
        exec(compile(rest[1].replace(*_SIMULATED), "python -c", "exec"), {})
    elif program == "python":
        _run_script(rest[0], rest[1:], is_run)
    elif (program, *rest[:1]) == ("accelerate", "launch"):
        launched = launch_command_parser().parse_args(rest[1:])
        assert pathlib.Path(launched.config_file).is_file(), launched.config_file
        _run_script(launched.training_script, launched.training_script_args, is_run)
    elif program == "torchrun":
        launched = torch.distributed.run.get_args_parser().parse_args(rest)
        assert not is_run, "a block with torchrun begins with `# needs several processes`"
        _run_script(launched.training_script, launched.training_script_args, is_run)
    else:
        assert program in _LOOKED_AT, f"`{' '.join(words)}` is not known to tests/documents.py"
        _LOOKED_AT[program](rest)


def _run_ours(command: str, rest: list[str], is_run: bool) -> None:
    if not is_run:
        with parsing_alone():
            cli.main([command, *rest])
        return
    heads = ["--num_attention_heads", _HEADS[rest[0]]] if command == "convert" and rest[0] in _HEADS else []
    cli.main([command, *rest, *heads, *_HURRY.get(command, [])])
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag in ("--output", "--output_dir"):
            assert pathlib.Path(value).exists() != ("--dry_run" in rest), f"{command}: {value}"


def _run_script(path: str, rest: list[str], is_run: bool) -> None:
    name = pathlib.Path(path).stem
    name = f"{name} {rest[0]}" if name == "benchmark" else name
    more = _HURRY.get(_SCRIPTS.get(name, name), []) if is_run else []
    with pytest.MonkeyPatch.context() as patch, contextlib.nullcontext() if is_run else parsing_alone():
        patch.setattr(sys, "argv", [path, *rest, *more])
        runpy.run_path(path, run_name="__main__")


def _check_make(targets: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def _check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words[:2] == ["install", "-c"] and (ROOT / words[2]).is_file()
    # Editable, so that the checkpoints of the clone are found by their names.
    assert words[3] == "-e" and len(words) == 5
    extras = re.fullmatch(r"\.\[(.*)\]", words[4])[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()


def _check_pytest(paths: list[str]) -> None:
    assert paths and all((ROOT / path).is_file() for path in paths)


def _check_hub_login(words: list[str]) -> None:
    assert words == ["auth", "login"]


_LOOKED_AT = {"make": _check_make, "pip": _check_pip, "pytest": _check_pytest, "hf": _check_hub_login}
