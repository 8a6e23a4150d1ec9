"""How far a long piece of work has come, with an estimate of the rest."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30
LINE = "{desc}: {percentage:.0f} % of {total_fmt}, {rate_fmt}, {elapsed} passed, {remaining} left{postfix}"
LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit}, {rate_fmt}, {elapsed} passed{postfix}"
PACE = "{percentage:.0f} %, {remaining} left{postfix} |{bar}|"
"""On a terminal: what matters fits into 80 columns, and the bar is in what is left of the line."""


def progress(total: int, description: str, unit: str = "B", delay: float = 0) -> tqdm:
    """A bar on a terminal; in a log file one line every half minute. Call its `update(done)`.

    Args:
        unit: what is counted, such as " sentences"; bytes are shown as kB, MB and so on.
        delay: seconds; shorter work shows nothing.
    """
    total = total or None  # 0: nobody knows
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, unit_scale=unit == "B", mininterval=1, delay=delay)
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit == "B",
        mininterval=SECONDS_BETWEEN_LINES,
        miniters=1,
        delay=delay,
        file=_Lines(sys.stderr),
        bar_format=LINE if total else LINE_WITHOUT_TOTAL,
    )


class Pace:
    """A bar over the bytes of files, and beside it how many records were rejected, documents/s, tokens/s and MB/s of text.

    Several threads may add to it.
    """

    def __init__(self, bar: tqdm):
        self._bar, self._began, self._lock = bar, time.monotonic(), threading.Lock()
        if bar.bar_format is None:  # on a terminal
            bar.bar_format = PACE
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
            counts = {" documents": self._documents, " tokens": self._tokens, "B": self._text_bytes}
            speeds = [tqdm.format_sizeof(count / seconds, f"{unit}/s") for unit, count in counts.items()]
            self._bar.set_postfix_str(", ".join([f"{self._rejected:,} rejected", *speeds]), refresh=False)
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
