"""The texts in a chunk of records; each record that cannot be used is kept beside them, with its line and reason.

Next on the path: `tokenising.py` makes tokens of the texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import orjson

from megatron_lmt.data.recipe import Recipe
from megatron_lmt.data.records import BadRecord, check_text, parse_record
from megatron_lmt.data.tables import Rows
from megatron_lmt.data.text_files import Chunk

Record = bytes | dict


@dataclass(frozen=True)
class Rejected:
    """A record that is not written: where it is, a short code of the reason, the reason in words, and the line."""

    path: Path
    line: int
    reason: str
    message: str
    raw: bytes


def rejected(chunk: Chunk, line: int, record: Record, reason: str, message: str) -> Rejected:
    raw = record if isinstance(record, bytes) else _as_json(record)
    return Rejected(chunk.path, line, reason, message, raw)


def _as_json(row: dict) -> bytes:
    texts = {key: text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text for key, text in row.items()}
    return json.dumps(texts, ensure_ascii=False, default=str).encode()


def records_of(chunk: Chunk) -> list[bytes] | Rows:
    """Lines, without their ends, or rows."""
    if isinstance(chunk.records, list):
        return chunk.records
    lines = chunk.records.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def read_texts(recipe: Recipe, chunk: Chunk) -> tuple[list[str], list[int], list[Rejected]]:
    """The texts of all good records, one for each key; the place of each such record in the chunk; and the bad records."""
    texts: list[str] = []
    places: list[int] = []
    bad: list[Rejected] = []
    key = recipe.json_keys[0] if chunk.kind == "jsonl" and len(recipe.json_keys) == 1 else None
    for place, record in enumerate(records_of(chunk)):
        text = _quickly(record, key) if key and len(record) <= recipe.max_bytes else None
        line = chunk.first_line + place
        try:
            texts += [text] if text else _texts(recipe, chunk, record, f"{chunk.path}:{line}")
            places.append(place)
        except BadRecord as error:
            bad.append(rejected(chunk, line, record, error.reason, str(error)))
    return texts, places, bad


def _quickly(line: bytes, key: str) -> str | None:
    """The text of a good line. None: `parse_record` is to say what is wrong, if anything is.

    What orjson reads, Python's json reads alike; and it reads neither lone surrogates nor what is not UTF-8.
    """
    try:
        text = orjson.loads(line)[key]
    except (ValueError, TypeError, KeyError):
        return None
    return text if type(text) is str and not text.isspace() else None


def _texts(recipe: Recipe, chunk: Chunk, record: Record, where: str) -> list[str]:
    """One for each key.

    Raises:
        BadRecord: what is wrong.
    """
    _check_size(recipe, chunk, record, where)
    if chunk.kind == "jsonl":
        return parse_record(_decode(record, where), list(recipe.json_keys), where)
    if chunk.kind == "text":
        text = _decode(record, where)
        check_text(text, f"{where}: the line")
        return [text]
    texts = [_decode(text, where) if isinstance(text := record[key], bytes) else text for key in recipe.json_keys]
    for key, text in zip(recipe.json_keys, texts, strict=True):
        check_text(text, f"{where}: {key!r}")
    return texts


def _check_size(recipe: Recipe, chunk: Chunk, record: Record, where: str) -> None:
    parts = [record] if isinstance(record, bytes) else [part for part in record.values() if isinstance(part, bytes)]
    size = chunk.text_bytes if chunk.kind == "too_long" else sum(map(len, parts))
    if size > recipe.max_bytes:
        beginning = "; its beginning is kept" if chunk.kind == "too_long" else ""
        limit = f"--max-document-bytes {recipe.max_bytes:,}"
        raise BadRecord("too_long", f"{where}: {size:,} bytes, more than {limit}{beginning}")


def _decode(text: bytes, where: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord("not_utf8", f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
