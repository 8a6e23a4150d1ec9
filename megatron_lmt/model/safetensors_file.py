"""One safetensors file: eight bytes with the length of a JSON header, the header, the tensors' bytes.

The file is checked when it is opened, and tensors are read a range of rows or columns at a time. The `safetensors` package
maps the whole file into memory, which a conversion in bounded memory cannot use (see `bits.py`).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import BITS, read_into, read_once_into

DTYPES = {"F32": "float32", "BF16": "bfloat16"}
"""The dtypes that survive a round trip: safetensors' names and torch's."""

MAPPED_BYTES = 64 * 1024 * 1024
LONGEST_HEADER = 100_000_000
"""As in the safetensors package."""


@dataclass(frozen=True)
class StoredTensor:
    """`offset` and `size` are bytes, `offset` from the start of the file; `dtype` is safetensors' name."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class SafetensorsFile:
    """Reads rows and columns of the tensors of one file, as bits. Threads may share it, and processes copies.

    Args:
        read_once: what was read need not stay in the page cache; nobody else will read it soon.
    Raises:
        CheckpointError: not a safetensors file, or cut off.
    """

    def __init__(self, path: Path, read_once: bool = False):
        self.path = path
        self._read = read_once_into if read_once else read_into
        self.tensors = read_header(path)
        self._file = os.open(path, os.O_RDONLY)

    def __getstate__(self) -> dict:
        return {"path": self.path, "tensors": self.tensors, "_read": self._read}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._file = os.open(self.path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "_file"):
            os.close(self._file)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        stored = self.tensors[name]
        tensor = np.empty((stop - start, *stored.shape[1:]), BITS[DTYPES[stored.dtype]])
        row_bytes = math.prod(stored.shape[1:]) * tensor.itemsize
        try:
            self._read(tensor, self._file, stored.offset + start * row_bytes)
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read ({error})") from None
        return tensor

    def columns(self, name: str, start: int, stop: int) -> np.ndarray:
        """Columns of a matrix, copied out of a memory map of a block of rows at a time.

        A map takes only the pages that hold them, and is faster than a read for each row or than reading whole rows.
        """
        stored = self.tensors[name]
        num_rows, num_columns = stored.shape
        if (start, stop) == (0, num_columns):
            return self.rows(name, 0, num_rows)
        tensor = np.empty((num_rows, stop - start), BITS[DTYPES[stored.dtype]])
        row_bytes = num_columns * tensor.itemsize
        step = max(1, MAPPED_BYTES // row_bytes)
        for first in range(0, num_rows, step):
            block = tensor[first : first + step]
            place, shape = stored.offset + first * row_bytes, (len(block), num_columns)
            block[...] = np.memmap(self.path, tensor.dtype, "r", place, shape)[:, start:stop]
        return tensor


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises:
        CheckpointError: not a safetensors file, or cut off.
    """
    file_size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file_size < 8 or length > min(LONGEST_HEADER, file_size - 8):
            raise CheckpointError(
                f"{path}: {file_size} bytes, with a header of {length}: cut off, or not a safetensors file"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: _stored_tensor(entry, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, its header cannot be read ({error!r})") from None
    end = max((tensor.offset + tensor.size for tensor in tensors.values()), default=8 + length)
    if end != file_size:
        raise CheckpointError(f"{path}: {file_size} bytes instead of the {end} that its header says: cut off or damaged")
    return tensors


def _stored_tensor(entry: dict, data_start: int) -> StoredTensor:
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"])
    if dtype and math.prod(shape) * BITS[dtype].itemsize != stop - start:
        raise ValueError(f"{stop - start} bytes for {entry['dtype']} {shape}")
    return StoredTensor(entry["dtype"], shape, data_start + start, stop - start)
