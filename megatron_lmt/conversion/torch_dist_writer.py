"""Writes megatron-core's distributed checkpoints (`torch_dist`), a chunk at a time, without a process group or torch.

A chunk is any block of a tensor: loading cuts chunks to the slices that a parallel layout asks for. Files hold one chunk
after the other as `torch.save` would write it; `.metadata` is a pickle of torch.distributed.checkpoint's classes that says
which file holds which chunk of which tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_lmt.conversion.named_pickle import Call, Instance, Name, dumps
from megatron_lmt.conversion.torch_archive import object_archive, tensor_archive
from megatron_lmt.model.bits import BITS, as_bytes

BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}
"""megatron-core's metadata.json."""

METADATA, FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"


@dataclass(frozen=True)
class NewChunk:
    """A block of tensor `name`, whose whole shape is `size`. `dtype` is torch's name."""

    name: str
    size: tuple[int, ...]
    dtype: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype].itemsize


@dataclass(frozen=True)
class WrittenFile:
    """`places` are the offset and length in bytes of each chunk."""

    name: str
    chunks: tuple[NewChunk, ...]
    places: tuple[tuple[int, int], ...]
    num_bytes: int
    sha256: str


def plan_files(chunks: Sequence[NewChunk], num_files: int) -> list[list[NewChunk]]:
    """Share chunks among files of about the same size, in their order."""
    limit = sum(chunk.num_bytes for chunk in chunks) / num_files
    files, filled = [[]], 0
    for chunk in chunks:
        if filled >= limit * len(files) and len(files) < num_files:
            files.append([])
        files[-1].append(chunk)
        filled += chunk.num_bytes
    return files


def write_file(folder: Path, number: int, chunks: Sequence[NewChunk], make: Callable[[NewChunk], np.ndarray]) -> WrittenFile:
    """Write and flush file `number` of a checkpoint.

    Args:
        make: the bits of a chunk, contiguous and of its shape; called in order.
    Raises:
        OSError: the disk is full.
    """
    name = f"__{number}_0.distcp"
    places, end, digest = [], 0, hashlib.sha256()
    with open(folder / name, "wb") as file:
        for chunk in chunks:
            before, after = tensor_archive(chunk.dtype, chunk.shape, BITS[chunk.dtype].itemsize)
            start = end
            for part in (before, as_bytes(make(chunk)), after):
                digest.update(part)
                end += file.write(part)
            places.append((start, end - start))
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(name, tuple(chunks), tuple(places), end, digest.hexdigest())


def finish(folder: Path, files: Sequence[WrittenFile]) -> None:
    """Write what makes the files a checkpoint of megatron-core: .metadata, metadata.json and an empty common.pt."""
    tensors, places = {}, {}
    for file in files:
        for chunk, (start, length) in zip(file.chunks, file.places, strict=True):
            tensors.setdefault(chunk.name, []).append(chunk)
            index = Instance(
                Name(METADATA, "MetadataIndex"), {"fqn": chunk.name, "index": None, "offset": _size(chunk.offsets)}
            )
            places[index] = Instance(
                Name(FILES, "_StorageInfo"), {"relative_path": file.name, "offset": start, "length": length}
            )
    metadata = {
        "state_dict_metadata": {name: _tensor(chunks) for name, chunks in tensors.items()},
        "planner_data": None,
        "storage_data": places,
        "storage_meta": None,
    }
    (folder / ".metadata").write_bytes(dumps(Instance(Name(METADATA, "Metadata"), metadata)))
    (folder / "common.pt").write_bytes(object_archive({}))
    (folder / "metadata.json").write_text(json.dumps(BACKEND), encoding="utf-8")


def _tensor(chunks: Sequence[NewChunk]) -> Instance:
    layout = Call(Name("torch.serialization", "_get_layout"), ("torch.strided",))
    memory_format = Call(Name(METADATA, "_MEM_FORMAT_ENCODING"), (0,))
    properties = (Name("torch", chunks[0].dtype), layout, False, memory_format, False)
    blocks = [
        Instance(Name(METADATA, "ChunkStorageMetadata"), {"offsets": _size(chunk.offsets), "sizes": _size(chunk.shape)})
        for chunk in chunks
    ]
    state = {
        "properties": Instance(Name(METADATA, "TensorProperties"), properties),
        "size": _size(chunks[0].size),
        "chunks": blocks,
    }
    return Instance(Name(METADATA, "TensorStorageMetadata"), state)


def _size(numbers: tuple[int, ...]) -> Call:
    return Call(Name("torch", "Size"), (numbers,))
