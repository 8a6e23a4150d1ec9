"""From token files to the order of samples: weights, permutation, packing, interleaving.

The order is a pure function of the run file and the seed. It does not depend on the number of processes, and its whole
state is one small cursor for each source, so a run resumes exactly where it stopped.

    weights.py       run file → one `Source` per language or direction, with its share of all samples
    SourceStream     one source → endless samples: a new permutation each epoch, whole documents packed into samples
    interleaver.py   whose turn it is: every prefix within one sample of the weights
    Mixture          all streams → one stream

Cost: a stream packs a window of 4,096 documents at a time (about 10 ms, 1 MB); every source packs its first window before
the first batch. Larger windows fill samples little better (99.8 % here) and delay the start of runs with hundreds of
sources. Every process computes the whole order; only the tokens of its own samples are read.

Next on the path: `loader.py` reads the tokens of each sample.
"""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.interleaver import Interleaver
from megatron_lmt.data.weights import Plan

WINDOW_DOCUMENTS = 4_096


class Piece(NamedTuple):  # not a dataclass: hundreds of thousands are made at the start of a run
    """The positions [start, stop) of a document; position i predicts token i + 1, so a document has tokens - 1."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """Pieces of one source that share a sequence of `seq_length` positions."""

    source: int
    pieces: tuple[Piece, ...]


class SourceStream:
    """Endless samples of one source.

    Every document is seen once before any is seen twice, in a new order each epoch. A window of documents is packed at a
    time; the emptiest sample of the window comes last and is filled up with the documents that follow. With packing
    "documents", longest first, only documents longer than `seq_length` are cut; with "concatenate" any may be.

    The cursor is (`epoch`, `document`, `sample`): the window begins at this document of this epoch's permutation, and
    this many of its samples were taken.
    """

    def __init__(self, reader: IndexedReader, name: str, seed: int, seq_length: int, packing: str):
        self.reader = reader
        self.packing = packing
        self.seq_length = seq_length
        self.key = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        self.epoch = self.document = self.sample = 0
        self._window: list[tuple[Piece, ...]] | None = None
        self._after_window = (0, 0)

    def next_pieces(self) -> tuple[Piece, ...]:
        """The pieces of the next sample; together at most `seq_length` positions."""
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

    def _documents(self, epoch: int, start: int, count: int) -> np.ndarray:
        """int64 [≤ count]: document numbers at these places of this epoch's order; never beyond the epoch."""
        places = np.arange(start, min(start + count, self.reader.num_documents), dtype=np.uint64)
        return permute(places, self.reader.num_documents, self.key + epoch.to_bytes(8, "little"))

    def _pack_window(self) -> tuple[list[tuple[Piece, ...]], tuple[int, int]]:
        documents = self._documents(self.epoch, self.document, WINDOW_DOCUMENTS)
        positions = self.reader.document_lengths(documents) - 1
        if self.packing == "documents":
            samples = self._whole_documents(documents, positions)
        else:
            samples = concatenate(documents, positions, self.seq_length)
        after = self._fill_up(samples[-1], self.epoch, self.document + len(documents))
        return [tuple(sample) for sample in samples], after

    def _whole_documents(self, documents: np.ndarray, positions: np.ndarray) -> list[list[Piece]]:
        """Samples of whole documents, the emptiest last."""
        pieces = _cut(documents, positions, self.seq_length)
        bins = pack([piece.stop - piece.start for piece in pieces], self.seq_length)
        samples = [[pieces[i] for i in members] for members in bins] or [[]]
        samples.sort(key=_positions, reverse=True)
        emptiest = samples.pop()
        # longest-first packing puts long documents into early samples: undo that order
        window_key = self.key + self.epoch.to_bytes(8, "little") + self.document.to_bytes(8, "little")
        order = permute(np.arange(len(samples), dtype=np.uint64), len(samples), window_key)
        return [samples[i] for i in order] + [emptiest]

    def _fill_up(self, sample: list[Piece], epoch: int, document: int) -> tuple[int, int]:
        """Add the documents that follow, in order, while they fit; returns the cursor behind the last one added."""
        room = self.seq_length - _positions(sample)
        while True:
            if document == self.reader.num_documents:
                epoch, document = epoch + 1, 0
            (following,) = self._documents(epoch, document, 1)
            (length,) = self.reader.document_lengths(np.array([following])) - 1
            if length > room:
                return epoch, document
            if length:
                sample.append(Piece(int(following), 0, int(length)))
            room -= int(length)
            document += 1


def pack_documents(reader: IndexedReader, seq_length: int) -> list[tuple[Piece, ...]]:
    """All documents, each once, packed into samples; for validation, where the order is of no interest."""
    documents = np.arange(reader.num_documents)
    pieces = _cut(documents, reader.document_lengths(documents) - 1, seq_length)
    return [tuple(pieces[i] for i in members) for members in pack([p.stop - p.start for p in pieces], seq_length)]


def _positions(pieces: list[Piece]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)


def _cut(documents: np.ndarray, positions: np.ndarray, seq_length: int) -> list[Piece]:
    return [
        Piece(document, start, min(start + seq_length, length))
        for document, length in zip(documents.tolist(), positions.tolist(), strict=True)
        for start in range(0, length, seq_length)
    ]


