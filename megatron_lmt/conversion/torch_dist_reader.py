"""Reads megatron-core's distributed checkpoints (`torch_dist`), a block of a tensor at a time, without a process group.

`.metadata` says which file holds which chunk of which tensor; each chunk is what `torch.save` wrote, a zip archive with a
small pickle and the tensor's bytes as they are in memory. Both pickles are read by `safe_pickle.py`, which executes
nothing, and the bytes are read at their offset.
"""

from __future__ import annotations

import io
import math
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_lmt.conversion.safe_pickle import Record, read_metadata, read_saved_tensor
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import BITS, read_once_into


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor: where it begins in the tensor, its shape, and its `length` bytes from `start` of a file."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """`dtype` is torch's name."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @cached_property
    def _by_start(self) -> dict[int, list[Chunk]]:
        """By the first index they begin at: mostly their layer, of the thousands of chunks that a large model has."""
        groups: dict[int, list[Chunk]] = {}
        for chunk in self.chunks:
            groups.setdefault(chunk.offsets[0], []).append(chunk)
        return groups

    def chunks_between(self, start: int, stop: int) -> Iterator[Chunk]:
        """Those that have any of the first indices [start, stop)."""
        for first, chunks in self._by_start.items():
            if first < stop:
                yield from (chunk for chunk in chunks if first + chunk.shape[0] > start)


class TorchDistReader:
    """The tensors of a checkpoint folder under the names they were saved with. Threads may share it, and processes copies.

    Raises:
        CheckpointError: there is no such checkpoint, or its metadata cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        metadata = read_metadata(folder / ".metadata")
        try:
            self.tensors = _tensors(metadata)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / '.metadata'}: not understood ({error!r})") from None
        self._open_nothing()

    def _open_nothing(self) -> None:
        self._files: dict[str, int] = {}
        self._places: dict[Chunk, int] = {}
        self._opening = threading.Lock()

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "tensors": self.tensors}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_nothing()

    def __del__(self):
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def block(self, name: str, offsets: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        """The bits of the block of a tensor that begins at `offsets`.

        Raises:
            CheckpointError: it has another dtype than models here, a part of it is in no chunk, or a file cannot be read.
        """
        stored = self.tensors[name]
        if stored.dtype not in BITS:
            raise CheckpointError(f"{self.folder}: {name} is {stored.dtype}; only {' and '.join(BITS)} can be read")
        block, filled = np.empty(shape, BITS[stored.dtype]), 0
        for chunk in stored.chunks_between(offsets[0], offsets[0] + shape[0]):
            begin = tuple(map(max, offsets, chunk.offsets))
            end = tuple(min(o + n, p + m) for o, n, p, m in zip(offsets, shape, chunk.offsets, chunk.shape, strict=True))
            if all(b < e for b, e in zip(begin, end, strict=True)):
                target = block[_slices(begin, end, offsets)]
                self._read(name, chunk, stored.dtype, _slices(begin, end, chunk.offsets), target)
                filled += target.size
        if filled != block.size:
            raise CheckpointError(f"{self.folder}: {name}: {block.size - filled} of its numbers are in no chunk")
        return block

    def _read(self, name: str, chunk: Chunk, dtype: str, part: tuple[slice, ...], target: np.ndarray) -> None:
        """Fill `target` with a part of a chunk, reading it whole from the first dimension of more than one index on."""
        first = next((d for d, size in enumerate(target.shape) if size != 1), 0)
        later = chunk.shape[first + 1 :]
        read = target
        if not target.flags.c_contiguous or target.shape[first + 1 :] != later:
            read = np.empty((*target.shape[: first + 1], *later), target.dtype)
        skipped = 0
        for size, index in zip(chunk.shape[: first + 1], part[: first + 1], strict=True):
            skipped = skipped * size + index.start
        try:
            place = self._data_offset(chunk, dtype) + skipped * math.prod(later) * target.itemsize
            read_once_into(read, self._file(chunk.file), place)
        except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError) as error:
            path = self.folder / chunk.file
            raise CheckpointError(f"{path}: {name} cannot be read from byte {chunk.start} on ({error})") from None
        if read is not target:
            target[...] = read[(slice(None),) * (first + 1) + part[first + 1 :]]

    def _file(self, name: str) -> int:
        with self._opening:
            if name not in self._files:
                self._files[name] = os.open(self.folder / name, os.O_RDONLY)
            return self._files[name]

    def _data_offset(self, chunk: Chunk, dtype: str) -> int:
        """The byte of the file with a chunk's first number."""
        if chunk not in self._places:
            archive = _Archive(self._file(chunk.file), chunk.start, chunk.length)
            saved = read_saved_tensor(archive.read("/data.pkl"))
            if (saved.dtype, saved.shape, saved.is_contiguous) != (dtype, chunk.shape, True):
                raise ValueError(f"it holds {saved}, against {dtype} {chunk.shape} in the metadata")
            record, _ = archive.place(f"/data/{saved.key}")
            self._places[chunk] = record + saved.offset * BITS[dtype].itemsize
        return self._places[chunk]


class _Archive:
    """The records of a `torch.save` archive inside a file; they are not compressed.

    Their CRC32 is not looked at, as in torch: this project writes archives without it (`torch_dist_writer.py`).
    """

    def __init__(self, file: int, start: int, length: int):
        self._file, self._start = file, start
        with zipfile.ZipFile(io.BufferedReader(_FilePart(file, start, length))) as archive:
            self._records = archive.infolist()

    def place(self, ending: str) -> tuple[int, int]:
        """Byte of the file and length of the record whose name ends so."""
        found = [record for record in self._records if record.filename.endswith(ending)]
        if len(found) != 1 or found[0].compress_type != zipfile.ZIP_STORED:
            raise ValueError("not written by torch.save")
        header = self._start + found[0].header_offset
        lengths = os.pread(self._file, 4, header + 26)  # of a name and of padding, which end the record's header
        name_length, padding = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        return header + 30 + name_length + padding, found[0].file_size

    def read(self, ending: str) -> bytes:
        place, length = self.place(ending)
        return os.pread(self._file, length, place)


class _FilePart(io.RawIOBase):
    """`length` bytes from `start` of a file descriptor, as a file."""

    def __init__(self, file: int, start: int, length: int):
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        count = max(min(len(buffer), self._length - self._position), 0)
        data = os.pread(self._file, count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _slices(begin: tuple[int, ...], end: tuple[int, ...], offsets: tuple[int, ...]) -> tuple[slice, ...]:
    """[begin, end) of a tensor, counted from `offsets`."""
    return tuple(slice(b - o, e - o) for b, e, o in zip(begin, end, offsets, strict=True))


def _tensors(metadata: Record) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint; its other objects, such as Transformer Engine's extra state, are left out."""
    places = {(index.fqn, tuple(getattr(index, "offset", ()))): info for index, info in metadata.storage_data.items()}
    tensors = {}
    for name, entry in metadata.state_dict_metadata.items():
        if hasattr(entry, "chunks"):
            dtype, *_ = entry.properties.state
            chunks = tuple(_chunk(chunk, places[name, tuple(chunk.offsets)]) for chunk in entry.chunks)
            tensors[name] = StoredTensor(dtype, tuple(entry.size), chunks)
    return tensors


def _chunk(chunk: Record, place: Record) -> Chunk:
    if getattr(place, "transform_descriptors", None):
        raise ValueError(f"it was saved with {place.transform_descriptors}")
    return Chunk(tuple(chunk.offsets), tuple(chunk.sizes), place.relative_path, place.offset, place.length)
