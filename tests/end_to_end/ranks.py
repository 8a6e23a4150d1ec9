"""Commands in processes that have imported torch and megatron-core already, because they are forks of one that has.

The imports take four seconds of a core for each process, and the tests start hundreds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import runpy
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from megatron_lmt.processes import end_with_parent

PREPARED = "tests.end_to_end.prepared"


def start_ranks(environments: list[dict[str, str]], command: list[str], log: Path) -> list[multiprocessing.Process]:
    """Start `command`, a script or `-m module` with its arguments, once for each environment.

    Args:
        log: what they print goes to its end.
    """
    ranks = [_server().Process(target=_become, args=(environment, command, log)) for environment in environments]
    for rank in ranks:
        rank.start()
    return ranks


def exit_codes(ranks: list[multiprocessing.Process], timeout: float) -> list[int]:
    """Of all ranks, once they have ended. When one fails, or after `timeout` seconds, the others are killed."""
    deadline, running = time.monotonic() + timeout, {rank.sentinel: rank for rank in ranks}
    while running:
        ended = wait(running, max(0, deadline - time.monotonic()))
        for sentinel in ended:
            running.pop(sentinel).join()
        if not ended or any(rank.exitcode for rank in ranks):
            for rank in running.values():
                rank.kill()
    return [rank.exitcode for rank in ranks]


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    """A process that forks others; it starts with the first of them and ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PREPARED])
    return context


def _become(environment: dict[str, str], command: list[str], log: Path) -> None:
    end_with_parent(os.getppid())
    assert PREPARED in sys.modules, "the server could not import it"
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    random.seed()  # as in a new process, and not as in the other ranks
    sys.orig_argv = [sys.executable, *command]
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
