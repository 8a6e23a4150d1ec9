"""Which source comes next, so that every prefix of the run has the planned shares.

Cost: about 10 µs for a sample with 294 sources; memory is three numbers for a source.
"""

from __future__ import annotations

import numpy as np


class Interleaver:
    """Chooses the source of each sample so that shares are kept all along, of sources and of groups.

    Each source has a deadline: the sample at which it would fall a whole sample behind its weight; so has each group. Of
    the sources that neither are ahead of their weight nor belong to a group that is ahead of its own, the one with the
    nearest deadline, its own or its group's, is next. When so many sources are due that no sample is to spare, the
    nearest of their deadlines decides alone, as in the chairman assignment of Tijdeman (1980). After every sample each
    source is less than one sample off its weight, and each group less than two (docs/decisions.md).

    Args:
        groups: the group of each source; those of a group stand together.
        weights: the share of each source; they sum to 1. A source of weight 0 is never drawn.
        drawn: int64 [sources], samples drawn before, for going on; none at the beginning.
    """

    def __init__(self, groups: list[str], weights: list[float], drawn: np.ndarray | None = None):
        self.drawn = np.zeros(len(weights), dtype=np.int64) if drawn is None else drawn.copy()
        self._turn = int(self.drawn.sum())
        starts = np.array([groups.index(group) for group in dict.fromkeys(groups)])
        self._starts, self._stops = starts, np.append(starts[1:], len(weights))
        self._group_of = np.searchsorted(starts, np.arange(len(weights)), side="right") - 1
        self._sources = _Shares(np.array(weights, dtype=np.float64), self.drawn)
        self._groups = _Shares(np.add.reduceat(weights, starts), np.add.reduceat(self.drawn, starts))

    def next_source(self) -> int:
        self._turn += 1
        deadlines = self._sources.deadlines_at(self._turn)
        source = int(deadlines.argmin()) if self._none_to_spare(deadlines) else self._next_of_groups(deadlines)
        self._sources.draw(source)
        self._groups.draw(self._group_of[source])
        return source

    def _none_to_spare(self, deadlines: np.ndarray) -> bool:
        """Whether for some n, n deadlines end within the next n turns."""
        due = deadlines[deadlines < self._turn + len(deadlines)]
        due.sort()
        return bool((due < np.arange(self._turn + 1, self._turn + 1 + len(due))).any())

    def _next_of_groups(self, deadlines: np.ndarray) -> int:
        group_deadlines = self._groups.deadlines_at(self._turn)
        nearest = np.minimum(group_deadlines, np.minimum.reduceat(deadlines, self._starts))
        # one of the groups is always behind, and a group that is behind has a source that is behind
        group = np.where(group_deadlines < np.inf, nearest, np.inf).argmin()
        start, stop = self._starts[group], self._stops[group]
        return int(start + deadlines[start:stop].argmin())


class _Shares:
    """Sources, or groups: the turns after which each is behind its weight, and at which it would be a whole sample behind.

    Both change only for the one that is drawn.
    """

    ROUNDING = 1e-6  # turns; far above the error of 64-bit floats at a billion of them, far below anything that matters

    def __init__(self, weights: np.ndarray, drawn: np.ndarray):
        self.weights, self.drawn = weights, drawn
        with np.errstate(divide="ignore", invalid="ignore"):
            self._behind_after = np.where(weights > 0, drawn / weights, np.inf)
            self._deadlines = np.where(weights > 0, (drawn + 1) / weights, np.inf)

    def deadlines_at(self, turn: int) -> np.ndarray:
        """float64 [n]; infinite for those that are not behind at this turn."""
        return np.where(self._behind_after < turn - self.ROUNDING, self._deadlines, np.inf)

    def draw(self, number: int) -> None:
        self.drawn[number] += 1
        self._behind_after[number] = self._deadlines[number]
        self._deadlines[number] = (self.drawn[number] + 1) / self.weights[number]
