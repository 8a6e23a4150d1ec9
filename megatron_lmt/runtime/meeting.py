"""The processes of a start meet before anything is opened, and say together what is wrong: each problem once.

Each of them has checked what it can see. The meeting needs a network and no GPU; it ends before training begins. Cost: a
connection between all processes through gloo, which megatron-core makes again later.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from megatron_lmt.errors import print_problems
from megatron_lmt.runtime.rendezvous import find_each_other, place_from_environment

FOREVER = timedelta(days=365)
FRESH_STARTS = "MEGATRON_LMT_FRESH_STARTS"
"""Environment variable: how often this process was replaced by a fresh one with the same place among the others."""
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable of torchrun: how often it has started all its processes again (`--max-restarts`)."""
LATEST = timedelta(minutes=30)
"""For others to come: on a busy file system some read their inputs later."""


@dataclass(frozen=True)
class Meeting:
    """The place of this process among the others. `store` is kept as long as it is needed: rank 0's process holds it."""

    store: dist.Store
    rank: int
    world_size: int

    def end_all_if_any(self, problems: list[str], alike: Mapping[str, str] | None = None) -> None:
        """All processes call it with what they found wrong. If there is anything, the first prints it and all exit.

        Args:
            alike: what must be the same for all, by name; None for a process that could not read it.
        """
        store = dist.PrefixStore("meeting", self.store)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size, timeout=LATEST)
        end_all_if_any(problems, alike)
        dist.destroy_process_group()

    def wait_for_first(self) -> None:
        """Return when the first process has called it, too, however late. If that one ends, its launcher ends all."""
        if self.rank == 0:
            self.store.set("first", "")
        self.store.wait(["first"], FOREVER)


def end_all_if_any(problems: list[str], alike: Mapping[str, str] | None = None) -> None:
    """All processes of the open process group call it, as `Meeting.end_all_if_any`."""
    gathered: list[tuple[dict[str, str], tuple[str, list[str]]]] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (alike or {}, (socket.gethostname(), problems)))
    of_each, found = zip(*gathered, strict=True)
    of_all = merged(found) + different(of_each, found)
    if of_all and dist.get_rank() == 0:
        print_problems(of_all)
    dist.barrier()  # launchers end all processes when one ends: not before the first has printed
    if of_all:
        dist.destroy_process_group()
        sys.exit(2)


def join(latest: timedelta = LATEST) -> Meeting:
    """Find the other processes (torchrun's environment says where). Without that environment this process is alone.

    Raises:
        UserError: they did not come.
    """
    if "RANK" not in os.environ:
        return Meeting(dist.HashStore(), 0, 1)
    place = place_from_environment()
    # after `become_a_fresh_process`, or a restart by torchrun, its store still has the addresses of the processes before
    name = f"fresh {os.environ.get(FRESH_STARTS, 0)}, restart {os.environ.get(RESTARTS, 0)}"
    return Meeting(find_each_other(place, name, latest), place.rank, place.world_size)


def different(alike: Sequence[Mapping[str, str]], found: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Where some processes do not have what the first has: they would train apart, and wait for ever.

    Args:
        alike: of each rank, as for `end_all_if_any`.
        found: host and problems of each rank.
    """
    problems = []
    for name, first in alike[0].items():
        others = [rank for rank, own in enumerate(alike) if own.get(name, first) != first]
        if others and name == "settings":
            fix = "start all with the same run file and overrides, and the same version"
            problems.append(f"{_named(others, found)}: other settings than rank 0; {fix}")
        elif others:
            problems.append(
                f"{_named(others, found)}: {name}: {alike[others[0]][name]}, but {first} for rank 0; is the folder the same "
                "on all nodes? Start again when the file system shows all of them the same"
            )
    return problems


def merged(found: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Each problem once; those that the first process does not have are said with who has them.

    Args:
        found: host and problems of each rank.
    """
    ranks: dict[str, list[int]] = {}
    for rank, (_, problems) in enumerate(found):
        for problem in problems:
            ranks.setdefault(problem, []).append(rank)
    return [problem if has[0] == 0 else f"{_named(has, found)}: {problem}" for problem, has in ranks.items()]


def _named(ranks: list[int], found: Sequence[tuple[str, list[str]]]) -> str:
    return ", ".join(f"rank {rank} on {found[rank][0]}" for rank in ranks)
