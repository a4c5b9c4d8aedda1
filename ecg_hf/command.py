"""How a command reads its flags, and how it ends: what its user can mend is one line, a fault is a traceback."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import opcode
import os
import pathlib
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence

PACKAGE = pathlib.Path(__file__).parent
RUNS = ("pretrain", "train")
"""The commands that can be resumed, and have a `--debug` of the library, which a value follows."""

_RAISE = opcode.opmap["RAISE_VARARGS"]


def unknown_flags(parser: argparse.ArgumentParser, rest: Sequence[str]) -> str:
    """The message for arguments that a parser does not know, with the flag that each may have been meant to be."""
    flags = [argument.partition("=")[0] for argument in rest if argument.startswith("-")]
    if not flags:
        return (
            f"`{rest[0]}` belongs to no flag: one value, and perhaps quotes around it, are expected where it stands."
        )
    known = re.findall(r"--\w[\w-]*", parser.format_usage())
    nearest = [difflib.get_close_matches(flag, known, n=1) for flag in flags]
    return " ".join(
        f"There is no flag `{flag}`." + (f" Did you mean `{near[0]}`?" if near else " `--help` lists all.")
        for flag, near in zip(flags, nearest, strict=True)
    )


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """A block in which the library shows none."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Parser(argparse.ArgumentParser):
    """A parser of whole flags whose errors are one line, and name the flag that is nearest to an unknown one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        self.exit(2, f"ecg-hf: error: {message}\n")

    def parse_args(self, args=None, namespace=None):
        arguments, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(unknown_flags(self, rest))
        return arguments


def dataclass_parser(kinds: Sequence[type], **kwargs) -> argparse.ArgumentParser:
    """The same for flags that are the fields of dataclasses: an `HfArgumentParser`."""
    from transformers import HfArgumentParser

    class DataclassParser(HfArgumentParser):
        error = Parser.error

    return DataclassParser(kinds, allow_abbrev=False, **kwargs)


def parse_dataclasses(argv: Sequence[str], kinds: Sequence[type]) -> tuple:
    """The dataclasses of the kinds given; `ValueError` for a flag that is a field of none, and what they raise."""
    parser = dataclass_parser(kinds)
    *found, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if rest:
        raise ValueError(unknown_flags(parser, rest))
    return tuple(found)


def without_debug(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, and whether it was among them.

    Of `train` and `pretrain` it is a flag of the library's, where a value follows.
    """
    command = next((argument for argument in argv if not argument.startswith("-")), None)
    kept, debug = [], False
    for place, argument in enumerate(argv):
        followed = place + 1 < len(argv) and not argv[place + 1].startswith("-")
        of_library = command in RUNS and command in argv[:place] and followed
        if argument == "--debug" and not of_library:
            debug = True
        else:
            kept.append(argument)
    return kept, debug


def run_command(command: Callable[[list[str]], object], argv: list[str], debug: bool = False) -> None:
    """Run a command; errors that its user can mend end it with a line and the exit code 2, or 1 for a record.

    With `debug`, and for all other exceptions, there is a traceback. SIGINT ends it with the exit code 130. Warnings
    for the user are lines too, without the place in the code.
    """
    try:
        with contextlib.nullcontext() if debug else _warnings_in_lines():
            command(argv)
    except KeyboardInterrupt:
        print("\nStopped by SIGINT.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        raise  # see `while_it_is_read`
    except _mendable() as error:
        if debug or not _is_for_the_user(error):
            raise
        print(f"ecg-hf: error: {_message(error)}", file=sys.stderr)
        raise SystemExit(1 if _is_of_a_record(error) else 2) from None


@contextlib.contextmanager
def while_it_is_read() -> Iterator[None]:
    """A block that ends the process without a word where what reads its output (`| head`) has gone."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
        raise SystemExit(128 + signal.SIGPIPE) from None


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """A block in which a `UserWarning` that this package gives is shown as its message alone."""
    with_place = warnings.formatwarning

    def formatted(message, category, filename, *args, **kwargs):
        if category is UserWarning and PACKAGE in pathlib.Path(filename).parents:
            return f"Warning: {message}\n"
        return with_place(message, category, filename, *args, **kwargs)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = with_place


def _mendable() -> tuple[type[Exception], ...]:
    """Looked at where an exception comes, and only then imported."""
    from huggingface_hub.errors import StrictDataclassError

    return ValueError, TypeError, RuntimeError, OSError, ImportError, StrictDataclassError


def _is_for_the_user(error: BaseException) -> bool:
    """Whether an error says what to mend, and is not a call within this package or a library that went wrong.

    Those are of files and the network, of a configuration, whose checks the library calls, of flags, and those that a
    `raise` of this package wrote down.
    """
    if isinstance(error, OSError) or _is_of_a_configuration(error):
        return True
    frames = list(_frames(error))
    if any(code is parse_dataclasses.__code__ for code, _ in frames):
        return True
    last, instruction = frames[-1]
    return PACKAGE in pathlib.Path(last.co_filename).parents and last.co_code[instruction] == _RAISE


def _is_of_a_configuration(error: BaseException) -> bool:
    from huggingface_hub.errors import StrictDataclassError

    return isinstance(error, StrictDataclassError)


def _is_of_a_record(error: BaseException) -> bool:
    from .ecg_transformer.wfdb_ecg_transformer import RecordError

    return isinstance(error, RecordError)


def _frames(error: BaseException):
    """The code of each frame from which the error came, and the place of its instruction."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lasti
        trace = trace.tb_next


def _message(error: BaseException) -> str:
    if _is_of_a_configuration(error) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or "".join(traceback.format_exception_only(error)).strip()


def add_facts(parser: argparse.ArgumentParser) -> None:
    """The flags of what files of records may not state themselves."""
    parser.add_argument("--sampling_rate", type=float, help="in Hz, of files that do not state it")
    parser.add_argument("--units", help="mV or uV, of files that do not state it")
    parser.add_argument("--lead_names", nargs="+", help="the leads in order, of files that do not name them")


__all__ = [
    "Parser",
    "add_facts",
    "dataclass_parser",
    "parse_dataclasses",
    "run_command",
    "unknown_flags",
    "while_it_is_read",
    "without_debug",
    "without_progress_bars",
]
