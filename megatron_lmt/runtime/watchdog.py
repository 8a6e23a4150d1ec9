"""Finds a run that hangs, says where every rank is, and ends the job: a GPU-hour costs the same when nothing happens.

The trainer names the phase it enters, and gives a sign of life with each micro batch. What is done between steps, such as
writing a checkpoint, has none and may take longer. A thread in each process looks whether the last sign was too long ago;
then it writes the phase and the stack of its process to `job/errors/`. For ranks that say nothing (they are stopped, or hold
Python's lock in a library) another rank of the same node says what the kernel knows of them, and asks Python's fault handler
for their stack, which needs no lock. Then all exit, and with them the job.

The thread of the first process also renews `job/incarnation.json`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch.distributed as dist

from megatron_lmt.errors import UserError
from megatron_lmt.runtime import last_words
from megatron_lmt.runtime.incarnation import RENEWAL_SECONDS, Incarnation
from megatron_lmt.runtime.last_words import LastWords

HANG_EXIT_CODE = 70
ANSWER_SECONDS = 5.0
"""How long ranks wait for each other's last words before they exit, beyond the time between two looks."""
LAST_WORDS_SECONDS = 120.0
"""For all that is said about a hang, whatever the disk does."""
STACK_SIGNAL = signal.SIGUSR2
STACK_SECONDS = 2.0
"""For writing a stack, before the job ends."""


@dataclass(frozen=True)
class Member:
    """Where a rank runs."""

    host: str
    process: int


class Watchdog:
    """Watches this process from a thread of its own.

    Args:
        output_dir: of the run; last words go to `job/errors/` in it.
        hang_seconds: longest time without a sign of life.
        hang_seconds_between_steps: the same in phases that have no micro batches to give one.
        incarnation: of the first process, to be renewed; None in the others.
    """

    def __init__(
        self,
        output_dir: Path,
        hang_seconds: float,
        hang_seconds_between_steps: float,
        incarnation: Incarnation | None,
    ):
        self._output_dir, self._incarnation = output_dir, incarnation
        self._hang_seconds, self._hang_seconds_between_steps = hang_seconds, hang_seconds_between_steps
        self._period = min(RENEWAL_SECONDS, hang_seconds / 10, hang_seconds_between_steps / 10)
        self.enter("start", between_steps=True)
        self._ended, self._hung = threading.Event(), threading.Event()
        self._members: list[Member] = [None] * dist.get_world_size()
        dist.all_gather_object(self._members, Member(socket.gethostname(), os.getpid()))
        faulthandler.register(STACK_SIGNAL, file=sys.stderr, all_threads=True)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, phase: str, between_steps: bool = False) -> None:
        """The trainer begins something."""
        self._since = time.monotonic()
        self.where, self._most = phase, self._hang_seconds_between_steps if between_steps else self._hang_seconds

    def alive(self) -> None:
        """The trainer moves in the same phase, such as to its next micro batch."""
        self._since = time.monotonic()

    def wait_if_hung(self) -> None:
        """Does not return while this process collects what is known of a hang; the thread then ends the process.

        Ranks that exit first make the collective calls of the others fail: that is not what went wrong.
        """
        if self._hung.is_set():
            self._thread.join()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        faulthandler.unregister(STACK_SIGNAL)

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            if self._incarnation:
                self._renew(self._incarnation)
            if time.monotonic() - self._since > self._most:
                self._end_the_job()

    def _renew(self, incarnation: Incarnation) -> None:
        try:
            incarnation.renew()
        except UserError as error:
            if not self._ended.is_set():
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(2)
        except OSError as error:  # of a file system that is in trouble; it is tried again soon
            print(f"[rank 0] {incarnation.file} cannot be renewed: {error}", file=sys.stderr, flush=True)

    def _end_the_job(self) -> None:
        """Exits in any case: what hangs, or takes nothing more, may be the disk that the last words go to."""
        self._hung.set()
        rank = dist.get_rank()
        print(
            f"[rank {rank} on {socket.gethostname()}] no progress for {self._most:g} s in: {self.where}; stacks go to "
            f"{last_words.errors_folder(self._output_dir)}; ending the job",
            file=sys.stderr,
            flush=True,
        )
        threading.Timer(LAST_WORDS_SECONDS, os._exit, [HANG_EXIT_CODE]).start()
        try:
            self._say_where_all_are(rank)
        except OSError as error:
            print(f"[rank {rank}] {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(HANG_EXIT_CODE)

    def _say_where_all_are(self, rank: int) -> None:
        if rank in {words.rank for words in last_words.read_all(self._output_dir)}:
            return  # it was stopped, others have spoken for it, and where it is now says nothing
        last_words.leave(self._output_dir, "hang", self.where, _stack())
        time.sleep(self._period + ANSWER_SECONDS)
        answered = {rank} | {words.rank for words in last_words.read_all(self._output_dir)}
        for silent in sorted(set(range(len(self._members))) - answered):
            neighbours = {each for each in answered if self._members[each].host == self._members[silent].host}
            if rank == min(neighbours or answered):
                self._speak_for(silent)

    def _speak_for(self, silent: int) -> None:
        member = self._members[silent]
        is_near = member.host == socket.gethostname()
        state = _kernel_state(member.process) if is_near else "on a node where no rank answers"
        text = f"no answer; process {member.process} is {state}; what stack it could still show is above in the log"
        last_words.write(self._output_dir, LastWords(silent, member.host, "hang", "unknown", time.time(), text))
        if is_near and state != "gone":
            os.kill(member.process, STACK_SIGNAL)
            os.kill(member.process, signal.SIGCONT)  # a stopped process takes the other signal only now
            time.sleep(STACK_SECONDS)


def _kernel_state(process: int) -> str:
    try:
        return psutil.Process(process).status()
    except psutil.NoSuchProcess:
        return "gone"


def _stack() -> str:
    """The stack of the main thread, innermost call last."""
    frame = sys._current_frames()[threading.main_thread().ident]
    return "".join(traceback.format_stack(frame))
