"""Saving checkpoints, in the background of training where asked. What is in one: `checkpoint.py`.

Cost: training stands still while the state is gathered and copied to the CPU, and where it is not written in the
background, while it is written and hashed. The processes that write also hash what they wrote.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.managers import SyncManager
from pathlib import Path

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint import CheckpointException

from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import flush_to_disk, write_json_atomically
from megatron_lmt.processes import end_with_parent
from megatron_lmt.runtime.checkpoint import OPTIMIZER_FORMAT, reasons, sharded_state
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, RUN_STATE, UNFINISHED, discard
from megatron_lmt.runtime.checkpoint_manifest import commit, describe_file


def prepare_saving() -> None:
    """Start the small process through which megatron-core's writers report, before process groups and their threads.

    megatron-core would start it at the first save by spawning, which imports everything again and takes 5 to 10 s.
    """
    manager = SyncManager(ctx=multiprocessing.get_context("fork"))
    manager.start(initializer=_outlive_stop_signals_not_the_parent)
    filesystem_async._results_queue = manager.Queue()


def close_saving() -> None:
    """End that small process before this one is replaced."""
    filesystem_async._results_queue._manager.shutdown()


def _outlive_stop_signals_not_the_parent() -> None:
    # a stop signal reaches all processes of a job, and the last checkpoint still needs this one
    for stop_signal in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(stop_signal, signal.SIG_IGN)
    end_with_parent(multiprocessing.parent_process().pid)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was committed: how long that took from its start, and how long training stood still for it."""

    folder: Path
    seconds: float
    stall_seconds: float


