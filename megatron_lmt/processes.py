"""What the kernel is asked to do for a process."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the one that started it, ends, however that happens. Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this call
        os._exit(1)
