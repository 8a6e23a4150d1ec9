"""The trainer: `torchrun --nproc-per-node N -m megatron_lmt.train RUN.toml [key=value …] [--dry-run]`.

`--from-card run_card.json` in place of RUN.toml starts the run of that card again; give it another `output_dir=…`.

One run file, one output folder. Starting the same command again goes on from the newest complete checkpoint; a run that
has reached its target says so and ends. TERM and USR1 lead to a checkpoint and a clean exit.

Nothing is written, and no process group exists, before `preflight.py` found no problem.

Next on the path of a run: `loop.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_lmt.errors import Problems, run_command
from megatron_lmt.log import silence_engine_warnings
from megatron_lmt.machine import Machine
from megatron_lmt.preflight import ReadyRun, check_run, describe
from megatron_lmt.processes import end_with_parent
from megatron_lmt.run_card import Origin, check_against_card, run_from_card, run_from_file

if TYPE_CHECKING:
    from megatron_lmt.runtime.meeting import Meeting


def main() -> None:
    _end_with_the_launcher()
    arguments = _parse_arguments()
    _allow_many_open_files()
    ready, origin, meeting = _check_together(arguments)
    if arguments.dry_run:
        if _rank() == 0:
            print("\n".join(describe(ready)))
    elif ready.nothing_to_do:
        if _rank() == 0:
            print(ready.nothing_to_do)
    else:
        # imported late: megatron-core may only be imported after the device is known
        from megatron_lmt.runtime.device import open_device

        silence_engine_warnings()
        device = open_device()
        from megatron_lmt.loop import train

        train(ready, device, origin, meeting)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m megatron_lmt.train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run_file", nargs="?", help="TOML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.train_iters=20")
    parser.add_argument("--from-card", type=Path, metavar="run_card.json", help="start the run of this card again")
    parser.add_argument("--dry-run", action="store_true", help="check everything, show the plan, start nothing")
    arguments = parser.parse_intermixed_args()
    if arguments.from_card and arguments.run_file:
        arguments.overrides.insert(0, arguments.run_file)  # argparse cannot know that there is none
    elif not arguments.from_card and not arguments.run_file:
        parser.error("name a run file, or a run card with --from-card")
    return arguments


def _check_together(arguments: argparse.Namespace) -> tuple[ReadyRun, Origin, Meeting | None]:
    """
    Returns:
        the run, where it was described, and where the processes met; None for a process that is alone.
    Raises:
        UserError: with all problems of this process, if it is alone; of several, the first prints them and all exit.
    """
    problems = Problems()
    checked = problems.of(_check, arguments)
    meeting = None
    if "RANK" in os.environ:
        from megatron_lmt.runtime.meeting import join  # imports torch

        meeting = join()
        meeting.end_all_if_any(problems.found, what_must_agree(checked[0]) if checked else None)
    problems.raise_if_any()
    return *checked, meeting


def what_must_agree(ready: ReadyRun) -> dict[str, str]:
    """What all processes must have found alike, each under the name that a person knows it by.

    The run is a hash of all its keys. The rest is read from a file system that may show one node what is new later.
    """
    return {
        "settings": hashlib.sha256(ready.run.model_dump_json().encode()).hexdigest(),
        "checkpoint to go on from": str(ready.resume_from),
        "start weights": str(ready.start_from if isinstance(ready.start_from, Path) else None),
        "reason to do nothing": str(ready.nothing_to_do),
    }


def _check(arguments: argparse.Namespace) -> tuple[ReadyRun, Origin]:
    started = "WORLD_SIZE" in os.environ or not arguments.dry_run
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if started else None
    if arguments.from_card:
        run, origin = run_from_card(arguments.from_card, arguments.overrides)
    else:
        run, origin = run_from_file(Path(arguments.run_file), arguments.overrides)
    ready = check_run(run, world_size, None if arguments.dry_run else _machine(), _rank())
    if _rank() == 0:
        notes = check_against_card(ready, origin)
        print("\n".join(notes), end="\n" if notes else "")
    if not arguments.dry_run and not ready.nothing_to_do:
        ready.check_start()
    return ready, origin


def _end_with_the_launcher() -> None:
    """torchrun that is killed would leave its workers training, and a second start would meet them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def _machine() -> Machine:
    from megatron_lmt.runtime.device import find_machine  # imports torch

    return find_machine()


def _allow_many_open_files() -> None:
    """Each source of the mixture holds two files open; the usual limit of 1,024 is low for hundreds of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


if __name__ == "__main__":
    run_command(main)
