"""How far a long piece of work has come, with an estimate of the rest."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from megatron_lmt.preprocessing.shards import Shards

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
    """What a bar shows beside the bytes of the files: documents/s, tokens/s, MB/s of text and rejects of one source.

    `done` has the numbers of `documents` and `tokens` until now, and of `rejected` by reason; what was there at the
    beginning is left out of the speeds.
    """

    def __init__(self, bar: tqdm, done: Shards):
        self._bar, self._began, self._text_bytes = bar, time.monotonic(), 0
        self._before = {"documents": done.documents, "tokens": done.tokens}

    def show(self, done: Shards, text_bytes: int) -> None:
        """`text_bytes`: of the text since the last call."""
        self._text_bytes += text_bytes
        seconds = max(time.monotonic() - self._began, 1e-9)
        speeds = [f"{(getattr(done, unit) - before) / seconds:,.0f} {unit}/s" for unit, before in self._before.items()]
        speeds += [f"{self._text_bytes / seconds / 1e6:.1f} MB/s", f"{sum(done.rejected.values()):,} rejected"]
        self._bar.set_postfix_str(", ".join(speeds), refresh=False)


class _Lines:
    """A file in which each state is a line, where tqdm would draw over the one before."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        if text.strip():
            self._file.write(text.strip() + "\n")

    def flush(self) -> None:
        self._file.flush()
