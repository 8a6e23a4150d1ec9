"""Translation of a fixed slice every N iterations, outside the training processes.

The first training process starts `evaluate_snapshot.py` when a checkpoint is committed, and looks after each step whether
it is done. Training never waits for it, except at the end of the run. A run that is started again evaluates its newest
checkpoint again if the result was not collected.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from logging import Logger
from pathlib import Path

from megatron_lmt.config import RunConfig
from megatron_lmt.degeneration import DegenerationWatch, Scores, degeneration_record, direction_of
from megatron_lmt.evaluate_snapshot import RESULT
from megatron_lmt.processes import start_beside
from megatron_lmt.runtime.checkpoint_folder import iteration_of
from megatron_lmt.runtime.metrics import EVALUATION, MetricsLog

FOLDER = "snapshots"
LEAST_FALL = 2.0
"""Points of chrF++ that X→pivot must have fallen by for an alert."""


class Snapshots:
    """The evaluations of a run, one at a time. Only the first process has one.

    Args:
        metrics: where the results go.
        resumed_from: the run's newest checkpoint, whose result may not have been collected.
    """

    def __init__(self, run: RunConfig, metrics: MetricsLog, log: Logger, resumed_from: Path | None):
        self._run, self._metrics, self._log = run, metrics, log
        self._folder = run.output_dir / FOLDER
        file = run.output_dir / EVALUATION
        self._watch = DegenerationWatch(file, chrf_scores, LEAST_FALL)
        self._collected = {json.loads(line)["iteration"] for line in file.read_text(encoding="utf-8").splitlines()}
        self._process: subprocess.Popen | None = None
        self._iteration = 0
        self._left_out: Path | None = None
        if resumed_from:
            self.committed(resumed_from)

    def committed(self, checkpoint: Path) -> None:
        """Start the evaluation of this checkpoint if it is due; one that falls behind another is left out."""
        self.collect()
        iteration = iteration_of(checkpoint)
        due = iteration % self._run.evaluation.eval_interval == 0 or iteration == self._run.train_iters
        if not due or iteration in self._collected:
            return
        if self._process:
            self._left_out = checkpoint
            self._log.warning(
                f"iteration {iteration} is not evaluated, because iteration {self._iteration} still is: "
                "raise evaluation.eval_interval"
            )
            return
        self._start(checkpoint, iteration)

    def collect(self) -> None:
        """Take the result of an evaluation that has ended since the last call."""
        if not self._process or self._process.poll() is None:
            return
        folder, code = self._output, self._process.returncode
        self._process = None
        self._free_disk()
        if code:
            self._log.warning(f"evaluation of iteration {self._iteration} failed with exit code {code}, see {folder}.log")
            return
        record = {"iteration": self._iteration, **json.loads((folder / RESULT).read_text(encoding="utf-8"))}
        alerts = self._watch.see(record)
        self._metrics.evaluation({**record, **degeneration_record(alerts)})
        self._collected.add(self._iteration)
        shown = ("chrf++/en-x", "chrf++/x-en", "chrf++/zh-x", "chrf++/x-zh")
        means = " | ".join(f"{name}: {record[name]:.2f}" for name in shown if name in record)
        self._log.info(f"evaluation at iteration {self._iteration} | {means}")
        for alert in alerts:
            self._log.warning(f"evaluation at iteration {self._iteration}: chrF++: {alert}")

    def finish(self, enter: Callable[[str], None]) -> None:
        """Wait for the evaluation that runs, and see that the last checkpoint of the run has its own.

        Args:
            enter: tells the watchdog what the process is at. One evaluation is waited for as long as for any other phase.
        """
        self._wait(enter)
        if self._left_out and iteration_of(self._left_out) == self._run.train_iters:
            self._start(self._left_out, self._run.train_iters)
            self._wait(enter)

    def stop(self) -> None:
        """End the evaluation that runs; the run that goes on starts it again."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None
            self._free_disk()

    def _wait(self, enter: Callable[[str], None]) -> None:
        if not self._process:
            return
        enter(f"evaluation of iteration {self._iteration}")
        self._log.info(f"waiting for the evaluation of iteration {self._iteration}")
        most = 0.8 * self._run.job.hang_seconds_between_steps  # before the watchdog takes it for a hang
        try:
            self._process.wait(timeout=most)
        except subprocess.TimeoutExpired:
            self._log.warning(
                f"no longer waiting after {most:.0f} s: take a smaller slice, or raise job.hang_seconds_between_steps"
            )
            self.stop()
        self.collect()

    def _free_disk(self) -> None:
        """Without the hard links, a checkpoint that the run deletes is gone."""
        for name in ("checkpoint", "model"):
            shutil.rmtree(self._output / name, ignore_errors=True)

    @property
    def _output(self) -> Path:
        return self._folder / f"iter_{self._iteration:07d}"

    def _start(self, checkpoint: Path, iteration: int) -> None:
        self._iteration = iteration
        try:
            self._process = self._launch(checkpoint)
        except OSError as error:  # of a disk without hard links, or one that is full: nothing to stop the training for
            self._log.warning(f"iteration {iteration} is not evaluated: {error}")

    def _launch(self, checkpoint: Path) -> subprocess.Popen:
        output = self._output
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        settings = self._run.evaluation.model_copy(update={"test_set": self._run.path(self._run.evaluation.test_set)})
        # hard links: the run may delete the checkpoint meanwhile
        shutil.copytree(checkpoint, output / "checkpoint", copy_function=os.link)
        command = [*settings.launcher, sys.executable, "-m", "megatron_lmt.evaluate_snapshot"]
        command += ["--checkpoint", str(output / "checkpoint"), "--output-dir", str(output)]
        command += ["--settings", settings.model_dump_json(exclude={"launcher"})]
        if not settings.launcher:
            command += ["--parent", str(os.getpid())]
        return start_beside(command, output.with_name(f"{output.name}.log"), has_gpu=settings.device == "cuda")


def chrf_scores(record: dict) -> Scores:
    """chrF++ of each direction in a line of evaluation.jsonl."""
    scores = {
        direction_of(name.removeprefix("chrf++/")): value for name, value in record.items() if name.startswith("chrf++/")
    }
    return {direction: score for direction, score in scores.items() if direction}
