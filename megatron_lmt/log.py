"""One logger for a run: the console and `train.log` of the first process; warnings of the others, with their rank."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

LOGGER = "megatron_lmt"


def silence_engine_warnings() -> None:
    """megatron-core and torch warn about each other's internals, in every process; a user can mend none of it."""
    warnings.filterwarnings("ignore", module=r"(megatron|torch)\..*")


def open_log(rank: int, file: Path | None = None) -> logging.Logger:
    """The run's logger.

    Args:
        rank: of this process; only rank 0 tells the story, others speak up from warnings on.
        file: what rank 0 says is appended here as well, with times.
    """
    log = logging.getLogger(LOGGER)
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for handler in list(log.handlers):
        log.removeHandler(handler)
    console = logging.StreamHandler(sys.stdout if rank == 0 else sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(levelname)s %(message)s"))
    log.addHandler(console)
    if rank == 0 and file is not None:
        to_file = logging.FileHandler(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(to_file)
    return log
