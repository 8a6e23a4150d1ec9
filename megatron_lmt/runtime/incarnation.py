"""One start of a run at a time: two that write into the same folder would tear each other's checkpoints.

job/incarnation.json names the process that trains here; its time of modification is renewed every few seconds. A new
start is refused while that process is alive. It is known to be gone when it ran on this machine and has ended, when this
is the same Slurm job started again, or when the file was not renewed for a minute.

A process that only seemed gone (its node was cut off from the network) finds another's name in the file before it
publishes anything, and ends.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path

import psutil

from megatron_lmt.errors import CheckpointError, UserError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.runtime.job_folder import job_folder

FILE = "incarnation.json"
RENEWAL_SECONDS = 10.0
SILENCE_SECONDS = 60.0


def check_nobody_trains(output_dir: Path) -> None:
    """Wait until it is clear whether another start trains in this folder.

    Raises:
        UserError: one does.
    """
    file = job_folder(output_dir) / FILE
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if _has_ended(owner) or not _is_renewed(file):
        return
    job = f", Slurm job {owner['slurm_job']}" if owner["slurm_job"] else ""
    raise UserError(
        f"{output_dir}: process {owner['process']} on {owner['host']}{job} is training in this folder; wait for it, or end "
        "it first (a launcher that was killed may have left its workers behind)"
    )


def _has_ended(owner: dict) -> bool:
    if owner["slurm_job"] and owner["slurm_job"] == os.environ.get("SLURM_JOB_ID"):
        return True  # Slurm starts a job again only when it has ended the one before
    if owner["host"] != socket.gethostname():
        return False
    return _birth(owner["process"]) != owner["process_started"]


def _birth(process: int) -> float | None:
    try:
        return psutil.Process(process).create_time()
    except psutil.NoSuchProcess:
        return None


def _is_renewed(file: Path) -> bool:
    """Whether somebody renews the file, or takes it away, within the time in which a living owner would."""
    deadline = time.monotonic() + SILENCE_SECONDS
    try:
        before = file.stat().st_mtime_ns
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if file.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        return False
    return False


def forget(output_dir: Path) -> None:
    """The start that trained here has ended for certain; if a process of it lives on somewhere, it learns so."""
    (job_folder(output_dir) / FILE).unlink(missing_ok=True)


class Incarnation:
    """This start of a run, as the one that may write; made by the first process only."""

    def __init__(self, output_dir: Path):
        self.file = job_folder(output_dir) / FILE
        self._id = uuid.uuid4().hex
        owner = {
            "id": self._id,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "process_started": _birth(os.getpid()),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": os.environ.get("SLURM_RESTART_COUNT"),
        }
        write_json_atomically(self.file, owner)

    def check(self) -> None:
        """Call it before anything is published.

        Raises:
            CheckpointError: another start has taken over, or the batch script has declared this one ended.
        """
        try:
            owner = json.loads(self.file.read_text(encoding="utf-8"))["id"]
        except FileNotFoundError:
            owner = None
        if owner != self._id:
            raise CheckpointError(
                f"{self.file}: another start of this run has taken over, so this one writes nothing more and ends"
            )

    def renew(self) -> None:
        """Say that this process is alive.

        Raises:
            CheckpointError: as `check`.
        """
        self.check()
        os.utime(self.file)

    def end(self) -> None:
        """Let the next start begin at once."""
        self.check()
        self.file.unlink()
