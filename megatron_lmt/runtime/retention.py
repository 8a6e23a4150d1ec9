"""Which checkpoints a run keeps, how large they and its exports are, and whether the disk takes them. No torch."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

from megatron_lmt.config import CheckpointSection, RunConfig
from megatron_lmt.errors import ConfigError
from megatron_lmt.model.shape import ModelShape
from megatron_lmt.runtime.checkpoint_folder import EXPORTS, committed, iteration_of, without_name

OPTIMIZER_BYTES = 12
"""Of each parameter: its fp32 copy and Adam's two moments."""


def superfluous(iterations: list[int], section: CheckpointSection) -> list[int]:
    """Those of the saved iterations, in rising order, that the run file does not want to be kept."""
    if section.keep_last is None:
        return []
    retain = section.save_retain_interval
    return [iteration for iteration in iterations[: -section.keep_last] if not retain or iteration % retain]


class Deletions:
    """Deletes old checkpoints beside the training: on a slow file system the other ranks would wait too long for the first.

    What cannot be deleted costs a warning; the next start tries again.
    """

    def __init__(self, log: Logger):
        self._log = log
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deletions")
        self._under_way: list[Future] = []

    def delete_superfluous(self, checkpoints: Path, section: CheckpointSection) -> None:
        """Begin to delete what the run file does not want to be kept; it is no checkpoint any more when this returns."""
        folders = {iteration_of(folder): folder for folder in committed(checkpoints)}
        for iteration in superfluous(sorted(folders), section):
            try:
                doomed = without_name(folders[iteration])
            except OSError as error:
                self._log.warning(f"an old checkpoint is kept, it cannot be renamed: {error}")
            else:
                self._under_way.append(self._worker.submit(self._delete, doomed))

    def wait(self) -> None:
        """Until all is deleted: the room is counted on."""
        while self._under_way:
            self._under_way.pop().result()

    def _delete(self, folder: Path) -> None:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            self._log.warning(f"what is left of an old checkpoint cannot be deleted: {error}")


@dataclass(frozen=True)
class SpaceNeeded:
    """What a run's checkpoints and exports take on disk, in bytes, and how much of that is to come."""

    checkpoint_bytes: int
    most_at_a_time: int
    export_bytes: int
    exports: int
    to_come_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        exports = f"exports: {self.exports:,} of {_size(self.export_bytes)}; " if self.exports else ""
        return (
            f"checkpoints: about {_size(self.checkpoint_bytes)} each, up to {self.most_at_a_time:,} at a time; {exports}"
            f"{_size(self.to_come_bytes)} to come, {_size(self.free_bytes)} free"
        )


def space_needed(run: RunConfig, shape: ModelShape) -> SpaceNeeded:
    """Before the run. Without train.bf16 the parameters are taken for fp32, the larger case (16 bytes each, not 14)."""
    weight_bytes = 2 if run.train.bf16 else 4
    checkpoint_bytes = shape.num_parameters * (weight_bytes + OPTIMIZER_BYTES)
    existing = [iteration_of(folder) for folder in committed(run.output_dir / "checkpoints")]
    most = _most_at_a_time(run, existing)
    exports, export_bytes = _exports(run), shape.num_parameters * weight_bytes
    to_come = max(most - len(existing), 1) * checkpoint_bytes
    to_come += max(exports - len(list((run.output_dir / EXPORTS).glob("iter_*[0-9]"))), 0) * export_bytes
    return SpaceNeeded(
        checkpoint_bytes, most, export_bytes, exports, to_come, shutil.disk_usage(_existing_part(run.output_dir)).free
    )


def _most_at_a_time(run: RunConfig, existing: list[int]) -> int:
    """An old checkpoint is deleted after the new one is complete, so there is one more for a while.

    One that is exported or evaluated lives until that is done, too.
    """
    section, last = run.checkpoint, run.train_iters
    in_use = (section.export_every is not None) + (run.evaluation is not None)
    done = max(existing, default=0)
    saves = (
        len(existing) + last // section.save_interval - done // section.save_interval + bool(last % section.save_interval)
    )
    if section.keep_last is None:
        return saves
    retained = last // section.save_retain_interval if section.save_retain_interval else 0
    return min(saves, retained + section.keep_last + 1 + in_use)


def _exports(run: RunConfig) -> int:
    """Of the whole run; there is one at its end."""
    every, last = run.checkpoint.export_every, run.train_iters
    return math.ceil(last / every) if every else 0


def _existing_part(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def check_output(run: RunConfig, shape: ModelShape | None) -> None:
    """
    Args:
        shape: None if it is not known; then nothing is said about the room that checkpoints need.
    Raises:
        ConfigError: the output folder cannot be written, or what the run will keep there does not fit.
    """
    check_writable(run.output_dir)
    if shape:
        check_free_disk(run, shape)


def check_writable(output_dir: Path) -> None:
    """
    Raises:
        ConfigError: the folder cannot be made or written.
    """
    existing = output_dir
    try:
        existing = _existing_part(output_dir)
        if existing == output_dir:
            if not existing.is_dir():
                raise ConfigError(f"output_dir = {output_dir} is a file; name an empty or new folder")
            _check_permission(existing)
        else:
            with tempfile.TemporaryFile(dir=existing):  # some file systems grant more than they do, such as /proc
                pass
    except OSError as error:
        raise ConfigError(
            f"output_dir = {output_dir} cannot be made or written: {existing}: {os.strerror(error.errno)}; name another "
            "folder, or have the permissions changed"
        ) from None


def _check_permission(folder: Path) -> None:
    """Without a trial in it: other ranks would see the file, and take the folder for one that is in use.

    Raises:
        OSError: this process may not make files there.
    """
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def check_free_disk(run: RunConfig, shape: ModelShape) -> None:
    """
    Raises:
        ConfigError: the checkpoints and exports that the run will keep do not fit.
    """
    space = space_needed(run, shape)
    if run.checkpoint.require_free_disk and space.to_come_bytes > space.free_bytes:
        raise ConfigError(
            f"output_dir = {run.output_dir}: the disk is too small; {space}. Set checkpoint.keep_last, a larger "
            f"checkpoint.save_interval or export_every, or checkpoint.require_free_disk = false if you move them meanwhile"
        )


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
