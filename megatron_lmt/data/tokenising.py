"""Records to token ids, a chunk at a time, with a pool of processes; the results come in the order of the chunks.

A record that cannot be used does not stop its chunk: it comes back with its line and reason, and the caller decides.

Cost: each worker makes about 1.2 million tokens a second. Memory is a few megabytes of text for each worker.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from megatron_lmt.data.indexed import CONTEXT, LOSS, best_dtype
from megatron_lmt.data.records import BadRecord, check_text, parse_record
from megatron_lmt.data.text_files import Chunk, Position
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import DataError


@dataclass(frozen=True)
class Recipe:
    """How a record becomes tokens.

    One key: its text is one sequence, every token of which is predicted, and special tokens in it are plain text. With
    `loss_keys`: each key is a sequence, only those in `loss_keys` are predicted, and special tokens are recognised,
    since such records are rendered chats. `append_eod` ends the last sequence with the end-of-document token. Documents
    of more than `max_tokens`, their end included, are bad records.
    """

    tokenizer_type: str
    tokenizer_model: Path
    json_keys: tuple[str, ...] = ("text",)
    loss_keys: tuple[str, ...] = ()
    append_eod: bool = True
    max_tokens: int | None = None

    def problems(self) -> list[str]:
        unknown = [key for key in self.loss_keys if key not in self.json_keys]
        if unknown:
            return [f"--loss-keys {unknown}: not among --json-keys {list(self.json_keys)}"]
        if len(self.json_keys) > 1 and not self.loss_keys:
            return [f"--json-keys {list(self.json_keys)}: with several keys, name those to learn in --loss-keys"]
        if self.max_tokens is not None and self.max_tokens < 1:
            return [f"--max-tokens {self.max_tokens}: at least 1"]
        return []

    @property
    def modes(self) -> list[int] | None:
        """LOSS or CONTEXT for each key; None where everything is predicted."""
        return [LOSS if key in self.loss_keys else CONTEXT for key in self.json_keys] if self.loss_keys else None


@dataclass(frozen=True)
class Rejected:
    """A record that is not written: where it is, a short code of the reason, the reason in words, and the line."""

    path: Path
    line: int
    reason: str
    message: str
    raw: bytes


@dataclass(frozen=True)
class Tokens:
    """What a chunk became: `tokens` [sum of lengths] and `lengths` int32 [documents, keys]; the rest is the chunk's."""

    tokens: np.ndarray
    lengths: np.ndarray
    rejected: list[Rejected]
    size: int
    text_bytes: int
    end: Position


Tokenise = Callable[[Iterator[Chunk]], Iterator[Tokens]]


@contextmanager
def tokenising(recipe: Recipe, tokenizer: Tokenizer, workers: int) -> Iterator[Tokenise]:
    """A function that tokenises chunks, in their order, with this many processes."""
    if workers == 1:
        yield partial(map, partial(_tokenise, recipe, tokenizer))
        return
    # spawned, not forked: a fork of a process with threads, such as the progress bar's, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, initializer=_prepare_worker) as pool:
            try:
                yield partial(_in_order, pool, workers, partial(_tokenise_in_worker, recipe))
            except BrokenProcessPool:
                _end(pool)
                raise
    except BrokenProcessPool:
        raise DataError(
            "a tokenising process died (out of memory?): start again with --resume, and with fewer --workers than "
            f"{workers} if memory was short"
        ) from None


def _end(pool: ProcessPoolExecutor) -> None:
    """Do what a broken pool leaves undone before it waits for its processes."""
    if sys.version_info < (3, 11):
        # the pool's feeder thread hangs on the full pipe of the dead worker (CPython issue 94777)
        pool._call_queue._reader.close()
    for process in pool._processes.values():
        process.kill()  # one that was just starting when another died is not ended by the pool


