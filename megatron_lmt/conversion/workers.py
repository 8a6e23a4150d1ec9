"""Tasks shared among processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from megatron_lmt.errors import CheckpointError

Task = TypeVar("Task")
Result = TypeVar("Result")


def share(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results in the order of the tasks.

    Args:
        workers: processes; 1 works in this one.
    Raises:
        CheckpointError: a process died.
    """
    if workers == 1 or len(tasks) == 1:
        yield from map(function, tasks)
        return
    # spawned, not forked: a fork of a process with threads, such as torch's, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(tasks)), context) as pool:
            yield from pool.map(function, tasks)
    except BrokenProcessPool:
        raise CheckpointError("a converting process died (out of memory?): use fewer --workers") from None
