"""Finding and checking checkpoint folders with the file system alone: no torch, no process group.

`checkpoint.py` writes and loads them, `checkpoint_manifest.py` knows their files.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from megatron_lmt.errors import CheckpointError, with_advice
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER, quick_problems

RUN_STATE = "run_state.json"
HF_FOLDER = "huggingface"
CHECKPOINTS = "checkpoints"
EXPORTS = "exports"
"""Folder of a run with Hugging Face models, each called like the checkpoint it was made of."""
UNFINISHED = ".unfinished-"
"""Prefix of a folder that is being written or deleted. One that stays behind after a kill is of no use."""
DAMAGED = "damaged_"
"""Prefix of a checkpoint that was put aside: no start looks at it."""


def iteration_folder(iteration: int) -> str:
    return f"iter_{iteration:07d}"


def iteration_of(folder: Path) -> int:
    return int(folder.name.removeprefix("iter_"))


def committed(checkpoints: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(marker.parent for marker in checkpoints.glob(f"iter_*/{COMMIT_MARKER}"))


def has_checkpoint(path: Path) -> bool:
    """Whether `path` is a complete checkpoint, or a folder of some, or a run directory that has one."""
    return (path / COMMIT_MARKER).is_file() or bool(committed(path) or committed(path / CHECKPOINTS))


def without_marker(checkpoints: Path) -> list[Path]:
    """Folders that are called as checkpoints are and are none: somebody removed the marker, or copied a part."""
    return sorted(folder for folder in checkpoints.glob("iter_*") if not (folder / COMMIT_MARKER).is_file())


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest in a run directory or its `checkpoints`.

    Raises:
        CheckpointError: there is no complete checkpoint, or it was damaged, as far as can be seen quickly.
    """
    if (path / COMMIT_MARKER).is_file():
        folder = path
    else:
        complete = committed(path) or committed(path / CHECKPOINTS)
        if not complete:
            raise CheckpointError(f"{path}: no complete checkpoint here (a complete one holds {COMMIT_MARKER})")
        folder = complete[-1]
    refuse_if(quick_problems(folder), folder)
    return folder


def refuse_if(problems: list[str], folder: Path) -> None:
    """
    Raises:
        CheckpointError: with the problems, if there are any, and the checkpoint before this one as the way out.
    """
    if problems:
        raise CheckpointError(with_advice(problems, _way_out(folder)))


def _way_out(folder: Path) -> str:
    older = [other for other in committed(folder.parent) if other < folder]
    usable = next((other for other in reversed(older) if not quick_problems(other)), None)
    aside = folder.with_name(f"{DAMAGED}{folder.name}")
    if usable:
        return f"the checkpoint before it, {usable}, is complete; to go on from there: mv {folder} {aside}"
    return f"there is no other complete checkpoint beside {folder}; copy it again from where it is whole"


def read_run_state(folder: Path) -> dict:
    """Iteration, model shape, resolved run, data cursors and versions of a checkpoint."""
    return json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))


def discard(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that no half of one looks complete."""
    shutil.rmtree(without_name(folder))


def without_name(folder: Path) -> Path:
    """A checkpoint that is to be deleted: it is none any more, whatever becomes of the deletion."""
    doomed = folder.with_name(f"{UNFINISHED}{folder.name}-{uuid.uuid4().hex[:8]}")
    return folder.rename(doomed)


def remove_unfinished(checkpoints: Path) -> None:
    """Delete what killed saves and deletions left behind."""
    for folder in checkpoints.glob(f"{UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)
