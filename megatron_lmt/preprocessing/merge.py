"""Joins token files into one pair, in the order given: byte for byte what one writer would have made of all documents.

Cost: reads and writes the tokens once, in blocks; memory is that of one part's index, whatever the number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_lmt.data.indexed import IndexedReader, bin_path, idx_path, index_header, write_parts

BLOCK = 16 << 20

Parts = list[tuple[Path, dict]]
"""Prefix of each pair of token files, and its counts from `IndexedWriter.close`."""


def merge(parts: Parts, prefix: Path) -> dict:
    """Write `<prefix>.bin` and `<prefix>.idx`; their names should be temporary until this returns.

    Args:
        parts: one or more, all of one dtype, and all with modes or all without; those without documents are passed over.
    Returns:
        counts and hashes, as `IndexedWriter.close` does.
    Raises:
        DataError: a part is missing or has another size than its index says.
    """
    dtype = np.dtype(parts[0][1]["dtype"])
    parts = [(part, counts) for part, counts in parts if counts["documents"]]
    total = {
        unit: sum(counts[unit] for _, counts in parts)
        for unit in ("documents", "sequences", "tokens", "loss_tokens")
        if all(unit in counts for _, counts in parts)
    }
    bin_bytes, sha256 = write_parts(bin_path(prefix), _tokens(parts))
    idx_bytes, idx_sha256 = write_parts(idx_path(prefix), _index(parts, total, dtype))
    sizes = {"dtype": dtype.name, "bin_bytes": bin_bytes, "idx_bytes": idx_bytes}
    return {**total, **sizes, "sha256": sha256, "idx_sha256": idx_sha256}


def _tokens(parts: Parts) -> Iterator[bytes]:
    for part, _ in parts:
        with open(bin_path(part), "rb") as file:
            while block := file.read(BLOCK):
                yield block


def _index(parts: Parts, total: dict, dtype: np.dtype) -> Iterator[bytes | np.ndarray]:
    """One part is open at a time: there may be more of them than a process may open files."""
    yield index_header(dtype, total["sequences"], total["documents"])
    for reader, _ in _opened(parts):
        yield reader.lengths
    for reader, before in _opened(parts):
        yield reader.pointers + before["tokens"] * dtype.itemsize
    yield np.zeros(1, np.int64)
    for reader, before in _opened(parts):
        yield reader.first_sequences[1:] + before["sequences"]
    for reader, _ in _opened(parts):
        if reader.modes is not None:
            yield reader.modes


def _opened(parts: Parts) -> Iterator[tuple[IndexedReader, dict[str, int]]]:
    """Each part, and how many tokens and sequences are before it."""
    before = {"tokens": 0, "sequences": 0}
    for part, counts in parts:
        yield IndexedReader(part), before
        before = {unit: before[unit] + counts[unit] for unit in before}
