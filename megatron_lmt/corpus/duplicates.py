"""Records that were there before, within their language or pair of languages: equal ones on disk, similar ones in memory."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from megatron_lmt.corpus.clean_config import DuplicateRule, NearDuplicateRule
from megatron_lmt.corpus.clean_rules import Record, Rejection, Rule, letters
from megatron_lmt.extras import import_extra

PERMUTATIONS = 128
"""Numbers in a MinHash: the similarity's standard error is 0.035 at 0.8."""


class SeenHashes:
    """128-bit hashes with the place where each was first seen: a SQLite table, so that memory is bounded by its cache.

    A false match of two among 5 billion records has a probability of 4e-20.
    """

    def __init__(self, path: Path, cache_mb: int):
        self._table = sqlite3.connect(path, isolation_level=None)
        self._table.executescript(
            f"""
            pragma journal_mode = off; pragma synchronous = off; pragma locking_mode = exclusive;
            pragma cache_size = -{cache_mb * 1024};
            create table seen (hash blob primary key, place text) without rowid;
            begin
            """
        )

    def first(self, parts: list[str], place: str) -> str | None:
        """The place where the same parts were seen first, or None if this is the first time."""
        digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if self._table.execute("insert or ignore into seen values (?, ?)", (digest, place)).rowcount:
            return None
        return self._table.execute("select place from seen where hash = ?", (digest,)).fetchone()[0]

    def close(self) -> None:
        self._table.close()


def duplicate(rule: DuplicateRule, seen: SeenHashes) -> Rule:
    """The value of a rejection is the place of the record that is kept."""

    def check(record: Record) -> Rejection | None:
        sides = list(zip(record.codes, record.texts, strict=True))
        compared = {"both": sides, "source": sides[:1], "target": sides[-1:]}[rule.by]
        keys = [code + ":" + (letters(text) if rule.match == "letters" else text) for code, text in sorted(compared)]
        place = seen.first([*sorted(record.codes), *keys], record.where)
        return Rejection("duplicate", place) if place else None

    return check


class NearDuplicates:
    """MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998), by the library rensa.

    Candidates are pairs with a similar union of both sides' shingles; each side's similarity then decides.

    Raises:
        MissingExtraError: rensa is not installed.
    """

    def __init__(self, rule: NearDuplicateRule):
        self._rensa = import_extra("rensa", "clean", "clean.near_duplicates")
        self._rule = rule
        self._indexes: dict[tuple[str, ...], Any] = {}
        self._kept: dict[tuple[str, ...], list[tuple[str, list[Any]]]] = {}

    def check(self, record: Record) -> Rejection | None:
        codes, texts = zip(*sorted(zip(record.codes, record.texts, strict=True)), strict=True)
        shingles = [self._shingles(text) for text in texts]
        sides = [self._signature(found) for found in shingles]
        union = self._signature([f"{side}{shingle}" for side, found in enumerate(shingles) for shingle in found])
        if codes not in self._indexes:
            self._indexes[codes], self._kept[codes] = self._new_index(), []
        index, kept = self._indexes[codes], self._kept[codes]
        for number in sorted(index.query(union)):
            where, others = kept[number]
            similarity = min(side.jaccard(other) for side, other in zip(sides, others, strict=True))
            if similarity >= self._rule.threshold:
                return Rejection("near_duplicate", {"of": where, "similarity": round(similarity, 3)})
        index.insert(len(kept), union)
        kept.append((record.where, sides))
        return None

    def _shingles(self, text: str) -> list[str]:
        text, length = letters(text), self._rule.shingle
        return sorted({text[start : start + length] for start in range(max(len(text) - length, 0) + 1)})

    def _signature(self, shingles: list[str]) -> Any:
        signature = self._rensa.RMinHash(PERMUTATIONS, 1)
        signature.update(shingles)
        return signature

    def _new_index(self) -> Any:
        return self._rensa.RMinHashLSH(self._rule.threshold, PERMUTATIONS, bands(self._rule.threshold))


def bands(threshold: float) -> int:
    """The fewest bands with which 99 % of what is as similar as the threshold are candidates."""
    choices = [1 << power for power in range(PERMUTATIONS.bit_length())]
    recall = {count: 1 - (1 - threshold ** (PERMUTATIONS // count)) ** count for count in choices}
    return next(count for count in choices if recall[count] >= 0.99 or count == PERMUTATIONS)
