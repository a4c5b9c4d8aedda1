"""The output folder of a run: what it was asked for, what its stages left, and the files that it publishes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import platform
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..files import read_object, share_as_usual, write_atomic

logger = logging.get_logger(__name__)

STAGES_FOLDER = "_stages"
RUN_FILE = "run.json"
LOCK_FILE = "lock"

# To be raised whenever the record of a run gets other entries, so that an older run is refused by this reason.
RECORD_VERSION = 4

PROCESSES = "processes"
"""The entry of the record with their number; what is finished may be reported by another one."""

_SHOWN = 80
"""Characters of a value in a message."""

_HELD_LOCKS: set[int] = set()


def _close_inherited_locks() -> None:
    while _HELD_LOCKS:
        os.close(_HELD_LOCKS.pop())


# A forked worker would otherwise hold the lock of its dead parent; Windows forks none.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


class RunFolder:
    """A folder in which one run is under way, or finished.

    `_stages/run.json` records what the run was asked for, and `_stages/<stage>/` holds what each stage left, so that a
    stopped run can be resumed. The final files appear beside it when they are complete, `config.json` last.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._descriptor: int | None = None  # of the lock's file, while it is held

    @classmethod
    def of_checkpoint(cls, checkpoint: str | os.PathLike) -> RunFolder:
        """The folder of the run that wrote `<folder>/_stages/<stage>/checkpoint-<step>`.

        Raises `FileNotFoundError` for anything else.
        """
        checkpoint = pathlib.Path(checkpoint).absolute()
        folder = cls(checkpoint.parents[2]) if len(checkpoint.parents) > 2 else None
        if folder is None or not checkpoint.is_dir() or not folder._record.is_file():
            raise FileNotFoundError(
                f"`{checkpoint}` is not a checkpoint of a run: it must be OUTPUT_DIR/{STAGES_FOLDER}/STAGE/"
                f"{PREFIX_CHECKPOINT_DIR}-STEP, beside the record of its run."
            )
        return folder

    def stage(self, name: str) -> pathlib.Path:
        """Where a stage keeps its files."""
        return self.path / STAGES_FOLDER / name

    @property
    def _record(self) -> pathlib.Path:
        return self.stage(RUN_FILE)

    def open(self, facts: dict, resume: bool) -> dict | None:
        """Begin a run, or resume the one that is here -> its results if it is finished.

        The folder is then claimed by this process until `close()`, or its death.

        Args:
            facts: what must be the same for a run to be resumed; JSON values.
            resume: whether to resume the run that is here. Without one, a new run begins.

        Raises:
            BlockingIOError: the run that is here is still going.
            ImportError: this system has no locks that end with the process.
            FileExistsError: the folder holds other files, or a run that `resume` does not ask for.
            ValueError: the run that is here was asked for something else; the message names what changed.
        """
        if (results := self.look(facts, resume)) is not None:
            return results
        self._lock()
        # Another process may have been here meanwhile.
        if self._record.is_file():
            return self._resume(facts, resume)
        if resume:
            logger.warning(f"There is no run in `{self.path}` yet: it starts from the beginning.")
        with room_for("the record of the run", self.path):
            write_atomic(self._record, json.dumps({"version": RECORD_VERSION, **facts}, indent=2))
        return None

    def look(self, facts: dict, resume: bool) -> dict | None:
        """As `open`, with the same errors, but nothing is claimed or written."""
        if self._record.is_file():
            return self._resume(facts, resume)
        self._check_empty()
        return None

    def _check_empty(self) -> None:
        # A kill before the first stage leaves a folder with a lock; anything else in it is somebody's.
        stages = [file for file in self.stage("").glob("*") if file.name != LOCK_FILE]
        if stages or any(file.name != STAGES_FOLDER for file in self.path.glob("*")):
            raise FileExistsError(
                f"`{self.path}` holds files of another run, or of one that another version of ecg_hf started and that "
                "cannot be resumed: choose another `output_dir`, or empty it."
            )

    def _resume(self, facts: dict, resume: bool) -> dict | None:
        """The results of the run that is here, or None if it is not finished; errors as in `open`."""
        if not resume:
            raise FileExistsError(
                f"`{self.path}` holds another run: choose another `output_dir`, or resume that run by "
                "`--resume_from_checkpoint true`."
            )
        is_finished = (self.path / "config.json").is_file()
        self.check(facts, ignored=[PROCESSES] if is_finished else [])
        if is_finished:
            logger.warning(f"The run in `{self.path}` is finished: its results are returned.")
            return read_object(self.path / "all_results.json")
        return None

    def _lock(self) -> None:
        """Claim the folder until `close()`, or until this process dies, however it does."""
        try:
            import fcntl
        except ImportError as error:
            raise ImportError(
                "Training needs Linux or macOS: the folder of a run is locked by `fcntl`, which this system lacks. On "
                "Windows use WSL; models are loaded, records classified and models evaluated everywhere."
            ) from error
        path = self.stage(LOCK_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _HELD_LOCKS.add(descriptor)
        self._descriptor = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace")
            self.close()
            raise BlockingIOError(
                f"The run in `{self.path}` is still going ({holder}): wait for its end, or stop it before you resume "
                "it, or choose another `output_dir`."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            logger.warning(f"The file system of `{self.path}` has no locks: do not start a run there twice at once.")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def close(self) -> None:
        """Give the folder free for others; without effect where it is not claimed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            _HELD_LOCKS.discard(self._descriptor)
            self._descriptor = None

    def check(self, facts: dict, ignored: Sequence[str] = ()) -> None:
        """`ValueError` where the run that is here was asked for anything else than `facts`, beside those `ignored`."""
        stored = read_object(self._record)
        if stored.pop("version", None) != RECORD_VERSION:
            raise ValueError(
                f"The run in `{self.path}` was started by another version of ecg_hf, which recorded other facts: "
                "finish it with that version, or start from its checkpoint by `--model_name_or_path`, in another "
                "`output_dir`."
            )
        stored.setdefault(PROCESSES, facts.get(PROCESSES))  # runs that began before it was recorded
        if changes := list(differences(*({**of, **dict.fromkeys(ignored)} for of in (stored, facts)))):
            old, new = stored.get("data", {}), facts.get("data", {})
            others = [split for split in ("train", "validation") if old.get(split) != new.get(split)]
            if others:
                changes.append(f"the {' and '.join(others)} records, or their labels, are not those it began with")
            raise ValueError(
                f"The run in `{self.path}` cannot be resumed with other settings: {'; '.join(changes)}. Use its own "
                "settings and records, or start from its checkpoint by `--model_name_or_path`, in another "
                "`output_dir`."
            )

    def publish(self, folder: pathlib.Path) -> None:
        """Move the files of `folder` to where users look for them; `config.json` comes last and ends the run."""
        share_as_usual(folder)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == "config.json"):
            target = self.path / file.name
            if target.is_dir():  # left by a process that was stopped in this loop
                shutil.rmtree(target)
            file.replace(target)
        folder.rmdir()


@contextlib.contextmanager
def room_for(what: str, folder: pathlib.Path) -> Iterator[None]:
    """A block that writes `what` to `folder`; where the disk is full, `OSError` says so, and how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        # safetensors has the number in its text alone.
        if getattr(error, "errno", None) not in numbers and not any(f"(os error {n})" in str(error) for n in numbers):
            raise
        raise OSError(
            f"There is no room for {what} in `{folder}` ({error}; {free_mebibytes(folder):.0f} MiB are free): make "
            "room, and resume by `--resume_from_checkpoint true`."
        ) from error


def free_mebibytes(folder: pathlib.Path) -> float:
    """Room on the disk of a folder."""
    return shutil.disk_usage(folder).free / 2**20


def differences(stored: dict, given: dict, path: str = "") -> Iterator[str]:
    """A phrase for each entry that two nested dictionaries of JSON values do not share."""
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key), given.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{path}{key}.")
        elif old != new:
            yield f"`{path}{key}` was {_changed(old, new)}"


def _changed(old: object, new: object) -> str:
    """Two values in a message; of long ones where they begin to differ."""
    texts = [str(old), str(new)]
    if max(map(len, texts)) <= _SHOWN:
        return f"{texts[0]}, now {texts[1]}"
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        places = [place for place, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
        first = _changed(old[places[0]], new[places[0]])
        return f"{first} at place {places[0]}, the first of {len(places)} of {len(old)} values that differ"
    return ", now ".join(text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ..." for text in texts)


def last_complete_checkpoint(folder: str | os.PathLike, world_size: int, last_step: int | None = None) -> str | None:
    """The newest `checkpoint-<step>` in `folder`, of those up to `last_step`, from which training can be resumed
    exactly; warns of each other one.

    A kill or a full disk leaves a checkpoint half-written, and the library would resume from it with other weights or
    another random state, or not at all.
    """
    steps = {}
    for path in pathlib.Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
        if match and (last_step is None or int(match[1]) <= last_step):
            steps[int(match[1])] = path
    for _, path in sorted(steps.items(), reverse=True):
        problem = checkpoint_problem(path, world_size)
        if problem is None:
            return str(path)
        logger.warning(f"{path.name} is ignored: {problem}.")
    return None


def best_checkpoint(folder: str | os.PathLike, step: int) -> str:
    """The checkpoint of the best evaluation, by its step and in this folder: a path that was stored may have become
    that of another run. Raises `FileNotFoundError` where it is gone."""
    checkpoint = pathlib.Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    if not checkpoint.is_dir():
        raise FileNotFoundError(
            f"`{checkpoint}` is gone, the checkpoint of the best evaluation so far: put it back, or start the run "
            "again in another `output_dir`."
        )
    return str(checkpoint)


def check_is_of_model(checkpoint: str | os.PathLike, names: set[str]) -> None:
    """`ValueError` for a checkpoint whose weights have other names than those of the model that is to go on."""
    with safe_open(pathlib.Path(checkpoint) / "model.safetensors", "pt") as weights:
        others = names ^ set(weights.keys())
    if others:
        raise ValueError(
            f"`{checkpoint}` is a checkpoint of another stage or model, from which this one cannot go on: their "
            f"weights differ in {len(others)} names, such as {min(others)}. Give one of the same stage and model, or "
            "leave `resume_from_checkpoint` out."
        )


def checkpoint_problem(path: pathlib.Path, world_size: int) -> str | None:
    """Why training cannot be resumed exactly from a checkpoint; None if it can."""
    states = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    # FSDP gathers its optimizer into `optimizer.bin`, or saves all in shards, whose `.metadata` it writes last.
    optimizer = ["optimizer.bin" if (path / "optimizer.bin").is_file() else "optimizer.pt"]
    shards = []
    if (path / "pytorch_model_fsdp_0").is_dir():
        optimizer, shards = [], ["pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"]
    for name in ["model.safetensors", *optimizer, *shards, "scheduler.pt", *states, "trainer_state.json"]:
        if not (path / name).is_file():
            return f"it lacks `{name}`"
    for name in [*optimizer, "scheduler.pt", *states]:
        if not zipfile.is_zipfile(path / name):
            return f"`{name}` is cut short"
    try:
        with safe_open(path / "model.safetensors", "pt"):
            state = read_object(path / "trainer_state.json")
    except (SafetensorError, ValueError) as error:
        return f"it has a damaged file ({error})"
    missing = [name for name in ("global_step", "log_history") if name not in state]
    return f"its `trainer_state.json` has no `{missing[0]}`" if missing else None


__all__ = [
    "PROCESSES",
    "RunFolder",
    "best_checkpoint",
    "check_is_of_model",
    "checkpoint_problem",
    "differences",
    "free_mebibytes",
    "last_complete_checkpoint",
    "room_for",
]