def _in_order(pool: ProcessPoolExecutor, workers: int, function: Callable, chunks: Iterator[Chunk]) -> Iterator[Tokens]:
    """The result of each chunk; at most two chunks for each worker are under way."""
    pending: deque[Future[Tokens]] = deque()
    for chunk in chunks:
        try:
            pending.append(pool.submit(function, chunk))
        except OSError as error:
            raise BrokenProcessPool("it could not start a process, or broke while it did") from error
        if len(pending) == 2 * workers:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _prepare_worker() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker otherwise waits for work forever when the main process was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _tokenise_in_worker(recipe: Recipe, chunk: Chunk) -> Tokens:
    return _tokenise(recipe, _worker_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model), chunk)


@cache
def _worker_tokenizer(tokenizer_type: str, model: Path) -> Tokenizer:
    """Opened once in the life of a worker, which ends with the call to `preprocess`."""
    return load_tokenizer(tokenizer_type, model)


def _tokenise(recipe: Recipe, tokenizer: Tokenizer, chunk: Chunk) -> Tokens:
    texts, lines, rejected = _read(recipe, chunk)
    sequences = tokenizer.encode_batch(texts, allow_special=bool(recipe.loss_keys))
    keys = len(recipe.json_keys)
    if recipe.append_eod:
        for sequence in sequences[keys - 1 :: keys]:
            sequence.append(tokenizer.eod)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32).reshape(-1, keys)
    tokens = np.array(list(chain.from_iterable(sequences)), dtype=best_dtype(tokenizer.vocab_size))
    bad = _bad_lengths(recipe, lengths.sum(axis=1))
    if bad:
        rejected += [
            _reject(chunk, lines[document], reason, f"{chunk.path}:{lines[document]}: {why}")
            for document, (reason, why) in bad.items()
        ]
        rejected.sort(key=lambda record: record.line)
        kept = ~np.isin(np.arange(len(lengths)), list(bad))
        tokens, lengths = tokens[np.repeat(kept, lengths.sum(axis=1))], lengths[kept]
    return Tokens(tokens, lengths, rejected, chunk.size, chunk.text_bytes, chunk.end)


def _read(recipe: Recipe, chunk: Chunk) -> tuple[list[str], list[int], list[Rejected]]:
    """The texts of all good records, the line of each record, and the bad records."""
    texts, lines, rejected = [], [], []
    for number, record in enumerate(chunk.records, chunk.first_line):
        try:
            texts += _texts(recipe, chunk.kind, record, f"{chunk.path}:{number}")
            lines.append(number)
        except BadRecord as error:
            rejected.append(_reject(chunk, number, error.reason, str(error)))
    return texts, lines, rejected


def _texts(recipe: Recipe, kind: str, record: bytes | dict, place: str) -> list[str]:
    if kind == "jsonl":
        return parse_record(_decode(record.removesuffix(b"\n"), place), list(recipe.json_keys), place)
    if kind == "text":
        text = _decode(record.removesuffix(b"\n"), place)
        check_text(text, f"{place}: the line")
        return [text]
    texts = [_decode(text, place) if isinstance(text := record[key], bytes) else text for key in recipe.json_keys]
    for key, text in zip(recipe.json_keys, texts, strict=True):
        check_text(text, f"{place}: {key!r}")
    return texts


def _decode(text: bytes, place: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord("not_utf8", f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _bad_lengths(recipe: Recipe, totals: np.ndarray) -> dict[int, tuple[str, str]]:
    """Document → (reason, what is wrong), of documents with no token or too many."""
    most = recipe.max_tokens or np.inf
    too_long = {
        int(document): ("too_long", f"{totals[document]:,} tokens, more than --max-tokens {recipe.max_tokens}")
        for document in np.flatnonzero(totals > most)
    }
    empty = {int(document): ("no_tokens", "the tokenizer finds no token in it") for document in np.flatnonzero(totals == 0)}
    return too_long | empty


def _reject(chunk: Chunk, line: int, reason: str, message: str) -> Rejected:
    record = chunk.records[line - chunk.first_line]
    raw = _as_json(record) if isinstance(record, dict) else record.removesuffix(b"\n")
    return Rejected(chunk.path, line, reason, message, raw)


def _as_json(row: dict) -> bytes:
    texts = {key: text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text for key, text in row.items()}
    return json.dumps(texts, ensure_ascii=False, default=str).encode()
