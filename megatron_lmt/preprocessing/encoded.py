"""The token ids of several texts, one text after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoded:
    """`tokens` [sum of lengths + texts]: after those of each text stands one that is none, for what is to end it.

    `ends` [texts]: where these stand.
    """

    tokens: np.ndarray
    ends: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [texts]: number of tokens of each."""
        return np.diff(self.ends, prepend=-1) - 1

    def each(self) -> list[np.ndarray]:
        """Those of each text."""
        return [self.tokens[end - length : end] for end, length in zip(self.ends, self.lengths, strict=True)]


Encode = Callable[[list[str]], Encoded]
