"""Writing files so that a reader never sees half of one, and knowing a file by its hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

BLOCK = 1 << 20


def write_text_atomically(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, rename: `path` holds the old text or the new, never a part.

    Raises:
        OSError: of `path`; nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    flush_to_disk(path.parent)


def write_json_atomically(path: Path, value: Any) -> None:
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_file(path: Path) -> str:
    """What is wrong with a path that is no file."""
    return f"{path}: {'a folder, and not a file' if path.is_dir() else 'no such file'}"


def no_folder(path: Path) -> str:
    """What is wrong with a path that is no folder."""
    return f"{path}: {'a file' if path.exists() else 'no such folder'}"


def file_sha256(path: Path) -> str:
    """As `sha256sum` prints it. About 2 GB/s on one core with SHA instructions."""
    return _digest_of(path, hashlib.sha256())


def file_xxh128(path: Path, done: Callable[[int], object] | None = None) -> str:
    """XXH3 with 128 bits, as `xxh128sum` prints it. As fast as memory is read: it finds damage, not malice.

    Args:
        done: told how many bytes more were read.
    """
    return _digest_of(path, xxhash.xxh3_128(), done)


def _digest_of(path: Path, digest: Any, done: Callable[[int], object] | None = None) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if done:
                done(len(block))
    return digest.hexdigest()
