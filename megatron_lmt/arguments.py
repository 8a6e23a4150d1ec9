"""Wrong values on the command line: refused before any work, with the option and the reason.

Types with which argparse refuses the first one, and `too_small` for commands that collect all their problems.
"""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path


def at_least(least: int) -> Callable[[str], int]:
    """A whole number that is not smaller."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < least:
            raise ArgumentTypeError(f"{text}: must be at least {least}")
        return value

    whole_number.__name__ = "whole number"  # argparse says: invalid whole number value
    return whole_number


def too_small(arguments: Namespace, *names: str) -> list[str]:
    """A problem for each of these whole numbers that is given and below one."""
    given = {name: getattr(arguments, name) for name in names}
    return [
        f"--{name.replace('_', '-')} {value}: must be at least 1"
        for name, value in given.items()
        if value is not None and value < 1
    ]


def positive(text: str) -> float:
    """A number above zero that is finite."""
    if not 0 < (value := float(text)) < math.inf:
        raise ArgumentTypeError(f"{text}: must be positive, and finite")
    return value


def file_to_write(text: str) -> Path:
    """A path whose folder is there and can be written; a file there is replaced."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text}: a folder; name a file")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"{path.parent}: no such folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"{path.parent}: no permission to write here")
    return path


def picture_to_write(text: str) -> Path:
    """As `file_to_write`, of a kind that matplotlib draws."""
    if Path(text).suffix not in (".png", ".pdf", ".svg"):
        raise ArgumentTypeError(f"{text}: must end in .png, .pdf or .svg")
    return file_to_write(text)
