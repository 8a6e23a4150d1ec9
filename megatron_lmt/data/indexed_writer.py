"""Writes token files, see `indexed.py`.

Cost: 4 bytes for a sequence and 8 for a document are kept, and at the end 24 more for a sequence.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from megatron_lmt.data.indexed import DTYPES, HEADER, LOSS, MAGIC, VERSION, bin_path, existing_files, idx_path
from megatron_lmt.errors import DataError
from megatron_lmt.files import file_xxh128
from megatron_lmt.progress import progress

FLUSHED_BYTES = 8 << 20
"""So many tokens are brought to disk at once, by a thread: at the end little is left to wait for."""

SILENT_SECONDS = 10
"""What takes longer shows how far it is."""


class TokensFile:
    """A .bin file that is written from its beginning, or gone on with.

    Args:
        start: bytes that stay; what is behind them is cut off.
    Raises:
        DataError: the file has not so many.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        path.touch()  # one that is missing has too few bytes, too
        self._file = open(path, "r+b")
        found = self._file.seek(0, os.SEEK_END)
        if found < start:
            self._file.close()
            raise DataError(f"{path}: {found:,} bytes, but {start:,} were written; delete {path.parent} and begin anew")
        self._file.truncate(self._file.seek(start))
        self._hash = None if start else xxhash.xxh3_128()
        self._thread = ThreadPoolExecutor(1)
        self._flushing: Future | None = None
        self._unflushed = 0

    def write(self, content: np.ndarray) -> None:
        self._file.write(content)
        if self._hash:
            self._hash.update(content)
        self._unflushed += content.nbytes
        if self._unflushed >= FLUSHED_BYTES and (not self._flushing or self._flushing.done()):
            self._check_flushed()
            self._flushing, self._unflushed = self._thread.submit(_move_to_disk, self._file), 0

    def flush_to_disk(self) -> None:
        self._check_flushed()
        _flush_to_disk(self._file)

    def _check_flushed(self) -> None:
        """Wait for the thread; a disk tells of an error once, and who asks again is not told."""
        if self._flushing:
            self._flushing.result()

    def xxh128(self) -> str:
        """Of what was written, which is read for that if it was gone on with."""
        if self._hash:
            return self._hash.hexdigest()
        self._file.flush()
        with progress(self._path.stat().st_size, f"hash of {self._path}", delay=SILENT_SECONDS) as bar:
            return file_xxh128(self._path, bar.update)

    def close(self) -> None:
        self._thread.shutdown()
        self._file.close()


