"""What a process that failed or hung leaves behind, and the summary of it at the end of a job's log.

`job/errors/rank_00003.txt` holds a line of facts and a text; the first rank to fail is the cause, the others lose their
connection to it. An empty file there, `….said`, marks words that were printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_lmt.files import write_text_atomically
from megatron_lmt.runtime.job_folder import job_folder

TASK_ENDED = re.compile(r"^srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,-]+): (?P<how>.*)$", re.MULTILINE)
"""srun's words about a task; its `how` is "Exited with exit code 1", or the name of a signal."""

LOST_ANOTHER = re.compile(r"Connection (closed|reset) by peer|Broken pipe|ncclRemoteError|remote process exited")
"""What a rank says that fails because another one is gone."""

SAID = ".said"


@dataclass(frozen=True)
class LastWords:
    """`kind` is "error" or "hang"; `where` is the phase of the run in which it happened; `time` in seconds since 1970."""

    rank: int
    host: str
    kind: str
    where: str
    time: float
    text: str


def errors_folder(output_dir: Path) -> Path:
    return job_folder(output_dir) / "errors"


def leave(output_dir: Path, kind: str, where: str, text: str) -> None:
    """Write this process's last words. A disk that does not take them, which may be what went wrong, costs a line."""
    rank = int(os.environ.get("RANK", 0))
    try:
        write(output_dir, LastWords(rank, socket.gethostname(), kind, where, time.time(), text))
    except OSError as error:
        print(f"[rank {rank}] nothing could be left in {errors_folder(output_dir)}: {error}", file=sys.stderr, flush=True)


def write(output_dir: Path, words: LastWords) -> Path:
    facts = asdict(words)
    text = facts.pop("text")
    folder = errors_folder(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"rank_{words.rank:05d}.txt"
    write_text_atomically(file, f"{json.dumps(facts)}\n{text.rstrip()}\n")
    return file


def read_all(output_dir: Path) -> list[LastWords]:
    """Last words of the newest start, earliest first."""
    found = []
    for file in errors_folder(output_dir).glob("rank_*.txt"):
        facts, _, text = file.read_text(encoding="utf-8").partition("\n")
        found.append(LastWords(**json.loads(facts), text=text))
    return sorted(found, key=lambda words: words.time)


def is_news(output_dir: Path, text: str) -> bool:
    """Whether no other rank of this start has asked this about the same words: what hits all is printed by one."""
    mark = errors_folder(output_dir) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{SAID}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # nobody can know
        return True
    return True


def forget(output_dir: Path) -> None:
    """Remove the last words of an earlier start."""
    for pattern in ("rank_*.txt", f"*{SAID}"):
        for file in errors_folder(output_dir).glob(pattern):
            file.unlink()


def summary(output_dir: Path, log_of_this_start: str) -> list[str]:
    """What ended a start of the run, as lines for the end of its log; empty if nobody says anything.

    Args:
        log_of_this_start: what srun and the ranks printed.
    """
    words = read_all(output_dir)
    hung = [each for each in words if each.kind == "hang"]
    if hung:
        return _hang_summary(hung)
    killed = _killed_first(words, log_of_this_start)
    if killed:
        return [
            f"rank {killed['ranks']} on {killed['node']} ended first: {killed['how']}. It had no time to say why; Killed is "
            "often the kernel, or Slurm, when memory is short (see dmesg on that node)"
        ]
    if not words:
        return []
    first = words[0]
    others = f" (so did {len(words) - 1} others, later)" if words[1:] else ""
    return [f"rank {first.rank} on {first.host} failed first{others}, in {first.where}:", *first.text.splitlines()]


def _killed_first(words: list[LastWords], log: str) -> re.Match | None:
    """srun's words about a task that a signal ended before all others.

    srun may tell of it late, but then all who say anything say that they lost another one.
    """
    ended = list(TASK_ENDED.finditer(log))
    killed = next((task for task in ended if not task["how"].startswith("Exited")), None)
    have_lost_one = words and all(LOST_ANOTHER.search(each.text) for each in words)
    return killed if killed and (killed is ended[0] or have_lost_one) else None


def _hang_summary(hung: list[LastWords]) -> list[str]:
    """Ranks that stand at the same place together, the smallest groups first: those are the suspects."""
    places: dict[tuple[str, str], list[LastWords]] = {}
    for words in hung:
        places.setdefault((words.where, words.text), []).append(words)
    lines = ["the run hung; where each rank was, the fewest at one place first:"]
    for (where, text), there in sorted(places.items(), key=lambda place: len(place[1])):
        who = ", ".join(f"{words.rank} ({words.host})" for words in sorted(there, key=lambda words: words.rank))
        lines += ["", f"rank {who}: {where}", *text.splitlines()]
    return lines
