"""The records of the inputs of one source, in chunks, from any position on.

Lines end at "\\n"; a "\\r" before it is dropped when they are parsed.

Next on the path: `tokenising.py` makes tokens of each chunk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.compression import DAMAGES, FORMATS, decompressed
from megatron_lmt.preprocessing.hub import stream_rows
from megatron_lmt.preprocessing.inputs import Input, bytes_of
from megatron_lmt.preprocessing.pair_files import Pair, read_aligned_pairs, read_tmx
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.preprocessing.tables import Rows, read_rows

CHUNK_BYTES = 1 << 19
KINDS_OF_LINES = ("jsonl", "text", "tsv", "aligned")

KEPT_BYTES = 1000
"""Of a line that is too long to be held."""


@dataclass(frozen=True)
class Position:
    """Where reading goes on: number of the input, of its next line or row (from 1), and bytes of its text before that line.

    Bytes are those of the text itself, not of the compressed file.
    """

    input: int = 0
    line: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Chunk:
    """Records of one input.

    Of kind "jsonl", "text" and "tsv": whole lines as they are there, with line ends; "rows": rows with their texts as
    UTF-8 bytes; "pairs": both sides as bytes; "too_long": the beginning of one line of `text_bytes`. `size` is how many
    bytes of the file (compressed, if it is) they are, about; `text_bytes` without compression. `keys` and `pairing` are
    those of the input.
    """

    file: str
    kind: str
    first_line: int
    records: bytes | Rows | list[Pair]
    size: int
    text_bytes: int
    end: Position
    keys: tuple[str, ...]
    pairing: Pairing | None


def most_chunks(inputs: Iterable[Input]) -> int:
    """How many chunks these will be at most, as far as anybody knows before they are read."""
    inputs = list(inputs)
    if all(given.kind in KINDS_OF_LINES and path.suffix not in FORMATS for given in inputs for path in given.paths):
        return sum(1 + path.stat().st_size // CHUNK_BYTES for given in inputs for path in given.paths if path.is_file())
    return sys.maxsize


Part = tuple[str, bytes | Rows | list[Pair], int, int, int]
"""kind, records, their number, size, text_bytes."""


def read_chunks(inputs: list[Input], keys: tuple[str, ...], start: Position, max_bytes: int) -> Iterator[Chunk]:
    """Records of about half a megabyte together, from `start` to the end of the last input.

    Args:
        keys: of the texts, where the input has none of its own.
        max_bytes: of a line; a longer one is not held in memory.
    Raises:
        DataError: a damaged file, or one without these columns, or a file shorter than the one aligned with it.
    """
    for number in range(start.input, len(inputs)):
        given = inputs[number]
        position = start if number == start.input else Position(number)
        for kind, records, count, size, text_bytes in _parts(given, given.keys or keys, position, max_bytes):
            end = Position(number, position.line + count, position.offset + text_bytes)
            yield Chunk(
                given.name,
                kind,
                position.line,
                records,
                size,
                text_bytes,
                end,
                given.keys or keys,
                given.pairing,
            )
            position = end


def _parts(given: Input, keys: tuple[str, ...], start: Position, max_bytes: int) -> Iterator[Part]:
    path, skip = given.paths[0], start.line - 1
    if given.kind == "rows":
        return _rows(read_rows(path, list(keys), skip, CHUNK_BYTES), bytes_of(given))
    if given.kind == "hub":
        return _rows(((rows, 0) for rows in stream_rows(path, list(keys), skip)), 0)
    if given.kind == "aligned":
        return _pairs(read_aligned_pairs(given.paths, skip, max_bytes), bytes_of(given))
    if given.kind == "tmx":
        return _pairs(read_tmx(path, given.pairing.source, given.pairing.target, skip, max_bytes), bytes_of(given))
    return _lines(path, given.kind, start, max_bytes)


def _rows(parts: Iterator[tuple[Rows, float]], size: int) -> Iterator[Part]:
    for rows, part in parts:
        text_bytes = sum(len(text) for row in rows for text in row.values() if isinstance(text, bytes))
        yield "rows", rows, len(rows), int(size * part), text_bytes


def _pairs(pairs: Iterator[tuple[Pair, int]], size: int) -> Iterator[Part]:
    """How much of a file was read is not known from here: its size counts with the first part."""
    while True:
        records, text_bytes = [], 0
        for pair, pair_bytes in pairs:
            records.append(pair)
            text_bytes += pair_bytes
            if text_bytes >= CHUNK_BYTES:
                break
        if not records:
            return
        yield "pairs", records, len(records), size, text_bytes
        size = 0


def _lines(path: Path, kind: str, start: Position, max_bytes: int) -> Iterator[Part]:
    line = start.line
    try:
        with open(path, "rb") as file:
            text = decompressed(file, path)
            text.seek(start.offset)
            done = 0
            for part, block, lines, text_bytes in _whole_lines(text, kind, max_bytes):
                yield part, block, lines, file.tell() - done, text_bytes
                done, line = file.tell(), line + lines
    except DAMAGES as error:
        raise DataError(
            f"{path}: damaged {FORMATS[path.suffix]} file after line {line - 1} ({error}); copy it again"
        ) from None


def _whole_lines(text: BinaryIO, kind: str, max_bytes: int) -> Iterator[tuple[str, bytes, int, int]]:
    """(kind, lines, their number, their bytes); of a line that is too long only the beginning."""
    while block := text.read(CHUNK_BYTES):
        tail = b"" if block.endswith(b"\n") else text.readline(max_bytes + 1)
        block += tail
        if len(tail) <= max_bytes or tail.endswith(b"\n"):  # whole, or the last one of the file
            yield kind, block, _newlines(block) + (not block.endswith(b"\n")), len(block)
            continue
        start = block.rfind(b"\n") + 1
        if start:
            yield kind, block[:start], _newlines(block), start
        yield "too_long", block[start : start + KEPT_BYTES], 1, len(block) - start + _skip_line(text)


def _newlines(block: bytes) -> int:
    """As `bytes.count`, ten times as fast where lines are short."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _skip_line(text: BinaryIO) -> int:
    """Read to the end of a line; returns its bytes."""
    size = 0
    while part := text.readline(CHUNK_BYTES):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size
