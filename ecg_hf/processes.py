"""Work that is shared out to processes of this machine, which end with the one that began them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None


def in_processes(work: Callable[[Any], Result], jobs: Sequence[Any], num_proc: int) -> Iterator[Result]:
    """`work` of each job, in their order, by at most `num_proc` processes; by this one where one is enough.

    `work` reaches each process once, with all that it holds; jobs should be small.
    """
    if num_proc == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context()
    with ProcessPoolExecutor(min(num_proc, len(jobs)), context, _begin, (work,)) as pool:
        try:
            yield from pool.map(_call, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    end_with_parent()


def _call(job: Any) -> Any:
    return _work(job)


def end_with_parent() -> None:
    """Let a process of the pool end when the one that began it is killed; it would wait for work forever."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


__all__ = ["end_with_parent", "in_processes"]
