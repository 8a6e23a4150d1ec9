"""Checks of numbers on their way from one format to the other."""

from __future__ import annotations

import torch

from megatron_lmt.conversion.pieces import Piece
from megatron_lmt.errors import CheckpointError


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether there is no NaN and no infinity in it, at the cost of reading it once."""
    if tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def refuse_not_finite(source: object, pieces: list[Piece]) -> None:
    """
    Args:
        pieces: those with NaN or infinity in them.
    Raises:
        CheckpointError: there are any; their tensors are named.
    """
    names = {segment.tensor: piece.parameter for piece in pieces for segment in piece.segments}
    if names:
        raise CheckpointError(
            [f"{source}: NaN or infinity in {hf} ({mcore}); --allow-nan converts it" for hf, mcore in names.items()]
        )
