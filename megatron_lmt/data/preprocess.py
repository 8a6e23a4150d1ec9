"""From jsonl to tokens on disk: a pool of processes tokenises, this one writes in the order of the input.

The result is the same for any number of workers. Bad input stops the work with its file and line, and leaves nothing
behind that looks finished. Lines end at "\\n" and nowhere else.

Cost: each worker makes about 1.2 million tokens a second; this process, reading gzip and writing, keeps up with thirty
of them. Memory is a few megabytes of text for each worker, whatever the size of the input.

Next on the path: `indexed.py` describes the files.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import platform
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

import megatron_lmt
from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedWriter, best_dtype, existing_files, write_manifest
from megatron_lmt.data.progress import progress
from megatron_lmt.data.records import parse_record
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, Problems

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """How a record becomes tokens.

    One key: its text is one sequence, every token of which is predicted, and special tokens in it are plain text. With
    `loss_keys`: each key is a sequence, only those in `loss_keys` are predicted, and special tokens are recognised,
    since such records are rendered chats. `append_eod` ends the last sequence with the end-of-document token.
    """

    tokenizer_type: str
    tokenizer_model: Path
    json_keys: tuple[str, ...] = ("text",)
    loss_keys: tuple[str, ...] = ()
    append_eod: bool = True

    def problems(self) -> list[str]:
        unknown = [key for key in self.loss_keys if key not in self.json_keys]
        if unknown:
            return [f"--loss-keys {unknown}: not among --json-keys {list(self.json_keys)}"]
        if len(self.json_keys) > 1 and not self.loss_keys:
            return [f"--json-keys {list(self.json_keys)}: with several keys, name those to learn in --loss-keys"]
        return []

    @property
    def modes(self) -> list[int] | None:
        """LOSS or CONTEXT for each key; None where everything is predicted."""
        return [LOSS if key in self.loss_keys else CONTEXT for key in self.json_keys] if self.loss_keys else None


def sources_in(input_dir: Path, output_dir: Path) -> dict[Path, list[Path]]:
    """Every jsonl or jsonl.gz file of a folder as a source of its own: prefix to write → file to read.

    Raises:
        ConfigError: no such file, or two for one prefix.
    """
    jobs: dict[Path, list[Path]] = {}
    for file in sorted([*input_dir.glob("*.jsonl"), *input_dir.glob("*.jsonl.gz")]):
        jobs.setdefault(output_dir / file.name.removesuffix(".gz").removesuffix(".jsonl"), []).append(file)
    doubled = {prefix: files for prefix, files in jobs.items() if len(files) > 1}
    problems = [f"{' and '.join(map(str, files))}: both would be {prefix}" for prefix, files in doubled.items()]
    if not jobs:
        problems.append(f"--input-dir {input_dir}: no such folder, or no jsonl or jsonl.gz file in it")
    if problems:
        raise ConfigError(problems)
    return jobs


def preprocess(recipe: Recipe, jobs: dict[Path, list[Path]], workers: int = 1) -> list[dict]:
    """Tokenise jsonl files.

    Args:
        jobs: prefix to write (`_text_document` is appended) → jsonl or jsonl.gz files to read, in this order.
        workers: number of tokenising processes; 1 is this process alone. More are spawned, so a script that calls this
            needs its `if __name__ == "__main__"`.
    Returns:
        the manifest of each prefix.
    Raises:
        UserError: wrong arguments (all of them), or the first bad line. Prefixes finished before stay.
    """
    outputs = {Path(f"{prefix}_text_document"): inputs for prefix, inputs in jobs.items()}
    tokenizer = _check(recipe, outputs, workers)
    total_bytes = sum(path.stat().st_size for inputs in outputs.values() for path in inputs)
    with _tokenising(recipe, tokenizer, workers) as tokenise, progress(total_bytes, "tokenising") as bar:
        return [_write(prefix, inputs, recipe, tokenizer, tokenise, bar) for prefix, inputs in outputs.items()]


def _check(recipe: Recipe, outputs: dict[Path, list[Path]], workers: int) -> Tokenizer:
    problems = Problems()
    problems.found += recipe.problems()
    tokenizer = problems.of(load_tokenizer, recipe.tokenizer_type, recipe.tokenizer_model)
    if tokenizer and recipe.append_eod:
        problems.of(getattr, tokenizer, "eod")
    if workers < 1:
        problems.found.append(f"--workers {workers}: at least 1")
    for prefix, inputs in outputs.items():
        missing = [path for path in inputs if not path.is_file()]
        problems.found += [f"{path}: no such file" for path in missing]
        if not missing and not any(path.stat().st_size for path in inputs):
            problems.found.append(f"{', '.join(map(str, inputs)) or prefix}: no document in it")
        problems.found += existing_files(prefix)
    problems.raise_if_any()
    return tokenizer


@dataclass(frozen=True)
class Chunk:
    """Lines of a file, as they are there, and how many bytes of the file (compressed, if it is) they are."""

    path: Path
    first_line: int
    lines: list[bytes]
    size: int


@dataclass(frozen=True)
class Tokens:
    """The documents of a chunk: `tokens` [sum of lengths], `lengths` int32 [documents, keys]; `size` of the chunk."""

    tokens: np.ndarray
    lengths: np.ndarray
    size: int


Tokenise = Callable[[Iterator[Chunk]], Iterator[Tokens]]


def _write(prefix: Path, inputs: list[Path], recipe: Recipe, tokenizer: Tokenizer, tokenise: Tokenise, bar: tqdm) -> dict:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedWriter(prefix, best_dtype(tokenizer.vocab_size), with_modes=bool(recipe.loss_keys)) as writer:
        for result in tokenise(chain.from_iterable(map(_read_chunks, inputs))):
            writer.add_documents(result.tokens, result.lengths, recipe.modes)
            bar.update(result.size)
        if not writer.num_documents:
            raise DataError(f"{', '.join(map(str, inputs))}: no document in it; nothing was written for {prefix}")
        counts = writer.close()
    manifest = {
        **counts,
        "tokenizer": {
            "type": recipe.tokenizer_type,
            "identity": tokenizer.identity(),
            "vocab_size": tokenizer.vocab_size,
            "eod": tokenizer.eod if recipe.append_eod else None,
        },
        "append_eod": recipe.append_eod,
        "json_keys": list(recipe.json_keys),
        "loss_keys": list(recipe.loss_keys),
        "inputs": [{"path": str(path), "bytes": path.stat().st_size} for path in inputs],
        "versions": {
            "megatron_lmt": megatron_lmt.__version__,
            "tokenizers": version("tokenizers"),
            "sentencepiece": version("sentencepiece"),
            "python": platform.python_version(),
        },
    }
    write_manifest(prefix, manifest)
    return manifest


def _read_chunks(path: Path) -> Iterator[Chunk]:
    first_line, position = 1, 0
    try:
        with open(path, "rb") as file:
            text = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            while lines := text.readlines(CHUNK_BYTES):
                yield Chunk(path, first_line, lines, file.tell() - position)
                first_line, position = first_line + len(lines), file.tell()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file after line {first_line - 1} ({error}); copy it again") from None


@contextmanager
def _tokenising(recipe: Recipe, tokenizer: Tokenizer, workers: int) -> Iterator[Tokenise]:
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
                if sys.version_info < (3, 11):
                    # the pool's feeder thread hangs on the full pipe of the dead worker (CPython issue 94777)
                    pool._call_queue._reader.close()
                raise
    except BrokenProcessPool:
        raise DataError(
            "a tokenising process died (out of memory?); the unfinished output was removed: start again, with fewer "
            f"--workers than {workers} if memory was short"
        ) from None


def _in_order(pool: ProcessPoolExecutor, workers: int, function: Callable, chunks: Iterator[Chunk]) -> Iterator[Tokens]:
    """The result of each chunk; at most two chunks for each worker are under way."""
    pending: deque[Future[Tokens]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(function, chunk))
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
    keys = len(recipe.json_keys)
    places = [f"{chunk.path}:{number}" for number, _ in enumerate(chunk.lines, chunk.first_line)]
    texts = [text for place, line in zip(places, chunk.lines, strict=True) for text in _texts(recipe, line, place)]
    sequences = tokenizer.encode_batch(texts, allow_special=bool(recipe.loss_keys))
    if recipe.append_eod:
        for sequence in sequences[keys - 1 :: keys]:
            sequence.append(tokenizer.eod)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32).reshape(-1, keys)
    for document in np.flatnonzero(lengths.sum(axis=1) == 0):
        raise DataError(f"{places[document]}: the tokenizer finds no token in it; remove the line")
    tokens = np.array(list(chain.from_iterable(sequences)), dtype=best_dtype(tokenizer.vocab_size))
    return Tokens(tokens, lengths, chunk.size)


def _texts(recipe: Recipe, line: bytes, place: str) -> list[str]:
    try:
        text = line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from None
    return parse_record(text, list(recipe.json_keys), place)
