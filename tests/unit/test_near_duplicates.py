"""Near-duplicates: what is similar on both sides is found, and memory is bounded. From the TOML on: test_cleaning.py."""

from __future__ import annotations

import pytest

from megatron_lmt.corpus.clean_config import NearDuplicateRule
from megatron_lmt.corpus.clean_rules import Record
from megatron_lmt.corpus.near_duplicates import PERMUTATIONS, NearDuplicates, bands, shingles
from tests.unit.test_cleaning import GOOD, sentences

pytest.importorskip("rensa", reason="needs the extra: pip install -e '.[clean]'")


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_99_percent_at_the_threshold(threshold):
    count, rows = bands(threshold)
    assert count * rows <= PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** count >= 0.99


def test_near_duplicates_are_on_disk_beyond_the_cache_and_are_found(tmp_path, sample_data):
    near = NearDuplicates(NearDuplicateRule(cache_mb=1), tmp_path / "near.sqlite")
    english, german = (sentences(sample_data, code)[:500] for code in ("en", "de"))

    def pair(number: int, start: int = 0) -> Record:
        one, other = number % 500, (number * 7 + number // 500) % 500
        texts = tuple(f"{side[one]} {side[other]}"[start:] for side in (english, german))
        return Record("x.tsv", number, ("en", "de"), texts)

    kept = [number for number in range(6000) if near.check(pair(number)) is None]
    assert len(kept) > 5500
    assert (tmp_path / "near.sqlite").stat().st_size > 400 * len(kept)  # not in memory: that holds 1 MB of some 3
    found = [near.check(pair(number, start=3)) for number in kept[::7]]
    of_their_own = [rejection.value["of"] == f"x.tsv:{number}" for rejection, number in zip(found, kept[::7], strict=True)]
    assert sum(of_their_own) >= 0.99 * len(found)  # two long sentences with another short one are similar, too
    near.close()


def test_other_languages_are_no_near_duplicates(tmp_path):
    near = NearDuplicates(NearDuplicateRule(), tmp_path / "near.sqlite")
    texts = GOOD[0]
    assert [near.check(Record("x", 1, codes, texts)) for codes in (("en", "de"), ("en", "nl"), ("de", "en"))] == [None] * 3
    again = near.check(Record("x", 2, ("de", "en"), texts[::-1]))  # the same pair, named the other way round
    assert again.value == {"of": "x:1", "similarity": 1.0}
    assert near.check(Record("x", 3, ("en",), texts[:1])) is None
    near.close()


def test_what_is_near_but_not_near_enough_stays(tmp_path, sample_data):
    """Of real sentences with words put in, by their true similarity."""
    near = NearDuplicates(NearDuplicateRule(), tmp_path / "near.sqlite")
    far, close = [], []
    for line, text in enumerate(sentences(sample_data, "en")[:400]):
        near.check(Record("x", line, ("en",), (text,)))
        for words in ("of the", "and then we went there to see the old house by the river"):
            changed = f"{text[: len(text) // 2]} {words} {text[len(text) // 2 :]}"
            one, other = (set(shingles(side, 5)) for side in (text, changed))
            similarity = len(one & other) / len(one | other)
            is_found = near.check(Record("y", line, ("en",), (changed,))) is not None
            if similarity < 0.65:
                far.append(is_found)
            elif similarity > 0.88:
                close.append(is_found)
    near.close()
    assert len(far) > 100 and len(close) > 100
    assert not any(far) and sum(close) >= 0.99 * len(close)
