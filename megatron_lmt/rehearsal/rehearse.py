"""Plays the life of a run on this machine's CPU: train, save, kill, resume, stop, export, generate.

Each step is done by the very programs of the real job, as processes of their own, and checked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from megatron_lmt.config import RunConfig
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.errors import UserError
from megatron_lmt.preflight import check_data
from megatron_lmt.rehearsal.tiny_run import PROCESSES, RUN, write_tiny_run
from megatron_lmt.runtime.job_folder import STOPPED, job_folder
from megatron_lmt.runtime.last_words import summary
from megatron_lmt.runtime.metrics import METRICS
from megatron_lmt.runtime.signals import EXIT_FILE, SAVE_FILE

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS_BEFORE_THE_KILL = 2
COMPARED = ("lm_loss", "grad_norm", "data_fingerprint")


def rehearse(run: RunConfig, folder: Path) -> list[str]:
    """
    Args:
        run: the real one; its data must be here, its weights need not.
        folder: empty; about 200 MB are written for a vocabulary of 152,000.
    Returns:
        what was proved, as lines.
    Raises:
        UserError: something failed, with the end of what that program printed.
    """
    run_file, batch = write_tiny_run(run, folder)
    stage = _Stages(folder)
    run_dir = folder / RUN

    with stage.training(run_file) as training:
        training.wait_for(lambda: _steps(run_dir), "the first step")
        (run_dir / SAVE_FILE).touch()
        training.wait_for(lambda: not (run_dir / SAVE_FILE).exists(), "the checkpoint asked for by the file SAVE")
        saved = int((run_dir / "latest_checkpointed_iteration.txt").read_text())
        training.wait_for(lambda: len(_steps(run_dir)) >= saved + STEPS_BEFORE_THE_KILL, "steps after the checkpoint")
        training.kill()
    before = _steps(run_dir)
    with stage.training(run_file) as training:
        training.wait_for(lambda: len(_steps(run_dir)) > len(before), "the same steps, and one more, after the resume")
        (run_dir / EXIT_FILE).touch()
        training.wait_for_end()
    after = _steps(run_dir)
    stopped = job_folder(run_dir) / STOPPED
    _expect(stopped.is_file(), "the run is over after these few steps, too short to be rehearsed")
    _expect(stopped.read_text().startswith("exit"), f"the file {EXIT_FILE} did not stop the run: {stopped.read_text()}")
    for old, new in zip(before, after[: len(before)], strict=True):
        different = [name for name in COMPARED if old[name] != new[name]]
        _expect(not different, f"step {old['iteration']} came out otherwise after the resume: {different}, {old} and {new}")
    _expect(
        after[-1]["data_fingerprint"] == _fingerprint(run, len(after) * batch),
        f"the samples of {len(after)} steps are not the first {len(after) * batch} of the real run",
    )

    model = folder / "hf_model"
    formats = ("--loader", "mcore", "--saver", "hf")
    stage.tool("checkpoint/convert.py", *formats, "--load-dir", run_dir, "--save-dir", model)
    sentence, translation = folder / "sentence.txt", folder / "translation.txt"
    sentence.write_text("Good morning.\n", encoding="utf-8")
    decoding = ("--direction", "en-zh", "--num-beams", "1", "--max-new-tokens", "8")
    stage.tool("translate.py", "--model", model, *decoding, "--input", sentence, "--output", translation)
    return [
        f"the data are all there: {len(run.data.mixture)} groups, each source opened and checked",
        f"{len(after)} steps on {PROCESSES} processes took the real run's first {len(after) * batch} samples in its order "
        f"(fingerprint {after[-1]['data_fingerprint']})",
        f"the file SAVE saved after step {saved}; after a kill -9 in step {len(before)} or later, the same command went on "
        f"from there with the same losses, gradients and data, digit for digit",
        "the file EXIT ended it after another checkpoint",
        "that checkpoint was exported, and the exported model generated text",
    ]


def _steps(run_dir: Path) -> list[dict]:
    """The complete lines of metrics.jsonl."""
    file = run_dir / METRICS
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _fingerprint(run: RunConfig, samples: int) -> str:
    """Of the real run's order after so many samples."""
    plan, readers = check_data(run)
    mixture = Mixture(plan, readers, run.seed, run.data.seq_length, run.data.packing)
    for _ in range(samples):
        mixture.next_sample()
    return mixture.fingerprint


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UserError(f"the rehearsal failed: {otherwise}")


class _Stages:
    """Starts the programs, on the CPU, and keeps what they print in a file each."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._number = 0
        path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        self._environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def _start(self, name: str, *command: str | Path) -> _Program:
        self._number += 1
        log = self._folder / f"{self._number}-{name}.log"
        print(f"{name} …", flush=True)
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=self._environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return _Program(name, process, log)

    @contextmanager
    def training(self, run_file: Path):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))
        program = self._start("training", *launcher, "-m", "megatron_lmt.train", run_file)
        try:
            yield program
        finally:
            program.kill()

    def tool(self, name: str, *arguments: str | Path) -> None:
        program = self._start(Path(name).stem, REPOSITORY / "tools" / name, *arguments)
        try:
            program.wait_for_end()
        finally:
            program.kill()


class _Program:
    """A running program, the first process of a session of its own."""

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self._name, self._process, self._log = name, process, log

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """
        Raises:
            UserError: the program ended before.
        """
        while not condition():
            if self._process.poll() is not None and not condition():
                raise UserError(f"the rehearsal failed: {self._name} ended before {what}:\n{self._last_lines()}")
            time.sleep(0.05)

    def wait_for_end(self) -> None:
        """
        Raises:
            UserError: it ended with an error.
        """
        if self._process.wait():
            raise UserError(
                f"the rehearsal failed: {self._name} ended with code {self._process.returncode}:\n{self._last_lines()}"
            )

    def _last_lines(self) -> str:
        """What a training process said of its error, or else the end of what was printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        return "\n".join(summary(self._log.parent / RUN, "") or lines)

    def kill(self) -> None:
        """SIGKILL to all of its processes, if there are any left."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
