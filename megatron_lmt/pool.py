"""A pool of processes whose results come in the order of the work, and which ends with its parent or when one of it dies."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from megatron_lmt.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def process_pool(number: int, died: str) -> Iterator[ProcessPoolExecutor]:
    """
    Args:
        number: of processes.
        died: what to tell a person if one dies.
    Raises:
        DataError: one died.
    """
    # spawned, not forked: a fork of a process with threads, such as the progress bar's, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(number, context, initializer=_prepare_worker) as pool:
            try:
                yield pool
            except BrokenProcessPool:
                _end(pool)
                raise
    except BrokenProcessPool:
        raise DataError(died) from None


def submit(pool: ProcessPoolExecutor, function: Callable[..., Result], *arguments) -> Future[Result]:
    try:
        return pool.submit(function, *arguments)
    except OSError as error:
        raise BrokenProcessPool("it could not start a process, or broke while it did") from error


def in_order(
    pool: ProcessPoolExecutor, number: int, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """The result of each item; at most two items for each of `number` workers are under way."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(submit(pool, function, item))
        if len(pending) == 2 * number:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _end(pool: ProcessPoolExecutor) -> None:
    """Do what a broken pool leaves undone before it waits for its processes."""
    if sys.version_info < (3, 11):
        # the pool's feeder thread hangs on the full pipe of the dead worker (CPython issue 94777)
        pool._call_queue._reader.close()
    for process in pool._processes.values():
        process.kill()  # one that was just starting when another died is not ended by the pool


def _prepare_worker() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker otherwise waits for work forever when the main process was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
