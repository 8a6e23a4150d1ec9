"""Tensors' bytes between memory and a place in a file, without a memory map.

Pages of a mapped file count as this process's memory, a whole model of them in the end; reads and writes at an offset do
not, and they are faster.
"""

from __future__ import annotations

import os

import torch


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def read_into(tensor: torch.Tensor, file: int, offset: int) -> None:
    """Fill a contiguous tensor from byte `offset` of a file descriptor.

    Raises:
        EOFError: the file ends before the tensor does.
    """
    view, done = as_bytes(tensor), 0
    while done < len(view):  # one call reads at most 2 GB
        count = os.preadv(file, [view[done:]], offset + done)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset + done}")
        done += count


def write_from(tensor: torch.Tensor, file: int, offset: int) -> None:
    """Write a contiguous tensor to byte `offset` of a file descriptor."""
    view, done = as_bytes(tensor), 0
    while done < len(view):
        done += os.pwritev(file, [view[done:]], offset + done)
