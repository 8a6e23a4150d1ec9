"""Test sets that must not be trained on, told by fingerprints of their sentences, and overlap with those of a user.

`known_test_sets.tsv` has a line for each test set and language: the fingerprints of FLORES-200 devtest and of WMT24, in
English and Chinese. Every training pair has a side in one of these. WMT24 is in paragraphs, as it is scored.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.preprocessing.records import read_documents

SHORTEST = 10
"""Letters and digits from which on a sentence is taken for one of a test set; "Thank you." is in all of them."""
REFUSED_SHARE = 0.05
"""An input that has this share of a test set is that test set; less are chance finds, as of a web corpus."""
NAMES = re.compile(r"devtest|wmt-?_?24|wmttest2024", re.IGNORECASE)
_NOT_A_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class TestSentences:
    """`fingerprints`: language → of its sentences."""

    name: str
    fingerprints: dict[str, frozenset[str]]

    def has(self, language: str, text: str) -> bool:
        known = self.fingerprints.get(language)
        return known is not None and fingerprint(text) in known


def fingerprint(text: str) -> str | None:
    """16 hexadecimal digits that depend on the letters and digits of a text only, not on case, spaces and punctuation;
    None for a text that is too short to tell.
    """
    letters = _NOT_A_LETTER.sub("", text.casefold())
    return hashlib.blake2b(letters.encode(), digest_size=8).hexdigest() if len(letters) >= SHORTEST else None


def fingerprints(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(found for text in texts if (found := fingerprint(text)))


def known_test_sets() -> list[TestSentences]:
    by_name: dict[str, dict[str, frozenset[str]]] = {}
    with open(Path(__file__).with_name("known_test_sets.tsv"), encoding="utf-8") as file:
        for line in file:
            name, language, found = line.rstrip("\n").split("\t")
            by_name.setdefault(name, {})[language] = frozenset(found.split())
    return [TestSentences(name, languages) for name, languages in by_name.items()]


def read_test_set(name: str, files: dict[str, Path]) -> TestSentences:
    """A test set of the user's.

    Args:
        files: language → file of its sentences.
    """
    return TestSentences(
        name, {code: fingerprints(text for _, text in read_documents(path)) for code, path in files.items()}
    )


def main() -> None:
    """`python -m megatron_lmt.corpus.test_sets NAME LANGUAGE FILE`: a line for known_test_sets.tsv."""
    name, language, file = sys.argv[1:]
    found = fingerprints(line for line in Path(file).read_text(encoding="utf-8").split("\n"))
    print(name, language, " ".join(sorted(found)), sep="\t")


if __name__ == "__main__":
    main()
