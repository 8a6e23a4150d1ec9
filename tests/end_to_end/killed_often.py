"""Started by test_killed_often: a run of two processes that is killed again and again, and started again each time.

`killed_often.py KILLS RUN_DIR RUN.toml key=value …`. Everything is imported once, and the processes of each start are forks
of this one: a start takes a second and not five. They are killed at random moments, every second time inside a save;
then either with the processes that write in the background or without them.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from megatron_lmt.train import main
from tests.end_to_end import prepared  # noqa: F401 - all is imported once
from tests.end_to_end.processes import free_port

RANKS = 2


def start(arguments: list[str]) -> list[int]:
    """Fork the processes of one start; returns their ids. Each leads a process group of its own."""
    port = str(free_port())
    return [_fork(arguments, {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}) for rank in range(RANKS)]


def _fork(arguments: list[str], environment: dict[str, str]) -> int:
    if process := os.fork():
        return process
    os.setsid()
    os.environ.update({"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "localhost", **environment})
    sys.argv = ["train", *arguments]
    code = 1
    try:
        code = main() or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def wait_until(condition, processes: list[int]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        ended = [process for process in processes if os.waitpid(process, os.WNOHANG) != (0, 0)]
        assert not ended, "the run ended before it was killed"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


def iterations_done(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def is_saving(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob(".unfinished-*/*.distcp"))


def is_empty(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return True
    return False


kills, run_dir, *arguments = sys.argv[1:]
run_dir, draw, all_killed = Path(run_dir), random.Random(11), []
for number, moment in enumerate(sorted(draw.sample(range(2, 180), int(kills)))):
    processes = start(arguments)
    wait_until(lambda moment=moment: iterations_done(run_dir) >= moment, processes)
    if number % 2:
        wait_until(lambda: is_saving(run_dir), processes)
    time.sleep(draw.random() * 0.02)
    saving = is_saving(run_dir)
    for process in processes:
        (os.killpg if draw.random() < 0.5 else os.kill)(process, signal.SIGKILL)
    for process in processes:
        os.waitpid(process, 0)
    all_killed += processes
    print(f"killed after iteration {iterations_done(run_dir)}{', while saving' if saving else ''}", flush=True)
processes = start(arguments)
codes = [os.waitpid(process, 0)[1] for process in processes]
assert codes == [0] * RANKS, codes
wait_until(lambda: all(map(is_empty, all_killed)), [])  # no process that the killed ones forked lives on
