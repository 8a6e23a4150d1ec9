"""Are token files what their manifest says? Truncation, flipped bytes, a foreign index or tokenizer are found.

Cost: the quick check reads the index once (1 GB/s and more); the full one also reads and hashes `.bin`, about as fast
as the disk gives it. Memory is a block at a time, whatever the size of the files; the index is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
from tqdm import tqdm

from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedReader, bin_path, idx_path, manifest_path, read_manifest
from megatron_lmt.data.prefixes import absent
from megatron_lmt.errors import DataError
from megatron_lmt.files import file_xxh128

BLOCK = 1 << 20
"""Sequences, documents or tokens looked at together."""

MAKE_AGAIN = "make the files again with tools/preprocess_data.py"
COUNTS = ("documents", "sequences", "tokens", "dtype", "bin_bytes", "idx_bytes", "xxh128", "idx_xxh128", "append_eod")


def bytes_to_read(prefix: Path, full: bool) -> int:
    """How much `verify` will read of the files that are there, for a progress bar."""
    paths = [idx_path(prefix), *([idx_path(prefix), bin_path(prefix)] if full else [])]
    return sum(path.stat().st_size for path in paths if path.is_file())


def verify(prefix: Path, full: bool, tokenizer_identity: str | None, bar: tqdm) -> dict:
    """Compare token files with their manifest.

    Args:
        full: also the hashes of both files, the range of token ids, and the end of each document.
        tokenizer_identity: the tokenizer that the files must be made with; None for any.
    Returns:
        the manifest.
    Raises:
        DataError: all that is wrong.
    """
    manifest = _readable_manifest(prefix)
    problems = [*_tokenizer_problems(prefix, manifest, tokenizer_identity), *_size_problems(prefix, manifest)]
    reader, index_problems = _open(prefix, manifest, bar)
    problems += index_problems
    if full:
        problems += _hash_problems(idx_path(prefix), manifest["idx_xxh128"], bar)
        # without a sound index nobody knows where documents end, but the hash tells whether .bin is whole
        problems += (
            _content_problems(reader, manifest, bar) if reader else _hash_problems(bin_path(prefix), manifest["xxh128"], bar)
        )
    if problems:
        raise DataError(problems)
    return manifest


def _readable_manifest(prefix: Path) -> dict:
    if not any(path(prefix).is_file() for path in (manifest_path, bin_path, idx_path)):
        raise DataError(absent(prefix))
    manifest = read_manifest(prefix)
    known = manifest if isinstance(manifest, dict) else {}
    missing = [key for key in COUNTS if key not in known]
    tokenizer = known.get("tokenizer")
    missing += [f"tokenizer.{key}" for key in ("identity", "vocab_size", "eod") if key not in (tokenizer or {})]
    if missing:
        raise DataError(f"{manifest_path(prefix)}: does not say {', '.join(missing)}; {MAKE_AGAIN}")
    return manifest


def _tokenizer_problems(prefix: Path, manifest: dict, identity: str | None) -> list[str]:
    found = manifest["tokenizer"]["identity"]
    if identity in (None, found):
        return []
    return [f"{prefix}: made with tokenizer {found}, not with {identity}; give the tokenizer it was made with"]


def _size_problems(prefix: Path, manifest: dict) -> list[str]:
    expected = {bin_path(prefix): manifest["bin_bytes"], idx_path(prefix): manifest["idx_bytes"]}
    sizes = {path: path.stat().st_size for path in expected if path.is_file()}
    return [
        f"{path}: {size:,} bytes, but {manifest_path(prefix).name} counts {expected[path]:,}; {MAKE_AGAIN}"
        for path, size in sizes.items()
        if size != expected[path]
    ]


def _open(prefix: Path, manifest: dict, bar: tqdm) -> tuple[IndexedReader | None, list[str]]:
    """The files, if their index is sound, and what is wrong with it or with its counts."""
    try:
        reader = IndexedReader(prefix)
    except DataError as error:
        return None, error.problems
    wrong = [f"{idx_path(prefix)}: {problem}; {MAKE_AGAIN}" for problem in _index_problems(reader)]
    bar.update(idx_path(prefix).stat().st_size)
    return (None, wrong) if wrong else (reader, _count_problems(reader, manifest))


def _count_problems(reader: IndexedReader, manifest: dict) -> list[str]:
    found = {
        "documents": reader.num_documents,
        "sequences": reader.num_sequences,
        "tokens": reader.num_tokens,
        "dtype": reader.dtype.name,
        "loss_tokens": _loss_tokens(reader),
    }
    return [
        f"{idx_path(reader.prefix)}: {unit} are {count}, but {manifest_path(reader.prefix).name} says "
        f"{manifest.get(unit)}: the index of other data, or the manifest is; {MAKE_AGAIN}"
        for unit, count in found.items()
        if count != manifest.get(unit)
    ]


def _loss_tokens(reader: IndexedReader) -> int | None:
    if reader.modes is None:
        return None
    return sum(int(reader.lengths[b][reader.modes[b] == LOSS].sum(dtype=np.int64)) for b in _blocks(reader.num_sequences))


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))


def _index_problems(reader: IndexedReader) -> list[str]:
    """What contradicts itself in the index: the first of each kind."""
    found: dict[str, int] = {}
    for kind, place in _contradictions(reader):
        found.setdefault(kind, place)
    return [f"{kind} {place}" for kind, place in found.items()] or list(_empty_documents(reader))


def _contradictions(reader: IndexedReader) -> Iterator[tuple[str, int]]:
    end = 0
    for block in _blocks(reader.num_sequences):
        lengths, pointers = reader.lengths[block].astype(np.int64), reader.pointers[block]
        ends = end + np.cumsum(lengths) * reader.dtype.itemsize
        yield from _first("negative length of sequence", lengths < 0, block.start)
        yield from _first("wrong place of sequence", pointers != ends - lengths * reader.dtype.itemsize, block.start)
        end = ends[-1]
        if reader.modes is not None:
            yield from _first("unknown mode of sequence", ~np.isin(reader.modes[block], (CONTEXT, LOSS)), block.start)
    if reader.first_sequences[0] != 0:
        yield "sequences before document", 0
    for block in _blocks(reader.num_documents):
        firsts = reader.first_sequences[block.start : block.stop + 1]
        yield from _first("no sequence in document", np.diff(firsts) <= 0, block.start)
    if reader.first_sequences[-1] != reader.num_sequences:
        yield "sequences after document", reader.num_documents - 1


def _empty_documents(reader: IndexedReader) -> Iterator[str]:
    for block in _blocks(reader.num_documents):
        lengths = reader.document_lengths(np.arange(block.start, block.stop))
        for kind, place in _first("no token in document", lengths == 0, block.start):
            yield f"{kind} {place}"
            return


def _first(kind: str, wrong: np.ndarray, start: int) -> Iterator[tuple[str, int]]:
    if wrong.any():
        yield kind, start + int(wrong.argmax())


def _hash_problems(path: Path, expected: str, bar: tqdm) -> list[str]:
    if not path.is_file():
        return []  # named already
    return _digest_problems(path, file_xxh128(path, bar.update), expected)


def _digest_problems(path: Path, found: str, expected: str) -> list[str]:
    if found == expected:
        return []
    return [f"{path}: its xxh128 is {found}, its manifest says {expected}: damaged, or another file; {MAKE_AGAIN}"]


def _content_problems(reader: IndexedReader, manifest: dict, bar: tqdm) -> list[str]:
    """The hash of .bin, ids outside the vocabulary, and documents without their end; from one reading of the file."""
    path, vocab_size = bin_path(reader.prefix), manifest["tokenizer"]["vocab_size"]
    eod = manifest["tokenizer"]["eod"] if manifest["append_eod"] else None
    digest, outside, endless, first_endless = xxhash.xxh3_128(), 0, 0, None
    for tokens, lasts, document in _read_in_order(reader):
        digest.update(tokens)
        bar.update(tokens.nbytes)
        outside += int(np.count_nonzero((tokens < 0) | (tokens >= vocab_size)))
        if eod is not None and (wrong := tokens[lasts] != eod).any():
            endless += int(np.count_nonzero(wrong))
            first_endless = document + int(wrong.argmax()) if first_endless is None else first_endless
    problems = _digest_problems(path, digest.hexdigest(), manifest["xxh128"])
    if outside:
        problems.append(f"{path}: {outside:,} token ids outside the vocabulary of {vocab_size:,}; {MAKE_AGAIN}")
    if endless:
        problems.append(
            f"{path}: {endless:,} documents do not end with token {eod}, the end of a document; the first is document "
            f"{first_endless}; {MAKE_AGAIN}"
        )
    return problems


def _read_in_order(reader: IndexedReader) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """All tokens, a block at a time, with the places of last tokens of documents in it, and the first such document.

    Read as a file, not through the map, whose pages would count as memory of this process.
    """
    with open(bin_path(reader.prefix), "rb") as file:
        position = 0
        for block in _blocks(reader.num_documents):
            ends = reader.starts(np.arange(block.start, block.stop) + 1)
            while position < ends[-1]:
                tokens = np.fromfile(file, reader.dtype, min(BLOCK, ends[-1] - position))
                first, last = np.searchsorted(ends, [position, position + len(tokens)], side="right")
                yield tokens, ends[first:last] - position - 1, block.start + int(first)
                position += len(tokens)
