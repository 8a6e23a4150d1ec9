"""Arguments of decoding, the same for every command that translates."""

from __future__ import annotations

import argparse

from megatron_lmt.arguments import too_small
from megatron_lmt.errors import Problems
from megatron_lmt.eval.generate import ENGINES
from megatron_lmt.eval.translate import PROMPTS
from megatron_lmt.languages import check_languages
from megatron_lmt.sft.prompts import TEMPLATES


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", choices=PROMPTS, default="stp", help="plain, with an auxiliary sentence, or a pivot")
    parser.add_argument(
        "--through", metavar="CODE", help="language of the auxiliary sentence (default: LMT's) or the pivot (default: en)"
    )
    parser.add_argument("--template", choices=sorted(TEMPLATES), default="release", help="wording of the prompt")
    parser.add_argument("--num-beams", type=int, default=5, help="default: 5, as in LMT's release; 1 is greedy")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="of one translation (default: 512)")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences decoded together (default: 32)")
    parser.add_argument("--engine", choices=ENGINES, default="transformers")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="default: the model's own on a GPU, float32 on a CPU",
    )


def decoding_problems(arguments: argparse.Namespace) -> list[str]:
    """What is wrong with them, whatever is translated."""
    problems = Problems()
    if arguments.through:
        problems.of(check_languages, [arguments.through])
        if arguments.prompt == "stp":
            problems.found.append(f"--through {arguments.through} is for --prompt pmp-self, pmp-oracle or pivot")
    if arguments.prompt.startswith("pmp") and TEMPLATES[arguments.template].pmp is None:
        problems.found.append(
            f"--template {arguments.template} has no wording with an auxiliary sentence: take another, or stp"
        )
    return problems.found + too_small(arguments, "num_beams", "max_new_tokens", "batch_size")


def decoding_options(arguments: argparse.Namespace) -> dict:
    """Keyword arguments of `Translator.translate`."""
    names = ("prompt", "through", "template", "num_beams", "max_new_tokens", "batch_size")
    return {name: getattr(arguments, name) for name in names}
