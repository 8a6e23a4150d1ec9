"""Which source comes next, so that every prefix of the run has the planned shares.

Cost: about 20 µs for a sample with 294 sources; memory is a few numbers for a source.
"""

from __future__ import annotations

import numpy as np

GOLDEN_RATIO = (5**0.5 - 1) / 2
SMALL = 0.25  # of the mean weight; sources above it come often enough to wait for their deadlines


class Interleaver:
    """Chooses the source of each sample so that shares are kept all along, of sources and of groups.

    Each source has a deadline: the sample at which it would fall a whole sample behind its weight; so has each group. The
    group with the nearest deadline, its own or that of one of its sources, is next, and of its sources that are behind
    their weight the one with the nearest target. That is its deadline, but for sources of small weight, such as directions
    that are downsampled, a point before it, another one for each: otherwise they would all wait for deadlines that are far
    away, and then come in a row. When so many deadlines are near that every sample is needed for them, sources with later
    ones wait, as in the chairman assignment of Tijdeman (1980). After every sample each source is less than one sample off
    its weight; for groups see docs/decisions.md.

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
        weights = np.array(weights, dtype=np.float64)
        self._sources = _Shares(weights, self.drawn)
        self._groups = _Shares(np.add.reduceat(weights, starts), np.add.reduceat(self.drawn, starts))
        # multiples of the golden ratio are spread evenly over 0 to 1, however many there are
        early = 1 - GOLDEN_RATIO * np.arange(1, len(weights) + 1) % 1
        is_small = (weights > 0) & (weights * len(weights) < SMALL)
        self._targets_before = np.divide(early, weights, out=np.zeros_like(weights), where=is_small)
        self._horizon = max(len(weights), 32)
        # in so many turns a source has this many deadlines at most
        times = np.ceil(weights * self._horizon).astype(np.int64)
        self._repeated = np.repeat(np.arange(len(weights)), times)
        nth = np.arange(len(self._repeated)) - np.repeat(np.cumsum(times) - times, times)
        self._later = nth / weights[self._repeated]

    def next_source(self) -> int:
        self._turn += 1
        deadlines = self._sources.deadlines_at(self._turn)
        deadlines[deadlines > self._last_chance()] = np.inf
        source = self._nearest_in(self._next_group(deadlines), deadlines)
        self._sources.draw(source)
        self._groups.draw(self._group_of[source])
        return source

    def _last_chance(self) -> float:
        """The first deadline up to which every turn is needed for a deadline; a later one has to wait. Infinite: none."""
        due = self._sources.deadlines[self._repeated] + self._later
        due = due[due < self._turn + self._horizon]
        due.sort()
        tight = due < np.arange(self._turn + 1, self._turn + 1 + len(due))
        return due[tight.argmax()] + _Shares.ROUNDING if tight.any() else np.inf

    def _next_group(self, deadlines: np.ndarray) -> int:
        """Of the groups with a source to draw that with the nearest deadline, if it can be one that is behind."""
        group_deadlines = self._groups.deadlines_at(self._turn)
        of_sources = np.minimum.reduceat(deadlines, self._starts)
        nearest = np.minimum(group_deadlines, of_sources)
        drawable = of_sources < np.inf
        behind = drawable & (group_deadlines < np.inf)
        return int(np.where(behind if behind.any() else drawable, nearest, np.inf).argmin())

    def _nearest_in(self, group: int, deadlines: np.ndarray) -> int:
        """The source of a group with the nearest target."""
        part = slice(self._starts[group], self._stops[group])
        return int(part.start + (deadlines[part] - self._targets_before[part]).argmin())


class _Shares:
    """Sources, or groups: the turns after which each is behind its weight, and at which it would be a whole sample behind.

    Both change only for the one that is drawn.
    """

    ROUNDING = 1e-6  # turns; far above the error of 64-bit floats at a billion of them, far below anything that matters

    def __init__(self, weights: np.ndarray, drawn: np.ndarray):
        self.weights, self.drawn = weights, drawn
        with np.errstate(divide="ignore", invalid="ignore"):
            self._behind_after = np.where(weights > 0, drawn / weights, np.inf)
            self.deadlines = np.where(weights > 0, (drawn + 1) / weights, np.inf)

    def deadlines_at(self, turn: int) -> np.ndarray:
        """float64 [n]; infinite for those that are not behind at this turn."""
        return np.where(self._behind_after < turn - self.ROUNDING, self.deadlines, np.inf)

    def draw(self, number: int) -> None:
        self.drawn[number] += 1
        self._behind_after[number] = self.deadlines[number]
        self.deadlines[number] = (self.drawn[number] + 1) / self.weights[number]
