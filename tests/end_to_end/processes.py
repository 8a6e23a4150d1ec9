"""Start the trainer and the tools as a user does, as processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


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


def train(run_file: Path, processes: int, *overrides: str) -> str:
    return run(training_command(run_file, processes, *overrides))


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
