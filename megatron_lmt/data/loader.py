"""From samples to batches: reads tokens, shifts labels, lays documents side by side with their boundaries.

A micro batch is one row of `micro_batch_size × seq_length` positions, as packed attention wants it ("thd"): documents
follow each other, `cu_seqlens` marks where each begins, and what is left of each sample is one more sequence of padding
that carries no loss. Labels are shifted inside each document, so no document predicts the next one.

The next global batch is read by a thread while the model works on the current one.

Next on the path: `train.py` feeds the micro batches to megatron-core's schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from megatron_lmt.data.batch import BatchShape, MicroBatch
from megatron_lmt.data.context import divide, row_length
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.mixture import Mixture, Sample
from megatron_lmt.data.packing import lengths_of
from megatron_lmt.data.targets import target_start


@dataclass(frozen=True)
class GlobalBatch:
    """What this data-parallel rank trains on in one step, and where the data stood when it was drawn.

    `samples`, `num_tokens` predicted positions and `sum_squared_lengths` of packed sequences are of the whole global
    batch; `data_state` is the mixture's state after it.
    """

    micro_batches: list[MicroBatch]
    samples: list[Sample]
    num_tokens: int
    sum_squared_lengths: int
    data_state: dict


def collate(
    samples: list[Sample | None],
    readers: list[IndexedReader],
    seq_length: int,
    markers: list[np.ndarray | None] | None = None,
) -> MicroBatch:
    """Read the tokens of `samples` and lay them side by side; None is a sample of nothing but padding.

    Args:
        readers: token files by source number.
        markers: what stands before the target of a pair, by source number (`data/targets.py`).
    """
    total = len(samples) * seq_length
    tokens = np.zeros(total, dtype=np.int64)
    labels = np.zeros(total, dtype=np.int64)
    loss_mask = np.zeros(total, dtype=np.float32)
    loss_slots = np.arange(len(samples)).repeat(seq_length) * 2
    boundaries = [0]
    for number, sample in enumerate(samples):
        first = number * seq_length
        if sample is not None:
            reader, lengths = readers[sample.source], lengths_of(sample.pieces)
            ends = np.cumsum(lengths)
            begins = reader.starts(sample.pieces["document"]) + sample.pieces["start"]
            places = np.arange(lengths.sum()) + np.repeat(begins - ends + lengths, lengths)  # in the token file
            filled = slice(first, first + len(places))
            tokens[filled], labels[filled] = reader.tokens[places], reader.tokens[places + 1]
            loss_mask[filled] = _loss_mask(sample.pieces, reader)
            marker = markers[sample.source] if markers else None
            if marker is not None:
                loss_slots[filled] += _target_mask(sample.pieces, reader, marker)
            boundaries += (first + ends).tolist()
        if boundaries[-1] < first + seq_length:
            boundaries.append(first + seq_length)
    cu_seqlens = np.asarray(boundaries, dtype=np.int32)
    return MicroBatch(
        tokens=torch.from_numpy(tokens).unsqueeze(0),
        labels=torch.from_numpy(labels).unsqueeze(0),
        loss_mask=torch.from_numpy(loss_mask).unsqueeze(0),
        loss_slots=torch.from_numpy(loss_slots).unsqueeze(0),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=int(np.diff(cu_seqlens).max()),
        num_samples=len(samples),
    )


def _loss_mask(pieces: np.ndarray, reader: IndexedReader) -> np.ndarray | int:
    """Whether the label of each position counts; 1 in files where all do."""
    if reader.modes is None:
        return 1
    masks = [reader.document_loss_mask(document)[start + 1 : stop + 1] for document, start, stop in pieces.tolist()]
    return np.concatenate(masks) if masks else 1


def _target_mask(pieces: np.ndarray, reader: IndexedReader, marker: np.ndarray) -> np.ndarray | int:
    """Whether the label of each position is of a target sentence; never where that is not known."""
    if reader.modes is not None:
        return _loss_mask(pieces, reader)
    masks = []
    for document, start, stop in pieces.tolist():
        begin = target_start(reader.document(document), marker)
        masks.append(np.arange(start + 1, stop + 1) >= (stop + 1 if begin is None else begin))
    return np.concatenate(masks) if masks else 0


def my_micro_batches(
    samples: list[Sample | None],
    readers: list[IndexedReader],
    shape: BatchShape,
    markers: list[np.ndarray | None] | None = None,
) -> Iterator[MicroBatch]:
    """This rank's part of a global batch. See `collate` for the arguments."""
    size = shape.context_parallel_size
    length = row_length(samples, shape) if size > 1 else None
    for mine in shape.my_samples(samples):
        batch = collate(mine, readers, shape.seq_length, markers)
        yield divide(batch, length, shape.context_parallel_rank, size) if length else batch


def global_batches(
    mixture: Mixture,
    readers: list[IndexedReader],
    shape: BatchShape,
    markers: list[np.ndarray | None] | None = None,
) -> Iterator[GlobalBatch]:
    """Endless global batches, each read while the one before it is in use. See `collate` for the arguments."""

    def draw() -> GlobalBatch:
        samples = [mixture.next_sample() for _ in range(shape.global_batch_size)]
        lengths = lengths_of(np.concatenate([sample.pieces for sample in samples]))
        return GlobalBatch(
            micro_batches=list(my_micro_batches(samples, readers, shape, markers)),
            samples=samples,
            num_tokens=int(lengths.sum()),
            sum_squared_lengths=int((lengths * lengths).sum()),
            data_state=mixture.state_dict(),
        )

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as reader:
        upcoming = reader.submit(draw)
        while True:
            batch = upcoming.result()
            upcoming = reader.submit(draw)
            yield batch
