"""Reads megatron-core's distributed checkpoints (`torch_dist`), rows of a tensor at a time, without a process group.

`.metadata` says which file holds which chunk of which tensor; each chunk is what `torch.save` wrote, a zip archive with a
small pickle and the tensor's bytes as they are in memory. Both pickles are read by `safe_pickle.py`, which executes
nothing, and the bytes are read at their offset.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_lmt.conversion.safe_pickle import read_metadata, read_saved_tensor
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.tensor_bytes import read_into

LAYER_PREFIX = "decoder.layers."


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
    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class TorchDistReader:
    """The tensors of a checkpoint folder under the names they were saved with.

    Raises:
        CheckpointError: there is no such checkpoint, or its metadata cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        metadata = read_metadata(folder / ".metadata")
        self.tensors: dict[str, StoredTensor] = {}
        places = {(index.fqn, tuple(index.offset or ())): info for index, info in metadata.storage_data.items()}
        for name, entry in metadata.state_dict_metadata.items():
            if not hasattr(entry, "chunks"):
                continue  # bytes, such as Transformer Engine's extra state
            chunks = tuple(_chunk(name, chunk, places, folder) for chunk in entry.chunks)
            dtype, *_ = entry.properties.state
            self.tensors[name] = StoredTensor(dtype, tuple(entry.size), chunks)
        self._files: dict[str, int] = {}
        self._places: dict[Chunk, int] = {}

    def __del__(self):
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def rows(self, name: str, start: int, stop: int, layer: int | None = None) -> torch.Tensor:
        """Rows [start, stop) of a tensor; of one layer's, where layers are stacked in it.

        Raises:
            CheckpointError: a part of these rows is in no chunk, or a file cannot be read.
        """
        stored = self.tensors[name]
        lead = () if layer is None else (layer,)
        first, size = len(lead), stored.shape[len(lead) :]
        rows = torch.empty(stop - start, *size[1:], dtype=stored.dtype)
        filled = 0
        for chunk in stored.chunks:
            inside = all(o <= n < o + s for n, o, s in zip(lead, chunk.offsets, chunk.shape, strict=False))
            begin, end = max(start, chunk.offsets[first]), min(stop, chunk.offsets[first] + chunk.shape[first])
            if not inside or begin >= end:
                continue
            skipped = math.prod(chunk.shape[first:]) * (layer - chunk.offsets[0] if lead else 0)
            skipped += math.prod(chunk.shape[first + 1 :]) * (begin - chunk.offsets[first])
            target = rows[begin - start : end - start]
            for offset, length, dimension in zip(chunk.offsets[first + 1 :], chunk.shape[first + 1 :], (1,), strict=False):
                target = target.narrow(dimension, offset, length)
            self._read(name, chunk, stored.dtype, skipped, target)
            filled += target.numel()
        if filled != rows.numel():
            raise CheckpointError(f"{self.folder}: {name}: {rows.numel() - filled} of its numbers are in no chunk")
        return rows

    def _read(self, name: str, chunk: Chunk, dtype: torch.dtype, skipped: int, target: torch.Tensor) -> None:
        """Fill `target` with a chunk's numbers after the first `skipped`."""
        part = target if target.is_contiguous() else torch.empty(target.shape, dtype=dtype)
        path = self.folder / chunk.file
        try:
            place = self._data_offset(name, chunk, dtype) + skipped * dtype.itemsize
            read_into(part, self._file(chunk.file), place)
        except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read from byte {chunk.start} on ({error})") from None
        if part is not target:
            target.copy_(part)

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_RDONLY)
        return self._files[name]

    def _data_offset(self, name: str, chunk: Chunk, dtype: torch.dtype) -> int:
        """The byte of the file with a chunk's first number."""
        if chunk not in self._places:
            archive = _Archive(self._file(chunk.file), chunk.start, chunk.length)
            saved = read_saved_tensor(archive.read("/data.pkl"))
            if (saved.dtype, saved.shape, saved.is_contiguous) != (dtype, chunk.shape, True):
                raise ValueError(f"it holds {saved}, against {dtype} {chunk.shape} in the metadata")
            record, _ = archive.place(f"/data/{saved.key}")
            self._places[chunk] = record + saved.offset * dtype.itemsize
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


def _chunk(name: str, chunk, places: dict, folder: Path) -> Chunk:
    info = places.get((name, tuple(chunk.offsets)))
    if info is None:
        raise CheckpointError(f"{folder}: {name}: the metadata names no file for its chunk at {tuple(chunk.offsets)}")
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(f"{folder}: {name} was saved with {info.transform_descriptors}, which is not supported")
    return Chunk(tuple(chunk.offsets), tuple(chunk.sizes), info.relative_path, info.offset, info.length)
