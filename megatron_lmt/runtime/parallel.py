"""Process groups, through megatron-core's parallel_state, and the few facts the trainer asks about them."""

from __future__ import annotations

import math
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from megatron_lmt.config import ParallelSection
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.meeting import FRESH_STARTS, Meeting, join

SPARE_MINUTES = 10
"""For the watchdog's last words, before collective calls end by themselves."""


def open_process_groups(
    parallel: ParallelSection,
    device: Device,
    seed: int,
    meeting: Meeting | None = None,
    longest_wait_seconds: float = 1800.0,
) -> None:
    """Join the other processes and divide them by the run file.

    Args:
        meeting: where they met; None if they have not.
        longest_wait_seconds: of one process for another. Collective calls end some time after it, and say less than the
            watchdog, which comes first.
    """
    meeting = meeting or join()
    minutes = math.ceil(longest_wait_seconds / 60) + SPARE_MINUTES
    dist.init_process_group(
        device.distributed_backend,
        store=meeting.store,
        rank=meeting.rank,
        world_size=meeting.world_size,
        timeout=timedelta(minutes=minutes),
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        distributed_timeout_minutes=minutes,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def close_process_groups() -> None:
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def become_a_fresh_process() -> None:
    """Start this program again in place of itself, with the same arguments, process id and rank; never returns.

    All processes call it together, after `close_process_groups`.
    """
    os.environ[FRESH_STARTS] = str(int(os.environ.get(FRESH_STARTS, 0)) + 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def data_parallel_rank() -> int:
    return parallel_state.get_data_parallel_rank()


def data_parallel_size() -> int:
    return parallel_state.get_data_parallel_world_size()


def context_parallel_rank() -> int:
    return parallel_state.get_context_parallel_rank()


def is_first_stage(vp_stage: int | None = None) -> bool:
    return parallel_state.is_pipeline_first_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def is_last_stage(vp_stage: int | None = None) -> bool:
    return parallel_state.is_pipeline_last_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def speaks_for_its_stage() -> bool:
    """One process of each tensor group of the last pipeline stage holds the losses that count; the others repeat them."""
    return is_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0


def sum_over_all(values: list[float], device: Device) -> list[float]:
    """Sum each value over all processes, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device.torch_device)
    dist.all_reduce(tensor)
    return tensor.tolist()
