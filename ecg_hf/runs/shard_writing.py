"""Parquet shards, each written whole or not at all by one of several processes; a manifest comes last.

While a folder is unfinished, notes lie beside the shards, by which a command that was stopped goes on with those that
are missing, or whose records have changed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..files import read_object, write_atomic
from ..processes import in_processes
from .shards import MANIFEST

logger = logging.getLogger(__name__)

SHARD_SIZE = 1000
"""Records of a shard: 16 MB of PTB-XL's at 100 Hz, 50 MB at 500 Hz."""

RECORDS_PER_ROW_GROUP = 100
# Of neighbouring samples the differences have few bits: of PTB-XL .65 (100 Hz) and .41 (500 Hz) of the int16 are left.
ENCODING = {
    "use_dictionary": ["lead_names.list.element"],
    "column_encoding": {"signal.list.element": "DELTA_BINARY_PACKED"},
    "compression": "none",
}
"""How a shard is written: arguments of `pyarrow.parquet.ParquetWriter`."""

_PROGRESS = "unfinished"
_OF_SHARD = ("num_records", "num_bytes", "sha256")


class Shard(NamedTuple):
    """A file to be written: its split, its name in the folder, the number of its records, a text that changes whenever
    it may have other rows, and what its rows are made from."""

    split: str
    file: str
    num_records: int
    key: str
    content: Any


Write = Callable[[Shard, Path], dict]
"""Writes a shard to a path -> notes on it: `num_records`, `skipped` (reasons) and others."""


def shard_file(split: str, number: int, count: int) -> str:
    return f"data/{split}-{number:05d}-of-{count:05d}.parquet"


def finished_manifest(output_dir: Path, shards: Sequence[Shard]) -> dict[str, Any] | None:
    """The manifest of a folder that holds these shards already, None where some are missing; `FileExistsError` where
    it holds others, or is a file."""
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"`{output_dir}` is a file: choose another `--output_dir`.")
    if not (output_dir / MANIFEST).is_file():
        return None
    manifest = read_object(output_dir / MANIFEST)
    if manifest.get("key") != joint_key(shards):
        raise FileExistsError(
            f"`{output_dir}` holds shards of other records or settings: choose another `--output_dir`, or remove it."
        )
    listed = [file for split in manifest["splits"].values() for file in split["shards"]]
    if lost := [file["file"] for file in listed if _size(output_dir / file["file"]) != file["num_bytes"]]:
        logger.warning("`%s` lacks shards that it had, such as %s: all are written anew.", output_dir, lost[0])
        return None
    logger.warning("`%s` holds these shards already: nothing was read.", output_dir)
    return manifest


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def joint_key(shards: Sequence[Shard]) -> str:
    names = (f"{shard.split} {shard.file} {shard.key}" for shard in shards)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def write_shards(
    shards: Sequence[Shard],
    write: Write,
    output_dir: Path,
    num_proc: int,
    check: Callable[[list[str]], None] = lambda skipped: None,
) -> list[dict]:
    """The notes of all shards, those that are missing being written; `check` sees the reasons of skipped records."""
    for folder in ("data", _PROGRESS):
        (output_dir / folder).mkdir(parents=True, exist_ok=True)
    notes = [_old_notes(output_dir, shard) for shard in shards]
    todo = [number for number, found in enumerate(notes) if found is None]
    num_records = sum(shard.num_records for shard in shards)
    with tqdm(total=num_records, desc="Writing shards", unit="record") as bar:
        bar.update(num_records - sum(shards[number].num_records for number in todo))
        work = functools.partial(_written, write=write, output_dir=output_dir)
        written = in_processes(work, [shards[number] for number in todo], num_proc)
        for number, found in zip(todo, written, strict=True):
            notes[number] = found
            bar.update(shards[number].num_records)
            check([reason for some in notes if some is not None for reason in some["skipped"]])
    return notes


def _old_notes(output_dir: Path, shard: Shard) -> dict | None:
    """The notes of a shard that a command which was stopped has written, of the same records."""
    path = _notes_path(output_dir, shard)
    if not path.is_file() or not (output_dir / shard.file).is_file():
        return None
    notes = read_object(path)
    # A record that was skipped may be readable by now.
    return notes if notes["key"] == shard.key and not notes["skipped"] else None


def _notes_path(output_dir: Path, shard: Shard) -> Path:
    return output_dir / _PROGRESS / f"{Path(shard.file).stem}.json"


def _written(shard: Shard, write: Write, output_dir: Path) -> dict:
    path = output_dir / shard.file
    notes = {"key": shard.key, **write(shard, path)}
    with open(path, "rb") as file:
        notes |= {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    write_atomic(_notes_path(output_dir, shard), json.dumps(notes))
    return notes


def splits_of_shards(shards: Sequence[Shard], notes: Sequence[dict]) -> dict[str, dict[str, Any]]:
    """For the manifest: of each split `num_records`, `num_patients` (None), and its `shards`, none of them empty."""
    splits: dict[str, Any] = {}
    for shard, its in zip(shards, notes, strict=True):
        entry = splits.setdefault(shard.split, {"num_records": 0, "num_patients": None, "shards": []})
        entry["num_records"] += its["num_records"]
        if its["num_records"]:
            entry["shards"].append({"file": shard.file, **{name: its[name] for name in _OF_SHARD}})
    return splits


def finish(output_dir: str | os.PathLike, manifest: dict[str, Any]) -> None:
    """Write the manifest, by which the folder is whole, and remove shards of a command with other settings that was
    stopped: whoever reads the folder without the manifest would have their records twice."""
    output_dir = Path(output_dir)
    listed = {file["file"] for split in manifest["splits"].values() for file in split["shards"]}
    for path in (output_dir / "data").glob("*-[0-9]*-of-[0-9]*.parquet"):
        if f"data/{path.name}" not in listed:
            path.unlink()
    write_atomic(output_dir / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(output_dir / _PROGRESS)


__all__ = [
    "ENCODING",
    "RECORDS_PER_ROW_GROUP",
    "SHARD_SIZE",
    "Shard",
    "finish",
    "finished_manifest",
    "joint_key",
    "shard_file",
    "splits_of_shards",
    "write_shards",
]
