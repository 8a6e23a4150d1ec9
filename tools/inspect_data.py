"""Look at training data and at what runs consumed of them, without starting a job."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

from megatron_lmt.arguments import at_least
from megatron_lmt.config import load_run
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.prefixes import prefix_of
from megatron_lmt.data.show import preview_sample, show_document, show_sample
from megatron_lmt.data.sources import open_source
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, Problems, run_tool
from megatron_lmt.languages import check_languages, languages
from megatron_lmt.preflight import ReadyRun, check_run
from megatron_lmt.preprocessing.fertility import fertility_table, measure
from megatron_lmt.replay import ReplayedStep, replay_step, step_of_sample
from megatron_lmt.run_ledger import plan_against_ledger


def main() -> None:
    arguments = _parse_arguments()
    for line in arguments.show(arguments):
        print(line)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ledger = commands.add_parser("ledger", help="a run's plan against what it consumed, by group and source")
    ledger.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="output_dir of a run, finished or under way")
    ledger.set_defaults(show=_ledger)

    for name, show, what in (
        ("sample", _sample, "one sample of a run with its whole text; N counts from 0 over the run"),
        ("step", _step, "the samples of a step of a run, each piece with its beginning; N counts from 1"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("run_file", type=Path, metavar="RUN.toml", help="TOML file of the run")
        command.add_argument("number", type=int, metavar="N")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="the ones the run was started with")
        command.set_defaults(show=show)

    document = commands.add_parser("document", help="one document with its sequences, LOSS or CONTEXT")
    document.add_argument("prefix", type=Path, metavar="PREFIX", help="of the token files, without .bin")
    document.add_argument("number", type=int, metavar="N", help="counts from 0")
    document.set_defaults(show=_document)

    look = commands.add_parser("look", help="documents at random")
    look.add_argument("prefix", type=Path, metavar="PREFIX", help="of the token files, without .bin")
    look.add_argument("--count", type=at_least(1), default=5, metavar="C", help="how many documents (default: 5)")
    look.add_argument("--seed", type=int, default=0, metavar="S", help="another one shows others (default: 0)")
    look.set_defaults(show=_look)

    fertility = commands.add_parser("fertility", help="tokens per word or character of each language")
    fertility.add_argument("path", metavar="PATH", help="files of text, with {language} in the path; also .gz or .zst")
    fertility.add_argument("--languages", nargs="+", metavar="CODE", help="default: all 60")
    fertility.add_argument("--documents", type=at_least(1), metavar="N", help="the first N of each file (default: all)")
    fertility.add_argument("--json", action="store_true", help="one JSON object for each language, instead of a table")
    fertility.set_defaults(show=_fertility)

    for command in (document, look, fertility):
        command.add_argument(
            "--tokenizer-type", choices=("HuggingFaceTokenizer", "SentencePieceTokenizer"), default="HuggingFaceTokenizer"
        )
        command.add_argument(
            "--tokenizer-model", type=Path, required=True, metavar="PATH", help="the one of the token files or of the model"
        )
    return parser.parse_args()


def _ledger(arguments: argparse.Namespace) -> list[str]:
    return plan_against_ledger(arguments.run_dir)


def _sample(arguments: argparse.Namespace) -> list[str]:
    ready = _open_run(arguments)
    step = replay_step(ready, step_of_sample(ready, arguments.number))
    sample = step.samples[arguments.number - step.first_sample]
    name = ready.plan.sources[sample.source].name
    title = f"sample {arguments.number}, in step {step.iteration}"
    return [title, *show_sample(sample, name, ready.readers[name], ready.tokenizer), _fingerprint(step)]


def _step(arguments: argparse.Namespace) -> list[str]:
    ready = _open_run(arguments)
    step = replay_step(ready, arguments.number)
    lines = [f"step {step.iteration}"]
    for number, sample in enumerate(step.samples, step.first_sample):
        name = ready.plan.sources[sample.source].name
        lines += [f"sample {number}: source {name}", *preview_sample(sample, ready.readers[name], ready.tokenizer)]
    return [*lines, _fingerprint(step)]


def _open_run(arguments: argparse.Namespace) -> ReadyRun:
    return check_run(load_run(arguments.run_file, arguments.overrides), world_size=None, writes=False)


def _fingerprint(step: ReplayedStep) -> str:
    compared = "as in metrics.jsonl" if step.confirmed else "metrics.jsonl does not have this step"
    return f"data fingerprint after step {step.iteration}: {step.fingerprint} ({compared})"


def _document(arguments: argparse.Namespace) -> list[str]:
    return show_document(*_open_source(arguments), arguments.number)


def _look(arguments: argparse.Namespace) -> list[str]:
    reader, tokenizer = _open_source(arguments)
    count = min(arguments.count, reader.num_documents)
    chosen = random.Random(arguments.seed).sample(range(reader.num_documents), count)
    return [line for number in chosen for line in show_document(reader, tokenizer, number)]


def _fertility(arguments: argparse.Namespace) -> list[str]:
    codes = arguments.languages or list(languages())
    check_languages(codes)
    if "{language}" not in arguments.path:
        raise ConfigError(f"{arguments.path}: put {{language}} where the code of the language stands")
    tokenizer = load_tokenizer(arguments.tokenizer_type, arguments.tokenizer_model)
    problems = Problems()
    found = [
        problems.of(measure, code, Path(arguments.path.replace("{language}", code)), tokenizer, arguments.documents)
        for code in codes
    ]
    problems.raise_if_any()
    return [json.dumps(asdict(one), ensure_ascii=False) for one in found] if arguments.json else fertility_table(found)


def _open_source(arguments: argparse.Namespace) -> tuple[IndexedReader, Tokenizer]:
    tokenizer = load_tokenizer(arguments.tokenizer_type, arguments.tokenizer_model)
    prefix = prefix_of(arguments.prefix)
    return open_source(prefix.name, prefix, tokenizer.identity()), tokenizer


if __name__ == "__main__":
    run_tool(main)
