"""One source as endless samples: a new permutation of its documents each epoch, packed window by window.

A window is packed when its first sample is asked for. The first of an epoch has 256 documents, later ones as many as the
epoch has given so far, up to 4,096: every source packs its first window before the first batch, and runs have hundreds;
larger windows fill samples little better (99.8 % here).

Cost: 0.5 ms for a window of 256 documents, 5 ms and 100 kB for one of 4,096; nothing that grows with the source.

Next on the path: `mixture.py` takes samples of all sources in turn.
"""

from __future__ import annotations

import hashlib

import numpy as np

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.packing import PIECE, concatenated, cut, lengths_of, whole_documents

SAMPLER_VERSION = 3  # part of a run's identity: raise it with every change of the order of samples
FIRST_WINDOW, LARGEST_WINDOW = 256, 4_096
LOOK_AHEAD = 32


class SourceStream:
    """Endless samples of one source.

    Every document is seen once before any is seen twice, in a new order each epoch. A window of documents is packed at a
    time; the emptiest sample of the window comes last and is filled up with the documents that follow. With packing
    "documents", longest first, only documents longer than `seq_length` are cut; with "concatenate" any may be.

    The cursor is (`epoch`, `document`, `sample`): the window begins at this document of this epoch's permutation, and
    this many of its samples were taken.
    """

    def __init__(self, reader: IndexedReader, name: str, seed: int, seq_length: int, packing: str):
        reader.expect_random_reads()
        self.reader = reader
        self.packing = packing
        self.seq_length = seq_length
        self.key = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        self.epoch = self.document = self.sample = 0
        self._window: list[np.ndarray] | None = None
        self._after_window = (0, 0)

    def next_pieces(self) -> np.ndarray:
        """PIECE [n]: the pieces of the next sample; together at most `seq_length` positions."""
        if self._window is None:
            self._window, self._after_window = self._pack_window()
        pieces = self._window[self.sample]
        self.sample += 1
        if self.sample == len(self._window):
            (self.epoch, self.document), self.sample, self._window = self._after_window, 0, None
        return pieces

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "document": self.document, "sample": self.sample}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.document, self.sample = state["epoch"], state["document"], state["sample"]
        self._window = None

    def _documents(self, epoch: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Two int64 [≤ count]: numbers and positions of the documents at these places of this epoch's order.

        Never beyond the epoch.
        """
        places = np.arange(start, min(start + count, self.reader.num_documents), dtype=np.uint64)
        documents = permute(places, self.reader.num_documents, self.key + _as_bytes(epoch))
        return documents, self.reader.document_lengths(documents) - 1

    def _pack_window(self) -> tuple[list[np.ndarray], tuple[int, int]]:
        count = min(max(self.document, FIRST_WINDOW), LARGEST_WINDOW)
        documents, positions = self._documents(self.epoch, self.document, count)
        if self.packing == "documents":
            samples = self._in_random_order(whole_documents(documents, positions, self.seq_length))
        else:
            samples = concatenated(documents, positions, self.seq_length)
        last = samples.pop() if samples else np.empty(0, dtype=PIECE)
        filled, after = self._fill_up(last, self.epoch, self.document + len(documents))
        return [*samples, filled], after

    def _in_random_order(self, samples: list[np.ndarray]) -> list[np.ndarray]:
        """Longest first puts long documents into early samples: undo that order. The emptiest sample comes last."""
        positions = [int(lengths_of(pieces).sum()) for pieces in samples]
        emptiest = [samples.pop(positions.index(min(positions)))] if samples else []
        key = self.key + _as_bytes(self.epoch) + _as_bytes(self.document)
        return [samples[i] for i in permute(np.arange(len(samples), dtype=np.uint64), len(samples), key)] + emptiest

    def _fill_up(self, pieces: np.ndarray, epoch: int, document: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Add the documents that follow, in order, while they fit; also returns the cursor behind the last one added."""
        room = self.seq_length - int(lengths_of(pieces).sum())
        parts = [pieces]
        while True:
            if document == self.reader.num_documents:
                epoch, document = epoch + 1, 0
            documents, positions = self._documents(epoch, document, LOOK_AHEAD)
            fitting = int(np.searchsorted(np.cumsum(positions), room, side="right"))
            parts.append(cut(documents[:fitting], positions[:fitting], self.seq_length))
            room -= int(positions[:fitting].sum())
            document += fitting
            if fitting < len(documents):
                return np.concatenate(parts), (epoch, document)


def permute(places: np.ndarray, size: int, key: bytes) -> np.ndarray:
    """A pseudo-random permutation of range(size), evaluated only at `places`; no memory for the rest.

    A four-round Feistel network on the smallest even number of bits that holds `size`, applied again to results that
    fall outside ("cycle walking", Black and Rogaway 2002).

    Args:
        places: uint64 [n], each below `size`.
    Returns:
        int64 [n]
    """
    half = np.uint64(max(1, ((max(size - 1, 1)).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    digest = hashlib.blake2b(key, digest_size=32).digest()
    round_keys = np.frombuffer(digest, dtype=np.uint64)
    result = places.copy()
    outside = np.ones(len(places), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _as_bytes(number: int) -> bytes:
    return number.to_bytes(8, "little")
