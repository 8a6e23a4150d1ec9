"""Text to try a tokenizer engine on: every script of the 60 languages, made by chance, always the same."""

from __future__ import annotations

import random
from itertools import chain, islice

from megatron_lmt.preprocessing.known_characters import is_settled

SCRIPTS = (
    (0x21, 0x7E), (0xA1, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4),
    (0x600, 0x6FF), (0x750, 0x77F), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xC00, 0xC7F), (0xD80, 0xDFF),
    (0xE01, 0xE5B), (0xE81, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1200, 0x139F), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFF), (0x2010, 0x2049), (0x20A0, 0x20BF),
    (0x2150, 0x218B), (0x2D80, 0x2DDE), (0x2E80, 0x2FDF), (0x3000, 0x30FF), (0x3400, 0x34FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xFB50, 0xFDFF), (0xFE00, 0xFE0F), (0xFE70, 0xFEFF), (0xFF01, 0xFFEE),
    (0x1F300, 0x1F64F), (0x20000, 0x200FF),
)  # fmt: skip
"""First and last code point of blocks that the 60 languages are written in, and of signs found between them."""

SPACES = " \t\n\r\x0b\x0c\x00\x1c\x85\u00a0\u1680\u180e\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u200b\u200d\u2060\ufeff"
"""And joiners, which are no spaces, but stand where some are."""

LETTERS = 1000
"""At most of one script; some 1,200 are drawn of it."""


def proof_texts() -> list[str]:
    """Texts of every script of the 60 languages, by chance but always the same: words of one script and of several,
    digits, signs, all kinds of spaces, joiners, combining marks in any order, contractions, and what looks like a
    special token."""
    chosen = random.Random(1)
    letters = [_letters(chosen, range(first, last + 1)) for first, last in SCRIPTS]
    texts = ["I'll we've IT'S he'd 'S ''s don't", "a  b   c\n\n \n d \r\n\r e\t\tf  ", "<|endoftext|> <|im_start|>x<think>"]
    texts += ["x" * 5000, "ab" * 999, " " * 3000, "\n" * 300, "1234567890" * 40, "é e\u0301 \u1100\u1161\u11a8 각", *SPACES]
    for _ in range(6):
        texts += [_words(chosen, script, 40) for script in letters]
    texts += [_words(chosen, list(chain.from_iterable(chosen.sample(letters, 3))), 40) for _ in range(60)]
    return texts


def _letters(chosen: random.Random, codes: range) -> list[str]:
    some = chosen.sample(codes, min(len(codes), LETTERS))
    return [letter for letter in map(chr, some) if is_settled(letter)]


def _words(chosen: random.Random, letters: list[str], count: int) -> str:
    separators = [" "] * 12 + list(SPACES) + [", ", ". ", "  ", "\n\n", "-", "'s ", " 19", "%d", "<|im_end|>", "…", "!?"]
    lengths = chosen.choices(range(1, 10), k=count)
    drawn = iter(chosen.choices(letters, k=sum(lengths)))
    words = ("".join(islice(drawn, length)) for length in lengths)
    return "".join(chain.from_iterable(zip(words, chosen.choices(separators, k=count), strict=True)))
