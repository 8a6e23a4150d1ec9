"""The files and folders that a source is made from: which there are, their hashes, and whether they are still the same."""

from __future__ import annotations

import glob
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from megatron_lmt.data.compression import FORMATS
from megatron_lmt.data.tables import is_dataset_folder
from megatron_lmt.errors import ConfigError
from megatron_lmt.files import file_sha256

CORPUS_REPORT = "corpus.json"  # what tools/build_corpus.py writes beside its jsonl files: no input, in any folder
Result = TypeVar("Result")
KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".txt": "text", ".parquet": "rows"}
KNOWN = "jsonl, json (a record a line) or txt (a document a line), also .gz or .zst; parquet; folders saved by datasets"


def kind_of(path: Path) -> str | None:
    """ "jsonl", "text" or "rows"; None if its name ends in no known way."""
    if is_dataset_folder(path):
        return "rows"
    return None if path.is_dir() else KINDS.get(_without_compression(path).suffix)


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in FORMATS else path


def _is_input(path: Path) -> bool:
    return kind_of(path) is not None and path.name != CORPUS_REPORT


def expand(inputs: list[Path]) -> list[Path]:
    """Files, and folders of `datasets`, instead of folders and patterns (`*`, `**`), each in the order of its names.

    A path that does not exist and is no pattern stays.

    Raises:
        ConfigError: a folder or pattern without any known file.
    """
    found = {path: _expand(path) for path in inputs}
    problems = [f"{path}: no input in it; known are {KNOWN}" for path, files in found.items() if not files]
    if problems:
        raise ConfigError(problems)
    return [file for path in inputs for file in found[path]]


def _expand(path: Path) -> list[Path]:
    if path.is_dir() and not is_dataset_folder(path):
        return sorted(file for file in path.rglob("*") if file.is_file() and _is_input(file))
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    return sorted(Path(name) for name in glob.glob(str(path), recursive=True) if _is_input(Path(name)))


def sources_in(input_dir: Path, output_dir: Path) -> dict[Path, list[Path]]:
    """Every known file, or folder saved by `datasets`, of a folder as a source of its own: prefix to write → [it].

    Raises:
        ConfigError: there is none, or two for one prefix.
    """
    jobs: dict[Path, list[Path]] = {}
    for path in sorted(input_dir.glob("*")):
        if _is_input(path):
            name = path.name if path.is_dir() else _without_compression(path).stem
            jobs.setdefault(output_dir / name, []).append(path)
    doubled = {prefix: files for prefix, files in jobs.items() if len(files) > 1}
    problems = [f"{' and '.join(map(str, files))}: both would be {prefix}" for prefix, files in doubled.items()]
    if not jobs:
        problems.append(f"--input-dir {input_dir}: no such folder, or no input in it; known are {KNOWN}")
    if problems:
        raise ConfigError(problems)
    return jobs


def input_problems(inputs: list[Path], json_keys: tuple[str, ...]) -> list[str]:
    """What is missing, of no known kind, empty, or does not have the keys."""
    missing = [f"{path}: no such file" for path in inputs if not path.exists()]
    unknown = [f"{path}: not an input; known are {KNOWN}" for path in inputs if path.exists() and not kind_of(path)]
    keyless = [
        f"{path}: plain text has no keys, so --json-keys {' '.join(json_keys)} cannot all be found; give jsonl"
        for path in inputs
        if len(json_keys) > 1 and kind_of(path) == "text"
    ]
    problems = missing + unknown + keyless
    if not problems and not any(map(bytes_of, inputs)):
        problems = [f"{', '.join(map(str, inputs)) or 'no input'}: no document in it"]
    return problems


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def sha256_of(path: Path) -> str:
    """Of a folder: of the lines "<sha256>  <name>" of its files, as `sha256sum` prints them."""
    if path.is_dir():
        lines = (f"{file_sha256(file)}  {file.relative_to(path)}\n" for file in files_of(path))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return file_sha256(path)


def describe(inputs: list[Path]) -> list[dict]:
    """Path, bytes and sha256 of each, for the manifest."""
    return [{"path": str(path), "bytes": bytes_of(path), "sha256": sha256_of(path)} for path in inputs]


def state(inputs: list[Path]) -> list[dict]:
    """What changes when an input is written again; quick."""
    return [
        {"path": str(path), "bytes": bytes_of(path), "modified_ns": max(file.stat().st_mtime_ns for file in files_of(path))}
        for path in inputs
    ]


def are_those(inputs: list[Path], described: list[dict]) -> bool:
    """Whether the inputs have the contents that `describe` saw, in this order, wherever they are."""
    sizes = [bytes_of(path) for path in inputs]
    return sizes == [known["bytes"] for known in described] and all(
        sha256_of(path) == known["sha256"] for path, known in zip(inputs, described, strict=True)
    )


def in_background(function: Callable[..., Result], *arguments) -> Future[Result]:
    """Call it in a thread that does not keep the process alive when other work fails."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
