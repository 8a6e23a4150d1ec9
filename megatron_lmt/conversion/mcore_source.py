"""Finds a distributed checkpoint, ours or plain Megatron-LM's, and what describes its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import no_folder
from megatron_lmt.model.hf_folder import is_hf_folder
from megatron_lmt.model.shape import ModelShape, read_shape
from megatron_lmt.runtime.checkpoint_folder import (
    HF_FOLDER,
    RUN_STATE,
    find_checkpoint,
    iteration_folder,
    read_run_state,
)

LATEST = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class McoreSource:
    """`hf_files` is the folder with config.json and the tokenizer; `run_state` is None for one of plain Megatron-LM."""

    folder: Path
    hf_files: Path
    shape: ModelShape
    run_state: dict | None

    @property
    def tokenizer(self) -> str | None:
        """Identity of the tokenizer that it was trained with, where that is known."""
        return (self.run_state or {}).get("identity", {}).get("tokenizer")


def find_mcore_source(path: Path, hf_config: Path | None) -> McoreSource:
    """The checkpoint that `path` means: itself, or the newest in a folder of checkpoints.

    Args:
        hf_config: a Hugging Face folder with the config.json and the tokenizer of a plain Megatron-LM checkpoint, which has
            none; for one of ours None.
    Raises:
        CheckpointError: there is no complete checkpoint; it is plain Megatron-LM's and there is no `hf_config`, or it is
            not and there is.
    """
    if not path.is_dir():
        raise CheckpointError(f"{no_folder(path)}; name a checkpoint or a run directory")
    plain = _find_plain(path)
    if plain is None:
        if is_hf_folder(path):
            raise CheckpointError(f"{path}: a Hugging Face model, and no checkpoint; its format is hf")
        folder = find_checkpoint(path)
        if hf_config:
            raise CheckpointError(f"{folder}: --hf-config is for plain Megatron-LM checkpoints, this one has its own")
        return McoreSource(folder, folder / HF_FOLDER, read_shape(folder / HF_FOLDER), read_run_state(folder))
    if hf_config is None:
        raise CheckpointError(
            f"{plain}: neither complete nor one of plain Megatron-LM? A complete checkpoint of ours holds COMMITTED.json; "
            f"for Megatron-LM's, name the Hugging Face folder of the model's config.json and tokenizer with --hf-config"
        )
    return McoreSource(plain, hf_config, read_shape(hf_config, "--hf-config"), None)


def _find_plain(path: Path) -> Path | None:
    """A checkpoint that megatron-core saved and that has nothing of ours beside it."""
    candidates = [path]
    if (path / LATEST).is_file():
        iteration = (path / LATEST).read_text(encoding="utf-8").strip()
        candidates.append(path / ("release" if iteration == "release" else iteration_folder(int(iteration))))
    for folder in candidates:
        if (folder / ".metadata").is_file() and not (folder / RUN_STATE).is_file():
            return folder
    return None
