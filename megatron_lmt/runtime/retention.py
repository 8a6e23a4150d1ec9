"""Which checkpoints a run keeps, how large they are, and whether they fit on the disk."""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.config import CheckpointSection
from megatron_lmt.runtime.checkpoint_folder import committed, discard, iteration_of


def superfluous(iterations: list[int], section: CheckpointSection) -> list[int]:
    """Those of the saved iterations that the run file does not want to be kept.

    Args:
        iterations: in rising order.
    """
    if section.keep_last is None:
        return []
    retain = section.save_retain_interval
    return [iteration for iteration in iterations[: -section.keep_last] if not retain or iteration % retain]


def delete_superfluous(checkpoints: Path, section: CheckpointSection) -> None:
    folders = {iteration_of(folder): folder for folder in committed(checkpoints)}
    for iteration in superfluous(sorted(folders), section):
        discard(folders[iteration])
