"""From text to tokens on disk: a pool of processes tokenises, this one writes in the order of the input.

The result is the same for any number of workers, and for a run that was killed and started again. Bad input stops the
work with its file and line, or is set aside and counted, up to a limit; nothing has its final name before it is whole.

Cost: this process, reading gzip and writing, keeps up with thirty workers of `tokenising.py`. Inputs are hashed by a
thread beside it, which reads them a second time.

Next on the path: `examination.py` looks before, `text_files.py`, `tokenising.py` and `shards.py` do the work;
`indexed.py` describes the files.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from itertools import chain
from pathlib import Path

from megatron_lmt.data.indexed import best_dtype, manifest_path
from megatron_lmt.preprocessing.engines import AUTO
from megatron_lmt.preprocessing.examination import examining
from megatron_lmt.preprocessing.inputs import Input, as_input, bytes_of
from megatron_lmt.preprocessing.one_source import Run, make_source
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.text_files import most_chunks
from megatron_lmt.preprocessing.tokenising import Settings
from megatron_lmt.preprocessing.workers import working
from megatron_lmt.progress import Pace, progress

SOURCES_TOGETHER = 4
"""While one is flushed to disk, or ends with less work than there are workers, the others go on."""


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
    finished = {prefix for prefix in outputs if manifest_path(prefix).exists()}  # not what another run finishes meanwhile
    number = min(workers, most_chunks(chain.from_iterable(outputs.values())))
    with (
        ThreadPoolExecutor(SOURCES_TOGETHER) as threads,
        examining(recipe, outputs, workers, max_bad_lines, resume, engine) as examined,
        working(number, recipe.max_bytes) as pool,  # left first: it ends what the threads wait for
    ):
        run = examined()
        tokenizer = run.described["tokenizer"]
        settings = Settings(recipe, run.engine, tokenizer["eod"], best_dtype(tokenizer["vocab_size"]))
        total_bytes = sum(bytes_of(given) for given in chain.from_iterable(outputs.values()))
        with progress(total_bytes, "tokenising") as bar:
            proof = threads.submit(run.prove, pool.call)
            make = partial(make_source, Run(settings, proof, run.described, pool.work, max_bad_lines, finished, Pace(bar)))
            if number == 1:
                wait([proof])  # an engine is for one thread
                return list(map(make, outputs, outputs.values()))
            return _all(threads, make, outputs)


def _all(
    threads: ThreadPoolExecutor, make: Callable[[Path, list[Input]], dict], outputs: dict[Path, list[Input]]
) -> list[dict]:
    """The results, or as soon as there is one the first error. After that, or a Ctrl-C, no source is begun any more."""
    try:
        started = [threads.submit(make, *output) for output in outputs.items()]
        left, failed = set(started), []
        while left and not failed:
            # a Ctrl-C just as it begins is seen at its end only
            done, left = wait(left, timeout=1, return_when=FIRST_EXCEPTION)
            failed = [future for future in started if future in done and future.exception()]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in failed or started]
