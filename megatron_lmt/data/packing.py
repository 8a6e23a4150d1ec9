"""Documents laid into samples of `seq_length` positions, whole or one after the other.

A piece is the positions [start, stop) of a document; position i predicts token i + 1, so a document of n tokens has n - 1.
Pieces are rows of an array, since hundreds of thousands are made before the first batch of a run.

Cost: about 1 µs for a document.
"""

from __future__ import annotations

import bisect
from itertools import chain

import numpy as np

PIECE = np.dtype([("document", np.int64), ("start", np.int64), ("stop", np.int64)])


def lengths_of(pieces: np.ndarray) -> np.ndarray:
    """int64 [n]: positions of each piece."""
    return pieces["stop"] - pieces["start"]


def cut(documents: np.ndarray, positions: np.ndarray, seq_length: int) -> np.ndarray:
    """PIECE [≥ n]: whole documents; those longer than `seq_length` in parts of that length and a rest.

    Args:
        documents: int64 [n], their numbers.
        positions: int64 [n], how many each has; one without any has no piece.
    """
    parts = -(-positions // seq_length)
    pieces = np.empty(int(parts.sum()), dtype=PIECE)
    pieces["document"] = np.repeat(documents, parts)
    pieces["start"] = (np.arange(len(pieces)) - np.repeat(np.cumsum(parts) - parts, parts)) * seq_length
    pieces["stop"] = np.minimum(pieces["start"] + seq_length, np.repeat(positions, parts))
    return pieces


def whole_documents(documents: np.ndarray, positions: np.ndarray, seq_length: int) -> list[np.ndarray]:
    """PIECE arrays, one for each sample: only documents longer than `seq_length` are cut. Arguments as for `cut`."""
    pieces = cut(documents, positions, seq_length)
    bins = best_fit(lengths_of(pieces).tolist(), seq_length)
    pieces = pieces[np.fromiter(chain.from_iterable(bins), dtype=np.int64, count=len(pieces))]
    return _split(pieces, np.cumsum([len(members) for members in bins]))


def concatenated(documents: np.ndarray, positions: np.ndarray, seq_length: int) -> list[np.ndarray]:
    """PIECE arrays, one for each sample: documents one after the other, cut wherever a sample is full.

    Only the last sample has room. Arguments as for `cut`.
    """
    ends = np.cumsum(positions)
    total = int(ends[-1])
    cuts = np.union1d(ends, np.arange(seq_length, total, seq_length))
    cuts = cuts[cuts > 0]
    starts = np.append(0, cuts[:-1])[: len(cuts)]
    owners = np.searchsorted(ends, starts, side="right")
    before = (ends - positions)[owners]
    pieces = np.empty(len(cuts), dtype=PIECE)
    pieces["document"], pieces["start"], pieces["stop"] = documents[owners], starts - before, cuts - before
    return _split(pieces, np.searchsorted(starts, np.arange(seq_length, total + seq_length, seq_length)))


def _split(pieces: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    bounds = [0, *ends.tolist()]
    return [pieces[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Pack items into bins of `capacity`, always taking the longest that still fits (first-fit decreasing).

    Args:
        lengths: positions of each item, 1 to `capacity`.
    Returns:
        item numbers of each bin; every item is in exactly one.
    """
    by_length: dict[int, list[int]] = {}
    for item in range(len(lengths) - 1, -1, -1):  # popped from the end: items of one length stay in their order
        by_length.setdefault(lengths[item], []).append(item)
    available = sorted(by_length)
    bins = []
    while available:
        room, members = capacity, []
        while (at := bisect.bisect_right(available, room) - 1) >= 0:
            length = available[at]
            members.append(by_length[length].pop())
            room -= length
            if not by_length[length]:
                del available[at]
        bins.append(members)
    return bins