def concatenate(documents: np.ndarray, positions: np.ndarray, seq_length: int) -> list[list[Piece]]:
    """Documents one after the other, cut wherever a sample is full; only the last sample has room.

    Args:
        documents: int64 [n], their numbers.
        positions: int64 [n], how many each has.
    """
    samples: list[list[Piece]] = [[]]
    room = seq_length
    for document, length in zip(documents.tolist(), positions.tolist(), strict=True):
        start = 0
        while start < length:
            if not room:
                samples.append([])
                room = seq_length
            stop = min(length, start + room)
            samples[-1].append(Piece(document, start, stop))
            room -= stop - start
            start = stop
    return samples


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
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


class Mixture:
    """The run's stream of samples, with what was consumed of each source and a fingerprint of the order so far.

    A phase begins with fresh weights and the cursors where they stand: no document is repeated or skipped by a change.
    """

    def __init__(self, plan: Plan, readers: dict[str, IndexedReader], seed: int, seq_length: int, packing: str):
        self.plan = plan
        self.sources = plan.sources
        self.streams = [
            SourceStream(readers[source.name], source.name, seed, seq_length, packing) for source in plan.sources
        ]
        self.drawn_before = np.zeros((len(plan.sources), 0), dtype=np.int64)  # in each phase that is over
        self.consumed_documents = np.zeros(len(plan.sources), dtype=np.int64)
        self.consumed_tokens = np.zeros(len(plan.sources), dtype=np.int64)
        self.fingerprint = "0" * 16
        self._begin_phase(0)

    def _begin_phase(self, phase: int) -> None:
        groups = [source.group for source in self.sources]
        self.interleaver = Interleaver(groups, self.plan.phases[phase].weights)

    @property
    def drawn(self) -> np.ndarray:
        """int64 [sources, phases begun]: samples of each source in each phase."""
        return np.column_stack([self.drawn_before, self.interleaver.drawn])

    @property
    def consumed_samples(self) -> int:
        return int(self.drawn_before.sum() + self.interleaver.drawn.sum())

    def next_sample(self) -> Sample:
        following = self.drawn_before.shape[1] + 1
        if following < len(self.plan.phases) and self.consumed_samples >= self.plan.phases[following].start_sample:
            self.drawn_before = self.drawn
            self._begin_phase(following)
        source = self.interleaver.next_source()
        pieces = self.streams[source].next_pieces()
        # a document that is cut counts when its first piece is seen
        self.consumed_documents[source] += sum(piece.start == 0 for piece in pieces)
        self.consumed_tokens[source] += _positions(pieces)
        identity = f"{self.fingerprint} {self.sources[source].name} {[(p.document, p.start, p.stop) for p in pieces]}"
        self.fingerprint = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        return Sample(source, pieces)

    def state_dict(self) -> dict:
        """JSON-ready. Independent of the number of processes."""
        drawn = self.drawn.tolist()
        return {
            "fingerprint": self.fingerprint,
            "sources": {
                source.name: {
                    **self.streams[i].state_dict(),
                    "drawn_in_phases": drawn[i],
                    "consumed_documents": int(self.consumed_documents[i]),
                    "consumed_tokens": int(self.consumed_tokens[i]),
                }
                for i, source in enumerate(self.sources)
            },
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`. Sources that were added since begin at their start."""
        self.fingerprint = state["fingerprint"]
        phases = max(len(cursor["drawn_in_phases"]) for cursor in state["sources"].values())
        drawn = np.zeros((len(self.sources), phases), dtype=np.int64)
        for i, source in enumerate(self.sources):
            if cursor := state["sources"].get(source.name):
                self.streams[i].load_state_dict(cursor)
                drawn[i] = cursor["drawn_in_phases"]
                self.consumed_documents[i] = cursor["consumed_documents"]
                self.consumed_tokens[i] = cursor["consumed_tokens"]
        self.drawn_before = drawn[:, :-1]
        self._begin_phase(phases - 1)
        self.interleaver.drawn[:] = drawn[:, -1]

    def ledger(self, state: dict) -> list[dict]:
        """What was consumed up to `state` (of `state_dict`), a row for each source.

        `planned_samples` are those of the plan up to there. Tokens are predicted positions, without padding; epochs are
        documents consumed over documents there are.
        """
        total = sum(sum(cursor["drawn_in_phases"]) for cursor in state["sources"].values())
        planned = self.plan.planned_samples(total)
        rows = []
        for i, (source, stream) in enumerate(zip(self.sources, self.streams, strict=True)):
            cursor = state["sources"][source.name]
            rows.append(
                {
                    "source": source.name,
                    "group": source.group,
                    "planned_samples": planned[i],
                    "samples": sum(cursor["drawn_in_phases"]),
                    "samples_in_phases": cursor["drawn_in_phases"],
                    "documents": cursor["consumed_documents"],
                    "tokens": cursor["consumed_tokens"],
                    "epochs": cursor["consumed_documents"] / stream.reader.num_documents,
                }
            )
        return rows
