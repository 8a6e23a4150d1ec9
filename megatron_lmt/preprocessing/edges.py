"""How often each token is the first and the last of a document.

It shows at a glance what a corpus lacks: the token that begins or ends its documents. (A BOS that was lost in a change of
tokenizers was found by others in ten groups of data sets, of up to 26 TB, only later.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_lmt.files import flush_to_disk

SHOWN = 20


class EdgeTokens:
    """`counts`: int64 [first and last, vocabulary]."""

    def __init__(self, vocab_size: int):
        self._counts = np.zeros((2, vocab_size), np.int64)

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Count the documents of a chunk.

        Args:
            tokens: [sum of lengths], of all documents.
            lengths: [documents, sequences of each]; no document is empty.
        """
        ends = lengths.sum(axis=1, dtype=np.int64).cumsum()
        starts = ends - lengths.sum(axis=1)
        for counts, places in zip(self._counts, (starts, ends - 1), strict=True):
            np.add.at(counts, tokens[places], 1)

    def most_frequent(self) -> dict[str, dict[str, int]]:
        """Token id → documents, of the 20 that are most often first, and last."""
        return dict(zip(("first_tokens", "last_tokens"), map(_most_frequent, self._counts), strict=True))

    def save(self, path: Path) -> None:
        np.save(path, self._counts)
        flush_to_disk(path)

    def load(self, path: Path) -> None:
        self._counts = np.load(path)


def _most_frequent(counts: np.ndarray) -> dict[str, int]:
    order = np.argsort(-counts, kind="stable")[:SHOWN]  # of equally frequent ones, the smaller id
    return {str(token): int(counts[token]) for token in order if counts[token]}
