"""Pairs by the score that each line was given: at least a threshold, or the best share of a file."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_lmt.corpus.clean_config import QualityRule
from megatron_lmt.corpus.clean_rules import Record, Rejection
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.records import read_lines


class Quality:
    """The rule for one input; its records come in the order of their lines, and some may be left out.

    Args:
        paths: the files of the pair's text.
        root: of the files of scores.
    Raises:
        DataError: no file of scores, or a column asked of aligned files.
    """

    def __init__(self, rule: QualityRule, paths: list[Path], root: Path, source: str, target: str):
        self._rule = rule
        self._column = rule.column or 1
        self._path = paths[0] if rule.scores is None else root / rule.scores.format(source=source, target=target)
        if rule.scores is None and len(paths) > 1:
            raise DataError(f"clean.quality.column: {' and '.join(map(str, paths))} have no columns; name a file in scores")
        if not self._path.is_file():
            raise DataError(
                f"clean.quality.scores: {self._path}: no such file; make it with tools/score_pairs.py, or set off"
            )
        self._scores: Iterator[tuple[int, float]] | None = None
        self._threshold = rule.threshold

    def check(self, record: Record) -> Rejection | None:
        """
        Raises:
            DataError: this line has no score.
        """
        if self._scores is None:
            self._scores = self._read()
            if self._threshold is None:
                self._threshold = best_share_threshold((score for _, score in self._read()), self._rule.best_share)
        for line, score in self._scores:
            if line == record.line:
                return Rejection("quality", score) if score < self._threshold else None
        raise DataError(f"{self._path}: no score for {record.where}; each line needs one")

    def finish(self, lines: int) -> None:
        """
        Raises:
            DataError: there are not as many scores as the input had lines.
        """
        scores = sum(1 for _ in read_lines(self._path))
        if scores != lines:
            raise DataError(f"{self._path}: {scores:,} scores for {lines:,} lines of text; it belongs to another file")

    def _read(self) -> Iterator[tuple[int, float]]:
        for number, line in read_lines(self._path):
            columns = line.split("\t")
            text = columns[self._column - 1] if len(columns) >= self._column else ""
            try:
                score = float(text)
            except ValueError:
                score = math.nan
            if not math.isfinite(score):
                raise DataError(f"{self._path}:{number}: column {self._column} is {text[:80]!r}, not a number")
            yield number, score


def best_share_threshold(scores: Iterator[float], share: float) -> float:
    """The score of the last that is kept when this share of all is, at least one; ties with it are kept too.

    Holds 8 bytes for each score.
    """
    found = np.frombuffer(array("d", scores))
    best = max(math.floor(share * len(found) + 0.5), 1)
    return float(np.partition(found, len(found) - best)[len(found) - best])
