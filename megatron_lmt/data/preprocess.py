"""From jsonl to tokens on disk: a pool of processes tokenises, this one writes in the order of the input.

The result is the same for any number of workers. Bad input stops the work with its file and line, and leaves nothing
behind that looks finished. Memory is a few chunks of 500 lines for each worker.

Next on the path: `indexed.py` describes the files.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from tqdm import tqdm

import megatron_lmt
from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedWriter, best_dtype, write_manifest
from megatron_lmt.data.records import parse_record, read_lines
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, Problems

CHUNK_LINES = 500


@dataclass(frozen=True)
class Recipe:
    """How a record becomes tokens.

    One key: its text is one sequence, every token of which is predicted, and special tokens in it are plain text. With
    `loss_keys`: each key is a sequence, only those in `loss_keys` are predicted, and special tokens are recognised, since
    such records are rendered chats.
    """

    tokenizer_type: str
    tokenizer_model: Path
    json_keys: tuple[str, ...] = ("text",)
    loss_keys: tuple[str, ...] = ()
    append_eod: bool = True

    def check(self) -> Tokenizer:
        """Open the tokenizer; raises a UserError with all that is wrong."""
        problems = Problems()
        tokenizer = problems.of(load_tokenizer, self.tokenizer_type, self.tokenizer_model)
        unknown = [key for key in self.loss_keys if key not in self.json_keys]
        if unknown:
            problems.found.append(f"--loss-keys {unknown}: not among --json-keys {list(self.json_keys)}")
        if len(self.json_keys) > 1 and not self.loss_keys:
            problems.found.append(
                f"--json-keys {list(self.json_keys)}: with several keys, name those to learn in --loss-keys"
            )
        if self.append_eod and tokenizer and tokenizer.eod is None:
            problems.found.append(
                f"--append-eod: {self.tokenizer_model} has no end-of-document token (<|endoftext|>, or an eos token)"
            )
        problems.raise_if_any()
        return tokenizer

    @property
    def modes(self) -> list[int] | None:
        if not self.loss_keys:
            return None
        return [LOSS if key in self.loss_keys else CONTEXT for key in self.json_keys]


def preprocess(recipe: Recipe, jobs: dict[Path, list[Path]], workers: int) -> list[dict]:
    """Tokenise jsonl files.

    Args:
        jobs: prefix to write (`_text_document` is appended) → jsonl or jsonl.gz files to read, in this order.
        workers: number of tokenising processes.
    Returns:
        the manifest of each prefix.
    Raises:
        UserError: wrong arguments (all of them), or the first bad line. Prefixes finished before stay.
    """
    tokenizer = recipe.check()
    prefixes = {Path(f"{prefix}_text_document"): inputs for prefix, inputs in jobs.items()}
    _check_files(prefixes)
    total = sum(path.stat().st_size for inputs in prefixes.values() for path in inputs)
    progress = tqdm(total=total, unit="B", unit_scale=True, mininterval=1 if sys.stderr.isatty() else 30, desc="tokenising")
    # spawned, not forked: a fork of a process with threads, such as the progress bar's, may hang
    context = multiprocessing.get_context("spawn")
    with progress, ProcessPoolExecutor(workers, context, initializer=_prepare_worker) as pool:
        try:
            return [
                _write(pool, recipe, tokenizer, prefix, inputs, workers, progress) for prefix, inputs in prefixes.items()
            ]
        except BrokenProcessPool:
            raise DataError("a tokenising process died (out of memory?); nothing of its output was kept") from None


def _check_files(prefixes: dict[Path, list[Path]]) -> None:
    problems = [f"{path}: no such file" for inputs in prefixes.values() for path in inputs if not path.is_file()]
    problems += [
        f"{path} exists already and is not written over: delete it or give another prefix"
        for prefix in prefixes
        for path in (Path(f"{prefix}.{ending}") for ending in ("bin", "idx", "manifest.json"))
        if path.exists()
    ]
    if not any(prefixes.values()):
        problems.append("no input: no jsonl or jsonl.gz file was named or found")
    if problems:
        raise ConfigError(problems)


def _write(
    pool: ProcessPoolExecutor,
    recipe: Recipe,
    tokenizer: Tokenizer,
    prefix: Path,
    inputs: list[Path],
    workers: int,
    progress: tqdm,
) -> dict:
    began = time.perf_counter()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    dtype = best_dtype(tokenizer.vocab_size)
    with IndexedWriter(prefix, dtype, with_modes=bool(recipe.loss_keys)) as writer:
        for path in inputs:
            for documents in _tokenised(pool, recipe, path, workers):
                for document in documents:
                    writer.add_document(document, recipe.modes)
            progress.update(path.stat().st_size)
        if not writer.num_documents:
            raise DataError(f"{', '.join(map(str, inputs))}: no document in it; nothing was written for {prefix}")
        counts = writer.close()
    manifest = {
        **counts,
        "dtype": dtype.name,
        "tokenizer": {
            "type": recipe.tokenizer_type,
            "identity": tokenizer.identity(),
            "vocab_size": tokenizer.vocab_size,
            "eod": tokenizer.eod,
        },
        "append_eod": recipe.append_eod,
        "json_keys": list(recipe.json_keys),
        "loss_keys": list(recipe.loss_keys),
        "inputs": [{"path": str(path), "bytes": path.stat().st_size} for path in inputs],
        "seconds": round(time.perf_counter() - began, 3),
        "megatron_lmt": megatron_lmt.__version__,
    }
    write_manifest(prefix, manifest)
    return manifest


def _tokenised(pool: ProcessPoolExecutor, recipe: Recipe, path: Path, workers: int) -> Iterator[list]:
    """Documents of one file in order, a chunk at a time; at most two chunks for each worker are under way."""
    pending: deque[Future] = deque()
    lines = read_lines(path)
    while True:
        while len(pending) < 2 * workers and (chunk := list(islice(lines, CHUNK_LINES))):
            pending.append(pool.submit(_tokenise, recipe, str(path), chunk))
        if not pending:
            return
        yield pending.popleft().result()


def _prepare_worker() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism


@cache
def _worker_tokenizer(tokenizer_type: str, model: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_type, model)


def _tokenise(recipe: Recipe, path: str, chunk: list[tuple[int, str]]) -> list[list[list[int]]]:
    """In a worker: documents of these lines, each a list of sequences of token ids."""
    tokenizer = _worker_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model)
    texts = [text for number, line in chunk for text in parse_record(line, list(recipe.json_keys), f"{path}:{number}")]
    sequences = tokenizer.encode_batch(texts, allow_special=bool(recipe.loss_keys))
    per_document = len(recipe.json_keys)
    documents = [sequences[start : start + per_document] for start in range(0, len(sequences), per_document)]
    if recipe.append_eod:
        for document in documents:
            document[-1].append(tokenizer.eod)
    return documents
