"""Tokens on disk: megatron-core's `.bin/.idx` files, byte for byte, with a manifest beside them.

`.bin` holds the tokens of all documents one after the other; `.idx` the length and place of each sequence, the first
sequence of each document, and (in files with a loss mask) a mode byte for each sequence. The manifest is written last:
token files without one are unfinished.

Cost: reading maps both files into memory; opening looks only at the ends of the index, so its cost does not depend on the
size. A reader holds two open files.

Next on the path: `mixture.py` decides which documents come when.
"""

from __future__ import annotations

import errno
import json
import mmap
import struct
from functools import cached_property
from pathlib import Path

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
    """A problem for each file of this prefix that is there already, or for a file where its folder is to be."""
    above = next(path for path in Path(prefix).parents if path.exists())
    if not above.is_dir():
        return [f"{prefix}: {above} is a file; give another prefix"]
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


class Index:
    """Maps an .idx file into memory.

    `lengths` int32 and `pointers` int64 (bytes from the start of .bin) of each sequence, `first_sequences` int64 of each
    document and, as its last entry, the number of sequences; `modes` int8 of each sequence, or None; `dtype` of the tokens.

    Raises:
        DataError: the file is empty or not in this format.
    """

    def __init__(self, file: Path):
        self.content = _map(file)
        self._read(file, np.frombuffer(self.content, dtype=np.uint8))

    def _read(self, file: Path, index: np.ndarray) -> None:
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


class IndexedReader:
    """Maps one pair of token files into memory.

    `lengths`, `pointers`, `first_sequences`, `modes` and `dtype` are those of `Index`; `tokens` are those of all documents.

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
        self._index = Index(idx_path(prefix))
        self.dtype, self.lengths, self.pointers = self._index.dtype, self._index.lengths, self._index.pointers
        self.first_sequences, self.modes = self._index.first_sequences, self._index.modes
        expected, found = self.num_tokens * self.dtype.itemsize, bin_path(prefix).stat().st_size
        if found != expected:
            raise DataError(f"{bin_path(prefix)}: {found} bytes, but its index counts {expected}; make the files again")

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
        self._index.content.madvise(mmap.MADV_RANDOM)
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
