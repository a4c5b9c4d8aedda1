"""Runs of several machines, which may share no file system: what each must know of the others.

With `--save_on_each_node true` the library (transformers 5.23) writes on each machine optimizer and schedule, but the
weights on the first alone, and the random numbers of a process only where it runs.
"""

from __future__ import annotations

import os
import pathlib

from accelerate.utils import broadcast_object_list, gather_object
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import whole_file
from .folder import last_complete_checkpoint


class CompleteCheckpoints(TrainerCallback):
    """Completes the checkpoint on each machine by what only others have written."""

    def on_save(self, args, state, control, **kwargs):
        if not args.save_on_each_node or args.world_size == 1:
            return
        folder = pathlib.Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        own = folder / f"rng_state_{args.process_index}.pth"
        states = dict(gather_object([(own.name, own.read_bytes())]))
        written = broadcast_object_list([[file.name for file in folder.iterdir()]])[0]
        lacking = gather_object([name for name in written if not (folder / name).is_file()])
        for name in [name for name in written if name in lacking and name not in states]:
            # One at a time, as they may be large.
            content = (folder / name).read_bytes() if args.process_index == 0 else None
            _complete(args, {name: broadcast_object_list([content])[0]}, folder)
        _complete(args, states, folder)


def check_each_node(trainer: Trainer) -> None:
    """`ValueError` where each machine is to have whole checkpoints, and each process writes its own part of them."""
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if trainer.args.save_on_each_node and plugin is not None and "SHARDED" in str(plugin.state_dict_type):
        raise ValueError(
            "`save_on_each_node` cannot be true where FSDP saves its state in shards: no machine has them all. Set "
            "`fsdp_state_dict_type: FULL_STATE_DICT`, or leave `save_on_each_node` out and give an `output_dir` that "
            "all machines share."
        )


def _complete(args, contents: dict[str, bytes], folder: pathlib.Path) -> None:
    """Write the files that a folder lacks, by one process of the machine."""
    if args.local_process_index != 0:
        return
    for name, content in contents.items():
        if not (folder / name).is_file():
            with whole_file(folder / name) as unfinished:
                unfinished.write_bytes(content)


def agreed_checkpoint(folder: str | os.PathLike, world_size: int) -> str | None:
    """The newest checkpoint in `folder` that is complete for every process, as [`last_complete_checkpoint`] of one
    machine; called by all.

    Raises `FileNotFoundError` where some machines have one and others have none.
    """
    limit = None
    while True:
        found = last_complete_checkpoint(folder, world_size, limit)
        steps = [0 if found is None else int(pathlib.Path(found).name.rpartition("-")[2])]
        steps = gather_object(steps) if world_size > 1 else steps
        if len(set(steps)) == 1:
            return found
        if 0 in steps:
            raise FileNotFoundError(
                f"Process {steps.index(0)} has no complete checkpoint in `{folder}`, process "
                f"{steps.index(max(steps))} has {PREFIX_CHECKPOINT_DIR}-{max(steps)}: give a folder that all machines "
                "share, or copy the run to each; with `--save_on_each_node true` each writes its own checkpoints."
            )
        limit = min(steps)


def is_so_on_all(found: bool, world_size: int) -> bool:
    """Whether every process has found it; called by all."""
    return all(gather_object([found])) if world_size > 1 else found


__all__ = ["CompleteCheckpoints", "agreed_checkpoint", "check_each_node", "is_so_on_all"]
