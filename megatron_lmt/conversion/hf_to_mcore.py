"""A Hugging Face folder becomes a checkpoint that any parallel layout can train."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from megatron_lmt.conversion.companions import check_text_tokenizer, check_tokenizer, write_hf_files
from megatron_lmt.conversion.hf_source import check_hf_source
from megatron_lmt.conversion.mcore_model import LAYERS, parameter_shapes
from megatron_lmt.conversion.new_checkpoint import Part, new_checkpoint
from megatron_lmt.conversion.new_folder import check_target
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.pieces import Piece, model_pieces
from megatron_lmt.conversion.torch_dist_writer import NewChunk
from megatron_lmt.model.bits import BITS
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.shape import ModelShape, read_shape
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER


def import_from_hf(source: Path, target: Path, options: Options) -> None:
    """Make a checkpoint without optimizer state at `target` from a Hugging Face folder.

    Raises:
        UserError: `target` exists, the folder's tensors are not those of its config.json or hold NaN, or the disk is
            full. `target` is as it was before.
    """
    check_target(target, source, options.overwrite)
    check_hf_source(source)
    shape = read_shape(source)
    tensors = SafetensorsFolder(source, shape, read_once=True)
    tensors.check_tied_copy()
    check_tokenizer(source, shape)
    if options.verify:
        check_text_tokenizer(source)
    untied = replace(shape, tie_word_embeddings=False) if options.untie else shape
    run_state = {"iteration": 0, "identity": {"shape": untied.to_dict()}, "dtype": tensors.dtype}
    parts = _parts(source, untied, tensors.dtype)
    with new_checkpoint(target, parts, partial(_read, tensors), run_state, options) as folder:
        write_hf_files(source, folder / HF_FOLDER, untied, tensors.dtype)
        if options.verify:
            from megatron_lmt.conversion.verify import prove  # imported late: it imports torch and transformers

            print("\n".join(prove(source, folder, untied, options.verify)))


def _read(tensors: SafetensorsFolder, piece: Piece) -> np.ndarray:
    return piece.from_hf(tensors)


def _parts(source: Path, shape: ModelShape, dtype: str) -> list[Part]:
    sizes = parameter_shapes(shape)
    return [
        Part(
            _chunk(piece, sizes[piece.parameter], shape, dtype),
            piece,
            tuple(f"{source}: {segment.tensor}" for segment in piece.segments),
        )
        for piece in model_pieces(shape, BITS[dtype].itemsize)
    ]


def _chunk(piece: Piece, size: tuple[int, ...], shape: ModelShape, dtype: str) -> NewChunk:
    """A piece's place in the tensor that megatron-core saves; the layers of a parameter are stacked in one."""
    columns = (0,) * len(piece.row)
    if not piece.parameter.startswith(LAYERS):
        return NewChunk(piece.parameter, size, dtype, (piece.start, *columns), piece.shape)
    layer, name = piece.parameter.removeprefix(LAYERS).split(".", 1)
    stacked = (shape.num_hidden_layers, *size)
    return NewChunk(LAYERS + name, stacked, dtype, (int(layer), piece.start, *columns), (1, *piece.shape))
