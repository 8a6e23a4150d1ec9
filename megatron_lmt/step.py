"""One optimizer step, or one evaluation, of this process's part of the model through megatron-core's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, tee
from typing import NamedTuple

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_lmt.config import RunConfig
from megatron_lmt.data.batch import BatchShape, MicroBatch
from megatron_lmt.model.qwen3 import packed_seq_params
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.metrics import SampleLosses


def batch_shape(run: RunConfig) -> BatchShape:
    """How this run's global batches are divided, and this process's place in it."""
    sizes = run.parallel
    return BatchShape(
        seq_length=run.data.seq_length,
        micro_batch_size=run.train.micro_batch_size,
        global_batch_size=run.train.global_batch_size,
        data_parallel_rank=parallel.data_parallel_rank(),
        data_parallel_size=parallel.data_parallel_size(),
        context_parallel_rank=parallel.context_parallel_rank(),
        context_parallel_size=sizes.context_parallel_size,
        tensor_model_parallel_size=sizes.tensor_model_parallel_size,
        micro_batch_group=sizes.pipeline_model_parallel_size if sizes.virtual_pipeline_model_parallel_size else 1,
    )


class Gaps(NamedTuple):
    """Keys that are in a model or in a state and not in both, as a module's `load_state_dict` returns them."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class ModelChunks(list):
    """The parts of the model on a rank with virtual pipeline stages, as one for checkpoints."""

    @property
    def config(self) -> TransformerConfig:
        return self[0].config

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return chain.from_iterable(chunk.parameters() for chunk in self)

    def sharded_state_dict(self, **options) -> dict:
        return {f"model{number}": chunk.sharded_state_dict(**options) for number, chunk in enumerate(self)}

    def load_state_dict(self, state: dict, strict: bool = True) -> Gaps:
        found = [chunk.load_state_dict(state[f"model{number}"], strict) for number, chunk in enumerate(self)]
        missing, unexpected = (list(chain.from_iterable(keys)) for keys in zip(*found, strict=True))
        return Gaps(missing, unexpected)


class Trainee:
    """The model with what trains it. `heartbeat` is called before each micro batch, as a sign of life.

    Args:
        chunks: the parts of the model on this rank, one for each virtual pipeline stage.
    """

    def __init__(
        self,
        chunks: list[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        scheduler: OptimizerParamScheduler,
        device: Device,
    ):
        self.chunks = chunks
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.heartbeat: Callable[[], None] = lambda: None

    @property
    def bare_model(self) -> GPTModel | ModelChunks:
        bare = ModelChunks(chunk.module for chunk in self.chunks)
        return bare if len(bare) > 1 else bare[0]

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def compute_gradients(self, micro_batches: list[MicroBatch], flags: Sequence[float]) -> tuple[SampleLosses, list[float]]:
        """Forward and backward of one global batch.

        Args:
            micro_batches: those of this data-parallel rank.
            flags: what this process alone knows, such as 1.0 for a stop signal that reached it.
        Returns:
            the losses of the global batch, and the sum of each flag over all processes, which travels with them.
        """
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        return self._run(iter(micro_batches), len(micro_batches), False, flags)

    def apply_gradients(self) -> float:
        """Clip and step; a gradient that is not finite is left alone. Returns its norm before clipping."""
        self.optimizer.prepare_grads()
        (dense,) = self.optimizer.chained_optimizers  # a model with experts would have a second one
        clip_grad = dense.config.clip_grad
        grad_norm = float(dense.clip_grad_norm(clip_grad) if clip_grad else dense.get_grad_norm())
        if math.isfinite(grad_norm):
            self.optimizer.step_with_ready_grads()
        return grad_norm

    @torch.no_grad()
    def evaluate(self, micro_batches: Iterator[MicroBatch], num_micro_batches: int) -> SampleLosses:
        """The losses of `num_micro_batches` on each data-parallel rank, in the order in which samples are dealt."""
        return self._run(micro_batches, num_micro_batches, True, ())[0]

    def gather_parameters(self) -> None:
        """Wait for updated parameters that are still to come, before anything but a forward pass looks at them."""
        for chunk in self.chunks:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    def _run(
        self, micro_batches: Iterator[MicroBatch], number: int, forward_only: bool, flags: Sequence[float]
    ) -> tuple[SampleLosses, list[float]]:
        first = next(micro_batches)
        of_chunks = tee(chain([first], micro_batches), len(self.chunks))
        results = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=list(of_chunks),
            model=self.chunks,
            num_microbatches=number,
            seq_length=first.num_positions,
            micro_batch_size=1,
            forward_only=forward_only,
        )
        # statistic, micro batch, data-parallel rank, slot of the micro batch
        table = torch.zeros(2, number, parallel.data_parallel_size(), 2 * first.num_samples, dtype=torch.float64)
        if parallel.speaks_for_its_stage():
            mine = torch.stack([result["slots"] for result in results], dim=1)
            table[:, :, parallel.data_parallel_rank()] = mine.cpu()
        values = parallel.sum_over_all([*table.flatten().tolist(), *flags], self.device)
        sums, counts = np.array(values[: table.numel()]).reshape(2, -1, 2)
        return SampleLosses(sums, counts), values[table.numel() :]

    def _forward(self, micro_batches: Iterator[MicroBatch], model: DistributedDataParallel):
        self.heartbeat()
        batch = next(micro_batches).to(self.device.torch_device)
        output = model(
            batch.tokens,
            None,
            None,
            labels=batch.labels,
            packed_seq_params=packed_seq_params(batch.cu_seqlens, batch.max_seqlen),
        )
        return output, partial(_loss_sum, batch)


def _loss_sum(batch: MicroBatch, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """In the form that `calculate_per_token_loss` asks for: sum, number of tokens, and what to report.

    Reported is `slots`, float64 [2, 2 × samples]: sums and numbers of tokens for each slot.
    """
    # where the mask is 0, a loss that is not a number must not become one of the sum
    counted = torch.where(batch.loss_mask > 0, losses.float(), 0.0)
    values = torch.stack([counted.detach().flatten(), batch.loss_mask.flatten()]).double()
    slots = values.new_zeros(2, 2 * batch.num_samples).index_add_(1, batch.loss_slots.flatten(), values)
    return counted.sum(), batch.loss_mask.sum().to(torch.int), {"slots": slots}
