"""Real jobs of the trainer: submitted with sbatch, watched from outside."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil

from tests.conftest import REPOSITORY
from tests.end_to_end.processes import metrics
from tests.slurm.cluster import Cluster, wait_for

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"}
SCRIPTS = REPOSITORY / "slurm"
TWO_NODES = ("--nodes=2", "--gpus-per-node=2")


class Job:
    """One Slurm job.

    Args:
        output_dir: of the run that it trains.
    """

    def __init__(self, cluster: Cluster, number: int, output_dir: Path, slurm_log: Path):
        self.cluster, self.number, self.output_dir, self.slurm_log = cluster, number, output_dir, slurm_log

    def field(self, name: str) -> str:
        shown = self.cluster.command("scontrol", "-o", "show", "job", str(self.number)).stdout
        return re.search(rf"\b{name}=(\S*)", shown)[1]

    @property
    def state(self) -> str:
        return self.field("JobState")

    def log(self) -> str:
        """What the job printed: before the checks are done, and after that, over all restarts."""
        files = [self.slurm_log, *self.output_dir.glob(f"job/*-{self.number}.log")]
        return "".join(file.read_text(errors="replace") for file in files if file.is_file())

    def iterations(self) -> int:
        return len(metrics(self.output_dir)) if (self.output_dir / "metrics.jsonl").is_file() else 0

    def wait_for_iteration(self, iteration: int) -> None:
        self._wait(lambda: self.iterations() >= iteration, f"iteration {iteration}")

    def wait_until_ended(self, state: str = "COMPLETED") -> str:
        """Wait for the end and check how it was; returns the log."""
        self._wait(lambda: self.state in ENDED, "the end of the job", ended=True)
        ended = self.state
        assert ended == state, f"{ended}\n{self.log()}"
        return self.log()

    def wait_for_log(self, text: str) -> None:
        self._wait(lambda: text in self.log(), repr(text))

    def _wait(self, condition, what: str, ended: bool = False) -> None:
        try:
            wait_for(lambda: condition() or (not ended and self.state in ENDED), f"{what} of job {self.number}")
            assert condition(), f"job {self.number} ended ({self.state}) before {what}"
        except AssertionError as error:
            raise AssertionError(f"{error}\nits log:\n{self.log()}") from None

    def rank(self, rank: int) -> psutil.Process:
        """The training process of a rank, as this machine sees it."""
        for process in psutil.process_iter():
            try:
                command, environment = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            mine = environment.get("SLURM_JOB_ID") == str(self.number) and environment.get("RANK") == str(rank)
            if mine and "megatron_lmt.train" in command and process.parent().name() == "slurmstepd":
                return process
        raise AssertionError(f"job {self.number} has no rank {rank}:\n{self.log()}")

    def cancel(self, *options: str) -> None:
        self.cluster.command("scancel", *options, str(self.number))


def submit(cluster: Cluster, run_file: Path, *overrides: str, options: tuple[str, ...] = (), script: str = "cpt.sh") -> Job:
    """`sbatch slurm/SCRIPT RUN.toml key=value …` with 2 nodes × 2 tasks, from the folder of the run file."""
    (job,) = _submit(cluster, ["sbatch", *_options(run_file), *options, str(SCRIPTS / script)], run_file, overrides)
    return job


def submit_chain(cluster: Cluster, run_file: Path, *overrides: str, jobs: int, options: tuple[str, ...] = ()) -> list[Job]:
    """`slurm/submit.sh --chain JOBS cpt.sh RUN.toml key=value …`."""
    command = ["bash", str(SCRIPTS / "submit.sh"), "--chain", str(jobs), *_options(run_file), *options, "cpt.sh"]
    return _submit(cluster, command, run_file, overrides)


def _options(run_file: Path) -> list[str]:
    return ["--parsable", f"--output={run_file.parent}/slurm-%j.log", *TWO_NODES]


def _submit(cluster: Cluster, command: list[str], run_file: Path, overrides: tuple[str, ...]) -> list[Job]:
    named = [override.partition("=")[2] for override in overrides if override.startswith("output_dir=")]
    output_dir = run_file.parent / (named[0] if named else "run")
    python = ["env", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"]
    numbers = cluster.command(*python, *command, str(run_file), *overrides, cwd=run_file.parent).stdout.split()
    return [Job(cluster, int(number), output_dir, run_file.parent / f"slurm-{number}.log") for number in numbers]
