"""A Hugging Face folder becomes a checkpoint that any parallel layout can train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from megatron_lmt.conversion.checks import is_finite, refuse_not_finite
from megatron_lmt.conversion.companions import dtype_name, write_hf_files
from megatron_lmt.conversion.mcore_model import LAYERS, parameter_shapes
from megatron_lmt.conversion.new_folder import check_target, new_folder
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.pieces import Piece, model_pieces
from megatron_lmt.conversion.torch_dist_writer import NewChunk, finish, no_checksums, plan_files, write_file
from megatron_lmt.conversion.workers import share
from megatron_lmt.data.progress import progress
from megatron_lmt.files import write_json_atomically
from megatron_lmt.model.hf_io import SafetensorsFolder
from megatron_lmt.model.shape import ModelShape, read_shape
from megatron_lmt.runtime.checkpoint_folder import COMMIT_MARKER, HF_FOLDER, RUN_STATE

FILE_BYTES = 128 * 1024 * 1024


def import_from_hf(source: Path, target: Path, options: Options) -> None:
    """Make a checkpoint without optimizer state at `target` from a Hugging Face folder.

    Raises:
        UserError: `target` exists, the folder's tensors are not those of its config.json or hold NaN, or the disk is
            full. `target` is as it was before.
    """
    check_target(target, source, options.overwrite)
    shape = read_shape(source)
    tensors = SafetensorsFolder(source, shape)
    tensors.check_tied_copy()
    untied = replace(shape, tie_word_embeddings=False) if options.untie else shape
    sizes = parameter_shapes(untied)
    pieces = model_pieces(untied, tensors.dtype.itemsize)
    chunks = {_new_chunk(piece, sizes[piece.parameter], untied, tensors.dtype): piece for piece in pieces}
    num_bytes = sum(chunk.num_bytes for chunk in chunks)
    files = plan_files(list(chunks), max(options.workers, -(-num_bytes // FILE_BYTES)))
    with new_folder(target, num_bytes) as folder, progress(num_bytes, "importing", delay=5) as bar:
        results, not_finite = [], []
        write = partial(_write, source, shape, folder)
        tasks = [_FileTask(number, {chunk: chunks[chunk] for chunk in file}) for number, file in enumerate(files)]
        for task, (written, bad) in zip(tasks, share(write, tasks, options.workers), strict=True):
            results.append(written)
            not_finite += bad
            bar.update(sum(chunk.num_bytes for chunk in task.chunks))
        if not options.allow_nan:
            refuse_not_finite(source, not_finite)
        finish(folder, list(chunks), results, {})
        (folder / HF_FOLDER).mkdir()
        write_hf_files(source, folder / HF_FOLDER, untied, tensors.dtype)
        run_state = {"iteration": 0, "identity": {"shape": untied.to_dict()}, "dtype": dtype_name(tensors.dtype)}
        write_json_atomically(folder / RUN_STATE, run_state)
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        write_json_atomically(folder / COMMIT_MARKER, {"bytes": sizes})


def _new_chunk(piece: Piece, size: tuple[int, ...], shape: ModelShape, dtype: torch.dtype) -> NewChunk:
    """A piece's place in the tensor that megatron-core saves; the layers of a parameter are stacked in one."""
    columns = (0,) * len(piece.row)
    if not piece.parameter.startswith(LAYERS):
        return NewChunk(piece.parameter, size, dtype, (piece.start, *columns), piece.shape)
    layer, name = piece.parameter.removeprefix(LAYERS).split(".", 1)
    stacked = (shape.num_hidden_layers, *size)
    return NewChunk(LAYERS + name, stacked, dtype, (int(layer), piece.start, *columns), (1, *piece.shape))


@dataclass(frozen=True)
class _FileTask:
    number: int
    chunks: dict[NewChunk, Piece]


def _write(source: Path, shape: ModelShape, folder: Path, task: _FileTask) -> tuple[list, list[Piece]]:
    """Write one file; returns its entries for the metadata, and the pieces with NaN or infinity in them."""
    tensors, not_finite = SafetensorsFolder(source, shape), []

    def make(chunk: NewChunk) -> torch.Tensor:
        piece = task.chunks[chunk]
        rows = piece.from_hf(tensors)
        if not is_finite(rows):
            not_finite.append(piece)
        return rows.reshape(chunk.shape)

    with no_checksums():
        return write_file(folder, task.number, list(task.chunks), make), not_finite
