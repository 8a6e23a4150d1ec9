"""One tensor-parallel rank's part of a parameter, from just the slices of the Hugging Face tensors that it needs."""

from __future__ import annotations

from typing import Protocol

import torch

from megatron_lmt.model.hf_mapping import Layout, Mapping
from megatron_lmt.model.shape import ModelShape


class TensorSource(Protocol):
    """Where Hugging Face tensors come from: safetensors files, or random numbers with the same names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor; of a vector, its elements."""

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Columns [start, stop) of a matrix."""


def shard_from_hf(mapping: Mapping, shape: ModelShape, source: TensorSource, rank: int, size: int) -> torch.Tensor:
    """The part of a parameter that belongs to tensor-parallel rank `rank` of `size`, in the dtype of the source."""
    name = mapping.hf[0]
    if mapping.layout is Layout.WHOLE:
        return source.rows(name, 0, source.shape(name)[0])
    if mapping.layout is Layout.COLUMNS:
        return source.columns(name, *_split(source.shape(name)[1], rank, size))
    if mapping.layout is Layout.VOCABULARY:
        return _vocabulary_rows(name, source, rank, size)
    parts = [source.rows(name, *_split(source.shape(name)[0], rank, size)) for name in mapping.hf]
    if mapping.layout is Layout.GATE_UP:
        return torch.cat(parts)
    groups = shape.num_key_value_heads // size
    return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)


def _split(length: int, rank: int, size: int) -> tuple[int, int]:
    return length // size * rank, length // size * (rank + 1)


def _vocabulary_rows(name: str, source: TensorSource, rank: int, size: int) -> torch.Tensor:
    """Rows of this rank; rows beyond the vocabulary are zero, and the model keeps them out of the softmax."""
    vocab_size, hidden_size = source.shape(name)
    start, stop = _split(-(-vocab_size // size) * size, rank, size)
    rows = source.rows(name, min(start, vocab_size), min(stop, vocab_size))
    if len(rows) == stop - start:
        return rows
    padding = torch.zeros(stop - start - len(rows), hidden_size, dtype=rows.dtype)
    return torch.cat([rows, padding])
