"""Errors a user can mend, and how a command reports them.

Every message names the value, the place and the fix. Checks collect all problems before raising, so that one run of a
command shows everything that is wrong.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class UserError(Exception):
    """Wrong input, as opposed to a bug: commands print it without a traceback and exit with code 2.

    Args:
        problems: one message or several; each names the value, the place and the fix.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(UserError):
    """The run file, or an override, is wrong."""


class DataError(UserError):
    """Text, token files or their manifest are wrong."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, found or used."""


class MissingExtraError(UserError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package {package!r}: in the repository, pip install --no-build-isolation -e '.[{extra}]'"
        )


class Problems:
    """Collects the problems of several checks, so that all are shown at once."""

    def __init__(self):
        self.found: list[str] = []
        self._last: UserError | None = None

    def of(self, check: Callable[..., Result], *args) -> Result | None:
        """Call `check`; None if it failed, and its problems are kept."""
        try:
            return check(*args)
        except UserError as error:
            self.found += error.problems
            self._last = error
            return None

    def raise_if_any(self) -> None:
        if self._last and self._last.problems == self.found:
            raise self._last  # the only one, as it is
        if self.found:
            raise UserError(self.found)


def with_advice(problems: Sequence[str], advice: str) -> list[str]:
    """The problems with the way out of all of them behind the last: it is no problem, and is not counted as one."""
    return [*problems[:-1], f"{problems[-1]}\n{advice}"]


def print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if len(problems) > 1:
        print(f"error: {len(problems)} problems", file=sys.stderr)
    sys.stderr.flush()


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with its exit code; a `UserError` becomes lines on stderr and code 2."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it finds no broken pipe either
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except UserError as error:
        print_problems(error.problems)
        code = 2
    sys.exit(code)


def run_tool(main: Callable[[], int | None]) -> None:
    """As `run_command`, for a tool: a file that it cannot read or write is one that the user named, and theirs to mend."""
    run_command(partial(_name_files, main))


def _name_files(main: Callable[[], int | None]) -> int | None:
    try:
        return main()
    except OSError as error:
        if error.filename is None and error.errno not in DISK_TROUBLE:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        raise UserError(f"{place}{error.strerror}") from error
