"""Tasks shared among threads, or among processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from megatron_lmt.errors import CheckpointError

THREADS = 4
"""Of one process. Reading, writing, flushing and looking for NaN all let the other threads work."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def share(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results in the order of the tasks.

    Args:
        workers: processes; 1 works in this one, with a few threads.
    Raises:
        CheckpointError: a process died.
    """
    if workers == 1:
        pool = ThreadPoolExecutor(THREADS)
    else:
        # spawned, not forked: a fork of a process with threads, such as torch's, may hang
        pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"))
    with pool:
        try:
            yield from pool.map(function, tasks)
        except BrokenProcessPool:
            raise CheckpointError("a converting process died (out of memory?): use fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)
