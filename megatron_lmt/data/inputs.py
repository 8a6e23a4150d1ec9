"""The files that a source is made from: their hashes, and whether they are still what they were."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
BLOCK = 4 << 20


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def describe(inputs: list[Path]) -> list[dict]:
    """Path, bytes and sha256 of each, for the manifest."""
    return [{"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in inputs]


def state(inputs: list[Path]) -> list[dict]:
    """What changes when an input is written again; quick."""
    states = [(path, path.stat()) for path in inputs]
    return [{"path": str(path), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for path, stat in states]


def are_those(inputs: list[Path], described: list[dict]) -> bool:
    """Whether the inputs have the contents that `describe` saw, in this order, wherever they are."""
    sizes = [path.stat().st_size for path in inputs]
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
