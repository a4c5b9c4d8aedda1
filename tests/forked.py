"""Processes for tests that kill, stop or race them: forks of the test's own, which need not load torch again."""

import multiprocessing
import os
import pathlib
import socket
import sys
import time

import torch
from accelerate.state import AcceleratorState, GradientState

CONTEXT = multiprocessing.get_context("fork")


class Forked:
    """A process that calls a function; what it prints goes to files beside `output`."""

    def __init__(self, output, function, *args, **environment):
        self.files = [pathlib.Path(f"{output}.{name}") for name in ("stdout", "stderr")]
        self.process = CONTEXT.Process(target=_call, args=(self.files, environment, function, args))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds: float = 100) -> int:
        """The exit code, negative for the signal that ended the process."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"The process still ran after {seconds} s: {self.stderr[-4000:]}")
        return self.process.exitcode

    def wait_for(self, text: str, seconds: float = 100) -> None:
        """Until the process has printed `text`."""
        end = time.monotonic() + seconds
        while text not in self.stdout:
            assert self.process.is_alive() and time.monotonic() < end, self.stderr[-4000:]
            time.sleep(0.05)

    @property
    def stdout(self) -> str:
        return self.files[0].read_text() if self.files[0].exists() else ""

    @property
    def stderr(self) -> str:
        return self.files[1].read_text() if self.files[1].exists() else ""


def _call(files, environment, function, args):
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    # What the test's own process has found out of itself.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    function(*args)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def launch_forked(output, function, *args, processes: int = 2) -> list[Forked]:
    """A process group of forks, as a launcher starts it, each with its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Forked(f"{output}.{rank}", function, *args, **group, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(processes)
    ]
