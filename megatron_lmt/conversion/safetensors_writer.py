"""Writes the weights of a Hugging Face folder: shards laid out beforehand, then filled in any order, by any process.

The header of a safetensors file only needs names, dtypes and shapes, which are known before the first tensor is read.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_lmt.conversion.pieces import Segment
from megatron_lmt.model.bits import BITS, write_from
from megatron_lmt.model.hf_folder import INDEX_FILE, SINGLE_FILE
from megatron_lmt.model.safetensors_file import DTYPES


@dataclass(frozen=True)
class ShardPlan:
    """Where each tensor goes: `places` is (file, byte), `headers` what each file begins with, `sizes` its bytes."""

    dtype: str
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    headers: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        return BITS[self.dtype].itemsize

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())


def plan_shards(shapes: dict[str, tuple[int, ...]], dtype: str, max_shard_bytes: int) -> ShardPlan:
    """One file where everything fits, else shards in the order of `shapes`, each closed before it would grow too large."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * BITS[dtype].itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    plan = ShardPlan(dtype, shapes)
    for number, names in enumerate(shards, start=1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _plan_file(plan, file, names)
    return plan


def _plan_file(plan: ShardPlan, file: str, names: list[str]) -> None:
    dtype_name = next(name for name, dtype in DTYPES.items() if dtype == plan.dtype)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + math.prod(plan.shapes[name]) * plan.itemsize
        header[name] = {"dtype": dtype_name, "shape": plan.shapes[name], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    plan.headers[file] = len(text).to_bytes(8, "little") + text
    plan.sizes[file] = len(plan.headers[file]) + end
    for name in names:
        plan.places[name] = (file, len(plan.headers[file]) + header[name]["data_offsets"][0])


def create_shards(folder: Path, plan: ShardPlan) -> None:
    """The files with their headers and full size, and the index if there are several."""
    for file, header in plan.headers.items():
        with open(folder / file, "wb") as shard:
            shard.write(header)
            shard.truncate(plan.sizes[file])
    if len(plan.sizes) > 1:
        num_bytes = sum(math.prod(shape) for shape in plan.shapes.values()) * plan.itemsize
        weight_map = {name: file for name, (file, _) in plan.places.items()}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class ShardWriter:
    """Fills rows of tensors in created shards; leaving the context flushes them to the disk."""

    def __init__(self, folder: Path, plan: ShardPlan):
        self._folder, self._plan = folder, plan
        self._files: dict[str, int] = {}

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        try:
            for file in self._files.values():
                if error_type is None:
                    os.fsync(file)
        finally:
            for file in self._files.values():
                os.close(file)

    def write(self, segment: Segment, rows: np.ndarray) -> None:
        name, offset = self._plan.places[segment.tensor]
        if name not in self._files:
            self._files[name] = os.open(self._folder / name, os.O_WRONLY)
        row_bytes = math.prod(self._plan.shapes[segment.tensor][1:]) * self._plan.itemsize
        write_from(rows, self._files[name], offset + segment.start * row_bytes)
