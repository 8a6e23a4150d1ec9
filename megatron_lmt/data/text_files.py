"""The records of the inputs of one source, in chunks, from any position on.

Lines end at "\\n" and nowhere else.

Next on the path: `tokenising.py` makes tokens of each chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.data.compression import DAMAGES, FORMATS, decompressed
from megatron_lmt.data.inputs import bytes_of, kind_of
from megatron_lmt.data.tables import Rows, read_rows
from megatron_lmt.errors import DataError

CHUNK_BYTES = 1 << 20


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
    """Records of one input: lines as they are there, with line ends, or rows with their texts as UTF-8 bytes.

    `size` is how many bytes of the file (compressed, if it is) they are, about; `text_bytes` without compression.
    """

    path: Path
    kind: str
    first_line: int
    records: list[bytes] | Rows
    size: int
    text_bytes: int
    end: Position


def read_chunks(inputs: list[Path], keys: list[str], start: Position) -> Iterator[Chunk]:
    """Records of about a megabyte together, from `start` to the end of the last input.

    Args:
        keys: the columns to read of rows.
    Raises:
        DataError: a damaged file, or one without these columns.
    """
    for number in range(start.input, len(inputs)):
        position = start if number == start.input else Position(number)
        if kind_of(inputs[number]) == "rows":
            yield from _read_rows(inputs[number], keys, position)
        else:
            yield from _read_lines(inputs[number], position)


def _read_lines(path: Path, position: Position) -> Iterator[Chunk]:
    kind = kind_of(path)
    try:
        with open(path, "rb") as file:
            text = decompressed(file, path)
            text.seek(position.offset)
            done = 0
            while lines := text.readlines(CHUNK_BYTES):
                text_bytes = sum(map(len, lines))
                end = Position(position.input, position.line + len(lines), position.offset + text_bytes)
                yield Chunk(path, kind, position.line, lines, file.tell() - done, text_bytes, end)
                position, done = end, file.tell()
    except DAMAGES as error:
        what = f"damaged {FORMATS[path.suffix]} file after line {position.line - 1} ({error})"
        raise DataError(f"{path}: {what}; copy it again") from None


def _read_rows(path: Path, keys: list[str], position: Position) -> Iterator[Chunk]:
    size = bytes_of(path)
    for rows, part in read_rows(path, keys, position.line - 1, CHUNK_BYTES):
        end = Position(position.input, position.line + len(rows))
        text_bytes = sum(len(text) for row in rows for text in row.values() if isinstance(text, bytes))
        yield Chunk(path, "rows", position.line, rows, int(size * part), text_bytes, end)
        position = end
