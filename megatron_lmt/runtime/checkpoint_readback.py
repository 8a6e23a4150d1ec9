"""Reading a checkpoint back right after it was saved: every tensor against the one in memory, bit for bit.

It finds what hashes cannot: tensors that were wrong when they were written. Cost: the state once more in memory, and the
time of loading it from the disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer

from megatron_lmt.errors import CheckpointError, with_advice
from megatron_lmt.runtime.checkpoint import damaged_tensor_files, load_tensors, sharded_state
from megatron_lmt.runtime.checkpoint_folder import DAMAGED
from megatron_lmt.runtime.checkpoint_manifest import forget_cached_pages, read_manifest


def verify_saved(folder: Path, model: GPTModel, optimizer: MegatronOptimizer) -> None:
    """Compare a checkpoint with the state that it was made of. All processes call it together.

    Raises:
        CheckpointError: they differ; the folder is put aside, so that the next start does not take it.
    """
    if dist.get_rank() == 0:
        for name in read_manifest(folder):
            forget_cached_pages(folder / name)
    dist.barrier()
    problems = damaged_tensor_files(folder) or _differing_tensors(folder, sharded_state(model, optimizer, is_loading=False))
    if not problems:
        return
    aside = folder.with_name(f"{DAMAGED}{folder.name}")
    if dist.get_rank() == 0:
        folder.rename(aside)
    dist.barrier()
    raise CheckpointError(
        with_advice(problems, f"{folder} is not what was in memory when it was saved; it is kept as {aside}")
    )


def _differing_tensors(folder: Path, kept: dict) -> list[str]:
    loaded = load_tensors(folder, _without_content(kept))
    mine = [f"{folder}: {name}: not as in memory" for name, old, new in _pairs(kept, loaded) if not torch.equal(old, new)]
    of_all = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, mine)
    return sorted({problem for problems in of_all for problem in problems})


def _without_content(state: Any) -> Any:
    """The same structure with tensors of NaN, for loading into: what is not loaded cannot seem right."""
    if isinstance(state, dict):
        return {key: _without_content(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_without_content(value) for value in state]
    if isinstance(state, (ShardedTensor, ShardedTensorFactory)):
        return dataclasses.replace(state, data=torch.full_like(state.data.detach(), float("nan")))
    return state


def _pairs(kept: Any, loaded: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each tensor's name, as it is in memory, and as it was loaded."""
    if isinstance(kept, dict):
        for key, value in kept.items():
            yield from _pairs(value, loaded[key])
    elif isinstance(kept, list):
        for old, new in zip(kept, loaded, strict=True):
            yield from _pairs(old, new)
    elif isinstance(kept, (ShardedTensor, ShardedTensorFactory)):
        yield kept.key, kept.data.detach(), loaded
