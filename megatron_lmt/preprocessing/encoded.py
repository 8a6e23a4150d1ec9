"""Several texts, and the token ids that they become, one text after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

END_OF_TEXT = "\uffff"
"""It is no character of Unicode, but a text may have it nevertheless."""


@dataclass(frozen=True)
class Texts:
    """`each` of them, and all as one: characters are looked at a hundred times as fast in an array as in strings."""

    each: list[str]

    @cached_property
    def joined(self) -> str:
        """END_OF_TEXT behind each."""
        return END_OF_TEXT.join([*self.each, ""])

    @cached_property
    def utf16(self) -> np.ndarray:
        """uint16: `joined` in UTF-16, which is made faster than UTF-8."""
        return np.frombuffer(self.joined.encode("utf-16-le"), np.uint16)


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


Encode = Callable[[Texts], Encoded]
