"""Looks after one start of a run, from its first collective call to its end: who may write, does it move, why did it end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from megatron_lmt.config import JobSection
from megatron_lmt.errors import UserError, print_problems
from megatron_lmt.runtime import last_words
from megatron_lmt.runtime.incarnation import Incarnation
from megatron_lmt.runtime.job_folder import job_folder, record_start, record_stop
from megatron_lmt.runtime.signals import Requests
from megatron_lmt.runtime.watchdog import Watchdog


class Attendance:
    """What the training loop tells and asks."""

    def __init__(self, output_dir: Path, watchdog: Watchdog, incarnation: Incarnation | None, requests: Requests):
        self._output_dir, self._watchdog, self._incarnation, self._requests = output_dir, watchdog, incarnation, requests

    def enter(self, phase: str) -> None:
        """The loop begins this part of a step; what takes too long is a hang."""
        self._watchdog.enter(phase)

    def enter_between_steps(self, phase: str) -> None:
        """The loop begins this, which has no micro batches and may take longer."""
        self._watchdog.enter(phase, between_steps=True)

    def alive(self) -> None:
        """The loop does something in this phase."""
        self._watchdog.alive()

    def check_may_write(self) -> None:
        """Call it before something is published.

        Raises:
            UserError: another start of this run has taken over.
        """
        if self._incarnation:
            self._incarnation.check()

    def stopped(self, iteration: int) -> None:
        """The run stops after a complete checkpoint, though it is not done."""
        if self._incarnation:
            record_stop(self._output_dir, "exit" if self._requests.exit_file else "signal", iteration)

    def end(self) -> None:
        """This start ends in order, and the next may begin at once."""
        self._watchdog.end()
        if self._incarnation:
            self._incarnation.end()


@contextmanager
def attend(output_dir: Path, iteration: int, job: JobSection, requests: Requests) -> Iterator[Attendance]:
    """All processes enter it together. An error of one of them is kept with its place, and the process ends at once.

    An error that several have is printed by one of them.

    Args:
        iteration: that the run goes on from.
        job: has the longest times in one phase.
    """
    incarnation = None
    if dist.get_rank() == 0:
        job_folder(output_dir).mkdir(parents=True, exist_ok=True)
        incarnation = Incarnation(output_dir)
        record_start(output_dir, iteration)
        last_words.forget(output_dir)
        requests.watch_files(output_dir)
    watchdog = Watchdog(output_dir, job.hang_seconds, job.hang_seconds_between_steps, incarnation)
    attendance = Attendance(output_dir, watchdog, incarnation, requests)
    try:
        yield attendance
    except UserError as error:
        watchdog.wait_if_hung()
        watchdog.end()
        last_words.leave(output_dir, "error", watchdog.where, str(error))
        if last_words.is_news(output_dir, str(error)):
            print_problems(error.problems)
        raise UserError([]) from error
    except Exception:
        watchdog.wait_if_hung()
        last_words.leave(output_dir, "error", watchdog.where, traceback.format_exc())
        traceback.print_exc()
        sys.stderr.flush()
        # libraries with threads of their own may wait in a usual exit for ranks that wait for this one
        os._exit(1)
    attendance.end()
