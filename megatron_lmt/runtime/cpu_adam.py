"""AdamW for the CPU with the state layout of Transformer Engine's FusedAdam.

megatron-core falls back to `torch.optim.AdamW` where Transformer Engine is missing; with the distributed optimizer that
fallback cannot be resumed (docs/decisions.md, "Adam on the CPU"). Here, as in Transformer Engine, the step number lives
in the parameter group and the state holds `exp_avg` and `exp_avg_sq` only, so a checkpoint of either loads into the
other. The arithmetic is torch's own fused kernel.
"""

from __future__ import annotations

import torch


class FusedAdam(torch.optim.Optimizer):
    """Decoupled weight decay Adam (Loshchilov and Hutter 2019) on fp32 CPU tensors.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        adam_w_mode: must be True; the run file has no other kind.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, adam_w_mode=True, **_gpu_only):
        assert adam_w_mode, "only decoupled weight decay is implemented on the CPU"
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None, "megatron-core never passes a closure"
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            group["step"] = group.get("step", 0) + 1
            for param in params:
                if not self.state[param]:
                    self.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
            # the kernel adds nothing to these: they hold the number of this step, one tensor for each parameter
            steps = [torch.tensor(float(group["step"])) for _ in params]
            torch._fused_adamw_(
                params,
                [param.grad for param in params],
                [self.state[param]["exp_avg"] for param in params],
                [self.state[param]["exp_avg_sq"] for param in params],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
