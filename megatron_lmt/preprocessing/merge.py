"""Joins the indexes of shards, whose tokens are in one .bin already: byte for byte what one writer would have made of all.

Cost: memory is that of one part's index, whatever the number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_lmt.data.indexed import Index, idx_path
from megatron_lmt.data.indexed_writer import index_header, write_parts

Parts = list[tuple[Path, dict]]
"""Prefix of each .idx, and its counts from `IndexedWriter.close`."""


def merge_indexes(parts: Parts, prefix: Path) -> dict:
    """Write `<prefix>.idx`; its name should be temporary until this returns.

    Args:
        parts: one or more, all of one dtype, and all with modes or all without; those without documents are passed over.
    Returns:
        counts and hash, as `IndexedWriter.close` does.
    Raises:
        DataError: a part is missing or damaged.
    """
    counts = dict(parts[0][1])
    parts = [(part, counts) for part, counts in parts if counts["documents"]]
    for unit in {"documents", "sequences", "tokens", "loss_tokens", "bin_bytes"} & counts.keys():
        counts[unit] = sum(of_part[unit] for _, of_part in parts)
    size, digest = write_parts(idx_path(prefix), _index(parts, counts))
    return counts | {"idx_bytes": size, "idx_xxh128": digest}


def _index(parts: Parts, total: dict) -> Iterator[bytes | np.ndarray]:
    """One part is open at a time: there may be more of them than a process may open files."""
    yield index_header(np.dtype(total["dtype"]), total["sequences"], total["documents"])
    for index, _ in _opened(parts):
        yield index.lengths
    for index, before in _opened(parts):
        yield index.pointers + before["bin_bytes"]
    yield np.zeros(1, np.int64)
    for index, before in _opened(parts):
        yield index.first_sequences[1:] + before["sequences"]
    for index, _ in _opened(parts):
        if index.modes is not None:
            yield index.modes


def _opened(parts: Parts) -> Iterator[tuple[Index, dict[str, int]]]:
    """Each part, and how many bytes and sequences are before it."""
    before = {"bin_bytes": 0, "sequences": 0}
    for part, counts in parts:
        yield Index(idx_path(part)), before
        before = {unit: before[unit] + counts[unit] for unit in before}
