"""A pool of processes that make tokens of chunks; the results come in the order of the chunks.

Memory: two chunks of text, and their tokens, for each worker.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

from megatron_lmt.data.engines import probable_engine
from megatron_lmt.data.recipe import Recipe
from megatron_lmt.data.text_files import Chunk
from megatron_lmt.data.tokenising import Settings, Tokens, open_engine_once, tokenise
from megatron_lmt.errors import DataError

Work = Callable[[Settings, Iterator[Chunk]], Iterator[Tokens]]
"""Makes tokens of each chunk, in their order."""


@contextmanager
def working(recipe: Recipe, number: int, engine: str, chunks: int) -> Iterator[Work]:
    """A function that makes tokens with this many processes, which start while the caller goes on.

    Args:
        number: of processes; 1 is this process alone.
        engine: as the user asked for.
        chunks: how many to expect; no more processes than that are started at once.
    Raises:
        DataError: a process died.
    """
    if number <= 1:
        yield lambda settings, chunks: map(partial(tokenise, settings), chunks)
        return
    # spawned, not forked: a fork of a process with threads, such as the progress bar's, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(number, context, initializer=_prepare_worker) as pool:
            try:
                for _ in range(min(number, chunks)):  # what is wrong with the tokenizer, the main process finds
                    _submit(pool, open_engine_once, recipe, probable_engine(engine, recipe))
                yield partial(_in_order, pool, number)
            except BrokenProcessPool:
                _end(pool)
                raise
    except BrokenProcessPool:
        raise DataError(
            "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
            f"{number} or a smaller --max-document-bytes than {recipe.max_bytes} if memory was short"
        ) from None


def _submit(pool: ProcessPoolExecutor, function: Callable, *arguments) -> Future:
    try:
        return pool.submit(function, *arguments)
    except OSError as error:
        raise BrokenProcessPool("it could not start a process, or broke while it did") from error


def _end(pool: ProcessPoolExecutor) -> None:
    """Do what a broken pool leaves undone before it waits for its processes."""
    if sys.version_info < (3, 11):
        # the pool's feeder thread hangs on the full pipe of the dead worker (CPython issue 94777)
        pool._call_queue._reader.close()
    for process in pool._processes.values():
        process.kill()  # one that was just starting when another died is not ended by the pool


def _in_order(pool: ProcessPoolExecutor, number: int, settings: Settings, chunks: Iterator[Chunk]) -> Iterator[Tokens]:
    """The result of each chunk; at most two chunks for each worker are under way."""
    pending: deque[Future[Tokens]] = deque()
    for chunk in chunks:
        pending.append(_submit(pool, tokenise, settings, chunk))
        if len(pending) == 2 * number:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _prepare_worker() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker otherwise waits for work forever when the main process was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
