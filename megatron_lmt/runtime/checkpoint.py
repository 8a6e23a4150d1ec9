"""Checkpoints: megatron-core's distributed format, plus what makes them safe to use.

    checkpoints/iter_0000100/
        *.distcp .metadata common.pt metadata.json   megatron-core's, fully reshardable
        run_state.json                               iteration, model shape, resolved run, data cursors, versions
        huggingface/                                 config.json and tokenizer, so that the model can be exported
        COMMITTED.json                               size and sha256 of every file; written last, atomically

A checkpoint is written in a folder of its own, `.unfinished-iter_0000100-…`, and gets its name when it is complete: what a
killed save leaves behind, or still writes, is never loaded and in nobody's way.

Loading is here, saving in `checkpoint_saver.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint import CheckpointException

from megatron_lmt.errors import CheckpointError
from megatron_lmt.runtime.checkpoint_folder import refuse_if
from megatron_lmt.runtime.checkpoint_manifest import hash_problems, read_manifest, tensor_files
from megatron_lmt.runtime.plain_loading import without_executing_pickles

EXTRA_STATE = "_extra_state"
"""What Transformer Engine's layers keep beside their weights, for FP8, and torch's layers never write. They do without."""

OPTIMIZER_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


def load_checkpoint(folder: Path, model: GPTModel, optimizer: MegatronOptimizer | None) -> None:
    """Load weights, and with an optimizer its state, under any parallel layout. All processes call it together.

    The files are compared with their hashes first, each by one process.

    Raises:
        CheckpointError: a file was damaged, or parameters of this model are not in the checkpoint.
    """
    refuse_if(damaged_tensor_files(folder), folder)
    state = load_tensors(folder, sharded_state(model, optimizer, is_loading=True))
    found = model.load_state_dict(state["model"], strict=False)
    if gaps := [key for key in found.missing_keys if not key.endswith(EXTRA_STATE)] + found.unexpected_keys:
        raise CheckpointError([f"{folder}: {key} is in the model or in the checkpoint, but not in both" for key in gaps])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])


def damaged_tensor_files(folder: Path) -> list[str]:
    """What is wrong with the files of tensors, the same on all processes; each of these reads a part of them."""
    files = read_manifest(folder)
    mine = sorted(tensor_files(files))[dist.get_rank() :: dist.get_world_size()]
    of_all = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, hash_problems(folder, files, mine))
    return [problem for problems in of_all for problem in problems]


def load_tensors(folder: Path, wanted: dict) -> dict:
    """What `wanted` names, in its structure, from the files.

    Args:
        wanted: from `sharded_state`; its tensors are written over.
    Raises:
        CheckpointError: some of it is not in the checkpoint, or the checkpoint wants to call something.
    """
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), group)
    try:
        with without_executing_pickles():
            # megatron-core calls keys "unexpected" that are wanted and not in the checkpoint
            state, _, unexpected = dist_checkpointing.load(wanted, str(folder), strategy, strict="return_all")
    except CheckpointException as error:
        raise CheckpointError(f"{folder} could not be loaded: {reasons(error)}") from None
    missing = sorted(key for key in unexpected if not key.endswith(EXTRA_STATE))
    if missing:
        raise CheckpointError([f"{folder}: {key} is not in this checkpoint" for key in missing])
    return state


def sharded_state(model: GPTModel, optimizer: MegatronOptimizer | None, is_loading: bool) -> dict:
    """This process's tensors of model and optimizer, each with its place in the whole, in megatron-core's form."""
    metadata = {
        **OPTIMIZER_FORMAT,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    state = {"model": model.sharded_state_dict(metadata=metadata)}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state["model"], is_loading=is_loading, metadata=metadata)
    return state


def reasons(error: CheckpointException) -> str:
    """What went wrong on any process; torch's error is no Exception, and only the first process knows the reasons."""
    found = {str(exception) for exception, _ in error.failures.values()}
    return "; ".join(sorted(found)) or "the first process says why"
