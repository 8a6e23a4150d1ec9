"""Start the trainer and the tools as a user does, as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.end_to_end.ranks import exit_codes, start_ranks


def free_port() -> int:
    """A port below those that the kernel gives to connections: it would give one away before a command listens there."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def launcher(processes: int, *command: str) -> list[str]:
    """`command`, a script or `-m module` with its arguments, in this many processes."""
    if processes == 1:
        return [sys.executable, *command]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return [sys.executable, *torchrun, *command]


def training_command(run_file: Path, processes: int, *overrides: str) -> list[str]:
    return launcher(processes, "-m", "megatron_lmt.train", str(run_file), *overrides)


def environment() -> dict[str, str]:
    # scripts of the tests import from tests
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def run(command: list[str], code: int = 0, timeout: int = 180) -> str:
    """Run a command to its end and check its exit code; returns what it wrote to stdout and stderr."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


def launch(processes: int, *command: str, code: int = 0) -> str:
    """What `run(launcher(…), code)` does, faster and without torchrun, see `ranks.py`; `code` is that of each process.

    All have one seed for hashes, as new processes would not. The start itself is for tests of `launcher`.
    """
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    places = [{**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    environments = [environment() | place for place in places] if processes > 1 else [environment()]
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
        codes = exit_codes(start_ranks(environments, list(command), Path(log.name)), timeout=180)
        output = log.read()
    assert codes == [code] * processes, f"exit codes {codes}\n{output}"
    return output


def train(run_file: Path, processes: int, *overrides: str, code: int = 0) -> str:
    return launch(processes, "-m", "megatron_lmt.train", str(run_file), *overrides, code=code)


def tool(name: str, *arguments: str | Path, code: int = 0) -> str:
    return run([sys.executable, str(REPOSITORY / "tools" / name), *map(str, arguments)], code)


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def curve(run_dir: Path, name: str = "lm_loss") -> list[float]:
    return [step[name] for step in metrics(run_dir)]


def same_result(run_dir: Path, undisturbed: Path) -> None:
    keys = ("iteration", "lm_loss", "grad_norm", "learning_rate", "data_fingerprint", "consumed_tokens")
    mine, theirs = ([[step[key] for key in keys] for step in metrics(d)] for d in (run_dir, undisturbed))
    assert mine == theirs  # bit for bit: JSON keeps every digit of a float
    assert (run_dir / "ledger.json").read_text() == (undisturbed / "ledger.json").read_text()
