"""Hugging Face model folders: read slices of their tensors, write new ones.

Reading opens safetensors files lazily, so a rank reads only the bytes of its own slices. Writing takes tensors one at a
time and holds one shard in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import ModelShape

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def is_hf_folder(path: Path) -> bool:
    return (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file()


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, one file or several.

    Raises:
        CheckpointError: no weights there, or tensors missing, unexpected or of another shape than config.json says
            (all of them are listed).
    """

    def __init__(self, folder: Path, shape: ModelShape):
        self.folder = folder
        if not is_hf_folder(folder):
            raise CheckpointError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; no Hugging Face weights")
        if (folder / INDEX_FILE).is_file():
            weight_map = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
            files = {name: folder / file for name, file in weight_map.items()}
        else:
            with safe_open(folder / SINGLE_FILE, framework="pt") as handle:
                files = dict.fromkeys(handle.keys(), folder / SINGLE_FILE)
        missing_files = sorted({str(file) for file in files.values() if not file.is_file()})
        if missing_files:
            raise CheckpointError([f"{file}: named in {INDEX_FILE}, but not there" for file in missing_files])
        opened = {file: safe_open(file, framework="pt") for file in set(files.values())}
        self._slices = {name: opened[file].get_slice(name) for name, file in files.items()}
        self._check(shape)

    def _check(self, shape: ModelShape) -> None:
        folder = self.folder
        expected = hf_tensor_shapes(shape)
        found = {name: tuple(part.get_shape()) for name, part in self._slices.items()}
        if shape.tie_word_embeddings:
            found.pop("lm_head.weight", None)  # a copy of the embedding that some exports write
        problems = [f"{folder}: tensor {name} is missing" for name in expected if name not in found]
        problems += [
            f"{folder}: tensor {name} is not part of this {shape.architecture}" for name in found if name not in expected
        ]
        problems += [
            f"{folder}: tensor {name} has shape {found[name]}, but its config.json says {size}"
            for name, size in expected.items()
            if name in found and found[name] != size
        ]
        if problems:
            raise CheckpointError(problems)

    def dtype(self) -> torch.dtype:
        """The dtype of the tensors: float32 or bfloat16, all the same.

        Raises:
            CheckpointError: anything else, which would not survive a round trip.
        """
        found = {part.get_dtype() for part in self._slices.values()}
        supported = {"F32": torch.float32, "BF16": torch.bfloat16}
        if len(found) > 1 or not found <= supported.keys():
            raise CheckpointError(f"{self.folder}: tensors are {sorted(found)}; all must be F32, or all BF16")
        return supported[found.pop()]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._slices[name][start:stop]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._slices[name][:, start:stop]


class RandomTensors:
    """Random weights under Hugging Face's names: the same model for any parallel layout.

    Matrices are normal with standard deviation `initializer_range`, as in transformers; norms are one. Each block of
    rows has its own generator, seeded by (seed, name, block), so a slice costs its own blocks only.
    """

    BLOCK_ROWS = 1024

    def __init__(self, shape: ModelShape, seed: int):
        self._shapes = hf_tensor_shapes(shape)
        self._std = shape.initializer_range
        self._seed = seed

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        size = self._shapes[name]
        if len(size) == 1:
            return torch.ones(stop - start)
        first = start // self.BLOCK_ROWS
        blocks = [self._block(name, number) for number in range(first, -(-stop // self.BLOCK_ROWS))]
        if not blocks:
            return torch.zeros(0, size[1])
        offset = first * self.BLOCK_ROWS
        return torch.cat(blocks)[start - offset : stop - offset]

    def columns(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.rows(name, 0, self._shapes[name][0])[:, start:stop]

    def _block(self, name: str, number: int) -> torch.Tensor:
        rows, columns = self._shapes[name]
        digest = hashlib.blake2b(f"{self._seed}:{name}:{number}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        num_rows = min(self.BLOCK_ROWS, rows - number * self.BLOCK_ROWS)
        return torch.randn(num_rows, columns, generator=generator) * self._std


def write_tensors(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], max_shard_bytes: int) -> None:
    """Write tensors as safetensors, in one file if they fit into one shard, else in several with an index.

    Args:
        tensors: (name, tensor) in the order of the files; consumed one at a time.
        max_shard_bytes: a shard is closed before it would grow beyond this.
    """
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    total = 0

    def close_shard():
        save_file(shard, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shard and sum(t.numel() * t.element_size() for t in shard.values()) + size > max_shard_bytes:
            close_shard()
        shard[name] = tensor.contiguous()
        total += size
    close_shard()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / SINGLE_FILE)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / file)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_companions(source: Path, target: Path) -> None:
    """Copy what belongs to a model beside its weights and config.json: tokenizer, chat template, generation settings."""
    for file in sorted(source.iterdir()):
        is_companion = file.suffix in (".json", ".jinja", ".model", ".txt") and file.name not in ("config.json", INDEX_FILE)
        if file.is_file() and is_companion:
            shutil.copyfile(file, target / file.name)
