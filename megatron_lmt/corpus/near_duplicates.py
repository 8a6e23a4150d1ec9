"""Records that are similar to one before, within their language or pair of languages.

MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998): a record's signature is cut into bands, and
records that share one are compared, each side for itself. Bands and signatures are in a SQLite file, so that memory is
bounded by its cache. A band leads to the first record that had it alone: so a record is compared with no more others than
it has bands, however often a phrase comes back.

Cost: 5 to 9 thousand pairs a second, 550 bytes of disk for each pair that is kept; reading it back costs more beyond the
memory that the system has left to cache the file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from megatron_lmt.corpus.clean_config import NearDuplicateRule
from megatron_lmt.corpus.clean_rules import Record, Rejection, letters
from megatron_lmt.corpus.duplicates import scratch_table
from megatron_lmt.extras import import_extra

PERMUTATIONS = 128
"""Numbers in a MinHash: the similarity's standard error is 0.035 at 0.8."""
FOUND = 0.99
"""Share of the records just as similar as the threshold that have a band in common."""
CHANCE = 1 / 256
"""That the bytes kept of two numbers are equal though the numbers are not (b-bit minwise hashing, Li and Koenig 2010)."""


class NearDuplicates:
    """
    Args:
        rule: from the TOML.
        path: of the file for bands and signatures; it must not exist.
    Raises:
        MissingExtraError: rensa is not installed.
    """

    def __init__(self, rule: NearDuplicateRule, path: Path):
        self._rensa = import_extra("rensa", "clean", "clean.near_duplicates")
        self._rule = rule
        self._bands, self._rows = bands(rule.threshold)
        self._factors = np.random.default_rng(1).integers(0, 1 << 64, (self._bands, self._rows), np.uint64) | np.uint64(1)
        self._table = scratch_table(
            path,
            rule.cache_mb,
            "create table bands (band integer primary key, record integer);"
            "create table records (record integer primary key, place text, signature blob)",
        )
        self._find = (
            "select distinct record, place, signature from bands join records using (record) "
            f"where band in ({', '.join('?' * self._bands)}) order by record"
        )
        self._records = 0

    def check(self, record: Record) -> Rejection | None:
        """The value of a rejection is the place of the record that is kept, and how similar it is."""
        codes, texts = zip(*sorted(zip(record.codes, record.texts, strict=True)), strict=True)
        sides = np.array([self._signature(text, side) for side, text in enumerate(texts)], np.uint64)
        found = self._bands_of(codes, sides.min(axis=0))  # of the union of both sides
        signature = sides.astype(np.uint8)
        for _, place, other in self._table.execute(self._find, found):
            equal = (signature == np.frombuffer(other, np.uint8).reshape(signature.shape)).mean(axis=1).min()
            similarity = (equal - CHANCE) / (1 - CHANCE)
            if similarity >= self._rule.threshold:
                return Rejection("near_duplicate", {"of": place, "similarity": round(float(similarity), 3)})
        self._records += 1
        self._table.execute("insert into records values (?, ?, ?)", (self._records, record.where, signature.tobytes()))
        self._table.executemany("insert or ignore into bands values (?, ?)", ((band, self._records) for band in found))
        return None

    def close(self) -> None:
        self._table.close()

    def _signature(self, text: str, side: int) -> list[int]:
        """Of a side's shingles, which are marked as this side's."""
        signature: Any = self._rensa.RMinHash(PERMUTATIONS, 1)
        signature.update([f"{side}{shingle}" for shingle in shingles(text, self._rule.shingle)])
        return signature.digest()

    def _bands_of(self, codes: tuple[str, ...], signature: np.ndarray) -> list[int]:
        """A number of 64 bits for each band, another one for other languages."""
        salt = int.from_bytes(hashlib.blake2b(":".join(codes).encode(), digest_size=8).digest(), "big")
        rows = signature[: self._bands * self._rows].reshape(self._bands, self._rows)
        mixed = (rows * self._factors).sum(axis=1, dtype=np.uint64) ^ np.uint64(salt)
        return mixed.view(np.int64).tolist()


def shingles(text: str, length: int) -> list[str]:
    """All runs of `length` letters and digits; of a shorter text, the text."""
    text = letters(text)
    return [text[start : start + length] for start in range(max(len(text) - length, 0) + 1)]


def bands(threshold: float) -> tuple[int, int]:
    """Number of bands and of rows in each: the most rows, so that few dissimilar records share a band, that find FOUND."""
    choices = ((count, rows) for rows in range(PERMUTATIONS, 0, -1) for count in range(1, PERMUTATIONS // rows + 1))
    return next((choice for choice in choices if _recall(threshold, *choice) >= FOUND), (PERMUTATIONS, 1))


def _recall(similarity: float, count: int, rows: int) -> float:
    """Probability that two records of this similarity share a band."""
    return 1 - (1 - similarity**rows) ** count
