"""Reading one piece while another is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map`, with a thread that is one item ahead of the caller."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        coming = None
        for item in items:
            following = reader.submit(function, item)
            if coming:
                yield coming.result()
            coming = following
        if coming:
            yield coming.result()
