"""Comparing checkpoints and exports tensor by tensor, read by torch's and safetensors' own readers and not by ours."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from megatron_lmt.runtime.checkpoint_folder import find_checkpoint


def tensors_of_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, or of the newest of a run, whole."""
    folder = find_checkpoint(path)
    metadata = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.zeros(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.items()
        if hasattr(entry, "chunks")
    }
    dcp.load(tensors, checkpoint_id=folder, no_dist=True)
    return tensors


def weights_of_checkpoint(path: Path, vocab_size: int) -> dict[str, torch.Tensor]:
    """Its weights, without optimizer state and without the rows that pad the vocabulary."""
    weights = {name: t for name, t in tensors_of_checkpoint(path).items() if not name.startswith("optimizer.")}
    return without_padding(weights, vocab_size)


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token: a weight, or its optimizer state."""
    return name.endswith(("word_embeddings.weight", "output_layer.weight"))


def without_padding(tensors: dict[str, torch.Tensor], vocab_size: int) -> dict[str, torch.Tensor]:
    return {name: tensor[:vocab_size] if is_vocabulary(name) else tensor for name, tensor in tensors.items()}


def tensors_of_hf(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
