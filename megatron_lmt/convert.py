"""Models between Hugging Face folders and megatron_lmt checkpoints, bit for bit.

One process holds the whole model; a checkpoint made here can be trained under any parallel layout. The tensors' names and
fusions are in `model/hf_mapping.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from megatron_lmt.config import ParallelSection
from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.log import silence_engine_warnings
from megatron_lmt.model.hf_io import SafetensorsFolder, copy_companions, write_tensors
from megatron_lmt.model.hf_mapping import mappings, tensors_to_hf
from megatron_lmt.model.shape import ARCHITECTURES, ModelShape, read_shape
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, find_checkpoint, read_run_state
from megatron_lmt.runtime.device import open_device

MAX_SHARD_BYTES = 5 * 10**9
TURN_ENDS = ("<|im_end|>", "<|endoftext|>")


def import_from_hf(source: Path, target: Path) -> None:
    """Make a checkpoint without optimizer state at `target` from a Hugging Face folder.

    Raises:
        CheckpointError: `target` exists, or the folder's tensors are not those of its config.json.
    """
    _refuse_existing(target)
    shape = read_shape(source)
    tensors = SafetensorsFolder(source, shape)
    dtype = tensors.dtype()
    model = _open_whole_model(shape, dtype)

    from megatron_lmt.model.weights import set_weights
    from megatron_lmt.runtime.checkpoint_saver import save_checkpoint
    from megatron_lmt.runtime.parallel import close_process_groups

    set_weights(model, shape, tensors)
    companions = target.with_name(target.name + ".companions")
    companions.mkdir(parents=True)
    try:
        shutil.copyfile(source / "config.json", companions / "config.json")
        copy_companions(source, companions)
        run_state = {"iteration": 0, "identity": {"shape": shape.to_dict()}, "dtype": _dtype_name(dtype)}
        save_checkpoint(target, model, None, run_state, companions)
    finally:
        shutil.rmtree(companions)
    close_process_groups()


def export_to_hf(source: Path, target: Path) -> None:
    """Make a Hugging Face folder at `target`, in the dtype of the checkpoint, that transformers loads as it is.

    Args:
        source: a checkpoint, or a run directory, of which the newest checkpoint is taken.
    Raises:
        CheckpointError: `target` exists, or there is no complete checkpoint.
    """
    _refuse_existing(target)
    folder = find_checkpoint(source)
    hf_files = folder / HF_FOLDER
    shape = read_shape(hf_files)
    dtype = getattr(torch, read_run_state(folder)["dtype"])
    model = _open_whole_model(shape, dtype)

    from megatron_lmt.model.weights import parameters_by_key
    from megatron_lmt.runtime.checkpoint import load_checkpoint
    from megatron_lmt.runtime.parallel import close_process_groups

    load_checkpoint(folder, model, None)
    parameters = parameters_by_key(model)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for mapping in mappings(shape):
            yield from tensors_to_hf(mapping, shape, parameters[mapping.megatron].detach()).items()

    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_tensors(unfinished, tensors(), MAX_SHARD_BYTES)
    copy_companions(hf_files, unfinished)
    _write_config(hf_files, unfinished, dtype)
    _write_generation_config(unfinished)
    unfinished.rename(target)
    close_process_groups()


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise CheckpointError(f"{target} exists already and is not written over: delete it or name another folder")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _open_whole_model(shape: ModelShape, dtype: torch.dtype):
    """A model in one process, weights not set. megatron-core is imported here, after the device is known."""
    silence_engine_warnings()
    device = open_device()

    from megatron_lmt.model.qwen3 import build_model
    from megatron_lmt.runtime.checkpoint_saver import prepare_saving
    from megatron_lmt.runtime.parallel import open_process_groups

    prepare_saving()
    open_process_groups(ParallelSection(), device, seed=0)
    return build_model(shape, ParallelSection(), device, dtype is torch.bfloat16, True, True)


def _write_config(hf_files: Path, folder: Path, dtype: torch.dtype) -> None:
    config = json.loads((hf_files / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [ARCHITECTURES[config["model_type"]]]
    # transformers 5 writes `dtype`, earlier versions `torch_dtype`
    config["dtype" if "dtype" in config else "torch_dtype"] = _dtype_name(dtype)
    write_json_atomically(folder / "config.json", config)


def _write_generation_config(folder: Path) -> None:
    """Generation ends at the end of a turn or of the text, whichever of the two tokens the vocabulary has."""
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = config.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    ids = _token_ids(folder / "tokenizer.json")
    ends += [ids[token] for token in TURN_ENDS if token in ids and ids[token] not in ends]
    if ends:
        config["eos_token_id"] = ends
        config.setdefault("pad_token_id", ids.get("<|endoftext|>", ends[0]))
        write_json_atomically(file, config)


def _token_ids(tokenizer_file: Path) -> dict[str, int]:
    if not tokenizer_file.is_file():
        return {}
    added = json.loads(tokenizer_file.read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in added}
