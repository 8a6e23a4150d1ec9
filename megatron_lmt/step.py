"""One optimizer step, or one evaluation, of this process's part of the model through megatron-core's schedule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_lmt.data.loader import MicroBatch
from megatron_lmt.model.qwen3 import packed_seq_params
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.parallel import speaks_for_its_stage, sum_over_all


class Trainee:
    """The model with what trains it.

    Args:
        positions: of one micro batch, micro_batch_size × seq_length.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        scheduler: OptimizerParamScheduler,
        device: Device,
        positions: int,
    ):
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = device
        self.positions = positions

    @property
    def bare_model(self) -> GPTModel:
        return self.model.module

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def compute_gradients(self, micro_batches: list[MicroBatch], stop_flag: float) -> tuple[float, bool]:
        """Forward and backward of one global batch.

        Args:
            micro_batches: those of this data-parallel rank.
            stop_flag: 1.0 when a stop signal reached this process. It travels with the loss.
        Returns:
            the mean loss per predicted token over the global batch, and whether any process was told to stop.
        """
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss_sum, num_tokens, stop_flags = self._run(iter(micro_batches), len(micro_batches), False, stop_flag)
        return loss_sum / num_tokens, stop_flags > 0

    def apply_gradients(self) -> float:
        """Clip, step and move the schedule on; returns the norm of the gradient before clipping."""
        _, grad_norm, _ = self.optimizer.step()
        self.scheduler.step(increment=1)
        return float(grad_norm)

    @torch.no_grad()
    def evaluate(self, micro_batches: Iterator[MicroBatch], num_micro_batches: int) -> tuple[float, float]:
        """Sum of the losses and number of predicted tokens over all processes."""
        loss_sum, num_tokens, _ = self._run(micro_batches, num_micro_batches, True, 0.0)
        return loss_sum, num_tokens

    def _run(self, micro_batches: Iterator[MicroBatch], number: int, forward_only: bool, flag: float) -> list[float]:
        losses = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=micro_batches,
            model=[self.model],
            num_microbatches=number,
            seq_length=self.positions,
            micro_batch_size=1,
            forward_only=forward_only,
        )
        mine = losses if speaks_for_its_stage() else []
        loss_sum = sum(float(loss["loss_sum"]) for loss in mine)
        num_tokens = sum(int(loss["num_tokens"]) for loss in mine)
        return sum_over_all([loss_sum, num_tokens, flag], self.device)

    def _forward(self, micro_batches: Iterator[MicroBatch], model: DistributedDataParallel):
        batch = next(micro_batches).to(self.device.torch_device)
        output = model(
            batch.tokens,
            None,
            None,
            labels=batch.labels,
            packed_seq_params=packed_seq_params(batch.cu_seqlens, batch.max_seqlen),
        )
        return output, partial(_loss_sum, batch.loss_mask)


def _loss_sum(loss_mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """In the form that `calculate_per_token_loss` asks for: sum, number of tokens, and what to report."""
    loss_sum = (losses.float() * loss_mask).sum()
    num_tokens = loss_mask.sum().to(torch.int)
    return loss_sum, num_tokens, {"loss_sum": loss_sum.detach(), "num_tokens": num_tokens}
