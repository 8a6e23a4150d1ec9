"""A checkpoint is written anew: cut for another parallel layout, without its optimizer state, or with an output layer."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from megatron_lmt.conversion.companions import check_tokenizer, write_hf_files
from megatron_lmt.conversion.mcore_model import NO_WEIGHTS, McoreModel
from megatron_lmt.conversion.mcore_source import find_mcore_source
from megatron_lmt.conversion.new_checkpoint import Part, new_checkpoint
from megatron_lmt.conversion.new_folder import check_target
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.pieces import PIECE_BYTES
from megatron_lmt.conversion.same_tensors import check_same_tensors
from megatron_lmt.conversion.source_check import hashing
from megatron_lmt.conversion.torch_dist_reader import StoredTensor, TorchDistReader
from megatron_lmt.conversion.torch_dist_writer import NewChunk
from megatron_lmt.errors import ConfigError
from megatron_lmt.model.bits import BITS
from megatron_lmt.model.hf_mapping import EMBEDDING_PARAMETER, HEAD_PARAMETER, Layout, mappings
from megatron_lmt.model.shape import ModelShape, check_parallel
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER

COMMON = "common.pt"
OPTIMIZER_STATE = "optimizer.state."


@dataclass(frozen=True)
class _Block:
    """A block of a tensor of the source. Only the first `held_rows` are read; rows that pad a vocabulary are zero."""

    name: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    held_rows: int


def reshard(source: Path, target: Path, options: Options) -> None:
    """Write a checkpoint anew at `target`, its tensors cut as tensor parallelism does and its vocabulary padded for it.

    Raises:
        UserError: `target` exists, there is no complete checkpoint, the model cannot be split so, or the disk is full.
            `target` is as it was before.
    """
    check_target(target, source, options.overwrite)
    checkpoint = find_mcore_source(source, options.hf_config)
    check_tokenizer(checkpoint.hf_files, checkpoint.shape, checkpoint.tokenizer)
    _check_options(checkpoint.shape, options)
    model = McoreModel(checkpoint.folder, checkpoint.shape)
    shape = replace(checkpoint.shape, tie_word_embeddings=False) if options.untie else checkpoint.shape
    run_state = dict(checkpoint.run_state or {"iteration": 0, "identity": {}, "dtype": model.dtype})
    run_state["identity"] = {**run_state["identity"], "shape": shape.to_dict()}
    reader = TorchDistReader(checkpoint.folder)
    keeps_optimizer = not options.no_save_optim and checkpoint.run_state is not None
    parts = list(_parts(reader, shape, options.tensor_parallel, keeps_optimizer))
    with (
        hashing(checkpoint, options.check_hashes) as check_source,
        new_checkpoint(target, parts, partial(_read, reader), run_state, options) as folder,
    ):
        check_source()
        if keeps_optimizer:
            (folder / COMMON).write_bytes((checkpoint.folder / COMMON).read_bytes())
        write_hf_files(checkpoint.hf_files, folder / HF_FOLDER, shape, model.dtype)
        if options.verify:
            copied = {part.chunk.name for part in parts if part.chunk.name == part.origin.name}
            count = check_same_tensors(reader, TorchDistReader(folder), copied, shape.vocab_size)
            print(f"{count} tensors have the same SHA-256 in {checkpoint.folder} and {target}")


def _check_options(shape: ModelShape, options: Options) -> None:
    problems = [
        problem.replace("parallel.tensor_model_parallel_size", "--target-tensor-parallel-size")
        for problem in check_parallel(shape, options.tensor_parallel, 1)
    ]
    if options.untie and not options.no_save_optim:
        problems.append("--untie: the new output layer would have no optimizer state: give --no-save-optim as well")
    if problems:
        raise ConfigError(problems)


def _read(reader: TorchDistReader, block: _Block) -> np.ndarray:
    if block.held_rows >= block.shape[0]:
        return reader.block(block.name, block.offsets, block.shape)
    tensor = np.zeros(block.shape, BITS[reader.tensors[block.name].dtype])
    if block.held_rows > 0:
        tensor[: block.held_rows] = reader.block(block.name, block.offsets, (block.held_rows, *block.shape[1:]))
    return tensor


def _parts(reader: TorchDistReader, shape: ModelShape, tensor_parallel: int, keeps_optimizer: bool) -> Iterator[Part]:
    layouts = {_plain_name(mapping.megatron): mapping.layout for mapping in mappings(shape)}
    for name, stored in reader.tensors.items():
        weight = _weight_of(name)
        if weight is None or (weight != name and not keeps_optimizer):
            continue
        yield from _cut(name, name, stored, layouts[_plain_name(weight)], shape, tensor_parallel)
    if HEAD_PARAMETER in layouts and HEAD_PARAMETER not in reader.tensors:  # it is to be untied
        stored = reader.tensors[EMBEDDING_PARAMETER]
        yield from _cut(HEAD_PARAMETER, EMBEDDING_PARAMETER, stored, Layout.VOCABULARY, shape, tensor_parallel)


def _weight_of(name: str) -> str | None:
    """The weight that a tensor is, or belongs to as optimizer state; None for anything else."""
    if name.startswith(OPTIMIZER_STATE):
        return name.removeprefix(OPTIMIZER_STATE).split(".", 1)[1]  # such as exp_avg.decoder.final_layernorm.weight
    return None if name.startswith(NO_WEIGHTS) else name


def _plain_name(parameter: str) -> str:
    """A parameter's name without the number of its layer."""
    return re.sub(r"^(decoder\.layers\.)\d+\.", r"\1", parameter)


def _cut(
    name: str, source: str, stored: StoredTensor, layout: Layout, shape: ModelShape, tensor_parallel: int
) -> Iterator[Part]:
    """A tensor in the blocks of tensor-parallel ranks, and these in pieces of rows."""
    lead = 1 if len(stored.shape) > (1 if layout is Layout.WHOLE else 2) else 0  # the layers are stacked
    size = list(stored.shape[lead:])
    if layout is Layout.VOCABULARY:
        size[0] = -(-shape.vocab_size // tensor_parallel) * tensor_parallel
    blocks = list(size)
    if layout.split_dimension is not None:
        gates = 2 if layout is Layout.GATE_UP else 1
        blocks[layout.split_dimension] //= tensor_parallel * gates
    blocks[0] = min(blocks[0], max(1, PIECE_BYTES // (math.prod(blocks[1:]) * BITS[stored.dtype].itemsize)))
    whole = (*stored.shape[:lead], *size)
    steps = [1] * lead + blocks
    for offsets in itertools.product(*(range(0, n, step) for n, step in zip(whole, steps, strict=True))):
        place = offsets[lead:]
        block = [min(b, n - o) for o, n, b in zip(place, size, blocks, strict=True)]
        held = min(block[0], shape.vocab_size - place[0]) if layout is Layout.VOCABULARY else block[0]
        chunk = NewChunk(name, whole, stored.dtype, offsets, (1,) * lead + tuple(block))
        yield Part(chunk, _Block(source, offsets, chunk.shape, held), (name,))
