"""What scores do not show: outputs in the wrong language, copies of the source, empty ones, loops, and wrong lengths.

The off-target rates are LLaMAX's (arXiv 2407.05975, tables 7 and 13): a language identifier reads every output.
"""

from __future__ import annotations

import re
from collections import Counter

from megatron_lmt.language_id import UNDETERMINED

# 16 or more characters that are four or more copies of one string
_LOOP = re.compile(r"(.{4,100}?)\1{3,}", re.DOTALL)
_NO_LETTERS = re.compile(r"[\W_]+")
MOST_LENGTH_RATIO = 3.0
"""A translation more than so many times longer or shorter than its reference, in characters, is of a wrong length. It is the
limit that LMT cleaned its training pairs with."""


def output_rates(sources: list[str], translations: list[str], references: list[str]) -> dict[str, float]:
    """Shares of the sentences of one direction, each from 0 to 1, and the ratio of lengths.

    - `empty_rate`: nothing but spaces.
    - `source_copy_rate`: the source again, whatever its case and punctuation, where the reference is something else.
    - `repetition_rate`: 16 or more characters that are a string of at least four, four times or more in a row, where the
      reference has nothing of the kind.
    - `length_outlier_rate`: more than `MOST_LENGTH_RATIO` times longer or shorter than the reference (empty ones included).
    - `length_ratio`: characters of all translations to those of all references.
    """
    rows = list(zip(sources, translations, references, strict=True))
    copies = sum(_same(source, text) and not _same(source, reference) for source, text, reference in rows)
    loops = sum(_loops(text) and not _loops(reference) for _, text, reference in rows)
    outliers = sum(
        not 1 / MOST_LENGTH_RATIO <= len(text) / len(reference) <= MOST_LENGTH_RATIO for _, text, reference in rows
    )
    return {
        "empty_rate": sum(not text.strip() for text in translations) / len(rows),
        "source_copy_rate": copies / len(rows),
        "repetition_rate": loops / len(rows),
        "length_outlier_rate": outliers / len(rows),
        "length_ratio": sum(map(len, translations)) / sum(map(len, references)),
    }


def off_target_rates(source: str, target: str, identified: list[str], of_references: list[str]) -> dict:
    """In which languages the outputs of one direction are, as shares of all of them.

    Args:
        identified: code of each output; "und" where nothing can be told, as of numbers.
        of_references: the same of the references, which shows what the identifier itself gets wrong.
    Returns:
        `target_rate`, `off_target_rate` (in any other language) and `undetermined_rate`, which add up to 1; `source_rate`;
        `reference_off_target_rate`; and `languages`, the shares of the five most frequent ones.
    """
    shares, reference_shares = _shares(identified), _shares(of_references)
    return {
        "target_rate": shares.get(target, 0.0),
        "off_target_rate": _others(shares, target),
        "undetermined_rate": shares.get(UNDETERMINED, 0.0),
        "source_rate": shares.get(source, 0.0),
        "reference_off_target_rate": _others(reference_shares, target),
        "languages": dict(list(shares.items())[:5]),
    }


def _shares(codes: list[str]) -> dict[str, float]:
    return {code: count / len(codes) for code, count in Counter(codes).most_common()}


def _others(shares: dict[str, float], target: str) -> float:
    return sum(share for code, share in shares.items() if code not in (target, UNDETERMINED))


def _same(one: str, other: str) -> bool:
    one, other = (_NO_LETTERS.sub("", text.casefold()) for text in (one, other))
    return one == other and bool(one)


def _loops(text: str) -> bool:
    return _LOOP.search(text) is not None
