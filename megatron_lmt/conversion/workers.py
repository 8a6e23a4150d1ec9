"""Tasks shared among threads, or among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from megatron_lmt.pool import process_pool

THREADS = 4
"""Of one process. Reading, writing, flushing, hashing and looking for NaN all let the other threads work."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def share(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results in the order of the tasks.

    Args:
        function: may be called by several threads at once, or is sent to a process with each task.
        workers: processes; 1 works in this one, with a few threads.
    Raises:
        DataError: a process died.
    """
    if workers == 1:
        with ThreadPoolExecutor(THREADS) as threads:
            try:
                yield from threads.map(function, tasks)
            finally:
                threads.shutdown(cancel_futures=True)
    else:
        with process_pool(min(workers, len(tasks)), "a process died (out of memory?): use fewer --workers") as pool:
            yield from pool.in_order(function, tasks)
