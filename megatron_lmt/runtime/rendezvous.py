"""How the processes of a start find each other, and what they say meanwhile: torch waits half an hour without a word.

torchrun's environment, or the batch script's, says where: at MASTER_ADDR:MASTER_PORT the first process, or torchrun, opens
a store of torch. Each process leaves its name there. Next: `meeting.py`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from megatron_lmt.errors import UserError
from megatron_lmt.text_table import listed

FIRST_NOTICE_SECONDS = 30.0
NOTICE_SECONDS = 60.0
"""Between two notices after the first."""
KNOCK_SECONDS = 5.0
"""For one attempt to connect: a firewall that drops packets never answers."""
LONGEST_PAUSE_SECONDS = 0.2
ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OUTCOME = "outcome"
"""Key of the store: empty when all have come, and else why one of them gave up."""


@dataclass(frozen=True)
class Place:
    """Of one process: who it is, and where the others come to. `opens` says whether it is the one to open the store."""

    rank: int
    world_size: int
    host: str
    port: int
    opens: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port} (MASTER_ADDR:MASTER_PORT)"


def place_from_environment() -> Place:
    """
    Raises:
        UserError: a variable is not set.
    """
    if missing := [name for name in ENVIRONMENT if not os.environ.get(name)]:
        raise UserError(f"RANK is set, but not {', '.join(missing)}: start with torchrun or the scripts of slurm/")
    rank, world_size, host, port = (os.environ[name] for name in ENVIRONMENT)
    torchrun_opens = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(int(rank), int(world_size), host, int(port), opens=int(rank) == 0 and not torchrun_opens)


def find_each_other(place: Place, name: str, latest: timedelta) -> dist.Store:
    """Wait until all processes have come.

    Args:
        name: of this occasion; the store may be an older one.
        latest: for others to come; also the timeout of the store that is returned.
    Raises:
        UserError: not all have come, or the first process has ended meanwhile. One speaks for those that met.
    """
    store = _open(place, latest)
    store.set_timeout(latest)
    store = dist.PrefixStore(name, store)
    try:
        _wait_for_all(store, place, latest)
    except dist.DistNetworkError as error:
        raise UserError(
            f"rank {place.rank} on {socket.gethostname()}: the store at {place} closed while others were waited for "
            f"({_first_line(error)}): the process that opened it, rank 0 or torchrun, has ended; its log says why"
        ) from None
    return store


def _open(place: Place, latest: timedelta) -> dist.TCPStore:
    if not place.opens:
        _knock(place, latest)
    try:
        return dist.TCPStore(
            place.host,
            place.port,
            place.world_size,
            is_master=place.opens,
            timeout=latest,
            wait_for_workers=False,  # it would wait in silence
            multi_tenant=True,
        )
    except dist.DistNetworkError as error:
        raise UserError(
            f"rank {place.rank} on {socket.gethostname()} cannot open the store at {place}: {_first_line(error)}; set "
            "MASTER_ADDR to the host of rank 0, and MASTER_PORT to a port that is free there"
        ) from None


def _knock(place: Place, latest: timedelta) -> None:
    """Wait until somebody listens there. torch would, too, and print stacks of C++."""
    reason: OSError | None = None

    def is_open() -> bool:
        nonlocal reason
        try:
            socket.create_connection((place.host, place.port), timeout=KNOCK_SECONDS).close()
        except OSError as error:
            reason = error
            return False
        return True

    def notice(seconds: float) -> str:
        return (
            f"rank {place.rank} on {socket.gethostname()}: waiting for the first of {place.world_size} processes, nobody "
            f"listens at {place} after {seconds:.0f} s: {reason}"
        )

    if not _wait(is_open, notice, latest):
        raise UserError(
            f"rank {place.rank} on {socket.gethostname()}: nobody listened at {place} for {latest.total_seconds():.0f} s: "
            f"{reason}; start rank 0 there, give all processes the same MASTER_ADDR and MASTER_PORT, and let that port "
            "through the firewall"
        )


def _wait_for_all(store: dist.Store, place: Place, latest: timedelta) -> None:
    store.set(_mark(place.rank), socket.gethostname())
    if store.add("came", 1) == place.world_size:
        store.set(OUTCOME, "")

    def missing() -> list[int]:
        return [rank for rank in range(place.world_size) if not store.check([_mark(rank)])]

    def notice(seconds: float) -> str | None:
        absent = missing()
        speaker = next(rank for rank in range(place.world_size) if rank not in absent)
        if place.rank != speaker:
            return None
        return f"waiting for {_who(absent, place)} at {place} for {seconds:.0f} s"

    if not _wait(lambda: store.check([OUTCOME]), notice, latest) and store.add("gave up", 1) == 1:
        problem = (
            f"{_who(missing(), place)} did not come to {place} within {latest.total_seconds():.0f} s; see in their logs "
            f"whether they ended, give all the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE = {place.world_size}, and let "
            "that port through the firewall"
        )
        store.set(OUTCOME, problem)
        raise UserError(problem)
    if store.get(OUTCOME):
        raise UserError([])  # said by the one that gave up


def _wait(is_over: Callable[[], bool], notice: Callable[[float], str | None], latest: timedelta) -> bool:
    """Whether it was over in time. What `notice` returns of the seconds so far is printed now and then."""
    began, next_notice, pause = time.monotonic(), FIRST_NOTICE_SECONDS, 0.01
    while not is_over():
        seconds = time.monotonic() - began
        if seconds >= latest.total_seconds():
            return False
        if seconds >= next_notice:
            next_notice += NOTICE_SECONDS
            if text := notice(seconds):
                print(text, file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return True


def _who(absent: list[int], place: Place) -> str:
    ranks = f" (rank {listed(absent)})" if absent else ""
    return f"{len(absent)} of {place.world_size} processes{ranks}"


def _mark(rank: int) -> str:
    return f"rank {rank}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
