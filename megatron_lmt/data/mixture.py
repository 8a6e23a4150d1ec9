"""From token files to the order of samples of a run.

The order is a pure function of the run file and the seed. It does not depend on the number of processes, and its whole
state is one small cursor for each source, so a run resumes exactly where it stopped.

    weights.py       run file → one `Source` per language or direction, with its share of all samples
    stream.py        one source → endless samples: a new permutation each epoch,
    packing.py           whole documents packed into samples
    interleaver.py   whose turn it is: every prefix within one sample of the weights
    Mixture          all streams → one stream

Cost: every process computes the whole order; only the tokens of its own samples are read.

Next on the path: `loader.py` reads the tokens of each sample.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.interleaver import Interleaver
from megatron_lmt.data.packing import lengths_of
from megatron_lmt.data.stream import SourceStream
from megatron_lmt.data.weights import Plan


@dataclass(frozen=True, eq=False)
class Sample:
    """Pieces of one source, `PIECE` [n], that share a sequence of `seq_length` positions."""

    source: int
    pieces: np.ndarray


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

    def _begin_phase(self, phase: int, drawn: np.ndarray | None = None) -> None:
        groups = [source.group for source in self.sources]
        self.interleaver = Interleaver(groups, self.plan.phases[phase].weights, drawn)

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
        self.consumed_documents[source] += np.count_nonzero(pieces["start"] == 0)
        self.consumed_tokens[source] += lengths_of(pieces).sum()
        identity = f"{self.fingerprint} {self.sources[source].name} ".encode() + pieces.tobytes()
        self.fingerprint = hashlib.blake2b(identity, digest_size=8).hexdigest()
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
        self._begin_phase(phases - 1, drawn[:, -1])

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
