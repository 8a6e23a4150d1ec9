"""What a run will cost, from its run file and the model's shape alone: memory of a GPU, steps, tokens, GPU-hours, disk."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_lmt.config import RunConfig
from megatron_lmt.model.memory import MemoryEstimate, estimate_memory
from megatron_lmt.model.shape import ModelShape
from megatron_lmt.runtime.retention import SpaceNeeded, space_needed

ASSUMED_TFLOPS_PER_GPU = 400.0
"""Of one H100 in bf16, 40 % of its peak. An assumption: metrics.jsonl has yours as `tflops_per_gpu`."""


@dataclass(frozen=True)
class Estimate:
    """`most_tokens` is what full samples would hold; packing leaves under 1 % of them empty."""

    num_parameters: int
    world_size: int
    data_parallel_size: int
    memory: MemoryEstimate
    train_iters: int
    most_tokens: int
    gpu_hours: float
    space: SpaceNeeded

    @property
    def lines(self) -> list[str]:
        days = self.gpu_hours / self.world_size / 24
        return [
            f"parameters: {self.num_parameters:,}",
            f"GPUs: {self.world_size:,}, data parallel {self.data_parallel_size:,}",
            f"memory of a GPU: about {self.memory}",
            f"steps: {self.train_iters:,}; tokens: at most {self.most_tokens:,}",
            f"GPU-hours: about {self.gpu_hours:,.0f} at {ASSUMED_TFLOPS_PER_GPU:g} TFLOP/s per GPU, {days:,.1f} days on "
            f"{self.world_size:,}",
            str(self.space),
        ]


def estimate(run: RunConfig, shape: ModelShape, world_size: int) -> Estimate:
    """
    Args:
        world_size: GPUs of the real job.
    """
    tokens = run.train_iters * run.train.global_batch_size * run.data.seq_length
    # attention is left out: packed documents are short, and it is a few percent at 2,048 positions
    flops = 6 * shape.num_matmul_parameters * tokens
    return Estimate(
        shape.num_parameters,
        world_size,
        world_size // run.parallel.model_parallel_size,
        estimate_memory(run, shape, world_size),
        run.train_iters,
        tokens,
        flops / (ASSUMED_TFLOPS_PER_GPU * 1e12) / 3600,
        space_needed(run, shape),
    )
