"""Reads the two pickles of a distributed checkpoint without executing anything in them.

Whatever they name becomes a `Record`, which only holds attributes; torch.distributed is not even imported.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.conversion.torch_archive import STORAGES
from megatron_lmt.errors import CheckpointError


class Record:
    """An object of a pickle, with its attributes and nothing of its class; also for whatever is not needed."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.state = state
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, *_):
        pass

    def append(self, _):
        pass

    def extend(self, _):
        pass


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in an archive of `torch.save`: `offset` is numbers from the start of the record `data/<key>`.

    `dtype` is torch's name; None for one that models are not stored in here.
    """

    key: str
    dtype: str | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def is_contiguous(self) -> bool:
        """As torch sees it: strides of dimensions that have one index do not matter."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.shape
            expected *= size
        return True


def read_metadata(path: Path) -> Record:
    """The `.metadata` of a distributed checkpoint.

    Raises:
        CheckpointError: no such file, or not that.
    """
    try:
        metadata = _Unpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the folder is not a distributed checkpoint (torch_dist)") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise CheckpointError(f"{path}: cannot be read, it is damaged ({error!r})") from None
    if not isinstance(getattr(metadata, "storage_data", None), dict):
        raise CheckpointError(f"{path}: not the metadata of a distributed checkpoint")
    return metadata


def read_saved_tensor(pickled: bytes) -> SavedTensor:
    """What the pickle in a `torch.save` archive of one tensor says about it.

    Raises:
        ValueError: it holds something else.
    """
    saved = _Unpickler(io.BytesIO(pickled)).load()
    if not isinstance(saved, SavedTensor):
        raise ValueError("not a tensor")
    return saved


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _saved_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch" and name.islower():  # a dtype
            return name
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return Record

    def persistent_load(self, identifier: tuple) -> tuple[str, str | None]:
        """A storage: its record, and the dtype of its numbers."""
        _, dtype, key, *_ = identifier
        return key, dtype if isinstance(dtype, str) else None


def _saved_tensor(storage: tuple, offset: int, shape: tuple, strides: tuple, *_) -> SavedTensor:
    key, dtype = storage
    return SavedTensor(key, dtype, tuple(shape), tuple(strides), offset)
