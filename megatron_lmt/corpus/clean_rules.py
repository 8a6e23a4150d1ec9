"""Rules that look at one record alone. Each makes a check: record → what is wrong with it, or None.

Nothing here changes a text. Keys for comparison are made beside it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import regex

from megatron_lmt.corpus.clean_config import LanguageRule
from megatron_lmt.language_id import identify
from megatron_lmt.languages import languages

_NOT_COMPARED = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_WIDE = regex.compile(r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]")
_HANGUL = regex.compile(r"\p{Script=Hangul}")


@dataclass(frozen=True)
class Record:
    """One document, or one pair: source first. `name` is that of its input."""

    name: str
    line: int
    codes: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Rejection:
    """`rule` is what is counted, `value` what the rule found; as JSON has it."""

    rule: str
    value: Any


Rule = Callable[[Record], Rejection | None]


def letters(text: str) -> str:
    """For comparison: letters, marks and digits alone, in one case and one form of Unicode."""
    return _NOT_COMPARED.sub("", unicodedata.normalize("NFKC", text).casefold())


def length_bounds(least: int | None, most: int | None) -> Rule:
    """too_short, too_long: characters of each text."""

    def check(record: Record) -> Rejection | None:
        lengths = [len(text) for text in record.texts]
        if least is not None and min(lengths) < least:
            return Rejection("too_short", min(lengths))
        if most is not None and max(lengths) > most:
            return Rejection("too_long", max(lengths))
        return None

    return check


def weighted_length(text: str) -> int:
    """Characters, with 3 for each Chinese character or kana and 2 for each Hangul syllable.

    Of FLORES dev's 117 pairs, all true translations, a ratio of 3.0 in these units rejects 0.02 %; in characters 31 %, in
    bytes 13 %, in words 48 % (docs/benchmarks.md).
    """
    return len(text) + 2 * len(_WIDE.findall(text)) + len(_HANGUL.findall(text))


LENGTHS: dict[str, Callable[[str], int]] = {
    "weighted": weighted_length,
    "characters": len,
    "bytes": lambda text: len(text.encode()),
    "words": lambda text: len(text.split()),
}


def length_ratio(most: float, unit: str) -> Rule:
    length = LENGTHS[unit]

    def check(record: Record) -> Rejection | None:
        shorter, longer = sorted(map(length, record.texts))
        ratio = longer / max(shorter, 1)
        return Rejection("length_ratio", round(ratio, 3)) if ratio > most else None

    return check


def untranslated(record: Record) -> Rejection | None:
    source, target = map(letters, record.texts)
    return Rejection("untranslated", source[:200]) if source == target else None


def language(rule: LanguageRule) -> Rule:
    """Every text is identified as its language: confidently, or in a low-resource language at all."""
    accepted = {code: {code, *rule.also.get(code, [])} for code in languages()}
    needed = {code: 0.0 if entry.tier in rule.top1_tiers else rule.min_confidence for code, entry in languages().items()}

    def check(record: Record) -> Rejection | None:
        for code, (found, confidence) in zip(record.codes, identify(record.texts), strict=True):
            if found not in accepted[code] or confidence < needed[code]:
                return Rejection("language", {"expected": code, "found": found, "confidence": round(confidence, 3)})
        return None

    return check
