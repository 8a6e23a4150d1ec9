"""Whether two checkpoints hold the same tensors, however they are cut into chunks and their vocabulary is padded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

from megatron_lmt.conversion.torch_dist_reader import TorchDistReader
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import as_bytes
from megatron_lmt.model.hf_mapping import EMBEDDING_PARAMETER, HEAD_PARAMETER

BLOCK_ROWS = 4096


def check_same_tensors(first: TorchDistReader, second: TorchDistReader, names: Iterable[str], vocab_size: int) -> int:
    """Compare tensors by their hashes, without the rows that pad a vocabulary; returns how many there are.

    Raises:
        CheckpointError: some differ; they are listed.
    """
    names = sorted(names)
    different = [name for name in names if _digest(first, name, vocab_size) != _digest(second, name, vocab_size)]
    if different:
        raise CheckpointError([f"{second.folder}: {name} is not what {first.folder} holds" for name in different])
    return len(names)


def _digest(reader: TorchDistReader, name: str, vocab_size: int) -> str:
    stored = reader.tensors[name]
    size = list(stored.shape)
    if name.endswith((EMBEDDING_PARAMETER, HEAD_PARAMETER)):
        size[0] = min(size[0], vocab_size)
    digest = hashlib.sha256(f"{stored.dtype} {size}".encode())
    steps = {1: size, 2: [BLOCK_ROWS, *size[1:]], 3: [1, BLOCK_ROWS, *size[2:]]}[len(size)]  # of three, one is the layer
    for offsets in itertools.product(*(range(0, n, step) for n, step in zip(size, steps, strict=True))):
        block = tuple(min(step, n - o) for o, n, step in zip(offsets, size, steps, strict=True))
        digest.update(as_bytes(reader.block(name, offsets, block)))
    return digest.hexdigest()
