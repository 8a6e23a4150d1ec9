"""Plain, gzipped and zstandard-compressed files, read alike; a file that was cut off is an error in all of them."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

import zstandard

FORMATS = {".gz": "gzip", ".zst": "zstandard"}
DAMAGES = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What reading a damaged compressed file raises."""


def decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    """The content of `file`, which is open at its beginning; `path` tells the compression. Can be sought forward."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstandardFile(file), 1 << 20)
    return file


class _ZstandardFile(io.RawIOBase):
    """One frame or several. (zstandard's own reader takes a file that was cut off for a whole one.)"""

    BLOCK = 1 << 17  # compressed bytes at a time; their content is held in memory

    def __init__(self, file: BinaryIO):
        self._file = file
        self._frame = None
        self._input = b""
        self._content = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only forward, by reading."""
        if whence != io.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("only forward, from the start")
        while self._position < offset and self.read(min(offset - self._position, self.BLOCK)):
            pass
        return self._position

    def readinto(self, buffer) -> int:
        while not self._content and self._decompress_more():
            pass
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        self._position += count
        return count

    def _decompress_more(self) -> bool:
        """False at the end of the file."""
        block = self._input or self._file.read(self.BLOCK)
        if not block:
            if self._frame:
                raise EOFError("it ends in the middle of a zstandard frame")
            return False
        if not self._frame:
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._content = memoryview(self._frame.decompress(block))
        self._input = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True
