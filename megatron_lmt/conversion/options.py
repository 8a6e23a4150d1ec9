"""What a conversion is asked to do differently."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """
    Args:
        workers: processes that share the work.
        overwrite: a model or checkpoint that is at the target already may be replaced.
        allow_nan: NaN and infinity are converted like other numbers.
        untie: a model whose output layer is its embedding gets an output layer of its own, equal at first.
        max_shard_bytes: of one safetensors file.
        hf_config: Hugging Face folder with config.json and tokenizer, for a plain Megatron-LM checkpoint.
        tensor_parallel: size that a checkpoint is cut for; any other can load it all the same.
        no_save_optim: leave the optimizer state out.
        check_hashes: compare the source checkpoint's files with the hashes in its manifest, which reads all of them.
        verify: compare hashes and, computed in this dtype, logits before the target gets its name; None: do not.
    """

    workers: int = 1
    overwrite: bool = False
    allow_nan: bool = False
    untie: bool = False
    max_shard_bytes: int = 5 * 10**9
    hf_config: Path | None = None
    tensor_parallel: int = 1
    no_save_optim: bool = False
    check_hashes: bool = False
    verify: str | None = None
