"""Checkpoints: megatron-core's distributed format, plus what makes them safe to use.

    checkpoints/iter_0000100/
        *.distcp .metadata common.pt metadata.json   megatron-core's, fully reshardable
        run_state.json                               iteration, model shape, resolved run, data cursors, versions
        huggingface/                                 config.json and tokenizer, so that the model can be exported
        COMMITTED.json                               size of every file; written last, atomically

A folder without COMMITTED.json is what a killed save left behind: it is never loaded, and the next save of that
iteration replaces it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import shutil
import signal
from multiprocessing.managers import SyncManager
from pathlib import Path

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer

from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.runtime.checkpoint_folder import COMMIT_MARKER, HF_FOLDER, RUN_STATE, committed

OPTIMIZER_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


def prepare_saving() -> None:
    """Start the small process through which megatron-core's writers report, before process groups and their threads.

    megatron-core would start it at the first save by spawning, which imports everything again and takes 5 to 10 s.
    """
    manager = SyncManager(ctx=multiprocessing.get_context("fork"))
    manager.start(initializer=_outlive_stop_signals_not_the_parent)
    filesystem_async._results_queue = manager.Queue()


def _outlive_stop_signals_not_the_parent() -> None:
    # a stop signal reaches all processes of a job, and the last checkpoint still needs this one
    for stop_signal in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(stop_signal, signal.SIG_IGN)
    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def save_checkpoint(
    folder: Path, model: GPTModel, optimizer: MegatronOptimizer | None, run_state: dict, hf_files: Path
) -> None:
    """Write a checkpoint and commit it. All processes call it together.

    Args:
        folder: where; what is there already is replaced.
        optimizer: None writes a model-only checkpoint.
        run_state: JSON-ready: `iteration`, `identity` with the model's `shape`, `dtype`.
        hf_files: folder with config.json and the tokenizer, copied along.
    """
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy(), group)
    state = _sharded_state(model, optimizer, is_loading=False)
    dist_checkpointing.save(state, str(folder), strategy, content_metadata=OPTIMIZER_FORMAT)
    if dist.get_rank() == 0:
        shutil.copytree(hf_files, folder / HF_FOLDER)
        write_json_atomically(folder / RUN_STATE, run_state)
        _commit(folder)
    dist.barrier()


def _commit(folder: Path) -> None:
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    write_json_atomically(folder / COMMIT_MARKER, {"bytes": sizes})


def load_checkpoint(folder: Path, model: GPTModel, optimizer: MegatronOptimizer | None) -> None:
    """Load weights, and with an optimizer its state, under any parallel layout. All processes call it together.

    Raises:
        CheckpointError: parameters of this model are not in the checkpoint.
    """
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), group)
    wanted = _sharded_state(model, optimizer, is_loading=True)
    # megatron-core calls keys "unexpected" that are wanted and not in the checkpoint
    state, _, unexpected = dist_checkpointing.load(wanted, str(folder), strategy, strict="return_all")
    # Transformer Engine's norms own empty extra states that torch's layers never write
    missing = sorted(key for key in unexpected if not key.endswith("_extra_state"))
    if missing:
        raise CheckpointError([f"{folder}: {key} is not in this checkpoint" for key in missing])
    model.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])


def _sharded_state(model: GPTModel, optimizer: MegatronOptimizer | None, is_loading: bool) -> dict:
    metadata = {
        **OPTIMIZER_FORMAT,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    state = {"model": model.sharded_state_dict(metadata=metadata)}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state["model"], is_loading=is_loading, metadata=metadata)
    return state


def delete_all_but_newest(checkpoints: Path, keep: int) -> None:
    """Delete the oldest committed checkpoints; the commit marker goes first, so that no half of one looks complete."""
    for folder in committed(checkpoints)[:-keep]:
        (folder / COMMIT_MARKER).unlink()
        shutil.rmtree(folder)
