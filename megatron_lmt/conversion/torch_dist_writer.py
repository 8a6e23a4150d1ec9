"""Writes megatron-core's distributed checkpoints (`torch_dist`), a chunk at a time, without a process group.

torch's own FileSystemWriter makes the files; its planner is given tensors that are made only when it is their turn.
A chunk is any block of a tensor: loading cuts chunks to the slices that a parallel layout asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, SavePlan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}
"""megatron-core's metadata.json."""


@dataclass(frozen=True)
class NewChunk:
    """A block of tensor `name`, whose whole shape is `size`."""

    name: str
    size: tuple[int, ...]
    dtype: torch.dtype
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


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


def write_file(
    folder: Path, number: int, chunks: Sequence[NewChunk], make: Callable[[NewChunk], torch.Tensor]
) -> list[WriteResult]:
    """Write and flush file `number` of a checkpoint.

    Args:
        make: the numbers of a chunk, contiguous and of its shape; called in order.
    Raises:
        OSError: the disk is full.
    """
    writer = _Writer(folder)
    plans = writer.prepare_global_plan([SavePlan([])] * number + [SavePlan([_write_item(chunk) for chunk in chunks])])
    try:
        return writer.write_data(plans[number], _Planner(map(make, chunks))).wait()
    except RuntimeError as error:  # torch's archive, which cannot be ended after a failed write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def finish(folder: Path, chunks: Sequence[NewChunk], results: list[list[WriteResult]], common: dict) -> None:
    """Write what makes the files a checkpoint of megatron-core: .metadata, metadata.json and common.pt.

    Args:
        common: megatron-core's common state, such as {"content_metadata": …}.
    """
    tensors: dict[str, TensorStorageMetadata] = {}
    for chunk in chunks:
        properties = TensorProperties(dtype=chunk.dtype)
        entry = tensors.setdefault(chunk.name, TensorStorageMetadata(properties, torch.Size(chunk.size), []))
        entry.chunks.append(ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape)))
    _Writer(folder).finish(Metadata(tensors), results)
    torch.save(common, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(BACKEND), encoding="utf-8")


class _Writer(FileSystemWriter):
    """Writes items in their order: there is nothing to copy from a GPU ahead of them."""

    def __init__(self, folder: Path):
        super().__init__(folder, per_thread_copy_ahead=0)

    def storage_meta(self) -> StorageMeta:
        """Without the folder's name, which changes, and whose class loading does not let through."""
        return StorageMeta(save_id=self.save_id)


def _write_item(chunk: NewChunk) -> WriteItem:
    place = ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape))
    data = TensorWriteData(place, TensorProperties(dtype=chunk.dtype), torch.Size(chunk.size))
    return WriteItem(MetadataIndex(chunk.name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)


class _Planner(DefaultSavePlanner):
    """Hands out the tensors of a plan's items in their order."""

    def __init__(self, tensors: Iterator[torch.Tensor]):
        super().__init__()
        self._tensors = tensors

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        return next(self._tensors)


@contextmanager
def no_checksums() -> Iterator[None]:
    """The zip archives' CRC32 takes longer than writing, and nothing that loads a checkpoint looks at it."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
