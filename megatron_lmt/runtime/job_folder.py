"""`job/` in a run directory: what one start of a run leaves for the next, for the batch script, and for people.

job/<job name>-<job id>.log   everything a Slurm job printed, over all its restarts
job/incarnation.json          who trains here now (incarnation.py)
job/starts.json               starts in a row that went on from the same checkpoint
job/stopped                   why the last one stopped at a checkpoint: "signal 120", "exit 120"
job/errors/rank_00003.txt     last words of a process that failed or hung (last_words.py)
"""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt.errors import UserError
from megatron_lmt.files import write_json_atomically, write_text_atomically

JOB_FOLDER = "job"
STARTS = "starts.json"
STOPPED = "stopped"


def job_folder(output_dir: Path) -> Path:
    return output_dir / JOB_FOLDER


def check_starts(output_dir: Path, iteration: int, most: int) -> None:
    """
    Args:
        iteration: of the checkpoint that this start would go on from; 0 without one.
        most: starts without a new checkpoint that are allowed.
    Raises:
        UserError: there were that many.
    """
    file = job_folder(output_dir) / STARTS
    if _starts(file, iteration) >= most:
        raise UserError(
            f"{output_dir}: {most} starts in a row ended before a checkpoint after iteration {iteration}, so this one does "
            f"not start; see the end of the logs in {file.parent}, mend the cause, and delete {file}"
        )


def record_start(output_dir: Path, iteration: int) -> None:
    """Count this start, and forget how the one before it stopped."""
    folder = job_folder(output_dir)
    starts = _starts(folder / STARTS, iteration) + 1
    write_json_atomically(folder / STARTS, {"iteration": iteration, "starts": starts})
    (folder / STOPPED).unlink(missing_ok=True)


def record_stop(output_dir: Path, reason: str, iteration: int) -> None:
    """For the batch script: the run stopped after a complete checkpoint, though it is not done."""
    write_text_atomically(job_folder(output_dir) / STOPPED, f"{reason} {iteration}\n")


def _starts(file: Path, iteration: int) -> int:
    """Starts so far that went on from this iteration."""
    if not file.is_file():
        return 0
    known = json.loads(file.read_text(encoding="utf-8"))
    return known["starts"] if known["iteration"] == iteration else 0
