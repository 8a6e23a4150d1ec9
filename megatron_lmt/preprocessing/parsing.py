"""The texts in a chunk of records; each record that cannot be used is kept beside them, with its line and reason.

Next on the path: `tokenising.py` makes tokens of the texts.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import orjson

from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.records import BadRecord, check_text, parse_record, value_at, without_mark_and_end
from megatron_lmt.preprocessing.text_files import Chunk

Record = bytes | dict | tuple


@dataclass(frozen=True)
class Rejected:
    """A record that is not written: where it is, a short code of the reason, the reason in words, and the line."""

    file: str
    line: int
    reason: str
    message: str
    raw: bytes


def rejected(chunk: Chunk, line: int, record: Record, reason: str, message: str) -> Rejected:
    raw = record if isinstance(record, bytes) else _as_json(record)
    return Rejected(chunk.file, line, reason, message, raw)


def _as_json(record: dict | tuple) -> bytes:
    parts = dict(zip(("source", "target"), record, strict=True)) if isinstance(record, tuple) else record
    texts = {
        key: text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text for key, text in parts.items()
    }
    return json.dumps(texts, ensure_ascii=False, default=str).encode()


def records_of(chunk: Chunk) -> list[Record]:
    """Lines without their ends, rows, or pairs."""
    if isinstance(chunk.records, list):
        return chunk.records
    lines = chunk.records.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def read_texts(recipe: Recipe, chunk: Chunk) -> tuple[list[str], list[int], list[Rejected]]:
    """The texts of all good records, one for each key; the place of the record of each document; and the bad records.

    A pair that goes into another direction is in none of them.
    """
    good = _all_at_once(recipe, chunk)
    if good:
        return good, list(range(len(good))), []
    records = records_of(chunk)
    good = _good_texts(recipe, chunk, records)
    if all(good):
        return good, list(range(len(good))), []
    texts, places, bad = [], [], []
    for place, (record, text) in enumerate(zip(records, good, strict=True)):
        line = chunk.first_line + place
        if chunk.pairing and not chunk.pairing.takes(line):
            continue
        try:
            found = [text] if text else _texts(recipe, chunk, record, line)
            texts += found
            places += [place] * (len(found) // len(recipe.json_keys) if not chunk.pairing else len(found))
        except BadRecord as error:
            bad.append(rejected(chunk, line, record, error.reason, str(error)))
    return texts, places, bad


def _all_at_once(recipe: Recipe, chunk: Chunk) -> list[str] | None:
    """The texts of a chunk of which every record is good.

    Its lines are read as one list, with a number between them that no line can know: where all numbers are in their places,
    each line is a value by itself.
    """
    if not _has_one_key(chunk) or len(chunk.records) > recipe.max_bytes:
        return None
    number = random.getrandbits(63)
    lines = chunk.records.removesuffix(b"\n").replace(b"\n", b",%d," % number)
    try:
        values = orjson.loads(b"[%b]" % lines)
        texts = list(map(itemgetter(*chunk.keys), values[::2]))
    except (ValueError, TypeError, KeyError):
        return None
    is_good = values[1::2] == [number] * (len(texts) - 1) and set(map(type, texts)) == {str}
    return texts if is_good and all(texts) and not any(map(str.isspace, texts)) else None


def _has_one_key(chunk: Chunk) -> bool:
    return chunk.kind == "jsonl" and len(chunk.keys) == 1 and not chunk.pairing


def _good_texts(recipe: Recipe, chunk: Chunk, records: list[Record]) -> list[str | None]:
    """The texts of records that can be told to be good at a glance; None for the others."""
    if not _has_one_key(chunk):
        return [None] * len(records)
    (key,) = chunk.keys
    return [_quickly(line, key) if len(line) <= recipe.max_bytes else None for line in records]


def _quickly(line: bytes, key: str) -> str | None:
    """The text of a good line. None: `parse_record` is to say what is wrong, if anything is.

    What orjson reads, Python's json reads alike; and it reads neither lone surrogates nor what is not UTF-8.
    """
    try:
        text = value_at(orjson.loads(line), key)
    except (ValueError, TypeError, KeyError):
        return None
    return text if type(text) is str and not text.isspace() else None


def _texts(recipe: Recipe, chunk: Chunk, record: Record, line: int) -> list[str]:
    """One for each key, or the documents of a pair.

    Raises:
        BadRecord: what is wrong.
    """
    where = f"{chunk.file}:{line}"
    _check_size(recipe, chunk, record, where)
    if isinstance(record, bytes):
        record = without_mark_and_end(record, line)
    texts = _texts_of_kind(chunk, record, where)
    return chunk.pairing.documents(texts) if chunk.pairing else texts


def _texts_of_kind(chunk: Chunk, record: Record, where: str) -> list[str]:
    if chunk.kind == "jsonl":
        return parse_record(_decode(record, where), list(chunk.keys), where)
    if chunk.kind == "text":
        return _checked([_decode(record, where)], ["the line"], where)
    if chunk.kind == "tsv":
        columns = _decode(record, where).split("\t")
        if len(columns) < 2:
            raise BadRecord("missing_key", f"{where}: one column; a pair needs two, separated by a tab")
        return _checked(columns[:2], ["the source (column 1)", "the target (column 2)"], where)
    if chunk.kind == "pairs":
        pairing = chunk.pairing
        absent = [code for side, code in zip(record, (pairing.source, pairing.target), strict=True) if side is None]
        if absent:
            raise BadRecord("missing_key", f"{where}: no {' and no '.join(absent)} in it")
        return _checked([_decode(side, where) for side in record], [f"the {pairing.source}", f"the {pairing.target}"], where)
    return _checked([_decode(record[key], where) for key in chunk.keys], [repr(key) for key in chunk.keys], where)


def _checked(texts: list[Any], names: list[str], where: str) -> list[str]:
    for text, name in zip(texts, names, strict=True):
        check_text(text, f"{where}: {name}")
    return texts


def _check_size(recipe: Recipe, chunk: Chunk, record: Record, where: str) -> None:
    parts = [record] if isinstance(record, bytes) else record.values() if isinstance(record, dict) else record
    size = sum(len(part) for part in parts if isinstance(part, bytes))
    if chunk.kind == "too_long" or size > recipe.max_bytes:
        found = f"{chunk.text_bytes:,} bytes" if chunk.kind == "too_long" else f"{size:,} bytes"
        beginning = "; its beginning is kept" if chunk.kind == "too_long" else ""
        limit = f"--max-document-bytes {recipe.max_bytes}"
        raise BadRecord("too_long", f"{where}: {found}, more than {limit}{beginning}")


def _decode(text: Any, where: str) -> Any:
    """What is no text stays as it is."""
    try:
        return text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise BadRecord("not_utf8", f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
