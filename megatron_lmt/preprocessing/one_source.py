"""The token files of one source: its chunks are tokenised elsewhere, and written here in their order.

Next on the path: `text_files.py` reads, `tokenising.py` tokenises, `shards.py` writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from megatron_lmt.data.indexed import read_manifest, write_manifest
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.engines import engine_version
from megatron_lmt.preprocessing.inputs import Input, are_those, bytes_of, describe, in_background, state
from megatron_lmt.preprocessing.manifest import document_counts
from megatron_lmt.preprocessing.quarantine import counted
from megatron_lmt.preprocessing.resume import job_of
from megatron_lmt.preprocessing.shards import Shards, shards_folder
from megatron_lmt.preprocessing.text_files import Chunk, read_chunks
from megatron_lmt.preprocessing.tokenising import Settings, Tokens
from megatron_lmt.preprocessing.workers import Work
from megatron_lmt.progress import Pace


@dataclass(frozen=True)
class Run:
    """What all sources of a run share: `described` by manifest.py, `work`, which makes tokens of chunks, with the engine in
    `settings`, or with the one that `proof` names when it is known, and the prefixes that were `finished` before."""

    settings: Settings
    proof: Future[str]
    described: dict
    work: Work
    max_bad_lines: int
    finished: set[Path]
    pace: Pace


def make_source(run: Run, prefix: Path, inputs: list[Input]) -> dict:
    """Write `<prefix>.bin`, `.idx` and the manifest, or keep them if they are finished; returns the manifest.

    Raises:
        DataError: too many bad lines, no documents, or an input that is not what it was.
    """
    try:
        return (_keep if prefix in run.finished else _write)(run, prefix, inputs)
    except OSError as error:  # the disk is full, or not writable, or an input went away
        raise DataError(f"{prefix}: stopped: {error}; mend that and start again with --resume") from error


def _keep(run: Run, prefix: Path, inputs: list[Input]) -> dict:
    """The manifest of what an earlier run finished.

    Raises:
        DataError: it was made from other text.
    """
    manifest = read_manifest(prefix)
    if not are_those(inputs, manifest["inputs"]):
        names = ", ".join(given.name for given in inputs)
        raise DataError(f"{prefix}: made from another content of {names}; delete its files, or give another prefix")
    shutil.rmtree(shards_folder(prefix), ignore_errors=True)  # if the run was killed after it had finished
    run.pace.skip(sum(bytes_of(path) for path in inputs))
    return manifest


def _write(run: Run, prefix: Path, inputs: list[Input]) -> dict:
    recipe, described = run.settings.recipe, run.described
    prefix.parent.mkdir(parents=True, exist_ok=True)
    job = job_of(inputs, described)
    hashed = in_background(describe, inputs)
    with Shards(prefix, job, described["tokenizer"]["vocab_size"], recipe.modes, run.max_bad_lines) as shards:
        run.pace.skip(sum(bytes_of(path) for path in inputs[: shards.position.input]))
        chunks = partial(read_chunks, inputs, recipe.json_keys, shards.position, recipe.max_bytes)
        for result in proved(run, chunks):
            shards.add(result)
            run.pace.add(
                result.size, len(result.lengths), len(result.tokens), result.text_bytes, rejected=len(result.rejected)
            )
        if not shards.documents:
            names = ", ".join(given.name for given in inputs)
            why = f" that can be used ({counted(shards.rejected)})" if shards.rejected else ""
            raise DataError(f"{names}: no document in it{why}; nothing was written for {prefix}")
        if state(inputs) != job["inputs"]:
            raise DataError(
                f"{', '.join(given.name for given in inputs)}: changed while it was read; start again when it is complete"
            )
        manifest = {
            **document_counts(shards.documents, shards.rejected),
            **described,
            **shards.text,
            "engine": engine_version(run.proof.result(), recipe.tokenizer_type),
            "inputs": hashed.result(),
            **shards.edges.most_frequent(),
            **shards.finish(),  # last: it gives the files their names
        }
        write_manifest(prefix, manifest)
    return manifest


def proved(run: Run, chunks: Callable[[], Iterator[Chunk]]) -> Iterator[Tokens]:
    """What the chunks become. The first are in work while their engine is on trial; if it fails, they begin again."""
    tokens = run.work(run.settings, chunks())
    failed = None
    try:
        first = list(islice(tokens, 1))
    except Exception as error:
        failed = error
    if run.proof.result() != run.settings.engine:
        tokens.close()
        yield from run.work(replace(run.settings, engine=run.proof.result()), chunks())
    elif failed:
        raise failed
    else:
        yield from chain(first, tokens)
