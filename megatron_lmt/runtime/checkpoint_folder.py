"""Finding and checking checkpoint folders with the file system alone: no torch, no process group.

`checkpoint.py` writes and loads them.
"""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt.errors import CheckpointError

COMMIT_MARKER = "COMMITTED.json"
RUN_STATE = "run_state.json"
HF_FOLDER = "huggingface"


def iteration_folder(iteration: int) -> str:
    return f"iter_{iteration:07d}"


def committed(checkpoints: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(marker.parent for marker in checkpoints.glob(f"iter_*/{COMMIT_MARKER}"))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest in a run directory or its `checkpoints`.

    Raises:
        CheckpointError: there is no complete checkpoint, or files of it have another size than when it was written.
    """
    if (path / COMMIT_MARKER).is_file():
        folder = path
    else:
        complete = committed(path) or committed(path / "checkpoints")
        if not complete:
            raise CheckpointError(f"{path}: no complete checkpoint here (a complete one holds {COMMIT_MARKER})")
        folder = complete[-1]
    sizes = json.loads((folder / COMMIT_MARKER).read_text(encoding="utf-8"))["bytes"]
    problems = []
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file}: missing; the checkpoint was complete when it was written, so it was damaged since")
        elif file.stat().st_size != size:
            problems.append(f"{file}: {file.stat().st_size} bytes instead of {size}; the checkpoint was damaged")
    if problems:
        raise CheckpointError(problems)
    return folder


def read_run_state(folder: Path) -> dict:
    """Iteration, model shape, resolved run, data cursors and versions of a checkpoint."""
    return json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))
