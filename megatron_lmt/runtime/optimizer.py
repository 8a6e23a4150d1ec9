"""megatron-core's distributed data parallelism, distributed optimizer and schedule, from the run file."""

from __future__ import annotations

from collections.abc import Callable

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import get_standard_config_overrides as weight_decay_exemptions
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_lmt.config import RunConfig
from megatron_lmt.runtime.device import Device


def wrap_data_parallel(chunks: list[GPTModel], run: RunConfig, device: Device) -> list[DistributedDataParallel]:
    """Gradients are summed in fp32 and reduced over the data-parallel ranks; each keeps a part of the optimizer.

    Args:
        chunks: the parts of the model on this rank, one for each virtual pipeline stage.
    """
    overlap_reduce, overlap_gather = run.parallel.overlap_grad_reduce, run.parallel.overlap_param_gather
    if overlap_reduce is None:
        overlap_reduce = device.is_gpu or bool(overlap_gather)
    if overlap_gather is None:
        overlap_gather = device.is_gpu and overlap_reduce
    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap_reduce,
        overlap_param_gather=overlap_gather,
        fp8_param_gather=run.fp8 is not None and run.fp8.param_gather,
    )
    return [
        # parts that are reached later need no buckets: their communication is not on the critical path
        DistributedDataParallel(chunk.config, config, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]


def build_optimizer(chunks: list[DistributedDataParallel], run: RunConfig, bf16: bool) -> MegatronOptimizer:
    """AdamW with fp32 main parameters, sharded over the data-parallel ranks; vectors (norms) do not decay."""
    section = run.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=section.lr,
        min_lr=section.min_lr,
        weight_decay=section.weight_decay,
        adam_beta1=section.adam_beta1,
        adam_beta2=section.adam_beta2,
        adam_eps=section.adam_eps,
        clip_grad=section.clip_grad,
        bf16=bf16,
        params_dtype=chunks[0].config.params_dtype,
        use_distributed_optimizer=True,
        fp8_recipe=run.fp8.recipe if run.fp8 else None,
        overlap_param_gather=chunks[0].ddp_config.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(config, chunks, config_overrides=weight_decay_exemptions(config))
    for distributed_optimizer in optimizer.chained_optimizers:
        _mend_what_is_saved(distributed_optimizer)
    for chunk in chunks:
        chunk.config.grad_scale_func = optimizer.scale_loss
        chunk.config.finalize_model_grads_func = finalize_model_grads
        chunk.config.no_sync_func = _one_or_all([chunk.no_sync for chunk in chunks])
        if chunk.ddp_config.overlap_grad_reduce:
            chunk.config.grad_sync_func = _one_or_all([chunk.start_grad_sync for chunk in chunks])
    return optimizer


def _one_or_all(functions: list[Callable]) -> Callable | list[Callable]:
    """As megatron-core's schedules want it: a list only with virtual pipeline stages."""
    return functions if len(functions) > 1 else functions[0]


def _mend_what_is_saved(optimizer: DistributedOptimizer) -> None:
    """Mend what this optimizer hands to a checkpoint.

    megatron-core 0.16 joins the gathered buckets of a buffer without the padding between them, and then cuts parameters
    out of the result at positions that count the padding: with several buckets (a tied embedding on the last pipeline
    stage has its own) parameters are saved shifted. See docs/decisions.md, "Optimizer state in checkpoints".
    It also wants the moments to be there, which Adam makes in its first step: all until now may have been skipped.
    """
    gather = optimizer.get_parameter_state_dp_zero

    def gather_with_padding(*args, **kwargs) -> dict:
        optimizer.init_state_fn(optimizer.optimizer, optimizer.config)  # does nothing where they are there
        state = gather(*args, **kwargs)
        for number, buffer in enumerate(optimizer.buffers):
            for tensors in state[number].values():
                for key in ("param", "exp_avg", "exp_avg_sq"):
                    tensors[key] = _at_bucket_offsets(tensors[key], buffer.buckets)
        return state

    optimizer.get_parameter_state_dp_zero = gather_with_padding


def _at_bucket_offsets(joined: torch.Tensor, buckets: list) -> torch.Tensor:
    padded = joined.new_zeros(buckets[-1].offset + buckets[-1].grad_data.numel())
    start = 0
    for bucket in buckets:
        padded[bucket.offset : bucket.offset + bucket.numel_unpadded] = joined[start : start + bucket.numel_unpadded]
        start += bucket.numel_unpadded
    return padded


def build_scheduler(optimizer: MegatronOptimizer, run: RunConfig) -> OptimizerParamScheduler:
    """Linear warm-up from 0, then the run file's decay. One scheduler step is one iteration."""
    section = run.optimizer
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=section.lr,
        min_lr=section.min_lr,
        lr_warmup_steps=run.lr_warmup_iters,
        lr_decay_steps=run.train_iters,
        lr_decay_style=section.lr_decay_style,
        start_wd=section.weight_decay,
        end_wd=section.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
