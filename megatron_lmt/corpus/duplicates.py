"""Records that were there before, equal or with equal letters, within their language or pair of languages."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from megatron_lmt.corpus.clean_config import DuplicateRule
from megatron_lmt.corpus.clean_rules import Record, Rejection, Rule, letters


def scratch_table(path: Path, cache_mb: int, schema: str) -> sqlite3.Connection:
    """A SQLite file for one run: fast, with memory bounded by its cache, and worth nothing after a crash."""
    table = sqlite3.connect(path, isolation_level=None)
    table.executescript(
        f"""
        pragma journal_mode = off; pragma synchronous = off; pragma locking_mode = exclusive;
        pragma cache_size = -{cache_mb * 1024};
        {schema};
        begin
        """
    )
    return table


class SeenHashes:
    """128-bit hashes with the place where each was first seen: a SQLite table, so that memory is bounded by its cache.

    A false match of two among 5 billion records has a probability of 4e-20.
    """

    def __init__(self, path: Path, cache_mb: int):
        self._table = scratch_table(path, cache_mb, "create table seen (hash blob primary key, place text) without rowid")

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
