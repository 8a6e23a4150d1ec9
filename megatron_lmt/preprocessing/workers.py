"""A pool of processes that make tokens of chunks; the results come in the order of the chunks.

Memory: two chunks of text, and their tokens, for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from megatron_lmt.pool import process_pool
from megatron_lmt.preprocessing.engines import probable_engine
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.text_files import Chunk
from megatron_lmt.preprocessing.tokenising import Settings, Tokens, open_engine_once, tokenise

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
    died = (
        "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
        f"{number} or a smaller --max-document-bytes than {recipe.max_bytes} if memory was short"
    )
    with process_pool(number, died) as pool:
        for _ in range(min(number, chunks)):  # what is wrong with the tokenizer, the main process finds
            pool.submit(open_engine_once, recipe, probable_engine(engine, recipe))
        yield lambda settings, chunks: pool.in_order(partial(tokenise, settings), chunks)
