"""Numbers of tensors as the bits they are stored in: unsigned integers in NumPy arrays.

NumPy has no bfloat16, and reading, reordering and writing weights needs none: uint16 stands for bfloat16, uint32 for
float32. Without torch a command starts in a tenth of the time. `model/hf_io.py` makes tensors of bits.
"""

from __future__ import annotations

import os

import numpy as np

BITS = {"float32": np.dtype(np.uint32), "bfloat16": np.dtype(np.uint16)}
"""The dtypes that models are stored in here, by torch's names."""

_INFINITY = {np.dtype(np.uint32): 0x7F800000, np.dtype(np.uint16): 0x7F80}


def is_finite(bits: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity among numbers: their exponent's bits are all set.

    As signed integers the positive ones among them are the largest there are, as unsigned integers the negative ones.
    """
    if bits.size == 0:
        return True
    infinity, sign = _INFINITY[bits.dtype], 1 << (8 * bits.itemsize - 1)
    return int(bits.view(f"i{bits.itemsize}").max()) < infinity and int(bits.max()) < infinity + sign


def as_bytes(bits: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return memoryview(bits.reshape(-1).view(np.uint8))


def read_into(bits: np.ndarray, file: int, offset: int) -> None:
    """Fill a contiguous array from byte `offset` of a file descriptor.

    Pages of a mapped file would count as this process's memory, a whole model of them in the end; plain reads have none.

    Raises:
        EOFError: the file ends before the array does.
    """
    view, done = as_bytes(bits), 0
    while done < len(view):  # one call reads at most 2 GB
        count = os.preadv(file, [view[done:]], offset + done)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset + done}")
        done += count


def read_once_into(bits: np.ndarray, file: int, offset: int) -> None:
    """As `read_into`; what was read does not stay in the page cache.

    A model that is read once would fill it. Memory that is free again at once takes half the time of memory that is not yet.
    """
    read_into(bits, file, offset)
    os.posix_fadvise(file, offset, bits.nbytes, os.POSIX_FADV_DONTNEED)


def write_from(bits: np.ndarray, file: int, offset: int) -> None:
    """Write a contiguous array to byte `offset` of a file descriptor."""
    view, done = as_bytes(bits), 0
    while done < len(view):
        done += os.pwritev(file, [view[done:]], offset + done)
