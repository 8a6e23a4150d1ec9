"""A pair of sentences as documents of continued pre-training, in one direction or in one of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

STYLES = ("tags", "plain", "newline", "split")


def format_pair(style: str, source: str, target: str, source_text: str, target_text: str) -> list[str]:
    """The documents that a pair makes in one direction: one, or two where the sides are split.

    `tags` is LMT's (arXiv 2511.07003 v2, figure 4), `plain` LLaMAX's, `newline` GemmaX's; `split` makes two documents of
    it, each side alone.
    """
    return {
        "tags": [f"<{source}2{target}> {source_text} <{target}> {target_text}"],
        "plain": [f"{source_text} {target_text}"],
        "newline": [f"{source_text}\n{target_text}"],
        "split": [source_text, target_text],
    }[style]


def chance(*parts: Any) -> float:
    """A number in [0, 1) that depends on `parts` alone: the same in any order of work and on any machine."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # the bits that a float holds: 2**64 - 1 would round up to 1


def is_reversed(seed: int, name: str, line: int) -> bool:
    """Whether this pair of the file becomes a document of the opposite direction: half of them do, by chance."""
    return chance(seed, name, line) < 0.5


@dataclass(frozen=True)
class Pairing:
    """How the pairs of an input become documents of one direction.

    `source` and `target` are the languages as the input has them; with `reverse` documents go from target to source.
    With `half`, a seed and the input's name, only those pairs are taken that `is_reversed` gives to this direction.
    """

    source: str
    target: str
    style: str = "tags"
    reverse: bool = False
    half: tuple[int, str] | None = None

    def takes(self, line: int) -> bool:
        return self.half is None or is_reversed(*self.half, line) == self.reverse

    def documents(self, texts: list[str]) -> list[str]:
        """Of the source's and the target's sentence."""
        codes = [self.source, self.target]
        return format_pair(self.style, *(codes[::-1] if self.reverse else codes), *(texts[::-1] if self.reverse else texts))

    def described(self) -> dict:
        """For the manifest."""
        half = {"of_both": True, "seed": self.half[0]} if self.half else {}
        direction = f"{self.target}-{self.source}" if self.reverse else f"{self.source}-{self.target}"
        return {"direction": direction, "style": self.style, **half}
