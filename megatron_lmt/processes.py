"""Processes beside the training."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the one that started it, ends, however that happens. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this call
        os._exit(1)


def start_beside(command: list[str], log: Path, has_gpu: bool = False) -> subprocess.Popen:
    """Start a command that is none of torchrun's processes; what it says goes to `log`.

    Raises:
        OSError: there is no such command.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OF_TORCHRUN}
    if not has_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(log, "w", encoding="utf-8") as file:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
