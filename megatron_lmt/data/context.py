"""Context parallelism: the positions of each document divided among the ranks of a group.

Each document is padded to a multiple of 2 × size and cut into 2 × size parts; a rank has one from the front and its mirror
image from the back, so that causal attention costs all ranks the same (megatron-core and Transformer Engine count on this
order). The padding follows a document's own tokens, which do not see it, and has no loss.

The samples do not depend on the size. A row becomes longer by the padding of its documents; all rows of a global batch have
the length that the fullest of them needs, rounded up as tensor parallelism and FP8 like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from megatron_lmt.data.batch import BatchShape, MicroBatch
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import lengths_of

ROW_MULTIPLE = 16
"""Positions of a row on each rank are a multiple of this, as FP8 matrix products need it."""


def row_length(samples: list[Sample | None], shape: BatchShape) -> int:
    """Positions of every row of this global batch, before it is divided."""
    multiple = 2 * shape.context_parallel_size
    each = [_padded_length(sample, shape.seq_length, multiple) for sample in samples]
    rows = [sum(each[i : i + shape.micro_batch_size]) for i in range(0, len(each), shape.micro_batch_size)]
    whole = multiple * shape.tensor_model_parallel_size * ROW_MULTIPLE
    return -(-max(rows) // whole) * whole


def _padded_length(sample: Sample | None, seq_length: int, multiple: int) -> int:
    lengths = lengths_of(sample.pieces) if sample else np.zeros(0, dtype=np.int64)
    tail = seq_length - lengths.sum()
    return int((-(-np.append(lengths, tail) // multiple) * multiple).sum())


def divide(batch: MicroBatch, length: int, rank: int, size: int) -> MicroBatch:
    """The positions of one rank of `size`, in the order of the row.

    Args:
        batch: a whole row.
        length: of the row once its documents are padded, from `row_length`.
    Returns:
        [1, length / size] of each; `cu_seqlens` and `max_seqlen` are of the whole padded row.
    """
    bounds = batch.cu_seqlens.tolist()
    padded = [0]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        padded.append(padded[-1] + -(-(stop - start) // (2 * size)) * 2 * size)
    if padded[-1] < length:
        padded.append(length)
    # where each position of the padded row comes from; -1 is padding
    origin = np.full(length, -1, dtype=np.int64)
    for start, stop, begin in zip(bounds, bounds[1:], padded, strict=False):
        origin[begin : begin + stop - start] = np.arange(start, stop)
    mine = torch.from_numpy(origin[np.concatenate(list(_parts(padded, rank, size)))])
    cu_seqlens = torch.tensor(padded, dtype=torch.int32)
    return replace(
        batch,
        **{
            name: torch.where(mine >= 0, getattr(batch, name)[:, mine.clamp(min=0)], 0)
            for name in ("tokens", "labels", "loss_mask", "loss_slots")
        },
        cu_seqlens=cu_seqlens,
        max_seqlen=int(cu_seqlens.diff().max()),
    )


def _parts(bounds: list[int], rank: int, size: int) -> Iterator[np.ndarray]:
    for start, stop in zip(bounds, bounds[1:], strict=False):
        part = (stop - start) // (2 * size)
        yield np.arange(start + rank * part, start + (rank + 1) * part)
        yield np.arange(stop - (rank + 1) * part, stop - rank * part)
