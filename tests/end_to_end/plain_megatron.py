"""Started by test_plain_megatron with two processes: a checkpoint as plain Megatron-LM writes it, TP2, into FOLDER.

megatron-core's own model and saving, with none of this project's checkpoint code: the vocabulary is padded to a multiple of
128 × TP, with numbers in the padding, and `args` is in the common state. The whole weights, joined by megatron-core's own
loading, are not needed: rank 0 also writes what each rank holds to FOLDER/rank*.pt.
"""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_lmt.config import ParallelSection
from megatron_lmt.model.shape import read_shape
from megatron_lmt.runtime.device import open_device


def main(folder: Path) -> None:
    device = open_device()

    from megatron.core import dist_checkpointing

    from megatron_lmt.model.qwen3 import build_model
    from megatron_lmt.runtime.parallel import open_process_groups

    parallel = ParallelSection(tensor_model_parallel_size=2)
    open_process_groups(parallel, device, seed=1)
    shape = read_shape(folder)
    model = build_model(replace(shape, vocab_size=768), parallel, device, False, True, True)
    torch.manual_seed(dist.get_rank())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_() if "norm" not in name else parameter.uniform_(0.5, 1.5)
            if "norm" in name:
                dist.broadcast(parameter, 0)  # the same on both
    torch.save(dict(model.named_parameters()), folder / f"rank{dist.get_rank()}.pt")
    checkpoint = folder / "iter_0000007"
    if dist.get_rank() == 0:
        checkpoint.mkdir()
    dist.barrier()
    state = {"model": model.sharded_state_dict(), "args": Namespace(padded_vocab_size=768), "iteration": 7}
    dist_checkpointing.save(state, str(checkpoint))
    if dist.get_rank() == 0:
        (folder / "latest_checkpointed_iteration.txt").write_text("7")
    dist.barrier()


if __name__ == "__main__":  # megatron-core's first save starts a process that imports this file again
    main(Path(sys.argv[1]))
