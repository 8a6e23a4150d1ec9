"""Token files of any size without tokens: real indexes, and sparse .bin files that take no room and read as zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_lmt.data.indexed import HEADER, MAGIC, VERSION, bin_path, idx_path

TOKEN_BYTES, INT32_CODE = 4, 4
SHORTEST, LONGEST = 20, 236


def write_sources(prefixes: list[Path], documents: int) -> int:
    """Write `documents` in all, equally many for each prefix, of 20 to 236 tokens (128 on average); returns the tokens.

    Takes 20 bytes on disk for a document, and memory for one source.
    """
    return sum(_write_source(prefix, documents // len(prefixes), seed) for seed, prefix in enumerate(prefixes))


def _write_source(prefix: Path, documents: int, seed: int) -> int:
    lengths = np.random.default_rng(seed).integers(SHORTEST, LONGEST + 1, documents, dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int64)
    with open(idx_path(prefix), "wb") as index:
        index.write(HEADER.pack(MAGIC, VERSION, INT32_CODE, documents, documents + 1))
        lengths.tofile(index)
        ((ends - lengths) * TOKEN_BYTES).tofile(index)
        np.arange(documents + 1).tofile(index)
    tokens = int(ends[-1])
    with open(bin_path(prefix), "wb") as content:
        content.truncate(tokens * TOKEN_BYTES)
    return tokens
