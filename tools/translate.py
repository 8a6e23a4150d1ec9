"""Translate a text file, one sentence a line, with an exported model. Started again after it was stopped, it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.data.prompts import TEMPLATES
from megatron_lmt.data.records import read_lines
from megatron_lmt.errors import Problems, run_command
from megatron_lmt.eval.translate import PROMPTS, Method, Translator
from megatron_lmt.files import write_text_atomically
from megatron_lmt.languages import split_direction


def main() -> None:
    arguments = _parse_arguments()
    source, target = _check(arguments)
    texts = _read(arguments.input)
    auxiliaries = _read(arguments.auxiliary) if arguments.auxiliary else None
    translations = Translator(arguments.model, arguments.engine, arguments.dtype).translate(
        texts,
        source,
        target,
        template=arguments.template,
        num_beams=arguments.num_beams,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        prompt=arguments.prompt,
        through=arguments.through,
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
    parser.add_argument("--prompt", choices=PROMPTS, default="stp", help="plain, with an auxiliary sentence, or a pivot")
    parser.add_argument(
        "--through", metavar="CODE", help="language of the auxiliary sentence (default: LMT's) or the pivot (default: en)"
    )
    parser.add_argument("--auxiliary", type=Path, metavar="FILE", help="with pmp-oracle: auxiliary sentences, line by line")
    parser.add_argument("--template", choices=sorted(TEMPLATES), default="release", help="wording of the prompt")
    parser.add_argument("--num-beams", type=int, default=5, help="default: 5, as in LMT's release; 1 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="of one translation (default: 512)")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences decoded together (default: 32)")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> tuple[str, str]:
    """Everything that can be known before the model is loaded."""
    problems = Problems()
    direction = problems.of(split_direction, arguments.direction)
    if direction:
        problems.of(Method(arguments.prompt, arguments.template, arguments.through).third_language, *direction)
    if arguments.output.exists():
        problems.found.append(f"{arguments.output} exists already and is not written over")
    if not arguments.output.parent.is_dir():
        problems.found.append(f"{arguments.output.parent}: no such folder, for the output")
    if (arguments.prompt == "pmp-oracle") != (arguments.auxiliary is not None):
        problems.found.append("--prompt pmp-oracle and --auxiliary FILE belong together")
    for file in (arguments.input, arguments.auxiliary):
        if file and not file.is_file():
            problems.found.append(f"{file}: no such file")
    for name in ("num_beams", "max_new_tokens", "batch_size"):
        if getattr(arguments, name) < 1:
            problems.found.append(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be at least 1")
    problems.raise_if_any()
    return direction


def _read(path: Path) -> list[str]:
    return [line.removesuffix("\r") for _, line in read_lines(path)]


if __name__ == "__main__":
    run_command(main)
