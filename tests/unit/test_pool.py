"""A pool of processes: results in order, errors as they are, and an end, not a wait, when a process dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest

from megatron_lmt.errors import DataError
from megatron_lmt.pool import call_beside, process_pool
from tests.conftest import REPOSITORY

MOMENTS = ["start1", "start3", "item", "work", "result", "idle"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_dies_ends_the_work(moment, method):
    command = [sys.executable, "-m", "tests.dying_workers", moment, method]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("after ") and done.stdout.endswith(": a process died\n"), done.stdout
    assert not done.stderr


def slow_at_first(item: int) -> tuple[int, int]:
    time.sleep(0.3 if item == 0 else 0)
    return item, os.getpid()


def test_results_come_in_order_from_no_more_processes_than_asked_for():
    with process_pool(3, "died") as pool:
        results = list(pool.in_order(slow_at_first, range(40)))
    assert [item for item, _ in results] == list(range(40))
    assert 1 <= len({process for _, process in results}) <= 3


def test_reading_runs_ahead_by_six_items_for_each_process():
    read = []
    with process_pool(2, "died") as pool:
        results = pool.in_order(slow_at_first, (read.append(item) or item for item in range(40)))
        next(results)
        assert len(read) == 12
        next(results)
        assert len(read) == 13


def test_threads_share_the_room():
    """More of them than there is room."""
    with process_pool(1, "died") as pool, ThreadPoolExecutor(3) as threads:

        def take(first: int) -> list[int]:
            return [item for item, _ in pool.in_order(slow_at_first, range(first, first + 30))]

        taken = list(threads.map(take, (0, 100, 200)))
    assert taken == [list(range(first, first + 30)) for first in (0, 100, 200)]


def test_room_is_given_back_by_who_stops():
    with process_pool(1, "died") as pool:
        for _ in range(5):
            results = pool.in_order(slow_at_first, range(10))
            next(results)
            results.close()
        assert len(list(pool.in_order(slow_at_first, range(10)))) == 10


def note(file: Path, item: int | str) -> None:
    time.sleep(0.5 if item == 0 else 0)
    with open(file, "a") as notes:
        notes.write(f"{item} ")


def test_a_single_call_does_not_wait_for_items_that_wait(tmp_path):
    note_it, read = partial(note, tmp_path / "notes"), []
    with process_pool(1, "died") as pool, ThreadPoolExecutor(1) as thread:
        items = thread.submit(list, pool.in_order(note_it, (read.append(item) or item for item in range(9))))
        while len(read) < 6:  # the first of them in work
            time.sleep(0.01)
        pool.submit(note_it, "single").result()
        items.result()
    assert (tmp_path / "notes").read_text() == "0 single 1 2 3 4 5 6 7 8 "


def refuse(item: int) -> None:
    raise ValueError(f"item {item}")


def unpicklable(item: int) -> object:
    return threading.Lock() if item else lambda: None


def test_errors_of_the_work_are_raised_with_their_place():
    with process_pool(2, "died") as pool:
        with pytest.raises(ValueError, match="item 0") as error:
            list(pool.in_order(refuse, range(4)))
        assert "in refuse" in str(error.value.__cause__)
        for item in range(2):
            with pytest.raises(Exception, match="pickle"):
                pool.submit(unpicklable, item).result()
        assert pool.submit(slow_at_first, 7).result()[0] == 7


def sleep_long(item: int) -> None:
    time.sleep(1000)


def test_processes_are_gone_when_the_work_is_given_up():
    with pytest.raises(KeyboardInterrupt), process_pool(3, "died") as pool:
        for item in range(6):
            pool.submit(sleep_long, item)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


def test_who_waits_for_an_answer_is_told_when_the_pool_ends():
    with process_pool(1, "died") as pool:
        answers = [pool.submit(sleep_long, number) for number in range(50)]
    for answer in answers:
        with pytest.raises((DataError, CancelledError)):
            answer.result(timeout=10)


def test_a_call_beside_needs_no_thread_and_its_process_ends():
    before = threading.active_count()  # the progress bar's may be there of another test
    with call_beside("died", pow, 2, 5) as result, call_beside("died", divmod, 1, 0) as error:
        assert threading.active_count() == before
        assert result() == 32
        with pytest.raises(ZeroDivisionError):
            error()
        for process in multiprocessing.active_children():
            process.join(timeout=60)
        assert not multiprocessing.active_children()


def test_a_call_beside_that_dies_is_an_error():
    with pytest.raises(DataError, match="died"), call_beside("died", os._exit, 1) as result:
        result()
    assert not multiprocessing.active_children()


def test_room_is_given_back_after_errors_and_after_the_end_of_the_pool():
    """Others may wait for it: 20 takers, four at a time, share the room of two items."""
    threads = ThreadPoolExecutor(4)
    with pytest.raises(KeyboardInterrupt), process_pool(1, "died") as pool:
        for _ in range(5):
            with pytest.raises(ValueError):
                list(pool.in_order(refuse, range(4)))
        assert len(list(pool.in_order(slow_at_first, range(4)))) == 4
        takers = [threads.submit(lambda: list(pool.in_order(sleep_long, range(4)))) for _ in range(20)]
        raise KeyboardInterrupt
    done, waiting = wait(takers, timeout=60)
    threads.shutdown(wait=not waiting)
    assert not waiting and all(taker.exception() for taker in done)


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch):
    def start(self):
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", start)
    with pytest.raises(DataError, match="died"), process_pool(2, "died") as pool:
        list(pool.in_order(slow_at_first, range(3)))


INTERRUPTED_WHILE_FORKING = """
import os, signal
from megatron_lmt.pool import process_pool
os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGINT))
with process_pool(2, "died"):
    print("goes on")
"""


def test_an_interrupt_in_the_middle_of_a_fork_is_not_lost():
    command = [sys.executable, "-c", INTERRUPTED_WHILE_FORKING]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGINT and not done.stdout
    assert "ignored" not in done.stderr
