"""Checks of numbers on their way from one format to the other."""

from __future__ import annotations

import torch

from megatron_lmt.errors import CheckpointError


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether there is no NaN and no infinity in it, at the cost of reading it once."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def refuse(problems: list[str]) -> None:
    """
    Raises:
        CheckpointError: there are problems.
    """
    if problems:
        raise CheckpointError(problems)
