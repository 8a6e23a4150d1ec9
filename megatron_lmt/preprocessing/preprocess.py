"""From text to tokens on disk: a pool of processes tokenises, this one writes in the order of the input.

The result is the same for any number of workers, and for a run that was killed and started again. Bad input stops the
work with its file and line, or is set aside and counted, up to a limit; nothing has its final name before it is whole.

Cost: this process, reading gzip and writing, keeps up with thirty workers of `tokenising.py`. Inputs are hashed by a
thread beside it, which reads them a second time.

Next on the path: `examination.py` looks before, `text_files.py`, `tokenising.py` and `shards.py` do the work;
`indexed.py` describes the files.
"""

from __future__ import annotations

import shutil
from functools import partial
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from megatron_lmt.data.indexed import best_dtype, manifest_path, read_manifest, write_manifest
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.engines import AUTO, engine_version
from megatron_lmt.preprocessing.examination import examine
from megatron_lmt.preprocessing.inputs import (
    Input,
    are_those,
    as_input,
    bytes_of,
    describe,
    in_background,
    state,
)
from megatron_lmt.preprocessing.manifest import document_counts
from megatron_lmt.preprocessing.quarantine import counted
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.resume import job_of
from megatron_lmt.preprocessing.shards import Shards, shards_folder
from megatron_lmt.preprocessing.text_files import most_chunks, read_chunks
from megatron_lmt.preprocessing.tokenising import Settings
from megatron_lmt.preprocessing.workers import Work, working
from megatron_lmt.progress import Pace, progress


def preprocess(
    recipe: Recipe,
    jobs: dict[Path, list[Path | Input]],
    workers: int = 1,
    max_bad_lines: int = 0,
    resume: bool = False,
    engine: str = AUTO,
) -> list[dict]:
    """Tokenise text.

    Args:
        jobs: prefix to write (`_text_document` is appended) → files and `datasets` folders to read, in this order.
        workers: number of tokenising processes; 1 is this process alone. A script that calls this with more needs its
            `if __name__ == "__main__"`: they may be spawned.
        max_bad_lines: how many bad lines of a prefix are set aside, in `<prefix>_text_document.rejected.jsonl.gz`.
        resume: keep prefixes that are finished, and go on in one that was interrupted.
        engine: "auto", "standard" or "gigatoken"; see engines.py.
    Returns:
        the manifest of each prefix.
    Raises:
        UserError: wrong arguments (all of them), or the first bad line beyond `max_bad_lines`. Prefixes finished before
            stay.
    """
    outputs = {Path(f"{prefix}_text_document"): list(map(as_input, inputs)) for prefix, inputs in jobs.items()}
    described, engine = examine(recipe, outputs, workers, max_bad_lines, resume, engine)
    tokenizer = described["tokenizer"]
    settings = Settings(recipe, engine, tokenizer["eod"], best_dtype(tokenizer["vocab_size"]))
    with working(settings, min(workers, most_chunks(chain.from_iterable(outputs.values())))) as work:
        total_bytes = sum(bytes_of(path) for inputs in outputs.values() for path in inputs)
        with progress(total_bytes, "tokenising") as bar:
            write = partial(_write, settings, described, work, max_bad_lines, bar)
            manifests = []
            for prefix, inputs in outputs.items():
                try:
                    finished = manifest_path(prefix).exists()
                    manifests.append(_keep(bar, prefix, inputs) if finished else write(prefix, inputs))
                except OSError as error:  # the disk is full, or not writable, or an input went away
                    raise DataError(f"{prefix}: stopped: {error}; mend that and start again with --resume") from error
            return manifests


def _keep(bar: tqdm, prefix: Path, inputs: list[Input]) -> dict:
    """The manifest of what an earlier run finished.

    Raises:
        DataError: it was made from other text.
    """
    manifest = read_manifest(prefix)
    if not are_those(inputs, manifest["inputs"]):
        names = ", ".join(given.name for given in inputs)
        raise DataError(f"{prefix}: made from another content of {names}; delete its files, or give another prefix")
    shutil.rmtree(shards_folder(prefix), ignore_errors=True)  # if the run was killed after it had finished
    bar.update(sum(bytes_of(path) for path in inputs))
    return manifest


def _write(
    settings: Settings,
    described: dict,
    work: Work,
    max_bad_lines: int,
    bar: tqdm,
    prefix: Path,
    inputs: list[Input],
) -> dict:
    recipe = settings.recipe
    prefix.parent.mkdir(parents=True, exist_ok=True)
    job = job_of(inputs, described)
    hashed = in_background(describe, inputs)
    with Shards(prefix, job, described["tokenizer"]["vocab_size"], recipe.modes, max_bad_lines) as shards:
        bar.update(sum(bytes_of(path) for path in inputs[: shards.position.input]))
        pace = Pace(bar, shards)
        chunks = read_chunks(inputs, recipe.json_keys, shards.position, recipe.max_bytes)
        for result in work(chunks):
            shards.add(result)
            bar.update(result.size)
            pace.show(shards, result.text_bytes)
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
            "engine": engine_version(settings.engine, recipe.tokenizer_type),
            "inputs": hashed.result(),
            **shards.edges.most_frequent(),
            **shards.finish(),  # last: it gives the files their names
        }
        write_manifest(prefix, manifest)
    return manifest
