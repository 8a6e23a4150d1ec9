"""Tokens on disk: megatron-core's `.bin/.idx` files, byte for byte, with a manifest beside them.

`.bin` holds the tokens of all documents one after the other; `.idx` the length and place of each sequence, the first
sequence of each document, and (in files with a loss mask) a mode byte for each sequence. Reading maps both files into
memory: opening costs no time and no memory whatever their size.

The manifest is written last. Token files without one are unfinished.

Next on the path: `mixture.py` decides which documents come when.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from array import array
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_lmt.errors import DataError
from megatron_lmt.files import write_json_atomically

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, entries of the document index
VERSION = 1
DTYPES = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
CONTEXT, LOSS = 0, 1
"""Mode of a sequence: tokens that are only read, and tokens that are to be predicted."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype megatron-core chooses: two bytes for a token where the vocabulary allows it."""
    return np.dtype(np.uint16) if vocab_size < 65500 else np.dtype(np.int32)


def bin_path(prefix: Path) -> Path:
    return Path(f"{prefix}.bin")


def idx_path(prefix: Path) -> Path:
    return Path(f"{prefix}.idx")


def manifest_path(prefix: Path) -> Path:
    return Path(f"{prefix}.manifest.json")


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
            f"{path}: no such file; the token files are unfinished, or not from tools/preprocess_data.py: make them again"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); make the token files again") from None


