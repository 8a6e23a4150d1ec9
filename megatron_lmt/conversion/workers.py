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
        function: may be called by several threads at once, or is sent to each process once.
        workers: processes; 1 works in this one, with a few threads.
    Raises:
        CheckpointError: a process died.
    """
    if workers == 1:
        pool, call = ThreadPoolExecutor(THREADS), function
    else:
        # spawned, not forked: a fork of a process with threads, such as torch's, may hang
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _Here.take, (function,))
        call = _Here.call
    with pool:
        try:
            yield from pool.map(call, tasks)
        except BrokenProcessPool:
            raise CheckpointError("a converting process died (out of memory?): use fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


class _Here:
    """What a process of the pool was given at its start: to send it with each task would take longer than the work."""

    function: Callable

    @classmethod
    def take(cls, function: Callable) -> None:
        cls.function = function

    @classmethod
    def call(cls, task):
        return cls.function(task)
