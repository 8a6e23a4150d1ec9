"""Tokenise text into megatron-core's .bin/.idx, with a manifest.

one source:    --input F… --output-prefix P            writes P_text_document.{bin,idx,manifest.json}
many sources:  --input-dir DIR --output-dir DIR        writes <name>_text_document.* for each input in DIR
               --sources LIST.toml --output-dir DIR    for each source in the list; see megatron_lmt/corpus/source_list.py

Inputs: jsonl or json (a record a line), txt (a document a line), tsv (a pair a line) and tmx, also .gz and .zst; parquet;
folders saved by Hugging Face datasets; names on its hub, streamed: hf://NAME?split=train&config=C. For --input also
folders of these, and patterns such as 'text/**/*.jsonl.zst'. With --pair also two plain files that are aligned.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from megatron_lmt.errors import ConfigError, run_tool
from megatron_lmt.languages import check_languages, split_direction
from megatron_lmt.preprocessing.engines import AUTO, ENGINES
from megatron_lmt.preprocessing.inputs import Input, as_input, expand, kind_of, paired, sources_in, unread_files
from megatron_lmt.preprocessing.pairs import STYLES, Pairing
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.quarantine import counted
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.source_report import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", metavar="PATH", help="files, folders or patterns of one source")
    parser.add_argument("--output-prefix", type=_prefix, metavar="P", help="of the files to write")
    parser.add_argument("--input-dir", type=Path, metavar="DIR", help="each input in it is a source")
    parser.add_argument("--sources", type=Path, metavar="LIST.toml", help="a list of sources")
    parser.add_argument("--root", metavar="DIR", help="of the paths in LIST.toml, instead of its own")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where their token files go")
    parser.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer", "SentencePieceTokenizer"), required=True)
    parser.add_argument(
        "--tokenizer-model", type=Path, required=True, metavar="PATH", help="folder with tokenizer.json, or .model file"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="tokenising processes (default: 1)")
    parser.add_argument(
        "--tokenizer-engine",
        choices=ENGINES,
        default=AUTO,
        help="auto (default): gigatoken if it is installed and gives equal ids; standard: the tokenizer's own library",
    )
    parser.add_argument("--append-eod", action="store_true", help="end each document with the end-of-document token")
    parser.add_argument(
        "--json-keys",
        nargs="+",
        default=["text"],
        metavar="KEY",
        help="keys to tokenise, in order (default: text); a.b is b inside of a, if there is no key a.b",
    )
    parser.add_argument(
        "--loss-keys",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of --json-keys: those to learn; the others are context, and special tokens in the text are recognised",
    )
    parser.add_argument(
        "--pair",
        metavar="XX-YY",
        help="the input holds pairs, such as en-de, and they become documents of this direction; --json-keys names both "
        "(default: translation.en translation.de)",
    )
    parser.add_argument("--pair-format", choices=STYLES, default="tags", help="how a pair is written (default: tags)")
    parser.add_argument("--language", metavar="XX", help="of the input, for the report")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longer documents are bad lines (default: no limit)")
    parser.add_argument(
        "--max-document-bytes",
        type=int,
        default=8_000_000,
        metavar="N",
        help="longer lines and texts are bad; memory grows with it, for each worker (default: 8000000)",
    )
    parser.add_argument(
        "--on-bad-line",
        choices=("fail", "quarantine"),
        default="fail",
        help="fail: stop at the first (default); quarantine: go on, and keep it in <prefix>_text_document.rejected.jsonl.gz",
    )
    parser.add_argument(
        "--max-bad-lines", type=int, default=1000, metavar="N", help="of each source, for quarantine (default: 1000)"
    )
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="of the sources of --input-dir only every N-th, beginning with I (from 0): for jobs that share the work",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep sources that are finished, go on in one that was interrupted"
    )
    arguments = parser.parse_args()
    recipe = Recipe(
        arguments.tokenizer_type,
        arguments.tokenizer_model,
        ("text",) if arguments.pair else tuple(arguments.json_keys),
        tuple(arguments.loss_keys),
        arguments.append_eod,
        arguments.max_tokens,
        arguments.max_document_bytes,
    )
    max_bad_lines = arguments.max_bad_lines if arguments.on_bad_line == "quarantine" else 0
    began = time.perf_counter()
    options = (arguments.workers, max_bad_lines, arguments.resume, arguments.tokenizer_engine)
    jobs = _jobs(arguments)
    _name_unread([arguments.input_dir] if arguments.input_dir else arguments.input or [])
    if not jobs:
        print(f"0 sources: there are fewer of them than parts, and none is for --part {arguments.part}")
        return
    manifests = preprocess(recipe, jobs, *options)
    seconds = time.perf_counter() - began
    where = arguments.output_dir or f"{arguments.output_prefix}_text_document"
    print("\n".join(report(jobs, manifests)))
    print(f"{_summary(manifests, seconds)} → {where}")


def _prefix(text: str) -> Path:
    if text.endswith(("/", "/.")) or text == ".":
        raise argparse.ArgumentTypeError(f"{text}: a folder; add the beginning of the files' names")
    return Path(text)


def _summary(manifests: list[dict], seconds: float) -> str:
    read, written, rejected, tokens = (
        sum(manifest[unit] for manifest in manifests)
        for unit in ("documents_read", "documents", "documents_rejected", "tokens")
    )
    reasons = sum((Counter(manifest["rejected"]) for manifest in manifests), Counter())
    return (
        f"{len(manifests)} sources, {read:,} documents read = {written:,} written + {rejected:,} rejected"
        f"{f' ({counted(reasons)})' if reasons else ''}, {tokens:,} tokens in {seconds:.1f} s "
        f"({read / seconds:,.0f} documents/s)"
    )


def _jobs(arguments: argparse.Namespace) -> dict[Path, list[Path | Input]]:
    given = {name for name in ("input", "output_prefix", "input_dir", "sources", "output_dir") if getattr(arguments, name)}
    alone = [f"--{name}" for name in ("pair", "language") if getattr(arguments, name)]
    if given != {"input", "output_prefix"} and alone:
        raise ConfigError(f"{' and '.join(alone)}: for --input; a list of sources says it of each")
    if given == {"input", "output_prefix"} and not arguments.part:
        return {arguments.output_prefix: _inputs(arguments)}
    if given == {"input_dir", "output_dir"}:
        return _part(sources_in(arguments.input_dir, arguments.output_dir), arguments.part)
    if given == {"sources", "output_dir"}:
        from megatron_lmt.corpus.source_list import read_sources

        return _part(read_sources(arguments.sources, arguments.output_dir, arguments.root), arguments.part)
    raise ConfigError(
        "give --input with --output-prefix, or --input-dir or --sources with --output-dir; --part goes with these"
    )


def _name_unread(inputs: list[Path]) -> None:
    for folder in [path for path in inputs if path.is_dir() and kind_of(path) is None]:
        if unread := unread_files(folder):
            names = ", ".join(str(path.relative_to(folder)) for path in unread[:10]) + (", …" if len(unread) > 10 else "")
            print(f"{folder}: of a kind that is not known, and not read: {names}", file=sys.stderr)


def _inputs(arguments: argparse.Namespace) -> list[Input]:
    paths = expand(arguments.input)
    if not arguments.pair:
        if arguments.language:
            check_languages([arguments.language])
        return [as_input(path, language=arguments.language) for path in paths]
    if arguments.loss_keys:
        raise ConfigError("--pair: not with --loss-keys; tools/build_corpus.py sft writes pairs as chats")
    keys = None if arguments.json_keys == ["text"] else tuple(arguments.json_keys)
    return paired(paths, Pairing(*split_direction(arguments.pair), arguments.pair_format), keys)


def _part(sources: dict[Path, list], part: str | None) -> dict[Path, list]:
    """Every N-th source in the order of their names: large ones, such as en and zh, rarely fall together."""
    if not part:
        return sources
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ConfigError(f"--part {part}: write I/N with I from 0 to N - 1, such as 0/16")
    return {prefix: sources[prefix] for prefix in sorted(sources)[int(number) :: int(parts)]}


if __name__ == "__main__":
    run_tool(main)
