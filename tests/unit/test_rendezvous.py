"""Processes that wait for others say for whom, where and how long; those that nobody comes to end with the reason."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from megatron_lmt.errors import UserError
from megatron_lmt.runtime import rendezvous
from megatron_lmt.runtime.rendezvous import Place, find_each_other, place_from_environment
from tests.end_to_end.processes import environment, free_port

SOON = timedelta(seconds=1)
HERE = f"on {socket.gethostname()}"


@pytest.fixture
def place(monkeypatch):
    """Of three processes, by rank; notices come at once."""
    monkeypatch.setattr(rendezvous, "FIRST_NOTICE_SECONDS", 0.3)
    port = free_port()
    return lambda rank: Place(rank, 3, "127.0.0.1", port, opens=rank == 0)


def at_once(ranks, place, latest):
    """What comes of these processes, as threads: what each of them raises, or None."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [each.exception() for each in [pool.submit(find_each_other, place(r), "a", latest) for r in ranks]]


def test_all_come_and_nobody_says_anything(place, capfd):
    assert at_once((0, 1, 2), place, timedelta(minutes=1)) == [None] * 3
    assert capfd.readouterr() == ("", "")


def test_who_did_not_come_is_named_once(place, capfd):
    errors = at_once((0, 1), place, SOON)
    assert all(isinstance(error, UserError) for error in errors)
    (problem,) = errors[0].problems + errors[1].problems  # one speaks for both
    where = f"127.0.0.1:{place(0).port} (MASTER_ADDR:MASTER_PORT)"
    assert problem.startswith(f"1 of 3 processes (rank 2) did not come to {where} within 1 s; ")
    assert "WORLD_SIZE = 3" in problem
    assert capfd.readouterr().err == f"waiting for 1 of 3 processes (rank 2) at {where} for 0 s\n"


def test_nobody_listens(place, capfd):
    (error,) = at_once((2,), place, SOON)
    where = f"127.0.0.1:{place(0).port} (MASTER_ADDR:MASTER_PORT)"
    (problem,) = error.problems
    assert problem.startswith(
        f"rank 2 {HERE}: nobody listened at {where} for 1 s: [Errno 111] Connection refused; start rank"
    )
    notice = f"rank 2 {HERE}: waiting for the first of 3 processes, nobody listens at {where} after 0 s: [Errno 111]"
    assert capfd.readouterr().err.startswith(notice)  # and no stack of C++


def test_a_port_that_is_taken(place):
    with socket.socket() as taken:
        taken.bind(("", place(0).port))
        taken.listen()
        (error,) = at_once((0,), place, SOON)
    (problem,) = error.problems
    assert problem.startswith(f"rank 0 {HERE} cannot open the store at 127.0.0.1:") and "EADDRINUSE" in problem


def test_the_first_process_ends_while_others_are_waited_for(place):
    script = """
import sys
from datetime import timedelta
from megatron_lmt.runtime.rendezvous import Place, _open
store = _open(Place(0, 3, "127.0.0.1", int(sys.argv[1]), True), timedelta(minutes=1))
store.wait(["a/came"], timedelta(minutes=1))
"""
    with subprocess.Popen([sys.executable, "-c", script, str(place(0).port)], env=environment()) as first:
        (error,) = at_once((1,), place, timedelta(minutes=1))
        assert first.wait(timeout=60) == 0
    (problem,) = error.problems
    assert problem.startswith(f"rank 1 {HERE}: the store at 127.0.0.1:") and problem.endswith("has ended; its log says why")


def test_an_environment_with_gaps(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="RANK is set, but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT: start with torchrun"):
        place_from_environment()
