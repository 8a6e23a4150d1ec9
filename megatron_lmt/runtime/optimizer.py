"""megatron-core's distributed data parallelism, distributed optimizer and schedule, from the run file."""

from __future__ import annotations

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import get_standard_config_overrides as weight_decay_exemptions
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_lmt.config import RunConfig


def wrap_data_parallel(model: GPTModel) -> DistributedDataParallel:
    """Gradients are summed in fp32 and reduced over the data-parallel ranks; each keeps a part of the optimizer."""
    config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    return DistributedDataParallel(model.config, config, model)


def build_optimizer(model: DistributedDataParallel, run: RunConfig, bf16: bool) -> MegatronOptimizer:
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
        params_dtype=model.config.params_dtype,
        use_distributed_optimizer=True,
    )
    optimizer = get_megatron_optimizer(config, [model], config_overrides=weight_decay_exemptions(config))
    for distributed_optimizer in getattr(optimizer, "chained_optimizers", [optimizer]):
        _keep_padding_between_buckets(distributed_optimizer)
    model.config.grad_scale_func = optimizer.scale_loss
    model.config.no_sync_func = model.no_sync
    model.config.finalize_model_grads_func = finalize_model_grads
    return optimizer


def _keep_padding_between_buckets(optimizer: DistributedOptimizer) -> None:
    """Mend what this optimizer hands to a checkpoint.

    megatron-core 0.16 joins the gathered buckets of a buffer without the padding between them, and then cuts parameters
    out of the result at positions that count the padding: with several buckets (a tied embedding on the last pipeline
    stage has its own) parameters are saved shifted. See docs/decisions.md, "Optimizer state in checkpoints".
    """
    gather = optimizer.get_parameter_state_dp_zero

    def gather_with_padding(*args, **kwargs) -> dict:
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
