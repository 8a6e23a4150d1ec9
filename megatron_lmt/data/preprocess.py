"""From text to tokens on disk: a pool of processes tokenises, this one writes in the order of the input.

The result is the same for any number of workers. Bad input stops the work with its file and line, or is set aside and
counted, up to a limit; nothing is left behind that looks finished. Lines end at "\\n" and nowhere else.

Cost: this process, reading gzip and writing, keeps up with thirty workers of `tokenising.py`.

Next on the path: `indexed.py` describes the files.
"""

from __future__ import annotations

import gzip
import os
import platform
import zlib
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from tqdm import tqdm

import megatron_lmt
from megatron_lmt.data.indexed import IndexedWriter, best_dtype, existing_files, rejected_path, write_manifest
from megatron_lmt.data.progress import progress
from megatron_lmt.data.quarantine import Quarantine, counted
from megatron_lmt.data.tokenising import Chunk, Recipe, Tokenise, tokenising
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, Problems

CHUNK_BYTES = 1 << 20


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


def preprocess(recipe: Recipe, jobs: dict[Path, list[Path]], workers: int = 1, max_bad_lines: int = 0) -> list[dict]:
    """Tokenise jsonl files.

    Args:
        jobs: prefix to write (`_text_document` is appended) → jsonl or jsonl.gz files to read, in this order.
        workers: number of tokenising processes; 1 is this process alone. More are spawned, so a script that calls this
            needs its `if __name__ == "__main__"`.
        max_bad_lines: how many bad lines of a prefix are set aside, in `<prefix>_text_document.rejected.jsonl.gz`.
    Returns:
        the manifest of each prefix.
    Raises:
        UserError: wrong arguments (all of them), or the first bad line beyond `max_bad_lines`. Prefixes finished before
            stay.
    """
    outputs = {Path(f"{prefix}_text_document"): inputs for prefix, inputs in jobs.items()}
    tokenizer = _check(recipe, outputs, workers, max_bad_lines)
    total_bytes = sum(path.stat().st_size for inputs in outputs.values() for path in inputs)
    with tokenising(recipe, tokenizer, workers) as tokenise, progress(total_bytes, "tokenising") as bar:
        write = partial(_write, recipe, tokenizer, tokenise, max_bad_lines, bar)
        return [write(prefix, inputs) for prefix, inputs in outputs.items()]


def _check(recipe: Recipe, outputs: dict[Path, list[Path]], workers: int, max_bad_lines: int) -> Tokenizer:
    problems = Problems()
    problems.found += recipe.problems()
    tokenizer = problems.of(load_tokenizer, recipe.tokenizer_type, recipe.tokenizer_model)
    if tokenizer and recipe.append_eod:
        problems.of(getattr, tokenizer, "eod")
    if workers < 1:
        problems.found.append(f"--workers {workers}: at least 1")
    if max_bad_lines < 0:
        problems.found.append(f"--max-bad-lines {max_bad_lines}: at least 0")
    for prefix, inputs in outputs.items():
        missing = [path for path in inputs if not path.is_file()]
        problems.found += [f"{path}: no such file" for path in missing]
        if not missing and not any(path.stat().st_size for path in inputs):
            problems.found.append(f"{', '.join(map(str, inputs)) or prefix}: no document in it")
        problems.found += existing_files(prefix)
    problems.raise_if_any()
    return tokenizer


def _write(
    recipe: Recipe,
    tokenizer: Tokenizer,
    tokenise: Tokenise,
    max_bad_lines: int,
    bar: tqdm,
    prefix: Path,
    inputs: list[Path],
) -> dict:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    writer = IndexedWriter(prefix, best_dtype(tokenizer.vocab_size), with_modes=bool(recipe.loss_keys))
    quarantine = Quarantine(Path(f"{prefix}.unfinished-{os.getpid()}.rejected"), max_bad_lines)
    with writer, quarantine:
        for result in tokenise(chain.from_iterable(map(_read_chunks, inputs))):
            quarantine.add(result.rejected)
            writer.add_documents(result.tokens, result.lengths, recipe.modes)
            bar.update(result.size)
        if not writer.num_documents:
            names = ", ".join(map(str, inputs))
            why = f" that can be used ({counted(quarantine.counts)})" if quarantine.counts else ""
            raise DataError(f"{names}: no document in it{why}; nothing was written for {prefix}")
        quarantine.finish(rejected_path(prefix))
        counts = writer.close()
    manifest = {
        **_document_counts(counts["documents"], quarantine.counts),
        **counts,
        **_description(recipe, tokenizer),
        "inputs": [{"path": str(path), "bytes": path.stat().st_size} for path in inputs],
    }
    write_manifest(prefix, manifest)
    return manifest


def _document_counts(written: int, rejected: dict[str, int]) -> dict:
    """Every record that was read is one of these."""
    total = sum(rejected.values())
    return {"documents_read": written + total, "documents": written, "documents_rejected": total, "rejected": rejected}


def _description(recipe: Recipe, tokenizer: Tokenizer) -> dict:
    """What decided the tokens, for the manifest."""
    return {
        "tokenizer": {
            "type": recipe.tokenizer_type,
            "identity": tokenizer.identity(),
            "vocab_size": tokenizer.vocab_size,
            "eod": tokenizer.eod if recipe.append_eod else None,
        },
        "append_eod": recipe.append_eod,
        "json_keys": list(recipe.json_keys),
        "loss_keys": list(recipe.loss_keys),
        "max_tokens": recipe.max_tokens,
        "versions": {
            "megatron_lmt": megatron_lmt.__version__,
            "tokenizers": version("tokenizers"),
            "sentencepiece": version("sentencepiece"),
            "python": platform.python_version(),
        },
    }


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
