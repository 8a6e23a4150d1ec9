"""How far a long piece of work has come, with an estimate of the rest."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30


def progress(total: int, description: str, unit: str = "B", delay: float = 0) -> tqdm:
    """A bar on a terminal; in a log file one line every half minute. Call its `update(done)`.

    Args:
        delay: seconds; shorter work shows nothing.
    """
    total = total or None  # 0: nobody knows
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
        bar_format="{desc}: {percentage:.0f} % of {total_fmt}, {rate_fmt}, {elapsed} passed, {remaining} left{postfix}",
    )


class Pace:
    """A bar over the bytes of files, and beside it documents/s, tokens/s, MB/s of text and how many records were rejected.

    Several threads may add to it.
    """

    def __init__(self, bar: tqdm):
        self._bar, self._began, self._lock = bar, time.monotonic(), threading.Lock()
        self._documents = self._tokens = self._text_bytes = self._rejected = 0

    def skip(self, size: int) -> None:
        """These bytes were done before."""
        with self._lock:
            self._bar.update(size)

    def add(self, size: int, documents: int, tokens: int, text_bytes: int, rejected: int) -> None:
        """`text_bytes` are without compression, `size` as they are in the files."""
        with self._lock:
            self._documents += documents
            self._tokens += tokens
            self._text_bytes += text_bytes
            self._rejected += rejected
            seconds = max(time.monotonic() - self._began, 1e-9)
            speeds = f"{self._documents / seconds:,.0f} documents/s, {self._tokens / seconds:,.0f} tokens/s"
            self._bar.set_postfix_str(
                f"{speeds}, {self._text_bytes / seconds / 1e6:.1f} MB/s, {self._rejected:,} rejected", refresh=False
            )
            self._bar.update(size)


class _Lines:
    """A file in which each state is a line, where tqdm would draw over the one before."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        if text.strip():
            self._file.write(text.strip() + "\n")

    def flush(self) -> None:
        self._file.flush()
