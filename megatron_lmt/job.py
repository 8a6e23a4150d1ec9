"""What the batch scripts of `slurm/` ask before and after a training step, in one process for the whole job.

begin NUM_PROCESSES RUN.toml [key=value …]   checks everything; prints the run directory
end RUN_DIRECTORY LOG OFFSET                 says what ended a step that failed, from the part of the log after OFFSET
show RUN.toml NAME …                         prints output_dir, tokenizer_type, tokenizer_model or tokens_dir, a line each

Exit code 10 of `begin`: there is nothing to do, and why.
"""

from __future__ import annotations

import sys
from pathlib import Path

from megatron_lmt.config import RunConfig, load_run
from megatron_lmt.data.weights import source_prefixes
from megatron_lmt.errors import UserError, run_command
from megatron_lmt.preflight import check_run
from megatron_lmt.runtime import incarnation, last_words

NOTHING_TO_DO = 10


def main() -> int:
    command, *arguments = sys.argv[1:] or [""]
    if command == "begin" and len(arguments) >= 2:
        return begin(int(arguments[0]), Path(arguments[1]), arguments[2:])
    if command == "end" and len(arguments) == 3:
        return end(Path(arguments[0]), Path(arguments[1]), int(arguments[2]))
    if command == "show" and len(arguments) >= 2:
        return show(Path(arguments[0]), arguments[1:])
    raise UserError(f"usage: python -m megatron_lmt.job, then one of\n{__doc__}")


def begin(num_processes: int, run_file: Path, overrides: list[str]) -> int:
    ready = check_run(load_run(run_file, overrides), num_processes)
    if ready.nothing_to_do:
        print(ready.nothing_to_do, file=sys.stderr)
        return NOTHING_TO_DO
    ready.check_start()
    print(ready.run.output_dir)
    return 0


def end(output_dir: Path, log: Path, offset: int) -> int:
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(offset)
        printed = file.read()
    lines = last_words.summary(output_dir, printed) or ["no process left a word about why; see the lines above"]
    print("\n".join(["", "=" * 40, *lines, "=" * 40]))
    incarnation.forget(output_dir)
    return 0


def show(run_file: Path, names: list[str]) -> int:
    run = load_run(run_file)
    known = {
        "output_dir": lambda: run.output_dir,
        "tokenizer_type": lambda: run.data.tokenizer_type,
        "tokenizer_model": lambda: run.path(run.data.tokenizer_model),
        "tokens_dir": lambda: _tokens_dir(run),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"show: unknown {unknown}; known are {sorted(known)}")
    for name in names:
        print(known[name]())
    return 0


def _tokens_dir(run: RunConfig) -> Path:
    """The one folder that all sources of the mixture are in."""
    folders = {prefix.parent for group in source_prefixes(run).values() for prefix in group.values()}
    if len(folders) > 1:
        raise UserError(
            f"the sources of this run are in {len(folders)} folders ({', '.join(map(str, sorted(folders)))}): call "
            "tools/preprocess_data.py for each"
        )
    return folders.pop()


if __name__ == "__main__":
    run_command(main)
