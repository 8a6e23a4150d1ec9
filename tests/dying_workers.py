"""A pool of which one process dies: python -m tests.dying_workers MOMENT METHOD; prints how it ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from megatron_lmt.errors import DataError
from megatron_lmt.pool import process_pool

BIG = 4 << 20  # many times what a pipe holds
ITEMS = 12


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesWhenRead:
    """In the process that unpickles it."""

    def __init__(self, *_):
        die()

    def __reduce__(self):
        return DiesWhenRead, (b"",)


def work(item) -> bytes:
    return bytes(BIG)


def die_at_work(item) -> bytes:
    return die() if item == 5 else bytes(BIG)


def die_in_result(item) -> bytes:
    if item == 5:

        def send_half(connection: Connection, buffer, write=os.write) -> None:
            write(connection.fileno(), buffer[: len(buffer) // 2])
            die()

        Connection._send = send_half
    return bytes(BIG)


def die_idle(item) -> bytes:
    if item == 5:
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # its signal ends a process
    return bytes(BIG if item != 5 else 1)


def kill_started(number: int) -> None:
    """Kill the worker that is started as this one, as soon as it is."""
    start, started = BaseProcess.start, []

    def start_and_kill(self) -> None:
        started.append(self)
        is_chosen = len(started) == number
        start(self)
        if is_chosen:
            self.kill()

    BaseProcess.start = start_and_kill


def run(moment: str, method: str) -> str:
    if method == "spawn":  # as in a process with threads
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    items: list = list(range(ITEMS))
    if moment == "item":
        items[5:5] = [(DiesWhenRead.__new__(DiesWhenRead), bytes(BIG))]
    if moment.startswith("start"):
        kill_started(int(moment.removeprefix("start")))
    function = {"work": die_at_work, "result": die_in_result, "idle": die_idle}.get(moment, work)
    results = 0
    try:
        with process_pool(3, "a process died") as pool:
            for result in pool.in_order(function, items):
                results += 1
                if moment == "idle" and len(result) == 1:
                    time.sleep(1)  # nothing is asked of anyone meanwhile
    except DataError as error:
        return f"after {results}: {error}"
    return f"{results} results"


if __name__ == "__main__":
    print(run(*sys.argv[1:]))
