"""The records of the inputs of one source, in chunks, from any position on.

Lines end at "\\n" and nowhere else.

Next on the path: `tokenising.py` makes tokens of each chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from megatron_lmt.data.compression import DAMAGES, FORMATS, decompressed
from megatron_lmt.data.inputs import bytes_of, kind_of
from megatron_lmt.data.tables import Rows, read_rows
from megatron_lmt.errors import DataError

CHUNK_BYTES = 1 << 20
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

    Of kind "jsonl" and "text": whole lines as they are there, with line ends; "rows": rows with their texts as UTF-8
    bytes; "too_long": the beginning of one line of `text_bytes`. `size` is how many bytes of the file (compressed, if it
    is) they are, about; `text_bytes` without compression.
    """

    path: Path
    kind: str
    first_line: int
    records: bytes | Rows
    size: int
    text_bytes: int
    end: Position


def read_chunks(inputs: list[Path], keys: list[str], start: Position, max_bytes: int) -> Iterator[Chunk]:
    """Records of about a megabyte together, from `start` to the end of the last input.

    Args:
        keys: the columns to read of rows.
        max_bytes: of a line; a longer one is not held in memory.
    Raises:
        DataError: a damaged file, or one without these columns.
    """
    for number in range(start.input, len(inputs)):
        position = start if number == start.input else Position(number)
        if kind_of(inputs[number]) == "rows":
            yield from _read_rows(inputs[number], keys, position)
        else:
            yield from _read_lines(inputs[number], position, max_bytes)


def _read_lines(path: Path, position: Position, max_bytes: int) -> Iterator[Chunk]:
    try:
        with open(path, "rb") as file:
            text = decompressed(file, path)
            text.seek(position.offset)
            done = 0
            for kind, part, lines, size in _whole_lines(text, kind_of(path), max_bytes):
                end = Position(position.input, position.line + lines, position.offset + size)
                yield Chunk(path, kind, position.line, part, file.tell() - done, size, end)
                position, done = end, file.tell()
    except DAMAGES as error:
        what = f"damaged {FORMATS[path.suffix]} file after line {position.line - 1} ({error})"
        raise DataError(f"{path}: {what}; copy it again") from None


def _whole_lines(text: BinaryIO, kind: str, max_bytes: int) -> Iterator[tuple[str, bytes, int, int]]:
    """(kind, lines, their number, their bytes); of a line that is too long only the beginning."""
    while block := text.read(CHUNK_BYTES):
        tail = b"" if block.endswith(b"\n") else text.readline(max_bytes + 1)
        block += tail
        if len(tail) <= max_bytes or tail.endswith(b"\n"):  # whole, or the last one of the file
            yield kind, block, block.count(b"\n") + (not block.endswith(b"\n")), len(block)
            continue
        start = block.rfind(b"\n") + 1
        if start:
            yield kind, block[:start], block.count(b"\n"), start
        yield "too_long", block[start : start + KEPT_BYTES], 1, len(block) - start + _skip_line(text)


def _skip_line(text: BinaryIO) -> int:
    """Read to the end of a line; returns its bytes."""
    size = 0
    while part := text.readline(CHUNK_BYTES):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size


def _read_rows(path: Path, keys: list[str], position: Position) -> Iterator[Chunk]:
    size = bytes_of(path)
    for rows, part in read_rows(path, keys, position.line - 1, CHUNK_BYTES):
        end = Position(position.input, position.line + len(rows))
        text_bytes = sum(len(text) for row in rows for text in row.values() if isinstance(text, bytes))
        yield Chunk(path, "rows", position.line, rows, int(size * part), text_bytes, end)
        position = end
