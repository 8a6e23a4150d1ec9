"""Makes tokens of chunks, in a pool of processes or in this one; the results come in the order of the chunks.

Memory: two chunks of text, and their tokens, for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from megatron_lmt.pool import Pool, process_pool
from megatron_lmt.preprocessing.engines import at_once, forget_engines, open_engine_once, probable_engine
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.text_files import Chunk
from megatron_lmt.preprocessing.tokenising import Settings, Tokens, tokenise


class Workers:
    """`submit` has one of them call a function, as that of an executor does."""

    def __init__(self, pool: Pool | None):
        self._map = pool.in_order if pool else map
        self.submit: Callable[..., Future] = pool.submit if pool else at_once

    def tokenise(self, settings: Settings, chunks: Iterator[Chunk]) -> Iterator[Tokens]:
        """Tokens of each chunk, in their order."""
        return self._map(partial(tokenise, settings), chunks)


@contextmanager
def working(recipe: Recipe, number: int, engine: str, most_chunks: int) -> Iterator[Workers]:
    """Processes that open their engine while the caller goes on.

    Args:
        number: of processes; 1 is this process alone.
        engine: as the user asked for.
        most_chunks: no more processes than chunks start.
    Raises:
        DataError: a process died.
    """
    forget_engines()
    if number <= 1:
        yield Workers(None)
        return
    died = (
        "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
        f"{number} or a smaller --max-document-bytes than {recipe.max_bytes} if memory was short"
    )
    number = min(number, most_chunks)
    with process_pool(number, died) as pool:
        for _ in range(number):  # what is wrong with the tokenizer, the main process finds
            pool.submit(_open, recipe, probable_engine(engine, recipe))
        yield Workers(pool)


def _open(recipe: Recipe, engine: str) -> None:
    """Returns nothing: an engine would be sent back."""
    open_engine_once(recipe, engine)
