"""Translate a text file, one sentence a line, with an exported model."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.data.prompts import TEMPLATES
from megatron_lmt.data.records import read_lines
from megatron_lmt.errors import ConfigError, run_command
from megatron_lmt.eval.translate import Translator
from megatron_lmt.files import write_text_atomically
from megatron_lmt.languages import split_direction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="exported model (tools/checkpoint/convert.py)")
    parser.add_argument("--direction", required=True, help="source-target, such as en-de")
    parser.add_argument("--input", type=Path, required=True, help="one sentence a line, also gzipped")
    parser.add_argument("--output", type=Path, required=True, help="one translation for each line of the input")
    parser.add_argument("--num-beams", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--template", choices=sorted(TEMPLATES), default="release", help="wording of the prompt")
    arguments = parser.parse_args()
    source, target = split_direction(arguments.direction)
    if arguments.output.exists():
        raise ConfigError(f"{arguments.output} exists already and is not written over")
    if not arguments.input.is_file():
        raise ConfigError(f"{arguments.input}: no such file")
    texts = [line for _, line in read_lines(arguments.input)]
    translations = Translator(arguments.model).translate(
        texts, source, target, arguments.template, arguments.num_beams, arguments.batch_size
    )
    write_text_atomically(arguments.output, "".join(f"{line}\n" for line in translations))


if __name__ == "__main__":
    run_command(main)
