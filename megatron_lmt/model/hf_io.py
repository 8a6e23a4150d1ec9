"""Hugging Face tensors for the model: those of a folder, or random ones under the same names."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from megatron_lmt.model.bits import BITS
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import ModelShape


def tensor_of_bits(bits: np.ndarray) -> torch.Tensor:
    """The float32 or bfloat16 tensor that an array holds the bits of; they share its memory."""
    name = next(name for name, dtype in BITS.items() if dtype == bits.dtype)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(getattr(torch, name))


def bits_of_tensor(tensor: torch.Tensor) -> np.ndarray:
    """The bits of a float32 or bfloat16 tensor; they share its memory."""
    bits = BITS[str(tensor.dtype).removeprefix("torch.")]
    return tensor.detach().view({2: torch.int16, 4: torch.int32}[bits.itemsize]).numpy().view(bits)


class FolderTensors:
    """Slices of the tensors of a Hugging Face folder. A rank reads only its own."""

    def __init__(self, folder: SafetensorsFolder):
        self._folder = folder

    def shape(self, name: str) -> tuple[int, ...]:
        return self._folder.shape(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return tensor_of_bits(self._folder.rows(name, start, stop))

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        return tensor_of_bits(self._folder.columns(name, start, stop))


class RandomTensors:
    """Random weights under Hugging Face's names: the same model for any parallel layout.

    Matrices are normal with standard deviation `initializer_range`, as in transformers; norms are one. Each block of
    rows has its own generator, seeded by (seed, name, block), so a slice costs its own blocks only.
    """

    BLOCK_ROWS = 1024

    def __init__(self, shape: ModelShape, seed: int):
        self._shapes = hf_tensor_shapes(shape)
        self._std = shape.initializer_range
        self._seed = seed

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        size = self._shapes[name]
        if len(size) == 1:
            return torch.ones(stop - start)
        first = start // self.BLOCK_ROWS
        blocks = [self._block(name, number) for number in range(first, -(-stop // self.BLOCK_ROWS))]
        if not blocks:
            return torch.zeros(0, size[1])
        offset = first * self.BLOCK_ROWS
        return torch.cat(blocks)[start - offset : stop - offset]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.rows(name, 0, self._shapes[name][0])[:, start:stop]

    def _block(self, name: str, number: int) -> torch.Tensor:
        rows, columns = self._shapes[name]
        digest = hashlib.blake2b(f"{self._seed}:{name}:{number}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        num_rows = min(self.BLOCK_ROWS, rows - number * self.BLOCK_ROWS)
        return torch.randn(num_rows, columns, generator=generator) * self._std
