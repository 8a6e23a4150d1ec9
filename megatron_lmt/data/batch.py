"""What the model is given, and how a global batch is divided.

Next on the path: `loader.py` makes it from samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class MicroBatch:
    """B = micro_batch_size × seq_length positions.

    `tokens`, `labels` int64 [1, B]; `loss_mask` float32 [1, B], 1 where the label counts;
    `loss_slots` int64 [1, B], where the loss of a position is counted: 2 × its sample, + 1 for target tokens of pairs;
    `cu_seqlens` int32 [documents + 1], starts of the packed sequences, ending with B; `max_seqlen` the longest of them.
    With context parallelism (`data/context.py`) the tensors [1, B] hold this rank's part of a row.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    loss_slots: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    num_samples: int

    def to(self, device: torch.device) -> MicroBatch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    @property
    def num_positions(self) -> int:
        """Of the whole row."""
        return int(self.cu_seqlens[-1])


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is divided: sample numbers are dealt to micro batches, then to data-parallel ranks.

    `micro_batch_group`: the schedule wants a multiple of this many micro batches on each rank.
    """

    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    data_parallel_rank: int
    data_parallel_size: int
    context_parallel_rank: int = 0
    context_parallel_size: int = 1
    tensor_model_parallel_size: int = 1
    micro_batch_group: int = 1

    def my_samples(self, samples: list) -> Iterator[list]:
        """The samples of each micro batch of this rank; the global batch is the same for any number of ranks."""
        stride = self.micro_batch_size * self.data_parallel_size
        for start in range(0, len(samples), stride):
            first = start + self.data_parallel_rank * self.micro_batch_size
            yield samples[first : first + self.micro_batch_size]
