"""Writes a whole checkpoint of ours from parts, whatever they are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megatron_lmt.conversion.new_folder import new_folder
from megatron_lmt.conversion.options import Options
from megatron_lmt.conversion.torch_dist_writer import NewChunk, WrittenFile, finish, plan_files, write_file
from megatron_lmt.conversion.workers import share
from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.model.bits import is_finite
from megatron_lmt.progress import progress
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, RUN_STATE
from megatron_lmt.runtime.checkpoint_manifest import commit

FILE_BYTES = 128 * 1024 * 1024

Read = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Part:
    """A chunk of the new checkpoint, what its numbers are read from, and the tensors that an error names."""

    chunk: NewChunk
    origin: Any
    names: tuple[str, ...]


@contextmanager
def new_checkpoint(target: Path, parts: Sequence[Part], read: Read, run_state: dict, options: Options) -> Iterator[Path]:
    """Write a checkpoint; inside the context its folder holds all but the Hugging Face files and the commit marker.

    Args:
        read: makes the numbers of a part from its origin; it can be sent to a process.
        run_state: iteration, identity and dtype, see `runtime/checkpoint.py`.
    Raises:
        CheckpointError: NaN in the source, or a full disk; nothing has changed at `target`.
    """
    chunks = [part.chunk for part in parts]
    num_bytes = sum(chunk.num_bytes for chunk in chunks)
    contents = plan_files(chunks, max(options.workers, -(-num_bytes // FILE_BYTES)))
    by_chunk = {part.chunk: part for part in parts}
    tasks = [(number, [by_chunk[chunk] for chunk in file]) for number, file in enumerate(contents)]
    with new_folder(target, num_bytes) as folder, progress(num_bytes, "converting", delay=5) as bar:
        files: list[WrittenFile] = []
        not_finite: list[str] = []
        written = share(partial(_write, read, folder), tasks, options.workers)
        for file, bad in written:
            files.append(file)
            not_finite += bad
            bar.update(sum(chunk.num_bytes for chunk in file.chunks))
        if not_finite and not options.allow_nan:
            found = dict.fromkeys(not_finite)
            raise CheckpointError([f"NaN or infinity in {name}; --allow-nan converts it" for name in found])
        finish(folder, files)
        (folder / HF_FOLDER).mkdir()
        write_json_atomically(folder / RUN_STATE, run_state)
        yield folder
        commit(folder, {file.name: {"bytes": file.num_bytes, "sha256": file.sha256} for file in files})


def _write(read: Read, folder: Path, task: tuple[int, list[Part]]) -> tuple[WrittenFile, list[str]]:
    """Write one file; returns what is in it, and the tensors with NaN or infinity."""
    number, parts = task
    not_finite = []
    origins = {part.chunk: part for part in parts}

    def make(chunk: NewChunk) -> np.ndarray:
        part = origins[chunk]
        bits = read(part.origin)
        if not is_finite(bits):
            not_finite.extend(part.names)
        return bits.reshape(chunk.shape)

    return write_file(folder, number, [part.chunk for part in parts], make), not_finite