class CheckpointSaver:
    """Writes the checkpoints of a run, one at a time. All processes call its methods together.

    Args:
        in_background: write from a forked process while training goes on. What is saved is the state at `start`: it is
            copied from the GPU first, and on a CPU the fork is the copy (the kernel copies pages as training changes them).
        check_may_commit: raises a CheckpointError if another start of the run has taken over; called before a checkpoint
            gets its name.
    """

    def __init__(self, in_background: bool, check_may_commit: Callable[[], None]):
        self.in_background = in_background
        self._check_may_commit = check_may_commit
        self._calls = AsyncCallsQueue()
        self._writing: _Writing | None = None
        self._unreported_stall = 0.0

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint was started and is not committed."""
        return self._writing is not None

    def start(self, folder: Path, model: GPTModel, optimizer: MegatronOptimizer, run_state: dict, hf_files: Path) -> None:
        """Begin to write a checkpoint; `finish` commits it.

        Args:
            folder: where; what is there already is replaced.
            run_state: JSON-ready: `iteration`, `identity` with the model's `shape`, `dtype`.
            hf_files: folder with config.json and the tokenizer, copied along.
        Raises:
            CheckpointError: it could not be written.
        """
        assert self._writing is None, f"{folder} was started before {self._writing.folder} was finished"
        began = time.perf_counter()
        self._writing = _Writing(folder, run_state, hf_files, self._check_may_commit)
        self._calls.schedule_async_request(self._writing.prepare(model, optimizer))
        if not self.in_background:
            self._finalize(wait=True)
        self._count_stall(began)

    def finish(self, wait: bool) -> Saved | None:
        """Commit the checkpoint that is being written once all processes have written their parts.

        Returns:
            None when there is none, or it takes longer and `wait` is false.
        Raises:
            CheckpointError: it could not be written.
        """
        if not self.is_writing:
            return None
        began = time.perf_counter()
        self._finalize(wait)
        self._count_stall(began)
        writing = self._writing
        if not writing.is_complete:
            return None
        self._writing = None
        return Saved(writing.folder, time.perf_counter() - writing.began, writing.stall_seconds)

    def take_stall_seconds(self) -> float:
        """How long training stood still for checkpoints since the last call of this."""
        seconds, self._unreported_stall = self._unreported_stall, 0.0
        return seconds

    def _count_stall(self, began: float) -> None:
        seconds = time.perf_counter() - began
        self._writing.stall_seconds += seconds
        self._unreported_stall += seconds

    def _finalize(self, wait: bool) -> None:
        try:
            self._calls.maybe_finalize_async_calls(blocking=wait)
        except CheckpointException as error:  # torch's, which is no Exception
            raise self._writing.failed(reasons(error)) from None


class _Writing:
    """One checkpoint on its way to disk."""

    def __init__(self, folder: Path, run_state: dict, hf_files: Path, check_may_commit: Callable[[], None]):
        self.folder, self.run_state, self.hf_files = folder, run_state, hf_files
        self._check_may_commit = check_may_commit
        self.began, self.stall_seconds, self.is_complete = time.perf_counter(), 0.0, False
        name = [f"{UNFINISHED}{folder.name}-{uuid.uuid4().hex[:8]}"]
        dist.broadcast_object_list(name)
        self.unfinished = folder.with_name(name[0])
        self._hashes: Connection | None = None

    def prepare(self, model: GPTModel, optimizer: MegatronOptimizer) -> AsyncRequest:
        """Plan the writing and copy to the CPU what is not there."""
        if dist.get_rank() == 0:
            self.unfinished.mkdir(parents=True)
        dist.barrier()
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy(), group)
        state = sharded_state(model, optimizer, is_loading=False)
        request = dist_checkpointing.save(
            state, str(self.unfinished), strategy, async_sharded_save=True, content_metadata=OPTIMIZER_FORMAT
        )
        request.add_finalize_fn(self._commit)
        if request.async_fn is None:
            return request
        self._hashes, report = multiprocessing.Pipe(duplex=False)
        return request._replace(async_fn=partial(_write_and_hash, request.async_fn, report))

    def _commit(self) -> None:
        """After megatron-core's part: add ours, and give the folder its name."""
        written = self._hashes.recv() if self._hashes and self._hashes.poll() else {}
        of_all = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(written, of_all)
        problem = [None]
        if dist.get_rank() == 0:
            try:
                self._commit_on_first(of_all)
            except (OSError, CheckpointError) as error:
                problem = [str(error)]
        dist.broadcast_object_list(problem)
        if problem[0]:
            raise self.failed(problem[0])
        self.is_complete = True

    def _commit_on_first(self, written: list[dict]) -> None:
        shutil.copytree(self.hf_files, self.unfinished / HF_FOLDER)
        write_json_atomically(self.unfinished / RUN_STATE, self.run_state)
        commit(self.unfinished, {name: known for files in written for name, known in files.items()})
        flush_to_disk(self.unfinished)
        self._check_may_commit()
        if self.folder.exists():
            discard(self.folder)
        self.unfinished.rename(self.folder)
        flush_to_disk(self.folder.parent)

    def failed(self, reason: str) -> CheckpointError:
        """The error, after tidying up."""
        free = shutil.disk_usage(self.folder.parent).free
        if dist.get_rank() == 0:
            shutil.rmtree(self.unfinished, ignore_errors=True)
        # torch does not pass on what the system said of a file that cannot grow
        hint = ", which is how torch puts that a file could not grow" if "unexpected pos" in reason else ""
        return CheckpointError(f"{self.folder} could not be written, with {free / 1e9:.1f} GB free: {reason}{hint}")


def _write_and_hash(write: Callable, report: Connection, rank: int, buckets: list, results) -> None:
    """In a process of its own: megatron-core's writing, and then the hashes of the files that were written.

    megatron-core reports what could not be written; such files are passed over here.
    """
    _outlive_stop_signals_not_the_parent()
    os.register_at_fork(after_in_child=partial(end_with_parent, os.getpid()))  # megatron-core forks one for each file
    write(rank, buckets, results)
    files = {name: Path(path) for path, name, _ in buckets}
    report.send({name: describe_file(path) for name, path in files.items() if path.is_file()})
