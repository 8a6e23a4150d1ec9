"""Evaluate a translator on a test set in many directions: scores, COMET, off-target and other rates, a report with tables.

Started again after it was stopped, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_lmt.arguments import too_small
from megatron_lmt.errors import Problems, run_tool
from megatron_lmt.eval.arguments import add_decoding_arguments, decoding_options, decoding_problems
from megatron_lmt.eval.comet import Comet
from megatron_lmt.eval.evaluate import Evaluation, evaluate, folder_translator, method_of, model_translator
from megatron_lmt.eval.generate import model_identity
from megatron_lmt.eval.report import read_published, write_report
from megatron_lmt.eval.score import Scorer
from megatron_lmt.eval.test_set import TestSet


def main() -> None:
    arguments = _parse_arguments()
    evaluation, lacking = _check(arguments)
    options = decoding_options(arguments)
    extra: set[str] = set()
    if arguments.model:
        made_by = {"model": model_identity(arguments.model), "engine": arguments.engine, "dtype": arguments.dtype}
        made_by |= {name: value for name, value in options.items() if name != "batch_size"}
        opened = (arguments.model, arguments.engine, arguments.dtype)
        translate = model_translator(*opened, options, arguments.output_dir, evaluation.directions)
        methods = {
            direction: method_of(direction, options, evaluation.test_set.files) for direction in evaluation.directions
        }
        extra = {method.third_language(*direction.split("-")) for direction, method in methods.items()} - {None}
        plain = [direction for direction, method in methods.items() if method.prompt != arguments.prompt]
    else:
        made_by, plain = {"translations": str(arguments.translations.resolve())}, []
        translate = folder_translator(arguments.translations)
    records = evaluate(evaluation, translate, made_by, extra)
    about = [f"{arguments.model or arguments.translations} on {evaluation.test_set.folder}, {len(records)} directions"]
    about += [f"{records[0]['sentences']} sentences in each"]
    about += [f"not in the test set: {' '.join(lacking)}"] if lacking else []
    about += [f"translated plainly, for want of a third language: {' '.join(plain)}"] if plain else []
    print("\n".join(write_report(records, arguments.output_dir, about, arguments.compare)))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    made_by = parser.add_mutually_exclusive_group(required=True)
    made_by.add_argument("--model", type=Path, help="exported model (tools/checkpoint/convert.py)")
    made_by.add_argument("--translations", type=Path, metavar="DIR", help="translations to score, as DIR/en-de.txt")
    parser.add_argument("--test-set", type=Path, required=True, help="folder with one file for each language, line by line")
    parser.add_argument("--directions", nargs="+", required=True, help="such as en-ky, or en-x x-en zh-x x-zh all-234")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-sentences", type=int, metavar="N", help="only the first N of the test set")
    parser.add_argument("--comet-checkpoint", type=Path, metavar="DIR", help="folder of a COMET model; absent: no COMET")
    parser.add_argument(
        "--comet-python",
        type=Path,
        default=Path(sys.executable),
        metavar="PATH",
        help="interpreter with unbabel-comet (tools/setup_comet.sh makes one; default: this one)",
    )
    parser.add_argument("--comet-batch-size", type=int, default=16, help="segments (default: 16)")
    parser.add_argument("--spbleu-model", type=Path, metavar="FILE", help="SentencePiece model of spBLEU; absent: no spBLEU")
    parser.add_argument(
        "--compare", type=Path, metavar="TSV", help="published scores to show beside, such as lmt_scores.tsv"
    )
    add_decoding_arguments(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> tuple[Evaluation, list[str]]:
    """Everything that can be known before work starts; and directions of groups that the test set lacks."""
    problems = Problems()
    problems.found += decoding_problems(arguments) + too_small(arguments, "max_sentences", "comet_batch_size")
    if arguments.model and not (arguments.model / "config.json").is_file():
        problems.found.append(f"--model {arguments.model}: no config.json; this is not an exported model")
    comet = None
    if arguments.comet_checkpoint:
        comet = Comet(arguments.comet_checkpoint, arguments.comet_python, arguments.comet_batch_size)
        problems.of(comet.check)
    problems.of(Scorer, arguments.spbleu_model)
    if arguments.compare:
        problems.of(read_published, arguments.compare)
    test_set = problems.of(TestSet, arguments.test_set)
    directions, lacking = (problems.of(test_set.directions, arguments.directions) if test_set else None) or ([], [])
    if arguments.translations:
        missing = [f"{name}.txt" for name in directions if not (arguments.translations / f"{name}.txt").is_file()]
        if not arguments.translations.is_dir():
            problems.found.append(f"--translations {arguments.translations}: no such folder")
        elif missing:
            problems.found.append(f"--translations {arguments.translations}: no file {', no '.join(missing)}")
    problems.raise_if_any()
    evaluation = Evaluation(
        test_set, directions, arguments.output_dir, arguments.max_sentences, arguments.spbleu_model, comet
    )
    return evaluation, lacking


if __name__ == "__main__":
    run_tool(main)
