"""The doctor itself: examines every node, compares them, and lets all processes talk to each other once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_lmt.doctor.node import Finding, examine, facts
from megatron_lmt.errors import UserError
from megatron_lmt.preflight import ReadyRun
from megatron_lmt.runtime.meeting import join

MEETING_SECONDS = 120
CLOCK_SECONDS = 5.0
"""Clocks may differ by this much; logs and file times are compared by people and programs."""


def meet() -> Finding:
    """Meet the other processes at MASTER_ADDR:MASTER_PORT, as training will. Alone, there is nobody to meet."""
    latest = timedelta(seconds=MEETING_SECONDS)
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        meeting = join(latest)
        dist.init_process_group(
            "gloo", store=meeting.store, rank=meeting.rank, world_size=meeting.world_size, timeout=latest
        )
    except UserError as error:
        return Finding(f"port {place}", str(error) or "another process says who did not come")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fix = (
            f"{socket.gethostname()} met nobody there ({reason}); open the port, or set GLOO_SOCKET_IFNAME in environment.sh"
        )
        return Finding(f"port {place}", fix)
    if meeting.world_size == 1:
        return Finding("one process, no network needed")
    return Finding(f"port {place}: {dist.get_world_size()} processes met")


def diagnose(ready: ReadyRun, met: Finding) -> list[str]:
    """The report, on the first process; empty on the others. All that met call it together."""
    mine = None
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        mine = (socket.gethostname(), examine(ready, dist.get_world_size()), facts(ready))
    clocks = [0.0] * dist.get_world_size()
    dist.barrier()
    dist.all_gather_object(clocks, time.time())
    of_all = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, mine)
    collective = _sum_of_ranks()
    if dist.get_rank() != 0:
        return []
    nodes = [node for node in of_all if node]
    lines = [str(finding) for finding in (met, collective, _same_clock(clocks))]
    lines += [str(finding) for finding in compare([(host, known) for host, _, known in nodes])]
    for host, findings, _ in nodes:
        lines += ["", f"{host}:", *map(str, findings)]
    return lines


def _sum_of_ranks() -> Finding:
    """A collective call of the kind that training makes, with NCCL where there are GPUs."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if backend == "nccl" else torch.device("cpu")
    text = f"{backend} all-reduce over {dist.get_world_size()} processes"
    try:
        group = dist.new_group(backend=backend, timeout=timedelta(seconds=MEETING_SECONDS))
        ranks = torch.full((1 << 20,), float(dist.get_rank()), device=device)
        dist.all_reduce(ranks, group=group)
        found = ranks[-1].item()
    except RuntimeError as error:
        return Finding(
            text, f"it failed ({str(error).splitlines()[0]}); see NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME, NCCL_IB_HCA"
        )
    wanted = sum(range(dist.get_world_size()))
    return Finding(text, None if found == wanted else f"the sum of the ranks came out as {found}, not {wanted}")


def _same_clock(clocks: list[float]) -> Finding:
    spread = max(clocks) - min(clocks)
    text = f"clocks differ by {spread:.1f} s"
    return Finding(text, None if spread < CLOCK_SECONDS else "set the clocks of the nodes (chrony or ntp)")


def compare(nodes: Sequence[tuple[str, dict[str, str]]]) -> list[Finding]:
    """A finding for each fact: whether it is the same on all nodes.

    Args:
        nodes: host and facts of each.
    """
    findings = []
    for name in nodes[0][1]:
        hosts: dict[str, list[str]] = {}
        for host, known in nodes:
            hosts.setdefault(known[name], []).append(host)
        if len(hosts) == 1:
            findings.append(Finding(f"{name}: {next(iter(hosts))} on {len(nodes)} nodes"))
        else:
            different = "; ".join(f"{value} on {' '.join(names)}" for value, names in hosts.items())
            findings.append(Finding(f"{name} differs", f"{different}; make it the same, or exclude the odd nodes"))
    return findings
