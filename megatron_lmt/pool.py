"""A pool of processes whose results come in the order of the work, and which ends with its parent or when one of it dies.

Every process has pipes of its own, and a thread here that asks it. However a process dies, while it starts, idle or in the
middle of a result, the end of its pipe is seen, because no other process holds it open.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback
from pickle import PicklingError
from typing import Any, TypeVar

from megatron_lmt.errors import DataError
from megatron_lmt.processes import end_with_parent

PIPE_BYTES = 1 << 20
"""More needs a privilege, and a user whose pipes hold 64 MB gets only small ones: pools of many processes go without."""

MOST_LARGE_PIPES = 32

UNDER_WAY = 6
"""Items for each process that are read, in work or waiting to be taken, so that it is not idle while others have to wait."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def process_pool(number: int, died: str) -> Iterator[Pool]:
    """
    Args:
        number: of processes, which start at once.
        died: what to tell a person if one dies.
    Raises:
        DataError: one died, or could not be started.
    """
    pool = Pool(number, died)
    try:
        pool.start()
        yield pool
    finally:
        pool.end()


@contextmanager
def call_beside(died: str, function: Callable[..., Result], *arguments: Any) -> Iterator[Callable[[], Result]]:
    """Call a function in a process of its own, which then ends; gives what waits for the result.

    No thread is needed for that, so this process may be forked meanwhile.

    Raises:
        DataError: the process could not be started, or (when the result is asked for) died.
        Exception (when the result is asked for): what `function` raised, or that its result cannot be pickled.
    """
    pool = Pool(1, died)
    try:
        pool.start()
        yield pool.only_call(function, arguments)
    finally:
        pool.end()


class Pool:
    """What `process_pool` gives."""

    def __init__(self, number: int, died: str):
        self._number, self._died = number, died
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._free: list[tuple[Connection, Connection]] = []
        self._threads = ThreadPoolExecutor(number)
        self._waiting: deque[tuple[Future, Callable, tuple]] = deque()
        self._room = threading.Semaphore(UNDER_WAY * number)
        self._of_thread = threading.local()

    def start(self) -> None:
        # a fork starts at once, with all modules, but one of a process with threads, such as the progress bar's, may hang
        context = multiprocessing.get_context("fork" if threading.active_count() == 1 else "spawn")
        for _ in range(self._number):
            with _interrupted_afterwards():
                self._start_one(context)

    def _start_one(self, context: multiprocessing.context.BaseContext) -> None:
        questions, ask = context.Pipe(duplex=False)  # two such take a quarter of the time of one that is duplex
        answers, answer = context.Pipe(duplex=False)
        if 2 * self._number <= MOST_LARGE_PIPES:
            _make_room(ask, answer)
        process = context.Process(target=_work, args=(questions, answer, os.getpid(), self._number > 1), daemon=True)
        try:
            process.start()
        except OSError as error:
            raise DataError(self._died) from error
        questions.close()
        answer.close()
        self._processes.append(process)
        self._free.append((ask, answers))

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Before all items that wait.

        Raises (when its result is asked for):
            DataError: the process died, or could not be started.
            Exception: what `function` raised, or that its result cannot be pickled.
        """
        return self._submit(self._waiting.appendleft, function, arguments)

    def only_call(self, function: Callable[..., Result], arguments: tuple) -> Callable[[], Result]:
        """As `submit`, for a process that has no other work, and without a thread."""
        ask, answers = self._free.pop()
        self._send(ask, function, arguments, is_last=True)
        return partial(self._receive, answers)

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The result of each item. Several threads may call this: in all, six items for each process are under way.

        One who has items under way never waits for room, but for their results, and makes room so.
        """
        pending: deque[Future[Result]] = deque()
        iterator, has_more = iter(items), True
        try:
            while has_more or pending:
                if has_more and self._room.acquire(blocking=not pending):
                    try:
                        pending.append(self._submit(self._waiting.append, function, (next(iterator),)))
                    except BaseException as error:  # also after the end of the pool, when others wait for this room
                        self._room.release()
                        if not isinstance(error, StopIteration):
                            raise
                        has_more = False
                else:
                    try:
                        result = pending.popleft().result()
                    finally:
                        self._room.release()
                    yield result
        finally:
            for _ in pending:
                self._room.release()

    def end(self) -> None:
        """Kill the processes, whatever they do, and wait until they are gone."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for answer, *_ in self._waiting:
            answer.cancel()
        for process in self._processes:
            process.join()

    def _submit(self, put: Callable, function: Callable, arguments: tuple) -> Future:
        answer: Future = Future()
        put((answer, function, arguments))
        self._threads.submit(self._answer_next)
        return answer

    def _answer_next(self) -> None:
        answer, function, arguments = self._waiting.popleft()
        try:
            answer.set_result(self._ask(function, arguments))
        except BaseException as error:
            answer.set_exception(error)

    def _ask(self, function: Callable, arguments: tuple) -> Any:
        if not hasattr(self._of_thread, "pipes"):
            self._of_thread.pipes = self._free.pop()
        ask, answers = self._of_thread.pipes
        self._send(ask, function, arguments)
        return self._receive(answers)

    def _send(self, ask: Connection, function: Callable, arguments: tuple, is_last: bool = False) -> None:
        try:
            ask.send((function, arguments, is_last))
        except OSError as error:
            raise DataError(self._died) from error

    def _receive(self, answers: Connection) -> Any:
        try:
            is_result, answer = answers.recv()
        except (EOFError, OSError) as error:
            raise DataError(self._died) from error
        if is_result:
            return answer
        raise answer


def _make_room(*pipes: Connection) -> None:
    """For a whole message: who sends it goes on, whether or not the other has time to read it."""
    for pipe in pipes:
        with suppress(OSError):  # a system may allow less
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """A Ctrl-C that comes meanwhile comes at the end: in the middle of a fork, Python prints its exception and goes on."""
    if threading.current_thread() is not threading.main_thread():  # it is raised in that one
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


def _work(questions: Connection, answers: Connection, parent: int, has_siblings: bool) -> None:
    end_with_parent(parent)  # in the middle of long work, too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    if has_siblings:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        is_last = False
        while not is_last:
            function, arguments, is_last = questions.recv()
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, ExceptionWithTraceback(error, error.__traceback__)
            try:
                answers.send(answer)
            except (PicklingError, TypeError, AttributeError, ValueError) as error:  # nothing was sent yet
                answers.send((False, error))
