"""megatron-core's distributed data parallelism, distributed optimizer and schedule, from the run file."""

from __future__ import annotations

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import get_standard_config_overrides as weight_decay_exemptions
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
    model.config.grad_scale_func = optimizer.scale_loss
    model.config.no_sync_func = model.no_sync
    model.config.finalize_model_grads_func = finalize_model_grads
    return optimizer


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
