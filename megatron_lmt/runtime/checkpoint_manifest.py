"""The manifest of a checkpoint: size and sha256 of each of its files, in COMMITTED.json, which is written last.

The hashes are for damage (a full disk, a failing one, a copy that was cut off), not for secrets: who can write the files
can write the manifest. Small files are always compared; the large ones (`*.distcp`) only when they are about to be
loaded, each by one process, because reading them costs as much as loading them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import file_sha256, flush_to_disk, write_text_atomically

COMMIT_MARKER = "COMMITTED.json"
TENSOR_FILES = ".distcp"
HASHING_THREADS = 4


def describe_file(path: Path) -> dict:
    """Size and hash for the manifest, of a file that was just written; it is on disk afterwards."""
    flush_to_disk(path)
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def commit(folder: Path, known: dict[str, dict]) -> None:
    """Write the manifest.

    Args:
        known: what `describe_file` said of files that other processes wrote, by name; the rest is described here.
    Raises:
        CheckpointError: one of the known files has gone or changed since.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        described = pool.map(lambda name: known.get(name) or describe_file(folder / name), names)
        files = dict(zip(names, described, strict=True))
    missing = [f"{folder / name}: was written, and is not there any more" for name in known if name not in files]
    if problems := missing + _size_problems(folder, files):
        raise CheckpointError(problems)
    write_text_atomically(folder / COMMIT_MARKER, _marker_text(files))


def _marker_text(files: dict[str, dict]) -> str:
    """A pure function of `files`, with its own hash, so that no flipped byte of the marker goes unnoticed."""
    return json.dumps({"files": files, "sha256": _hash_of(files)}, indent=2) + "\n"


def _hash_of(files: dict[str, dict]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, dict]:
    """`bytes` and `sha256` of each file, by its name inside `folder`.

    Raises:
        CheckpointError: COMMITTED.json is not what `commit` wrote.
    """
    marker = folder / COMMIT_MARKER
    try:
        text = marker.read_text(encoding="utf-8")
        files = json.loads(text)["files"]
        whole = _marker_text(files) == text
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{marker}: its own hash does not fit its content: it was damaged since it was written")
    return files


def quick_problems(folder: Path) -> list[str]:
    """What is wrong with a checkpoint as far as can be seen quickly: sizes of all files, hashes of the small ones."""
    try:
        files = read_manifest(folder)
    except CheckpointError as error:
        return error.problems
    small = {name for name in files if not name.endswith(TENSOR_FILES)}
    problems = _size_problems(folder, files)
    return problems or hash_problems(folder, files, small)


def all_problems(folder: Path) -> list[str]:
    """What is wrong with a checkpoint; reads all of it."""
    problems = quick_problems(folder)
    if problems:
        return problems
    files = read_manifest(folder)
    return hash_problems(folder, files, tensor_files(files))


def tensor_files(files: dict[str, dict]) -> list[str]:
    return [name for name in files if name.endswith(TENSOR_FILES)]


def hash_problems(folder: Path, files: dict[str, dict], names: Iterable[str]) -> list[str]:
    """Read the files called `names` and compare them with the manifest."""
    names = sorted(names)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        found = pool.map(lambda name: file_sha256(folder / name), names)
        return [
            f"{folder / name}: its sha256 is {sha256}, but {files[name]['sha256']} when it was written: damaged since"
            for name, sha256 in zip(names, found, strict=True)
            if sha256 != files[name]["sha256"]
        ]


def forget_cached_pages(path: Path) -> None:
    """Make the next reading of a file that is on disk come from there, as far as the file system heeds such advice."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _size_problems(folder: Path, files: dict[str, dict]) -> list[str]:
    problems = []
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing; the checkpoint was complete when it was written, so it was damaged since")
        elif path.stat().st_size != known["bytes"]:
            problems.append(f"{path}: {path.stat().st_size} bytes instead of {known['bytes']}: damaged since it was written")
    return problems
