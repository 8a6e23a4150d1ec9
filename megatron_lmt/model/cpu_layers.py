"""Modules that stand in on a CPU where megatron-core's own refuse to work or are slow, with the same checkpoint keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


class RMSNorm(torch.nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019) that marks its weight for sequence parallelism.

    megatron-core sums the gradients of marked weights over the tensor-parallel ranks, each of which sees only a part of
    the sequence.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up (Shazeer 2020) of [..., gate and up], with the gradients of both written into one tensor."""

    @staticmethod
    def forward(ctx, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(grad, activated, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return result


class GatedActivation(MegatronModule):
    """The activation above in megatron-core's MLP: without a compiler its own makes four more passes over memory."""

    def forward(self, gate_up: torch.Tensor) -> torch.Tensor:
        return SwiGLU.apply(gate_up)


class PackedAttention(MegatronModule):
    """Causal attention inside each packed document, through torch's scaled_dot_product_attention.

    With context parallelism (`data/context.py` says who has which positions) keys and values are gathered first.
    """

    def __init__(self, config: TransformerConfig, layer_number, attn_mask_type, attention_type, **_for_other_backends):
        super().__init__(config=config)

    def forward(self, query, key, value, attention_mask, attn_mask_type=None, attention_bias=None, packed_seq_params=None):
        """Attend inside each document.

        Args:
            query: [positions, heads, head_dim]; `key` and `value`: [positions, groups, head_dim].
            packed_seq_params: where each document begins in the whole row.
        Returns:
            [positions, heads × head_dim]
        """
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        if self.config.context_parallel_size == 1:
            return _attend_inside(lengths, query, key, value)
        group = parallel_state.get_context_parallel_group()
        whole_key, whole_value = (
            _in_order(gather_from_sequence_parallel_region(x, True, group), lengths, group.size()) for x in (key, value)
        )
        return _attend_in_parts(lengths, query, whole_key, whole_value, group.rank(), group.size())


def _attend_inside(lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    # [1, heads, positions, head_dim]: with a batch dimension torch takes its fused kernel, a third faster
    by_head = [x.transpose(0, 1).unsqueeze(0).split(lengths, dim=2) for x in (query, key, value)]
    attended = [
        F.scaled_dot_product_attention(*document, is_causal=True, enable_gqa=True) for document in zip(*by_head, strict=True)
    ]
    return torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1)


def _in_order(gathered: torch.Tensor, lengths: list[int], size: int) -> torch.Tensor:
    """[positions of all ranks one after the other, …] → [positions in the order of the row, …]."""
    of_ranks = [rank.split([length // size for length in lengths]) for rank in gathered.chunk(size)]
    documents = []
    for parts in zip(*of_ranks, strict=True):
        fronts, backs = zip(*(part.chunk(2) for part in parts), strict=True)
        documents += [*fronts, *reversed(backs)]
    return torch.cat(documents)


def _attend_in_parts(
    lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rank: int, size: int
) -> torch.Tensor:
    """The rank's two parts of each document, each to all positions up to its own. Key and value are whole."""
    attended = []
    documents = zip(query.split([n // size for n in lengths]), key.split(lengths), value.split(lengths), strict=True)
    for mine, keys, values in documents:
        for part, number in zip(mine.chunk(2), (rank, 2 * size - 1 - rank), strict=True):
            seen = (number + 1) * len(part)
            allowed = torch.ones(len(part), seen, dtype=torch.bool).tril(seen - len(part))
            by_head = [x.transpose(0, 1).unsqueeze(0) for x in (part, keys[:seen], values[:seen])]
            attended.append(F.scaled_dot_product_attention(*by_head, attn_mask=allowed, enable_gqa=True))
    return torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1)