class IndexedWriter:
    """Writes one pair of token files under temporary names; `close` gives them their own, an exception removes them.

    Args:
        prefix: of the files; nothing there is written over.
        dtype: of the tokens, from `best_dtype`.
        with_modes: documents come with a mode for each sequence.
        tokens: where the tokens go, if not into a .bin of this prefix; then only the index is made, for what is added.
    Raises:
        DataError: the files exist.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, with_modes: bool = False, tokens: TokensFile | None = None):
        existing = existing_files(prefix)
        if existing:
            raise DataError(existing)
        self.prefix = Path(prefix)
        self._dtype = np.dtype(dtype)
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._modes = array("b") if with_modes else None
        self._unfinished_bin = bin_path(f"{prefix}.unfinished-{os.getpid()}")
        self._unfinished_idx = idx_path(f"{prefix}.unfinished-{os.getpid()}")
        self._has_bin = tokens is None
        self._tokens = TokensFile(self._unfinished_bin) if tokens is None else tokens
        self._is_open = True

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None and self._is_open:
                self.close()
        finally:
            try:
                if self._has_bin:
                    self._tokens.close()  # fails where the disk is full
            finally:
                self._unfinished_bin.unlink(missing_ok=True)
                self._unfinished_idx.unlink(missing_ok=True)

    @property
    def num_documents(self) -> int:
        return len(self._documents) - 1

    def add_document(self, sequences: list[list[int]], modes: list[int] | None = None) -> None:
        """Append a document.

        Args:
            sequences: its tokens, in one list or several.
            modes: LOSS or CONTEXT for each sequence, in files `with_modes`.
        """
        tokens = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
        self.add_documents(tokens, np.array([[len(sequence) for sequence in sequences]]), modes)

    def add_documents(self, tokens: np.ndarray, lengths: np.ndarray, modes: list[int] | None = None) -> None:
        """Append documents that have equally many sequences.

        Args:
            tokens: integers [sum of `lengths`], of all sequences one after the other.
            lengths: integers [documents, sequences of each].
            modes: LOSS or CONTEXT for each sequence of a document, in files `with_modes`; the same for all documents.
        Raises:
            ValueError: a token that the dtype cannot hold, or modes that do not fit the file.
        """
        documents, sequences = lengths.shape
        if len(modes or ()) != (sequences if self._modes is not None else 0):
            raise ValueError(f"{sequences} sequences and modes {modes}: one for each in files with modes, else none")
        content = tokens.astype(self._dtype, copy=False)
        if tokens.dtype != self._dtype and not np.array_equal(content, tokens):
            raise ValueError(f"{self.prefix}: tokens from {tokens.min()} to {tokens.max()} do not fit {self._dtype}")
        self._tokens.write(content)
        first_end = len(self._lengths) + sequences
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self._documents.extend(range(first_end, len(self._lengths) + 1, sequences))
        if self._modes is not None:
            self._modes.extend(modes * documents)

    def close(self) -> dict:
        """Finish both files and make sure they are on disk; returns their counts and hashes for the manifest.

        Without a .bin of its own, there is no hash of one.
        """
        index_bytes, index_hash = write_parts(self._unfinished_idx, self._index())
        self._tokens.flush_to_disk()
        self._is_open = False
        if self._has_bin:
            self._tokens.close()
            self._unfinished_bin.rename(bin_path(self.prefix))
        self._unfinished_idx.rename(idx_path(self.prefix))
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        tokens = int(lengths.sum(dtype=np.int64))
        counts = {
            "documents": self.num_documents,
            "sequences": len(lengths),
            "tokens": tokens,
            "dtype": self._dtype.name,
            "bin_bytes": tokens * self._dtype.itemsize,
            "idx_bytes": index_bytes,
            "idx_xxh128": index_hash,
        }
        if self._has_bin:
            counts["xxh128"] = self._tokens.xxh128()
        if self._modes is not None:
            learnt = np.frombuffer(self._modes, dtype=np.int8) == LOSS
            counts["loss_tokens"] = int(lengths[learnt].sum(dtype=np.int64))
        return counts

    def _index(self) -> Iterator[bytes | array | np.ndarray]:
        """The parts of the .idx file, in its order."""
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self._dtype.itemsize
        pointers = ends - lengths * np.int64(self._dtype.itemsize)
        yield index_header(self._dtype, len(self._lengths), self.num_documents)
        yield self._lengths
        yield pointers
        yield self._documents
        if self._modes is not None:
            yield self._modes


def index_header(dtype: np.dtype, sequences: int, documents: int) -> bytes:
    code = next(code for code, known in DTYPES.items() if known == dtype)
    return HEADER.pack(MAGIC, VERSION, code, sequences, documents + 1)  # its document index ends with the last one's end


def write_parts(path: Path, parts: Iterable[bytes | array | np.ndarray]) -> tuple[int, str]:
    """Write a file part by part and make sure it is on disk; returns its size in bytes and its hash."""
    digest = xxhash.xxh3_128()
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        _flush_to_disk(file)
        return file.tell(), digest.hexdigest()


def _move_to_disk(file: BinaryIO) -> None:
    """It also leaves the page cache: what is written next takes its memory, which is faster than new memory, and hundreds of
    gigabytes of tokens push out nothing else.
    """
    _flush_to_disk(file)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
