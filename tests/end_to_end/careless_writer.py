"""Started by test_save_faults: the trainer, but one number is saved that is not the one in memory, with the hash it has."""

import torch

from megatron_lmt.runtime.device import open_device

open_device()

from megatron_lmt.errors import run_command  # noqa: E402
from megatron_lmt.runtime import checkpoint_saver  # noqa: E402
from megatron_lmt.train import main  # noqa: E402

write_and_hash = checkpoint_saver._write_and_hash


def write_carelessly(write, report, rank, buckets, results):
    # in the forked process that writes: the trainer's own tensors stay as they are
    moments = [tensor for _, _, (_, tensors) in buckets for item, tensor in tensors if "exp_avg_sq" in item.index.fqn]
    with torch.no_grad():
        moments[0].flatten()[0] = 1e-42
    write_and_hash(write, report, rank, buckets, results)


checkpoint_saver._write_and_hash = write_carelessly
run_command(main)
