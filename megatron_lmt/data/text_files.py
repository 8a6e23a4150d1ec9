"""The lines of the inputs of one source, in chunks, from any position on.

Lines end at "\\n" and nowhere else.

Next on the path: `tokenising.py` makes tokens of each chunk.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.errors import DataError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """Where reading goes on: the number of the input, of its next line (from 1), and the bytes of its text before that.

    Bytes are those of the text itself, not of the compressed file.
    """

    input: int = 0
    line: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Chunk:
    """Lines of a file, as they are there, with line ends; `size`: how many bytes of the file (compressed, if it is)."""

    path: Path
    first_line: int
    lines: list[bytes]
    size: int
    end: Position

    @property
    def text_bytes(self) -> int:
        return sum(map(len, self.lines))


def read_chunks(inputs: list[Path], start: Position) -> Iterator[Chunk]:
    """Lines of about a megabyte together, from `start` to the end of the last input.

    Raises:
        DataError: a damaged gzip file.
    """
    for number in range(start.input, len(inputs)):
        yield from _read_file(inputs[number], start if number == start.input else Position(number))


def _read_file(path: Path, position: Position) -> Iterator[Chunk]:
    try:
        with open(path, "rb") as file:
            text = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            text.seek(position.offset)
            done = 0
            while lines := text.readlines(CHUNK_BYTES):
                end = Position(position.input, position.line + len(lines), position.offset + sum(map(len, lines)))
                yield Chunk(path, position.line, lines, file.tell() - done, end)
                position, done = end, file.tell()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file after line {position.line - 1} ({error}); copy it again") from None
