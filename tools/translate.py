"""Translate a text file, one sentence a line, with an exported model. Started again after it was stopped, it goes on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from megatron_lmt.errors import Problems, run_tool
from megatron_lmt.eval.arguments import add_decoding_arguments, decoding_options, decoding_problems
from megatron_lmt.eval.translate import Method, Translator
from megatron_lmt.files import no_file, write_text_atomically
from megatron_lmt.languages import split_direction
from megatron_lmt.preprocessing.records import read_lines


def main() -> None:
    arguments = _parse_arguments()
    source, target = _check(arguments)
    texts = _read(arguments.input)
    auxiliaries = _read(arguments.auxiliary) if arguments.auxiliary else None
    translations = Translator(arguments.model, arguments.engine, arguments.dtype).translate(
        texts,
        source,
        target,
        **decoding_options(arguments),
        auxiliaries=auxiliaries,
        journal=arguments.output.with_name(f"{arguments.output.name}.unfinished"),
    )
    write_text_atomically(arguments.output, "".join(f"{line}\n" for line in translations))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="exported model (tools/checkpoint/convert.py)")
    parser.add_argument("--direction", required=True, help="source-target, such as en-de")
    parser.add_argument("--input", type=Path, required=True, help="one sentence a line, also .gz or .zst")
    parser.add_argument("--output", type=Path, required=True, help="one translation for each line of the input")
    parser.add_argument("--auxiliary", type=Path, metavar="FILE", help="with pmp-oracle: auxiliary sentences, line by line")
    add_decoding_arguments(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> tuple[str, str]:
    """Everything that can be known before the model is loaded."""
    problems = Problems()
    direction = problems.of(split_direction, arguments.direction)
    if direction:
        problems.of(Method(arguments.prompt, arguments.template, arguments.through).third_language, *direction)
    if arguments.output.exists():
        problems.found.append(f"{arguments.output} exists already and is not written over")
    elif not arguments.output.parent.is_dir():
        problems.found.append(f"{arguments.output.parent}: no such folder, for the output")
    elif not os.access(arguments.output.parent, os.W_OK):
        problems.found.append(f"{arguments.output.parent}: no permission to write here, for the output")
    if (arguments.prompt == "pmp-oracle") != (arguments.auxiliary is not None):
        problems.found.append("--prompt pmp-oracle and --auxiliary FILE belong together")
    for file in (arguments.input, arguments.auxiliary):
        if file and not file.is_file():
            problems.found.append(no_file(file))
    problems.found += decoding_problems(arguments)
    problems.raise_if_any()
    return direction


def _read(path: Path) -> list[str]:
    return [line.removesuffix("\r") for _, line in read_lines(path)]


if __name__ == "__main__":
    run_tool(main)
