"""SIGINT and SIGTERM end a command with one line that says how its run is resumed."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

MODULE = "ecg_hf.cli"
SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "training"


def is_command() -> bool:
    """Whether this process was started as `ecg-hf`, by `python -m ecg_hf.cli`, or as a script of `training/`."""
    processes = sys.modules.get("multiprocessing.process")  # a worker has imported it
    if processes is not None and processes.parent_process() is not None:
        return False  # it has the arguments of its parent
    if "-m" in sys.orig_argv[:-1] and sys.orig_argv[sys.orig_argv.index("-m") + 1] == MODULE:
        return True
    started = pathlib.Path(sys.argv[0])
    return started.stem == "ecg-hf" or started.resolve().parent == SCRIPTS


def end_while_loading() -> None:
    """From now on a signal ends a command at once, with a line and the exit code, until its run begins.

    Loading torch takes a second or two, in which an exception could be lost within a library. Without effect in a
    process that is no command, and outside the main thread.
    """
    if is_command() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _end_now)


def end_as_usual() -> None:
    """Undo `end_while_loading`."""
    for number, usual in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
        if signal.getsignal(number) is _end_now:
            signal.signal(number, usual)


def _end_now(number: int, frame: FrameType | None) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        # Not by `print`, whose buffer may be in use where the signal came.
        os.write(2, f"\nStopped by {signal.Signals(number).name} before the run began.\n".encode())
    os._exit(128 + number)


class EndsBySignal:
    """A block that a signal ends with a line on stderr and the exit code 130 (SIGINT) or 143 (SIGTERM).

    `args`, the arguments of the run, is set as soon as they are known. Outside the main thread, which alone receives
    signals, the block is an ordinary one.
    """

    def __init__(self):
        self.args = None
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> EndsBySignal:
        if threading.current_thread() is threading.main_thread():
            end_as_usual()
            self._previous = {number: signal.signal(number, self._stop) for number in SIGNALS}
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        raise KeyboardInterrupt

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number in self._previous:
            signal.signal(number, self._previous[number] if self._received is None else signal.SIG_IGN)
        if self._received is None and _is_of_a_lost_partner(error):
            self._end_without_partner(error)
        # A process whose partner has ended before it sees the broken connection instead of the interrupt.
        if self._received is None or kind is None or not issubclass(kind, (KeyboardInterrupt, RuntimeError)):
            return
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"\n{self._line()}", file=sys.stderr)
        code = 128 + self._received
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # The threads of a process group would wait for partners that are gone.
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)
        raise SystemExit(code) from None

    def _end_without_partner(self, error: BaseException) -> None:
        """One line of each machine, and the end: the threads of the process group would wait for the partner."""
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(
                "\necg-hf: error: Another process of this run was lost, or did not answer within `--ddp_timeout` "
                f"({str(error).splitlines()[0][:200]}): look at the log of its machine. The same commands with "
                "`--resume_from_checkpoint true` go on from the last checkpoint.",
                file=sys.stderr,
            )
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(1)

    def _line(self) -> str:
        stopped = f"Stopped by {signal.Signals(self._received).name}"
        if self.args is None:
            return f"{stopped} before the run began."
        return (
            f"{stopped}. The same command with `--resume_from_checkpoint true` resumes the run in "
            f"`{self.args.output_dir}`."
        )


def _is_of_a_lost_partner(error: BaseException | None) -> bool:
    """Whether an error is that of a broken connection between the processes of a run."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not isinstance(error, RuntimeError):
        return False
    from torch.distributed import DistError

    # gloo has no class of its own.
    return isinstance(error, DistError) or "gloo/transport" in str(error)


__all__ = ["EndsBySignal", "end_as_usual", "end_while_loading", "is_command"]
