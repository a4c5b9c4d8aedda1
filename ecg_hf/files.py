"""Files and folders that appear complete or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path to write to; it becomes `path` when the block ends, and is removed if the block raises.

    The unfinished file begins with a dot, lies in the same folder, and keeps the ending of `path`.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{_writer()}{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder to fill; it becomes `path` when the block ends, and is removed if the block raises.

    Parents are made; an empty folder at `path` is replaced. Raises `OSError` where `path` is anything else.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{_writer()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _writer() -> str:
    """A name that no other writer has: of machines that share a disk two processes may have the same number."""
    return f"{os.getpid()}.{secrets.token_hex(4)}"


def share_as_usual(folder: str | os.PathLike) -> None:
    """Give the files of a folder the permissions that the process gives to new files.

    safetensors (0.8) and temporary files are readable by their owner alone, whatever the umask says: those who share
    the disk of a cluster could not load a checkpoint.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "file"
        file.touch()
        usual = stat.S_IMODE(file.stat().st_mode)
    for file in Path(folder).rglob("*"):
        if file.is_file() and stat.S_IMODE(file.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR:
            file.chmod(usual)


def read_text(path: str | os.PathLike) -> str:
    """The text of a file in UTF-8; `ValueError` names a file in another encoding."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{path}` is not UTF-8 (byte {error.object[error.start]:#04x} at place {error.start}): save it in UTF-8."
        ) from error


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a file of JSON; `ValueError` names a file that holds anything else."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"`{path}` is not whole JSON ({error}): get the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` holds {str(content)[:20]!r}, expected a JSON object: get the file again.")
    return content


def json_text(content: Any) -> str:
    """As indented JSON that ends with a line's end; lists of numbers take a line each, not one a number."""
    text = json.dumps(content, indent=2)
    # No text of JSON has the end of a line in it, so only lists begin so.
    return re.sub(r"\[\n\s+([^]\[{}\"]+?)\s+\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text) + "\n"


def write_atomic(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8 that appears complete or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


__all__ = ["json_text", "read_object", "read_text", "share_as_usual", "whole_file", "whole_folder", "write_atomic"]
