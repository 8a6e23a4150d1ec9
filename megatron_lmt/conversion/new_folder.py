"""A folder that is there whole or not at all: made beside its place under another name, and renamed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_lmt.errors import CheckpointError
from megatron_lmt.model.hf_folder import is_hf_folder
from megatron_lmt.runtime.checkpoint_folder import CHECKPOINTS
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER

UNFINISHED, REPLACED = ".unfinished", ".replaced"
SPARE_BYTES = 64 * 1024 * 1024
"""Room for what comes with the weights: tokenizer, configuration, indices."""


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Whether a model may be written to `target`.

    Raises:
        CheckpointError: one of `target` and `source` is inside of the other; or something is at `target`, with `overwrite`
            something that is no model.
    """
    _check_apart(target, source)
    if not target.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{target} exists already and is not written over: name another folder, or give --overwrite")
    if not is_hf_folder(target) and not (target / COMMIT_MARKER).is_file():
        raise CheckpointError(f"{target} is neither a Hugging Face model nor a checkpoint: --overwrite does not replace it")


def _check_apart(target: Path, source: Path) -> None:
    new, old = target.resolve(), source.resolve()
    for replaced in (new, *(new.with_name(new.name + ending) for ending in (UNFINISHED, REPLACED))):
        if replaced in (old, *old.parents):
            holds = "is" if replaced == old else "holds"
            raise CheckpointError(
                f"{target}: what is written here replaces {replaced}, and that {holds} what is to be "
                f"converted: name another folder"
            )
    # a run directory may have its exports beside its checkpoints
    read = old / CHECKPOINTS if (old / CHECKPOINTS).is_dir() else old
    if read in new.parents:
        raise CheckpointError(
            f"{target} is inside of {read}, which is to be converted and must stay as it is: name a folder outside of it"
        )


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
        replaced = target.with_name(target.name + REPLACED)
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
