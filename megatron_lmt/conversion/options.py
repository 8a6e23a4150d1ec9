"""What a conversion is asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """
    Args:
        workers: processes that share the work.
        overwrite: a model or checkpoint that is at the target already may be replaced.
        allow_nan: NaN and infinity are converted like other numbers.
        untie: a model whose output layer is its embedding gets an output layer of its own, equal at first.
        max_shard_bytes: of one safetensors file.
    """

    workers: int = 1
    overwrite: bool = False
    allow_nan: bool = False
    untie: bool = False
    max_shard_bytes: int = 5 * 10**9
