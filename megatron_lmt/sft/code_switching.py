"""Dictionaries, and sentences with some of their words in other languages (LLaMAX, arXiv 2407.05975).

Where spaces part words, a word is looked up without its punctuation and in lower case; in other scripts the longest term
that begins at a place is taken, instead of a segmenter's word. What is not replaced stays as it is.

Cost: an entry takes about 200 bytes of memory; the 115 dictionaries of the sample data have 880,000 in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from unicodedata import category

from megatron_lmt.corpus.files import CorpusConfig, PairFiles, check_inputs, pair_files
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import languages
from megatron_lmt.preprocessing.pairs import chance
from megatron_lmt.sft.config import AugmentSection

_BETWEEN_SPACES = re.compile(r"\S+")
SHORTEST_TERM, LONGEST_TERM = 2, 12
"""Characters of a term that is looked for in scripts without spaces: single ones are mostly parts of words."""
Entries = dict[str, list[tuple[str, str]]]


class Lexicon:
    """Terms of every language with their translations into others.

    Of several dictionaries of the same pair of languages the one with the most entries is used, as LLaMAX does.

    Raises:
        UserError: files that are missing or named twice, or none of the languages to switch to is in them.
    """

    def __init__(self, section: AugmentSection, root: Path):
        self._entries: dict[str, Entries] = {}
        files = pair_files(CorpusConfig(pairs=section.dictionary), root)
        if files:  # without dictionaries originals are repeated only
            check_inputs(files)
        for (source, target), entries in _largest(files).items():
            for term, translation in entries:
                self._add(source, term, target, translation, section.languages)
                self._add(target, translation, source, term, section.languages)
        absent = [code for code in section.languages if not any(self.has(source, code) for source in self._entries)]
        if absent:
            raise ConfigError(f"augment.languages {absent}: no dictionary has them")

    def _add(self, source: str, term: str, language: str, translation: str, wanted: list[str]) -> None:
        if (not wanted or language in wanted) and term.casefold() != translation.casefold():
            self._entries.setdefault(source, {}).setdefault(term.casefold(), []).append((language, translation))

    def has(self, source: str, language: str) -> bool:
        return any(code == language for options in self._entries.get(source, {}).values() for code, _ in options)

    def switch(self, language: str, text: str, rate: float, *key: object) -> str | None:
        """The text with some words replaced; None where none is.

        Args:
            rate: probability for each word that has an entry.
            key: what the draws depend on.
        """
        entries = self._entries.get(language, {})
        parts, end = [], 0
        for start, stop in _terms(language, text, entries):
            options = entries.get(text[start:stop].casefold())
            if options and chance("switch", *key, start) < rate:
                choice = options[int(chance("choose", *key, start) * len(options))]
                parts += [text[end:start], choice[1]]
                end = stop
        return "".join([*parts, text[end:]]) if parts else None


def _largest(files: list[PairFiles]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for file in files:
        entries = list(
            dict.fromkeys((first.strip(), second.strip()) for _, *terms in file.records() for first, second in [terms])
        )
        if len(entries) > len(found.get((file.source, file.target), ())):
            found[file.source, file.target] = entries
    return found


def _terms(language: str, text: str, entries: Entries) -> Iterator[tuple[int, int]]:
    """Where there may be a term: the words, or in scripts without spaces the longest terms, from left to right."""
    if languages()[language].has_spaces:
        yield from (_without_punctuation(text, *match.span()) for match in _BETWEEN_SPACES.finditer(text))
        return
    start = 0
    while start < len(text):
        sizes = range(min(LONGEST_TERM, len(text) - start), SHORTEST_TERM - 1, -1)
        longest = next((size for size in sizes if text[start : start + size] in entries), 0)
        if longest:
            yield start, start + longest
        start += longest or 1


def _without_punctuation(text: str, start: int, stop: int) -> tuple[int, int]:
    """By Unicode's categories: a word of an Indic script also has marks, which re's letters do not include."""
    while start < stop and category(text[start])[0] in "PS":
        start += 1
    while start < stop and category(text[stop - 1])[0] in "PS":
        stop -= 1
    return start, stop


class Augmentation:
    """How often each pair's instances are repeated and code-switched.

    Args:
        pairs: pair of languages → pairs of sentences that there are of it.
        seed: of the draws.
    """

    def __init__(self, section: AugmentSection, root: Path, pairs: dict[frozenset[str], int], seed: int):
        self._section = section
        self._seed = seed
        self._pairs = pairs
        self._lexicon = Lexicon(section, root)

    def repeats(self, source: str, target: str) -> int:
        """How often the original is there."""
        return self._section.repeat if self._is_small(source, target) else 1

    def switched(self, source: str, target: str, text: str, *key: object) -> list[str]:
        """Different code-switched versions of a source sentence."""
        if not self._is_small(source, target):
            return []
        pairs = self._pairs[frozenset((source, target))]
        missing = self._section.below_pairs - self._section.repeat * pairs
        copies = min(self._section.max_copies, max(0, -(-missing // pairs)))
        found = (self._lexicon.switch(source, text, self._section.rate, self._seed, *key, copy) for copy in range(copies))
        return [text for text in dict.fromkeys(found) if text is not None]

    def _is_small(self, source: str, target: str) -> bool:
        return self._pairs[frozenset((source, target))] < self._section.below_pairs
