"""From token files to the order of samples: weights, permutation, packing, interleaving.

The order is a pure function of the run file and the seed. It does not depend on the number of processes, and its whole
state is one small cursor for each source, so a run resumes exactly where it stopped.

    compile_sources   run file → one `Source` per language or direction, with its share of all samples
    SourceStream      one source → endless samples: a new permutation each epoch, whole documents packed into samples
    Mixture           all streams → one stream, every prefix within one sample of the weights

Cost: a stream packs a window of 65,536 documents at a time (about 0.1 s, 3 MB); an interleaving step is about 15 µs with
294 sources. Every process computes the whole order; only the tokens of its own samples are read.

Next on the path: `loader.py` reads the tokens of each sample.
"""

from __future__ import annotations

import bisect
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_lmt.config import DataSection, GroupSection
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.languages import split_direction

WINDOW_DOCUMENTS = 65_536


@dataclass(frozen=True)
class Source:
    """One language or direction of the mixture. `weight` is its share of all samples; the shares sum to 1."""

    name: str
    group: str
    prefix: Path
    weight: float


@dataclass(frozen=True)
class Piece:
    """The positions [start, stop) of a document; position i predicts token i + 1, so a document has tokens - 1."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """Pieces of one source that share a sequence of `seq_length` positions."""

    source: int
    pieces: tuple[Piece, ...]


def source_prefixes(data: DataSection, root: Path) -> dict[str, dict[str, Path]]:
    """Group name → source name → prefix of its token files, in the order of the run file."""
    return {name: _group_prefixes(name, group, root) for name, group in data.mixture.items()}


def _group_prefixes(name: str, group: GroupSection, root: Path) -> dict[str, Path]:
    if group.languages:
        return {f"{name}/{code}": root / group.path.format(language=code) for code in group.languages}
    if group.directions:
        prefixes = {}
        for direction in group.directions:
            source, target = split_direction(direction)
            path = group.path.format(direction=direction, source=source, target=target)
            prefixes[f"{name}/{direction}"] = root / path
        return prefixes
    return {name: root / group.path}


def compile_sources(data: DataSection, root: Path, readers: dict[str, IndexedReader]) -> list[Source]:
    """Turn the words of the run file into one weight for each source.

    Args:
        readers: source name → its opened token files; `within = "proportional"` needs their number of tokens.
    """
    groups = source_prefixes(data, root)
    total_weight = sum(group.weight for group in data.mixture.values())
    sources = []
    for group_name, prefixes in groups.items():
        group = data.mixture[group_name]
        proportional = group.within == "proportional"
        sizes = {name: readers[name].num_tokens if proportional else 1 for name in prefixes}
        share = group.weight / total_weight / sum(sizes.values())
        sources += [Source(name, group_name, prefix, share * sizes[name]) for name, prefix in prefixes.items()]
    return sources


class SourceStream:
    """Endless samples of one source.

    Every document is seen once before any is seen twice, in a new order each epoch. A window of documents is packed at a
    time, longest first; the emptiest sample of the window comes last and is filled up with the documents that follow.
    Documents longer than `seq_length` are cut into pieces of `seq_length`; no other document is cut.

    The cursor is (`epoch`, `document`, `sample`): the window begins at this document of this epoch's permutation, and
    this many of its samples were taken.
    """

    def __init__(self, reader: IndexedReader, name: str, seed: int, seq_length: int):
        self.reader = reader
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
        pieces = _cut(documents, self.reader.document_lengths(documents) - 1, self.seq_length)
        bins = pack([piece.stop - piece.start for piece in pieces], self.seq_length)
        samples = [[pieces[i] for i in members] for members in bins] or [[]]
        samples.sort(key=_positions, reverse=True)
        emptiest = samples.pop()
        # longest-first packing puts long documents into early samples: undo that order
        window_key = self.key + self.epoch.to_bytes(8, "little") + self.document.to_bytes(8, "little")
        order = permute(np.arange(len(samples), dtype=np.uint64), len(samples), window_key)
        samples = [samples[i] for i in order] + [emptiest]
        after = self._fill_up(emptiest, self.epoch, self.document + len(documents))
        return [tuple(sample) for sample in samples], after

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


class Interleaver:
    """Chooses the source of each sample so that shares are kept all along, of sources and of groups.

    Each source has a deadline: the sample at which it would fall a whole sample behind its weight; so has each group. Of
    the sources that neither are ahead of their weight nor belong to a group that is ahead of its own, the one with the
    nearest deadline, its own or its group's, is next. When so many sources are due that no sample is to spare, the
    nearest of their deadlines decides alone, as in the chairman assignment of Tijdeman (1980). After every sample each
    source is less than one sample off its weight, and each group less than two (docs/decisions.md).

    Args:
        sources: those of a group stand together.
    """

    def __init__(self, sources: list[Source]):
        groups = [source.group for source in sources]
        self.weights = np.array([source.weight for source in sources], dtype=np.float64)
        self.drawn = np.zeros(len(sources), dtype=np.int64)
        self._starts = np.array([groups.index(group) for group in dict.fromkeys(groups)])
        self._stops = np.append(self._starts[1:], len(sources))
        self._group_weights = np.add.reduceat(self.weights, self._starts)

    def next_source(self) -> int:
        turn = self.drawn.sum() + 1
        deadlines = _deadlines(self.weights, self.drawn, turn)
        source = int(deadlines.argmin()) if _none_to_spare(deadlines) else self._next_of_groups(deadlines, turn)
        self.drawn[source] += 1
        return source

    def _next_of_groups(self, deadlines: np.ndarray, turn: int) -> int:
        group_deadlines = _deadlines(self._group_weights, np.add.reduceat(self.drawn, self._starts), turn)
        nearest = np.minimum(group_deadlines, np.minimum.reduceat(deadlines, self._starts))
        # one of the groups is always behind, and a group that is behind has a source that is behind
        group = int(np.where(np.isinf(group_deadlines), np.inf, nearest).argmin())
        start, stop = self._starts[group], self._stops[group]
        return int(start + deadlines[start:stop].argmin())


def _deadlines(weights: np.ndarray, drawn: np.ndarray, turn: int) -> np.ndarray:
    """Turns until each falls a whole sample behind its weight; infinite for those that are ahead of it."""
    behind = weights * turn - drawn
    deadlines = (1 - behind) / weights
    deadlines[behind < 1e-9] = np.inf
    return deadlines


def _none_to_spare(deadlines: np.ndarray) -> bool:
    """Whether for some n, n deadlines end within the next n turns."""
    due = np.sort(deadlines[np.isfinite(deadlines)])
    return bool((np.floor(due) <= np.arange(len(due))).any())


class Mixture:
    """The run's stream of samples, with what was consumed of each source and a fingerprint of the order so far."""

    def __init__(self, sources: list[Source], readers: dict[str, IndexedReader], seed: int, seq_length: int):
        self.sources = sources
        self.streams = [SourceStream(readers[source.name], source.name, seed, seq_length) for source in sources]
        self.interleaver = Interleaver(sources)
        self.consumed_documents = np.zeros(len(sources), dtype=np.int64)
        self.consumed_tokens = np.zeros(len(sources), dtype=np.int64)
        self.fingerprint = "0" * 16

    @property
    def consumed_samples(self) -> int:
        return int(self.interleaver.drawn.sum())

    def next_sample(self) -> Sample:
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
        drawn = self.interleaver.drawn.tolist()
        return {
            "fingerprint": self.fingerprint,
            "sources": {
                source.name: {
                    **self.streams[i].state_dict(),
                    "drawn": drawn[i],
                    "consumed_documents": int(self.consumed_documents[i]),
                    "consumed_tokens": int(self.consumed_tokens[i]),
                }
                for i, source in enumerate(self.sources)
            },
        }

    def load_state_dict(self, state: dict) -> None:
        self.fingerprint = state["fingerprint"]
        self.interleaver.drawn[:] = [state["sources"][source.name]["drawn"] for source in self.sources]
        for i, source in enumerate(self.sources):
            cursor = state["sources"][source.name]
            self.streams[i].load_state_dict(cursor)
            self.consumed_documents[i] = cursor["consumed_documents"]
            self.consumed_tokens[i] = cursor["consumed_tokens"]

    def ledger(self, state: dict) -> list[dict]:
        """What was consumed up to `state` (of `state_dict`), a row for each source.

        Tokens are predicted positions, without padding; epochs are documents consumed over documents there are.
        """
        rows = []
        for source, stream in zip(self.sources, self.streams, strict=True):
            cursor = state["sources"][source.name]
            rows.append(
                {
                    "source": source.name,
                    "group": source.group,
                    "weight": source.weight,
                    "samples": cursor["drawn"],
                    "documents": cursor["consumed_documents"],
                    "tokens": cursor["consumed_tokens"],
                    "epochs": cursor["consumed_documents"] / stream.reader.num_documents,
                }
            )
        return rows
