"""Whether a folder is a Hugging Face model at all, before anything in it is read."""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import no_folder
from megatron_lmt.model.hf_folder import INDEX_FILE, SINGLE_FILE, is_hf_folder
from megatron_lmt.runtime.checkpoint_folder import has_checkpoint


def check_hf_source(folder: Path) -> None:
    """
    Raises:
        CheckpointError: it is no folder, or has no config.json or no weights; says so if it is a checkpoint of ours.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{no_folder(folder)}; name a Hugging Face folder")
    lacking = [] if (folder / "config.json").is_file() else ["no config.json"]
    lacking += [] if is_hf_folder(folder) else [f"neither {SINGLE_FILE} nor {INDEX_FILE}"]
    if lacking:
        hint = "; it is a checkpoint or a run, whose format is mcore" if has_checkpoint(folder) else ""
        raise CheckpointError(f"{folder}: no Hugging Face model, {' and '.join(lacking)} in it{hint}")
