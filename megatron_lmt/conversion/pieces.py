"""A model cut into pieces: rows of one Megatron parameter and the rows of Hugging Face tensors that they are made of.

Megatron's fusions only reorder rows (see `model/hf_mapping.py`), so whole rows of one side are whole rows of the other.
A piece is small whatever the model's size; it is read, checked and written before the next, and pieces are independent,
so that several processes can share them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_mapping import Layout, Mapping, hf_tensor_shapes, mappings
from megatron_lmt.model.shape import ModelShape

PIECE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Segment:
    """Rows [start, stop) of a Hugging Face tensor."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a whole Megatron parameter. `blocks` is how often its segments take turns."""

    parameter: str
    start: int
    stop: int
    row: tuple[int, ...]
    segments: tuple[Segment, ...]
    blocks: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.row)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def from_hf(self, source: SafetensorsFolder) -> np.ndarray:
        """The bits of the piece."""
        parts = [source.rows(segment.tensor, segment.start, segment.stop) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        by_block = [part.reshape(self.blocks, -1, *self.row) for part in parts]
        return np.concatenate(by_block, axis=1).reshape(self.shape)

    def to_hf(self, rows: np.ndarray) -> Iterator[tuple[Segment, np.ndarray]]:
        """Cut the rows of the Megatron parameter, `shape` of them, into those of the Hugging Face tensors."""
        lengths = [(segment.stop - segment.start) // self.blocks for segment in self.segments]
        by_block = rows.reshape(self.blocks, -1, *self.row)
        parts = np.split(by_block, list(itertools.accumulate(lengths))[:-1], axis=1)
        for segment, part in zip(self.segments, parts, strict=True):
            yield segment, np.ascontiguousarray(part).reshape(-1, *self.row)


def model_pieces(shape: ModelShape, itemsize: int, max_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
    """Every row of every parameter and of every Hugging Face tensor, each once, in the order of the layers.

    Args:
        itemsize: bytes of one number.
        max_bytes: no piece is larger, except a single row, or a single group of heads.
    """
    sizes = hf_tensor_shapes(shape)
    for mapping in mappings(shape):
        row = sizes[mapping.hf[0]][1:]
        max_rows = max(1, max_bytes // (itemsize * (row[0] if row else 1)))
        if mapping.layout is Layout.QKV:
            yield from _head_group_pieces(mapping, shape, row, max_rows)
            continue
        first = 0
        for tensor in mapping.hf:
            rows = sizes[tensor][0]
            for start in range(0, rows, max_rows):
                stop = min(start + max_rows, rows)
                yield Piece(mapping.megatron, first + start, first + stop, row, (Segment(tensor, start, stop),))
            first += rows


def _head_group_pieces(mapping: Mapping, shape: ModelShape, row: tuple[int, ...], max_rows: int) -> Iterator[Piece]:
    """Groups of heads: for each, the rows of its queries, of its key and of its value."""
    groups = shape.num_key_value_heads
    queries = shape.num_attention_heads // groups * shape.head_dim
    rows = (queries, shape.head_dim, shape.head_dim)
    step = max(1, max_rows // sum(rows))
    for start in range(0, groups, step):
        stop = min(start + step, groups)
        segments = tuple(Segment(name, start * n, stop * n) for name, n in zip(mapping.hf, rows, strict=True))
        yield Piece(mapping.megatron, start * sum(rows), stop * sum(rows), row, segments, stop - start)
