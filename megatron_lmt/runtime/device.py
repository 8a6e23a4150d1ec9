"""The only place that knows which device a run uses.

On a GPU nothing is changed. On a CPU, unmodified megatron-core is made to run with gloo by redirecting the CUDA calls
that are hard-coded in it: `device="cuda"` in tensor factories, `Tensor.cuda`, `Tensor.type`, and the parts of
`torch.cuda` that it calls on every step. Packages that need a GPU driver (Transformer Engine, apex, flash-attn) are
hidden first: installed on a machine without a GPU they import, and fail in the middle of a step.

`open_device` must run before megatron-core is imported, because it binds `torch.compile` and Transformer Engine then.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import torch

from megatron_lmt.errors import MissingExtraError, UserError
from megatron_lmt.machine import Machine, version_numbers

GPU_ONLY_PACKAGES = ("transformer_engine", "apex", "flash_attn")
PEAK_BF16_TFLOPS = {"A100": 312.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "B200": 2250.0}
"""Part of a GPU's name → bf16 TFLOP/s without sparsity (NVIDIA's data sheets); the first that fits counts."""
TENSOR_FACTORIES = (
    "arange empty empty_like full full_like ones ones_like rand randint randn randn_like tensor zeros zeros_like"
).split()


@dataclass(frozen=True)
class Device:
    """Where this process computes.

    `kind` is "cuda" or "cpu"; `torch_device` is this process's own device.
    """

    kind: str
    torch_device: torch.device

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def distributed_backend(self) -> str:
        return "nccl" if self.is_gpu else "gloo"

    @property
    def bf16_by_default(self) -> bool:
        """bf16 on GPU; fp32 on CPU, where bf16 is about 18 times slower without AMX (docs/decisions.md)."""
        return self.is_gpu

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.torch_device) if self.is_gpu else "CPU"

    @property
    def peak_tflops(self) -> float | None:
        """bf16 TFLOP/s of this device without sparsity; None where it is not known, as on a CPU."""
        return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in self.name), None)

    def synchronize(self) -> None:
        """Wait for the device, so that a wall time measured afterwards is true."""
        if self.is_gpu:
            torch.cuda.synchronize()


def find_machine() -> Machine:
    """What there is for settings that only work on a GPU."""
    is_gpu = torch.cuda.is_available()
    engine = find_spec("transformer_engine") is not None
    return Machine(
        gpu_capability=torch.cuda.get_device_capability() if is_gpu else None,
        transformer_engine=version_numbers(version("transformer_engine")) if engine else None,
        cuda=version_numbers(torch.version.cuda) if torch.version.cuda else None,
    )


def open_device() -> Device:
    """Choose the device of this process and make megatron-core ready for it. Calling it again changes nothing.

    Raises:
        MissingExtraError: there is a GPU but no Transformer Engine.
    """
    if torch.cuda.is_available():
        if find_spec("transformer_engine") is None:
            raise MissingExtraError("transformer-engine", "gpu", "training on a GPU")
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(local_rank)
        return Device("cuda", torch.device("cuda", local_rank))
    if not getattr(torch.cuda, "redirected_to_cpu", False):
        redirect_cuda_to_cpu()
        torch.cuda.redirected_to_cpu = True
    return Device("cpu", torch.device("cpu"))


def redirect_cuda_to_cpu() -> None:
    """Point every CUDA call of megatron-core's training path at the CPU, for the whole process."""
    if "megatron.core" in sys.modules:
        raise UserError("megatron.core was imported before open_device(): import it inside functions, after the device")
    for package in GPU_ONLY_PACKAGES:
        sys.modules[package] = None  # a later import raises ImportError, which megatron-core handles
    torch.compile = _identity_decorator
    _redirect_tensor_calls()
    _redirect_cuda_module()
    _redirect_megatron()


def _identity_decorator(function=None, **_options):
    return function if function is not None else (lambda inner: inner)


def _to_cpu(device):
    is_cuda = isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")
    return torch.device("cpu") if is_cuda else device


def _redirect_tensor_calls() -> None:
    def with_cpu_device(factory):
        @functools.wraps(factory)
        def call(*args, **kwargs):
            if kwargs.get("device") is not None:
                kwargs["device"] = _to_cpu(kwargs["device"])
            return factory(*args, **kwargs)

        return call

    for name in TENSOR_FACTORIES:
        setattr(torch, name, with_cpu_device(getattr(torch, name)))

    tensor_to, tensor_type = torch.Tensor.to, torch.Tensor.type

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], (str, torch.device)):
            args = (_to_cpu(args[0]), *args[1:])
        if "device" in kwargs:
            kwargs["device"] = _to_cpu(kwargs["device"])
        return tensor_to(self, *args, **kwargs)

    def type_(self, dtype=None, **kwargs):
        # the optimizers sort parameters by names such as "torch.cuda.FloatTensor"
        if dtype is None:
            return tensor_type(self).replace("torch.", "torch.cuda.", 1)
        return tensor_type(self, dtype.replace("torch.cuda.", "torch.") if isinstance(dtype, str) else dtype, **kwargs)

    torch.Tensor.to = to
    torch.Tensor.type = type_
    torch.Tensor.cuda = lambda self, *args, **kwargs: self


class _NoStream:
    """Stands for a CUDA stream or event: on a CPU everything is already in order."""

    def __init__(self, *args, **kwargs):
        pass

    def wait_stream(self, *args):
        pass

    def wait_event(self, *args):
        pass

    def record(self, *args):
        pass

    def synchronize(self):
        pass


def _redirect_cuda_module() -> None:
    cuda = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    cuda.synchronize = lambda *args: None
    cuda.Stream = cuda.Event = _NoStream
    cuda.stream = lambda stream: nullcontext()
    cuda.current_stream = cuda.default_stream = lambda *args: _NoStream()
    cuda.get_rng_state = cuda.random.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    cuda.set_rng_state = cuda.random.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    cuda.manual_seed = torch.manual_seed
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *args: None


def _redirect_megatron() -> None:
    """Give megatron-core a CPU random state, and an Adam whose state has the layout of Transformer Engine's."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Transformer Engine and Apex are not installed": on a CPU that is intended
        import megatron.core.distributed.param_and_grad_buffer as buffers
        import megatron.core.optimizer as optimizer
        import megatron.core.optimizer.distrib_optimizer as distrib_optimizer
        import megatron.core.tensor_parallel.random as random

    from megatron_lmt.runtime.cpu_adam import FusedAdam

    buffers.dist_all_gather_func = _unless_alone(buffers.dist_all_gather_func)
    buffers.dist_reduce_scatter_func = _unless_alone(buffers.dist_reduce_scatter_func)
    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    optimizer.Adam = distrib_optimizer.Adam = FusedAdam
    optimizer.USING_PYTORCH_OPTIMIZER = False
    distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_TE_OPTIMIZER = True


def _unless_alone(collective: Callable) -> Callable:
    """In a group of one, input and output are the same memory: gloo would copy all parameters thrice in each step."""

    def call(output: torch.Tensor, given: torch.Tensor, *args, group, **kwargs):
        if group.size() == 1 and output.data_ptr() == given.data_ptr():
            return None
        return collective(output, given, *args, group=group, **kwargs)

    return call
