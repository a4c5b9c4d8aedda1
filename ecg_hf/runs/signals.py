"""SIGINT and SIGTERM end a command with one line that says how its run is resumed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
            self._previous = {number: signal.signal(number, self._stop) for number in SIGNALS}
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        raise KeyboardInterrupt

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number in self._previous:
            signal.signal(number, self._previous[number] if self._received is None else signal.SIG_IGN)
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

    def _line(self) -> str:
        stopped = f"Stopped by {signal.Signals(self._received).name}"
        if self.args is None:
            return f"{stopped} before the run began."
        return (
            f"{stopped}. The same command with `--resume_from_checkpoint true` resumes the run in "
            f"`{self.args.output_dir}`."
        )


__all__ = ["EndsBySignal"]
