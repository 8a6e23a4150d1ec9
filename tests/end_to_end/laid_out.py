"""A checkpoint as the processes of a parallel layout save it, made in one process from whole tensors.

Which block of a tensor each rank holds is written down here by hand; `test_trained_conversion.py` compares it with
checkpoints that many processes wrote.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from megatron_lmt.conversion.torch_dist_writer import NewChunk, finish, write_file
from megatron_lmt.model.hf_io import bits_of_tensor
from megatron_lmt.runtime.checkpoint_manifest import commit
from tests.end_to_end.trained import is_vocabulary

SPLIT = {
    # a parameter: the dimension that tensor parallelism splits, and how many matrices lie one above the other in it
    "word_embeddings.weight": (0, 1),
    "output_layer.weight": (0, 1),
    "linear_qkv.weight": (0, 1),
    "linear_fc1.weight": (0, 2),
    "linear_proj.weight": (1, 1),
    "linear_fc2.weight": (1, 1),
}


@dataclass(frozen=True)
class ParallelLayout:
    """`virtual` are the parts of the model on each pipeline rank."""

    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1

    def __str__(self):
        return f"tp{self.tensor}-pp{self.pipeline}-vpp{self.virtual}"

    def overrides(self) -> list[str]:
        """Of a run file."""
        sizes = {"tensor": self.tensor, "pipeline": self.pipeline}
        if self.virtual > 1:
            sizes["virtual_pipeline"] = self.virtual
        return [f"parallel.{name}_model_parallel_size={size}" for name, size in sizes.items()]

    def stage_of(self, layer: int, layers: int) -> int:
        """The pipeline rank: parts of the model go round the ranks."""
        return layer // (layers // (self.pipeline * self.virtual)) % self.pipeline


def blocks(name: str, size: tuple[int, ...], layout: ParallelLayout, layers: int) -> Iterator[tuple[int, tuple, tuple]]:
    """Rank, offsets and shape of each block of a tensor, whose vocabulary is padded already. Ranks count tensors first."""
    is_stacked = "decoder.layers." in name
    own = size[1:] if is_stacked else size
    dimension, stacked = next((split for end, split in SPLIT.items() if name.endswith(end)), (None, 1))
    ranks = layout.tensor if dimension is not None else 1
    last = layout.pipeline - 1
    for layer, rank, part in itertools.product(range(layers if is_stacked else 1), range(ranks), range(stacked)):
        offsets, shape = [0] * len(own), list(own)
        if dimension is not None:
            shape[dimension] //= ranks * stacked
            offsets[dimension] = shape[dimension] * (part * ranks + rank)
        stage = layout.stage_of(layer, layers) if is_stacked else 0 if "word_embeddings" in name else last
        lead = ((layer,), (1,)) if is_stacked else ((), ())
        yield stage * layout.tensor + rank, (*lead[0], *offsets), (*lead[1], *shape)


def lay_out(tensors: dict[str, torch.Tensor], source: Path, folder: Path, layout: ParallelLayout, config: dict) -> None:
    """Write a committed checkpoint of `tensors`, which have no padding.

    Args:
        source: a checkpoint, for its other files.
        config: config.json of the model.
    """
    padded = -(-config["vocab_size"] // layout.tensor) * layout.tensor
    padded_tensors: dict[str, torch.Tensor] = {}
    of_rank: dict[int, list[NewChunk]] = {}
    for name, tensor in tensors.items():
        if is_vocabulary(name):
            tensor = torch.nn.functional.pad(tensor, (0, 0, 0, padded - len(tensor)))
        padded_tensors[name] = tensor
        size, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        for rank, offsets, shape in blocks(name, size, layout, config["num_hidden_layers"]):
            of_rank.setdefault(rank, []).append(NewChunk(name, size, dtype, offsets, shape))

    def make(chunk: NewChunk):
        block = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.shape, strict=True))
        return bits_of_tensor(padded_tensors[chunk.name][block].contiguous())

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.distcp", ".metadata", "COMMITTED.json"))
    finish(folder, [write_file(folder, rank, chunks, make) for rank, chunks in sorted(of_rank.items())])
    (folder / "huggingface" / "config.json").write_text(json.dumps(config))
    state = json.loads((folder / "run_state.json").read_text())
    state["identity"]["shape"]["vocab_size"] = config["vocab_size"]
    (folder / "run_state.json").write_text(json.dumps(state))
    commit(folder, {})


def saved_blocks(folder: Path, with_ranks: bool) -> set[tuple]:
    """Name, rank if wanted, offsets and shape of each block of the weights in a checkpoint, read by torch."""
    metadata = dcp.FileSystemReader(folder).read_metadata()
    found = set()
    for index, place in metadata.storage_data.items():
        entry = metadata.state_dict_metadata[index.fqn]
        if hasattr(entry, "chunks") and not index.fqn.startswith("optimizer."):
            (shape,) = (tuple(chunk.sizes) for chunk in entry.chunks if chunk.offsets == index.offset)
            rank = int(re.match(r"__(\d+)_", place.relative_path).group(1))
            found.add((index.fqn, rank if with_ranks else None, tuple(index.offset), shape))
    return found
