"""Hugging Face models of a run every N iterations, made by a process beside the training.

The first training process starts it when a checkpoint is committed, and looks after each step whether it is done. Training
never waits for it, except at the end of the run. Exports that become due meanwhile wait for their turn; what they are made
from is kept for them by hard links. A run that is started again makes those that are missing: of what was kept, and of its
newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from logging import Logger
from pathlib import Path

from megatron_lmt.config import RunConfig
from megatron_lmt.errors import run_command
from megatron_lmt.processes import end_with_parent, start_beside
from megatron_lmt.runtime.checkpoint_folder import EXPORTS, iteration_of
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER, quick_problems

KEPT = ".checkpoint-"


class Exports:
    """The exports of a run, one at a time. Only the first process has them.

    Args:
        resumed_from: the run's newest checkpoint, whose export may be missing.
    """

    def __init__(self, run: RunConfig, log: Logger, resumed_from: Path | None):
        self._run, self._log = run, log
        self._folder = run.output_dir / EXPORTS
        self._waiting: deque[Path] = deque()
        self._process: subprocess.Popen | None = None
        for kept in sorted(self._folder.glob(f"{KEPT}*")):  # of a run that was stopped or killed
            is_whole = (kept / COMMIT_MARKER).is_file() and not quick_problems(kept)
            if is_whole and not self._target(kept).exists():
                self._waiting.append(kept)
            else:
                self._delete(kept)
        if resumed_from:
            self.committed(resumed_from)

    def committed(self, checkpoint: Path) -> None:
        """See to the export of this checkpoint if it is due."""
        iteration = iteration_of(checkpoint)
        due = iteration % self._run.checkpoint.export_every == 0 or iteration == self._run.train_iters
        kept = self._folder / f"{KEPT}{checkpoint.name}"
        if due and kept not in self._waiting and not self._target(kept).exists():
            try:
                # hard links: the run may delete the checkpoint meanwhile
                shutil.copytree(checkpoint, kept, copy_function=os.link)
                self._waiting.append(kept)
            except (OSError, shutil.Error) as error:
                self._log.warning(f"no export of {checkpoint}, which cannot be linked to {kept}: {error}")
                shutil.rmtree(kept, ignore_errors=True)
        self.collect()

    def collect(self) -> None:
        """Report an export that has ended since the last call, and start the next that waits."""
        if self._process:
            if self._process.poll() is None:
                return
            done, code, self._process = self._waiting.popleft(), self._process.returncode, None
            self._delete(done)
            target = self._target(done)
            if code:
                self._log.warning(f"the export {target} failed with exit code {code}, see {target}.log")
            else:
                self._log.info(f"exported {target}")
        while self._waiting and not self._process:
            self._start(self._waiting[0])

    def finish(self, enter: Callable[[str], None]) -> None:
        """Wait for what is under way or waits.

        Args:
            enter: tells the watchdog what the process is at; each export may take as long as any other phase.
        """
        while self._process:
            enter(f"export of {self._target(self._waiting[0])}")
            self._process.wait()
            self.collect()

    def stop(self) -> None:
        """End what is under way; the run that goes on starts it again."""
        if self._process:
            self._process.terminate()
            self._process.wait()

    def _target(self, kept: Path) -> Path:
        return self._folder / kept.name.removeprefix(KEPT)

    def _start(self, kept: Path) -> None:
        target = self._target(kept)
        command = [sys.executable, "-m", "megatron_lmt.exports", "--parent", str(os.getpid()), str(kept), str(target)]
        try:
            self._process = start_beside(command, target.with_name(f"{target.name}.log"))
        except OSError as error:
            self._log.warning(f"the export {target} is not made in this start: {error}")
            self._waiting.popleft()

    def _delete(self, kept: Path) -> None:
        try:
            shutil.rmtree(kept)
        except OSError as error:
            self._log.warning(f"{kept} cannot be deleted: {error}")


def main() -> None:
    """The process beside the training. It has no megatron-core and no GPU, and little memory."""
    from megatron_lmt.conversion.mcore_to_hf import export_to_hf  # imported late: it imports torch
    from megatron_lmt.conversion.options import Options

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process that starts this one, and that it ends with")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    end_with_parent(arguments.parent)
    os.nice(10)
    export_to_hf(arguments.checkpoint, arguments.target, Options(check_hashes=True))


if __name__ == "__main__":
    run_command(main)
