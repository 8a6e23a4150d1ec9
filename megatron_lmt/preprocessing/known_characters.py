"""The characters that Hugging Face's library and a newer one treat alike: those that both know, or neither can know.

The libraries' Unicode tables are of different age. What is not assigned in Python's tables, but in those of `regex`, may be
a letter to one of them and none to the other. Hugging Face's NFC is older still: it neither reorders nor composes what
came after Unicode 9. (What is assigned never changes its normalisation.)
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import regex

from megatron_lmt.preprocessing.encoded import END_OF_TEXT, Texts

CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)
NEW_COMPOSITES = range(0x11000, 0x17000)
"""Where all characters that are composed of others have been added since Unicode 9."""

MARKS = "\u0301\u0316\u0345\u05b0\u093c\u094d\u0327"
"""Of different combining classes: a mark changes places with some of them."""


def is_settled(letter: str) -> bool:
    """Whether Unicode had such a character when this Python was made, or has none to this day.

    What `regex` does not know, no older library does. (Text in Inner Mongolian has characters that Unicode never had.)
    """
    return unicodedata.category(letter) != "Cn" or regex.match(r"\p{Cn}", letter) is not None


class KnownCharacters:
    """Tells texts of which the libraries treat all characters alike; each is looked up once, a megabyte takes 1 ms.

    A text with END_OF_TEXT in it does not count as known.

    Args:
        nfc: the tokenizer normalises text to NFC.
        only_nfc: a text that is not in NFC does not count as known.
    """

    def __init__(self, nfc: bool, only_nfc: bool = False):
        self._nfc, self._only_nfc = nfc, only_nfc
        self._known = np.zeros(CODE_POINTS, bool)
        self._known[SURROGATES] = True  # no text has these, only UTF-16
        self._known[ord(END_OF_TEXT)] = True

    def __call__(self, texts: Texts) -> np.ndarray:
        """bool [texts]: whether all characters of each are known."""
        unknown = set(self._unknown_of(texts.utf16) + self._unknown_of(_beyond_16_bits(texts.utf16)))
        if np.count_nonzero(texts.utf16 == ord(END_OF_TEXT)) > len(texts.each):
            unknown.add(END_OF_TEXT)
        known = np.ones(len(texts.each), bool)
        if unknown:
            known &= np.array([unknown.isdisjoint(text) for text in texts.each], bool)
        if self._only_nfc:
            known &= np.array([unicodedata.is_normalized("NFC", text) for text in texts.each], bool)
        return known

    def _unknown_of(self, codes: np.ndarray) -> list[str]:
        """The characters among these that are not known, after a look at the new ones."""
        known = self._known.take(codes)
        if known.all():
            return []
        seen = np.zeros(CODE_POINTS, bool)  # twenty times as fast as to sort those of a first chunk
        seen[codes[~known]] = True
        new = np.flatnonzero(seen)
        self._known[new] = [self._is_known(chr(code)) for code in new]
        return list(map(chr, new[~self._known[new]]))

    def _is_known(self, letter: str) -> bool:
        return is_settled(letter) and not (self._nfc and is_normalised_otherwise(letter))


def _beyond_16_bits(units: np.ndarray) -> np.ndarray:
    """The code points of which UTF-16 needs two units."""
    first = np.flatnonzero(units & 0xFC00 == 0xD800)
    return 0x10000 + ((units[first] & 0x3FF).astype(np.int64) << 10) + (units[first + 1] & 0x3FF)


def is_normalised_otherwise(letter: str) -> bool:
    """Whether Hugging Face's NFC makes something else of it, beside some other character, than Python's."""
    if not unicodedata.combining(letter) and not _parts(letter):
        return letter in _composed_otherwise()
    return _differs("".join(f"a{letter}{mark}{letter}{mark}" for mark in MARKS)) or letter in _composed_otherwise()


def _parts(letter: str) -> str:
    """What a character is composed of, or "" (what it is only compatible with does not count)."""
    parts = unicodedata.decomposition(letter)
    return "" if parts.startswith("<") else "".join(chr(int(code, 16)) for code in parts.split())


@cache
def _composed_otherwise() -> frozenset[str]:
    composites = filter(unicodedata.decomposition, map(chr, NEW_COMPOSITES))
    return frozenset("".join(letter + _parts(letter) for letter in composites if _differs(_parts(letter))))


def _differs(text: str) -> bool:
    from tokenizers.normalizers import NFC

    return NFC().normalize_str(text) != unicodedata.normalize("NFC", text)