class IndexedWriter:
    """Writes one pair of token files under temporary names; `close` gives them their own, an exception removes them.

    Memory is 12 bytes for a sequence and 8 for a document.

    Args:
        prefix: of the files; nothing there is written over.
        dtype: of the tokens, from `token_dtype`.
        with_modes: documents come with a mode for each sequence.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, with_modes: bool = False):
        self.prefix = Path(prefix)
        existing = [path for path in (bin_path(prefix), idx_path(prefix), manifest_path(prefix)) if path.exists()]
        if existing:
            raise DataError(
                [f"{path} exists already and is not written over: delete it or name another" for path in existing]
            )
        self._dtype = dtype
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._modes = array("b") if with_modes else None
        self._hash = hashlib.sha256()
        self._unfinished = bin_path(f"{prefix}.unfinished-{os.getpid()}")
        self._bin = open(self._unfinished, "wb")

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._bin.close()
        self._unfinished.unlink(missing_ok=True)

    @property
    def num_documents(self) -> int:
        return len(self._documents) - 1

    def add_document(self, sequences: list[list[int]], modes: list[int] | None = None) -> None:
        """Append a document.

        Args:
            sequences: its tokens, in one list or several.
            modes: LOSS or CONTEXT for each sequence, in files `with_modes`.
        """
        tokens = np.concatenate([np.asarray(sequence, dtype=self._dtype) for sequence in sequences]).tobytes()
        self._bin.write(tokens)
        self._hash.update(tokens)
        self._lengths.extend(map(len, sequences))
        self._documents.append(len(self._lengths))
        if self._modes is not None:
            self._modes.extend(modes)

    def close(self) -> dict:
        """Finish both files; returns their counts and hashes for the manifest."""
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        itemsize = self._dtype.itemsize
        ends = np.cumsum(lengths, dtype=np.int64) * itemsize
        pointers = ends - lengths.astype(np.int64) * itemsize
        code = next(code for code, dtype in DTYPES.items() if dtype == self._dtype)
        modes = self._modes.tobytes() if self._modes is not None else b""
        index = b"".join(
            (
                HEADER.pack(MAGIC, VERSION, code, len(self._lengths), len(self._documents)),
                lengths.tobytes(),
                pointers.tobytes(),
                self._documents.tobytes(),
                modes,
            )
        )
        unfinished_index = self._unfinished.with_suffix(".idx")
        unfinished_index.write_bytes(index)
        self._bin.close()
        self._unfinished.rename(bin_path(self.prefix))
        unfinished_index.rename(idx_path(self.prefix))
        counts = {
            "documents": self.num_documents,
            "sequences": len(self._lengths),
            "tokens": int(lengths.sum(dtype=np.int64)),
            "bin_bytes": int(ends[-1]) if len(ends) else 0,
            "idx_bytes": len(index),
            "sha256": self._hash.hexdigest(),
            "idx_sha256": hashlib.sha256(index).hexdigest(),
        }
        if self._modes is not None:
            counts["loss_tokens"] = int(lengths[np.frombuffer(modes, dtype=np.int8) == LOSS].sum(dtype=np.int64))
        return counts


def write_manifest(prefix: Path, manifest: dict) -> None:
    """Write the manifest, which makes the token files complete."""
    write_json_atomically(manifest_path(prefix), manifest)


class IndexedReader:
    """Maps one pair of token files into memory.

    Raises:
        DataError: files are missing, not in this format, or of another size than the index says.
    """

    def __init__(self, prefix: Path):
        self.prefix = Path(prefix)
        problems = [f"{path}: no such file" for path in (bin_path(prefix), idx_path(prefix)) if not path.is_file()]
        if problems:
            raise DataError(f"{'; '.join(problems)} (a prefix is the path without .bin and .idx)")
        self._index = np.memmap(idx_path(prefix), mode="r", dtype=np.uint8)
        self._read_header()
        expected = int(self._lengths.sum(dtype=np.int64)) * self._dtype.itemsize
        found = bin_path(prefix).stat().st_size
        if found != expected:
            raise DataError(f"{bin_path(prefix)}: {found} bytes, but its index counts {expected}; make the files again")

    def _read_header(self) -> None:
        file = idx_path(self.prefix)
        if len(self._index) < HEADER.size:
            raise DataError(f"{file}: {len(self._index)} bytes is too short for an index; make the files again")
        magic, version, code, sequences, documents = HEADER.unpack(self._index[: HEADER.size].tobytes())
        if magic != MAGIC or version != VERSION or code not in DTYPES:
            raise DataError(f"{file}: not an index of int32 or uint16 tokens of version {VERSION} (magic {magic!r})")
        sizes = (4 * sequences, 8 * sequences, 8 * documents)
        without_modes = HEADER.size + sum(sizes)
        if len(self._index) not in (without_modes, without_modes + sequences):
            raise DataError(f"{file}: {len(self._index)} bytes, but {without_modes} were expected; make the files again")
        starts = np.cumsum([HEADER.size, *sizes])
        self._dtype = DTYPES[code]
        self._lengths = self._index[starts[0] : starts[1]].view(np.int32)
        self._documents = self._index[starts[2] : starts[3]].view(np.int64)
        self._pointers = self._index[starts[1] : starts[2]].view(np.int64)
        self._modes = self._index[starts[3] :].view(np.int8) if len(self._index) > without_modes else None

    @property
    def num_documents(self) -> int:
        return len(self._documents) - 1

    @property
    def num_sequences(self) -> int:
        return len(self._lengths)

    @cached_property
    def num_tokens(self) -> int:
        return int(self._lengths.sum(dtype=np.int64))

    @cached_property
    def _tokens(self) -> np.ndarray:
        return np.memmap(bin_path(self.prefix), mode="r", dtype=self._dtype)

    def _starts(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: the token that each document begins with; one number beyond the last document is allowed."""
        sequences = self._documents[documents]
        starts = self._pointers[np.minimum(sequences, self.num_sequences - 1)] // self._dtype.itemsize
        return np.where(sequences < self.num_sequences, starts, self.num_tokens)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: number of tokens of these documents."""
        return self._starts(documents + 1) - self._starts(documents)

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, all its sequences joined."""
        start, stop = self._starts(np.array([number, number + 1]))
        return self._tokens[start:stop]

    def document_loss_mask(self, number: int) -> np.ndarray | None:
        """bool, one for each token of the document: whether it is to be predicted. None in files where all are."""
        if self._modes is None:
            return None
        first, last = self._documents[number : number + 2]
        return np.repeat(self._modes[first:last] == LOSS, self._lengths[first:last])
