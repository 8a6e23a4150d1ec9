"""Loading checkpoints without executing what is in them.

torch's distributed checkpointing unpickles `.metadata` and the small objects among the tensors as they come, and a pickle
can call anything. Here only the few classes that torch itself writes there are let through. `common.pt` is read by torch
with the same care already (`weights_only`), tensors as well.

Transformer Engine unpickles its own FP8 state, a byte tensor to this room, when it is given to its layers.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies import torch as strategy
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from megatron_lmt.errors import CheckpointError

METADATA_CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
}


def _refusal(wanted: str | pickle.UnpicklingError) -> str:
    if isinstance(wanted, pickle.UnpicklingError):  # torch's, several lines long
        found = re.search(r"GLOBAL (\S+)", str(wanted))
        wanted = found.group(1) if found else str(wanted)
    return f"it wants to call {wanted}, which no checkpoint needs: do not trust where it is from"


@contextmanager
def without_executing_pickles() -> Iterator[None]:
    """While this lasts, megatron-core's loading reads `.metadata` and objects through the classes of this room."""
    replaced = {
        "FileSystemReader": _plain(strategy.FileSystemReader),
        "CachedMetadataFileSystemReader": _plain(strategy.CachedMetadataFileSystemReader),
        "MCoreLoadPlanner": _PlainLoadPlanner,
    }
    originals = {name: getattr(strategy, name) for name in replaced}
    for name, replacement in replaced.items():
        setattr(strategy, name, replacement)
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"common.pt: {_refusal(error)}") from None
    finally:
        for name, original in originals.items():
            setattr(strategy, name, original)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in METADATA_CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise CheckpointError(_refusal(f"{module}.{name}"))


def _plain(reader: type) -> type:
    """A reader of checkpoint files whose `.metadata` cannot call anything. It is cached: it is asked for often."""

    class PlainReader(reader):
        _metadata: Metadata | None = None

        def read_metadata(self, *_args, **_kwargs) -> Metadata:
            if self._metadata is None:
                path = self.path / ".metadata"
                with open(path, "rb") as file:
                    try:
                        self._metadata = _PlainUnpickler(file).load()
                    except CheckpointError as error:
                        raise CheckpointError(f"{path}: {error}") from None
                self._metadata.storage_meta = self._metadata.storage_meta or StorageMeta()
                self._metadata.storage_meta.load_id = self.load_id
            return self._metadata

    return PlainReader


class _PlainLoadPlanner(strategy.MCoreLoadPlanner):
    def load_bytes(self, read_item, value) -> None:
        """Refuse an object that is more than plain data; what passes is read again by torch."""
        try:
            torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{read_item.storage_index.fqn}: {_refusal(error)}") from None
        value.seek(0)
        super().load_bytes(read_item, value)
