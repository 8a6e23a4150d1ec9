"""A checkpoint, ours or plain Megatron-LM's, becomes a Hugging Face folder that transformers and vLLM load as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from megatron_lmt.conversion.companions import (
    check_text_tokenizer,
    check_tokenizer,
    write_generation_config,
    write_hf_files,
    write_model_card,
)
from megatron_lmt.conversion.mcore_model import McoreModel
from megatron_lmt.conversion.mcore_source import McoreSource, find_mcore_source
from megatron_lmt.conversion.new_folder import check_target, new_folder
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.pieces import Piece, model_pieces
from megatron_lmt.conversion.safetensors_writer import ShardPlan, ShardWriter, create_shards, plan_shards
from megatron_lmt.conversion.source_check import hashing
from megatron_lmt.conversion.workers import share
from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.bits import BITS, is_finite
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.progress import progress

TASK_BYTES = 128 * 1024 * 1024


def export_to_hf(source: Path, target: Path, options: Options) -> None:
    """Make a Hugging Face folder at `target`, in the dtype of the checkpoint.

    Args:
        source: a checkpoint, or a run directory, of which the newest checkpoint is taken.
    Raises:
        UserError: `target` exists, there is no complete checkpoint, its tensors are not those of its config.json or hold
            NaN, or the disk is full. `target` is as it was before.
    """
    check_target(target, source, options.overwrite)
    checkpoint = find_mcore_source(source, options.hf_config)
    check_tokenizer(checkpoint.hf_files, checkpoint.shape, checkpoint.tokenizer)
    if options.verify:
        check_text_tokenizer(checkpoint.hf_files)
    shape = checkpoint.shape
    model = McoreModel(checkpoint.folder, shape)
    untied = replace(shape, tie_word_embeddings=False) if options.untie else shape
    plan = plan_shards(hf_tensor_shapes(untied), model.dtype, options.max_shard_bytes)
    tasks = _tasks(list(model_pieces(untied, BITS[model.dtype].itemsize)), BITS[model.dtype].itemsize)
    with (
        new_folder(target, plan.num_bytes) as folder,
        hashing(checkpoint, options.check_hashes) as check_source,
        progress(plan.num_bytes, "exporting", delay=5) as bar,
    ):
        create_shards(folder, plan)
        not_finite = {}
        fill = partial(_fill, model, folder, plan)
        for task, bad in zip(tasks, share(fill, tasks, options.workers), strict=True):
            not_finite.update(dict.fromkeys(bad))
            bar.update(sum(piece.numel for piece in task) * BITS[model.dtype].itemsize)
        if not_finite and not options.allow_nan:
            problem = f"{checkpoint.folder}: NaN or infinity in {{}}; --allow-nan converts it"
            raise CheckpointError([problem.format(name) for name in not_finite])
        check_source()
        write_hf_files(checkpoint.hf_files, folder, untied, model.dtype)
        write_generation_config(folder, untied)
        proof = _proof(folder, checkpoint, options)
        write_model_card(folder, checkpoint, untied, model.dtype, proof)


def _proof(folder: Path, checkpoint: McoreSource, options: Options) -> list[str]:
    if options.verify is None:
        return []
    from megatron_lmt.conversion.verify import prove  # imported late: it imports torch and transformers

    lines = prove(folder, checkpoint.folder, checkpoint.shape, options.verify)
    print("\n".join(lines))
    return lines


def _tasks(pieces: Sequence[Piece], itemsize: int) -> list[list[Piece]]:
    tasks, filled = [[]], 0
    for piece in pieces:
        if filled >= TASK_BYTES:
            tasks.append([])
            filled = 0
        tasks[-1].append(piece)
        filled += piece.numel * itemsize
    return tasks


def _fill(model: McoreModel, folder: Path, plan: ShardPlan, pieces: Sequence[Piece]) -> list[str]:
    """Copy pieces into the shards; returns the parameters with NaN or infinity in them."""
    not_finite = []
    with ShardWriter(folder, plan) as writer:
        for piece in pieces:
            rows = model.rows(piece.parameter, piece.start, piece.stop)
            if not is_finite(rows):
                not_finite.append(piece.parameter)
            for segment, part in piece.to_hf(rows):
                writer.write(segment, part)
    return not_finite
