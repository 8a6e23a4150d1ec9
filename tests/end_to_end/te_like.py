"""Started by test_te_checkpoints: the trainer, whose layers have extra state in checkpoints as Transformer Engine's have.

Its linear layers and attention save a byte tensor, a pickle of their FP8 state, and its norms save nothing under a key of
their own. All of them take what a checkpoint has, or nothing. The output layer is torch's in either case.
"""

import pickle

import torch

from megatron_lmt.runtime.device import open_device

open_device()

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear  # noqa: E402

from megatron_lmt.errors import run_command  # noqa: E402
from megatron_lmt.model.cpu_layers import PackedAttention, RMSNorm  # noqa: E402
from megatron_lmt.train import main  # noqa: E402
from tests.conftest import TINY_MODEL  # noqa: E402


def fp8_state(module) -> torch.Tensor | None:
    if getattr(module, "output_size", 0) >= TINY_MODEL["vocab_size"]:
        return None
    state = {"recipe": "delayed", "amax_history": [1.0, 2.0], "scale": [448.0]}
    return torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8)


def take(module, state) -> None:
    if state is not None and len(state):
        assert pickle.loads(state.numpy().tobytes())["recipe"] == "delayed"


for layer in (ColumnParallelLinear, RowParallelLinear, PackedAttention):
    layer.get_extra_state, layer.set_extra_state = fp8_state, take
RMSNorm.get_extra_state, RMSNorm.set_extra_state = lambda module: torch.empty(0, dtype=torch.uint8), take
run_command(main)
