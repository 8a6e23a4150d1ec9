"""How far a long piece of work has come, with an estimate of the rest."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30


def progress(total: int, description: str, unit: str = "B", delay: float = 0) -> tqdm:
    """A bar on a terminal; in a log file one line every half minute. Call its `update(done)`.

    Args:
        delay: seconds; shorter work shows nothing.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, unit_scale=True, mininterval=1, delay=delay)
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        mininterval=SECONDS_BETWEEN_LINES,
        miniters=1,
        delay=delay,
        file=_Lines(sys.stderr),
        bar_format="{desc}: {percentage:.0f} % of {total_fmt}, {rate_fmt}, {elapsed} passed, {remaining} left",
    )


class _Lines:
    """A file in which each state is a line, where tqdm would draw over the one before."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        if text.strip():
            self._file.write(text.strip() + "\n")

    def flush(self) -> None:
        self._file.flush()
