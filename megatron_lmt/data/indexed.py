"""Tokens on disk: megatron-core's `.bin/.idx` files, byte for byte, with a manifest beside them.

`.bin` holds the tokens of all documents one after the other; `.idx` the length and place of each sequence, the first
sequence of each document, and (in files with a loss mask) a mode byte for each sequence. The manifest is written last:
token files without one are unfinished.

Cost: writing keeps 4 bytes for a sequence and 8 for a document, and at the end 24 more for a sequence. Reading maps
both files into memory; opening looks only at the ends of the index, so its cost does not depend on the size. A reader
holds two open files.

Next on the path: `mixture.py` decides which documents come when.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron_lmt.data.prefixes import absent
from megatron_lmt.errors import DataError
from megatron_lmt.files import write_json_atomically

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, entries of the document index
VERSION = 1
DTYPES = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
CONTEXT, LOSS = 0, 1
"""Mode of a sequence: tokens that are only read, and tokens that are to be predicted."""


def best_dtype(vocab_size: int) -> np.dtype:
    """The dtype megatron-core chooses: two bytes for a token where the vocabulary allows it."""
    return np.dtype(np.uint16) if vocab_size < 65500 else np.dtype(np.int32)


def bin_path(prefix: Path) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path) -> Path:
    return Path(f"{prefix}.idx")


def manifest_path(prefix: Path) -> Path:
    """Beside the token files; like theirs, `prefix` includes `_text_document`."""
    return Path(f"{prefix}.manifest.json")


def rejected_path(prefix: Path) -> Path:
    """The records that were read and not written; there is none where all were."""
    return Path(f"{prefix}.rejected.jsonl.gz")


def existing_files(prefix: Path) -> list[str]:
    """A problem for each file of this prefix that is there already."""
    paths = (bin_path(prefix), idx_path(prefix), manifest_path(prefix), rejected_path(prefix))
    reason = "exists already and is not written over: delete it or give another prefix"
    return [f"{path} {reason}" for path in paths if path.exists()]


def read_manifest(prefix: Path) -> dict:
    """
    Raises:
        DataError: no manifest, or it is not JSON.
    """
    path = manifest_path(prefix)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file, so the token files are unfinished: make them again with tools/preprocess_data.py"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); make the token files again") from None


def write_manifest(prefix: Path, manifest: dict) -> None:
    """Write the manifest, which makes the token files complete."""
    write_json_atomically(manifest_path(prefix), manifest)


class IndexedWriter:
    """Writes one pair of token files under temporary names; `close` gives them their own, an exception removes them.

    Args:
        prefix: of the files; nothing there is written over.
        dtype: of the tokens, from `best_dtype`.
        with_modes: documents come with a mode for each sequence.
    Raises:
        DataError: the files exist.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, with_modes: bool = False):
        existing = existing_files(prefix)
        if existing:
            raise DataError(existing)
        self.prefix = Path(prefix)
        self._dtype = np.dtype(dtype)
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._modes = array("b") if with_modes else None
        self._hash = hashlib.sha256()
        self._unfinished_bin = bin_path(f"{prefix}.unfinished-{os.getpid()}")
        self._unfinished_idx = idx_path(f"{prefix}.unfinished-{os.getpid()}")
        self._bin = open(self._unfinished_bin, "wb")

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None and not self._bin.closed:
                self.close()
        finally:
            try:
                self._bin.close()  # fails where the disk is full
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
        self._bin.write(content)
        self._hash.update(content)
        first_end = len(self._lengths) + sequences
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self._documents.extend(range(first_end, len(self._lengths) + 1, sequences))
        if self._modes is not None:
            self._modes.extend(modes * documents)

    def close(self) -> dict:
        """Finish both files and make sure they are on disk; returns their counts and hashes for the manifest."""
        index_bytes, index_hash = write_parts(self._unfinished_idx, self._index())
        _flush_to_disk(self._bin)
        self._bin.close()
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
            "sha256": self._hash.hexdigest(),
            "idx_sha256": index_hash,
        }
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
    """Write a file part by part and make sure it is on disk; returns its size in bytes and its sha256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        _flush_to_disk(file)
        return file.tell(), digest.hexdigest()


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class IndexedReader:
    """Maps one pair of token files into memory.

    As they are in the index: `lengths` int32 and `pointers` int64 (bytes from the start of .bin) of each sequence,
    `first_sequences` int64 of each document and, as its last entry, the number of sequences; `modes` int8 of each
    sequence, or None. `tokens` are those of all documents.

    Raises:
        DataError: files are missing, not in this format, empty, or of another size than the index says.
    """

    def __init__(self, prefix: Path):
        self.prefix = Path(prefix)
        missing = [str(path) for path in (bin_path(prefix), idx_path(prefix)) if not path.is_file()]
        if len(missing) == 2:
            raise DataError(absent(self.prefix))
        if missing:
            raise DataError(f"{missing[0]}: no such file; make the files again")
        self._index = _map(idx_path(prefix))
        self._read_index(np.frombuffer(self._index, dtype=np.uint8))
        expected, found = self.num_tokens * self.dtype.itemsize, bin_path(prefix).stat().st_size
        if found != expected:
            raise DataError(f"{bin_path(prefix)}: {found} bytes, but its index counts {expected}; make the files again")

    def _read_index(self, index: np.ndarray) -> None:
        file = idx_path(self.prefix)
        if len(index) < HEADER.size:
            raise DataError(f"{file}: {len(index)} bytes is too short for an index; make the files again")
        magic, version, code, sequences, documents = HEADER.unpack(index[: HEADER.size].tobytes())
        if magic != MAGIC or version != VERSION or code not in DTYPES:
            raise DataError(
                f"{file}: not an index of int32 or uint16 tokens (found {magic!r}, version {version}, dtype code "
                f"{code}); make the files again with tools/preprocess_data.py"
            )
        sizes = (4 * sequences, 8 * sequences, 8 * documents)
        without_modes = HEADER.size + sum(sizes)
        if len(index) not in (without_modes, without_modes + sequences):
            raise DataError(
                f"{file}: {len(index)} bytes, but its {sequences} sequences and {documents - 1} documents take "
                f"{without_modes}, or {without_modes + sequences} with modes; make the files again"
            )
        if not sequences or documents < 2:
            raise DataError(f"{file}: no document in it; make the files again from text")
        starts = np.cumsum([HEADER.size, *sizes])
        self.dtype = DTYPES[code]
        self.lengths = index[starts[0] : starts[1]].view(np.int32)
        self.pointers = index[starts[1] : starts[2]].view(np.int64)
        self.first_sequences = index[starts[2] : starts[3]].view(np.int64)
        self.modes = index[starts[3] :].view(np.int8) if len(index) > without_modes else None

    @property
    def num_documents(self) -> int:
        return len(self.first_sequences) - 1

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @cached_property
    def num_tokens(self) -> int:
        """The end of the last sequence, which is the sum of all lengths."""
        return int(self.pointers[-1]) // self.dtype.itemsize + int(self.lengths[-1])

    @cached_property
    def _content(self) -> mmap.mmap:
        return _map(bin_path(self.prefix))

    @cached_property
    def tokens(self) -> np.ndarray:
        return np.frombuffer(self._content, dtype=self.dtype)

    def expect_random_reads(self) -> None:
        """Read only what is asked for, no neighbours: for training, where a document of 500 bytes would bring 128 kB."""
        self._index.madvise(mmap.MADV_RANDOM)
        self._content.madvise(mmap.MADV_RANDOM)

    def starts(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: the token that each document begins with; one number beyond the last document is allowed."""
        sequences = self.first_sequences[documents]
        starts = self.pointers[np.minimum(sequences, self.num_sequences - 1)] // self.dtype.itemsize
        return np.where(sequences < self.num_sequences, starts, self.num_tokens)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: number of tokens of these documents."""
        return self.starts(documents + 1) - self.starts(documents)

    def document(self, number: int) -> np.ndarray:
        """int32 or uint16 [tokens]: a document, all its sequences joined; a read-only view of the file."""
        return self.tokens[self._start(number) : self._start(number + 1)]

    def _start(self, document: int) -> int:
        """`starts` of one document, ten times faster than through arrays: training reads one at a time."""
        sequence = self.first_sequences[document]
        return int(self.pointers[sequence]) // self.dtype.itemsize if sequence < self.num_sequences else self.num_tokens

    def document_loss_mask(self, number: int) -> np.ndarray | None:
        """bool [tokens of the document]: whether each is to be predicted. None in files where all are."""
        if self.modes is None:
            return None
        first, last = self.first_sequences[number : number + 2]
        return np.repeat(self.modes[first:last] == LOSS, self.lengths[first:last])

    def document_sequences(self, number: int) -> list[tuple[int, np.ndarray]]:
        """Mode and tokens of each sequence of a document; in files without modes all are LOSS."""
        first, last = self.first_sequences[number : number + 2]
        modes = [LOSS] * int(last - first) if self.modes is None else self.modes[first:last].tolist()
        ends = np.cumsum(self.lengths[first:last])
        return list(zip(modes, np.split(self.document(number), ends[:-1]), strict=True))


def _map(path: Path) -> mmap.mmap:
    """A file as read-only memory; it stays open as long as an array on it is in use."""
    if not path.stat().st_size:
        raise DataError(f"{path}: empty; make the files again")
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise DataError(f"{path}: too many open files; each source needs two: raise `ulimit -n`") from None
