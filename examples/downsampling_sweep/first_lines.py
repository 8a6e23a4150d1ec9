"""Write the first lines of a file of sentences."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from megatron_lmt.errors import run_command
from megatron_lmt.preprocessing.records import read_lines


def main() -> None:
    file, count, output = sys.argv[1:]
    lines = (line for _, line in islice(read_lines(Path(file)), int(count)))
    Path(output).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
