"""A folder that is there whole or not at all: made beside its place under another name, and renamed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.hf_folder import is_hf_folder
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER

UNFINISHED = ".unfinished"
SPARE_BYTES = 64 * 1024 * 1024
"""Room for what comes with the weights: tokenizer, configuration, indices."""


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Whether a model may be written to `target`.

    Raises:
        CheckpointError: something is there; with `overwrite`, something that is no model, or `source` is inside.
    """
    if not target.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{target} exists already and is not written over: name another folder, or give --overwrite")
    if not is_hf_folder(target) and not (target / COMMIT_MARKER).is_file():
        raise CheckpointError(f"{target} is neither a Hugging Face model nor a checkpoint: --overwrite does not replace it")
    if target.resolve() in (source.resolve(), *source.resolve().parents):
        raise CheckpointError(f"{target} holds what is to be converted, {source}: name another folder")


@contextmanager
def new_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """An empty folder that becomes `target` at the end, in the place of what was there; after an error nothing has changed.

    Args:
        num_bytes: of the weights that are to be written.
    Raises:
        CheckpointError: the disk is too small, or becomes full.
    """
    unfinished = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _check_space(unfinished, num_bytes + SPARE_BYTES)
        yield unfinished
        replaced = target.with_name(target.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        unfinished.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        place = error.filename or unfinished
        raise CheckpointError(f"{place}: {error.strerror}; {target} is as it was before") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CheckpointError(f"{folder.parent}: {free / 1e9:.1f} GB are free, and {num_bytes / 1e9:.1f} GB are needed")
