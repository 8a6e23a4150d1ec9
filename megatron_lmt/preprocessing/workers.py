"""Makes tokens of chunks, in a pool of processes or in this one; the results come in the order of the chunks.

The processes are forked while the tokenizer is still examined, and share the engine that is open by then.

Memory: six chunks of text, and their tokens, for each worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from megatron_lmt.pool import process_pool
from megatron_lmt.preprocessing.text_files import Chunk
from megatron_lmt.preprocessing.tokenising import Settings, Tokens, tokenise

Work = Callable[[Settings, Iterator[Chunk]], Generator[Tokens]]
"""Makes tokens of each chunk, in their order."""


@dataclass(frozen=True)
class Workers:
    """`work` makes tokens; `call` calls a function with arguments, in one of the processes as soon as it is free."""

    work: Work
    call: Callable


@contextmanager
def working(number: int, max_bytes: int) -> Iterator[Workers]:
    """Workers that are this many processes.

    Args:
        number: of processes; 1 is this process alone.
        max_bytes: of a document, for what a person is told.
    Raises:
        DataError: a process died.
    """
    if number <= 1:
        yield Workers(partial(_tokenise_all, map), lambda function, *arguments: function(*arguments))
        return
    died = (
        "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
        f"{number} or a smaller --max-document-bytes than {max_bytes} if memory was short"
    )
    gc.freeze()  # so that no process looks through what it shares with this one, and copies it by that
    with process_pool(number, died) as pool:
        yield Workers(
            partial(_tokenise_all, pool.in_order), lambda function, *arguments: pool.submit(function, *arguments).result()
        )


def _tokenise_all(mapping: Callable, settings: Settings, chunks: Iterator[Chunk]) -> Generator[Tokens]:
    yield from mapping(partial(tokenise, settings), chunks)
