"""Makes tokens of chunks, in a pool of processes or in this one; the results come in the order of the chunks.

Memory: two chunks of text, and their tokens, for each worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from megatron_lmt.pool import process_pool
from megatron_lmt.preprocessing.engines import open_engine_once
from megatron_lmt.preprocessing.text_files import Chunk
from megatron_lmt.preprocessing.tokenising import Settings, Tokens, tokenise

Work = Callable[[Iterator[Chunk]], Iterator[Tokens]]
"""Makes tokens of each chunk, in their order."""


@contextmanager
def working(settings: Settings, number: int) -> Iterator[Work]:
    """A function that makes tokens with this many processes.

    Args:
        number: of processes; 1 is this process alone.
    Raises:
        DataError: a process died.
    """
    open_engine_once(settings.recipe, settings.engine)  # before the processes are forked, which then share its memory
    if number <= 1:
        yield partial(map, partial(tokenise, settings))
        return
    died = (
        "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
        f"{number} or a smaller --max-document-bytes than {settings.recipe.max_bytes} if memory was short"
    )
    gc.freeze()  # so that no process looks through what it shares with this one, and copies it by that
    with process_pool(number, died) as pool:
        yield partial(pool.in_order, partial(tokenise, settings))
