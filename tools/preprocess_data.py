"""Tokenise text into megatron-core's .bin/.idx, with a manifest.

one source:    --input F… --output-prefix P        writes P_text_document.{bin,idx,manifest.json}
many sources:  --input-dir DIR --output-dir DIR    writes <name>_text_document.* for each input in DIR

Inputs: jsonl or json (a record a line) and txt (a document a line), also .gz and .zst; parquet; folders saved by Hugging
Face datasets. For --input also folders of these, and patterns such as 'text/**/*.jsonl.zst'.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from megatron_lmt.data.engines import AUTO, ENGINES
from megatron_lmt.data.inputs import expand, sources_in
from megatron_lmt.data.preprocess import preprocess
from megatron_lmt.data.quarantine import counted
from megatron_lmt.data.recipe import Recipe
from megatron_lmt.errors import ConfigError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", metavar="PATH", help="files, folders or patterns of one source")
    parser.add_argument("--output-prefix", type=Path, metavar="P", help="of the files to write")
    parser.add_argument("--input-dir", type=Path, metavar="DIR", help="each input in it is a source")
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
        help="keys to tokenise, in order (default: text)",
    )
    parser.add_argument(
        "--loss-keys",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of --json-keys: those to learn; the others are context, and special tokens in the text are recognised",
    )
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
        tuple(arguments.json_keys),
        tuple(arguments.loss_keys),
        arguments.append_eod,
        arguments.max_tokens,
        arguments.max_document_bytes,
    )
    max_bad_lines = arguments.max_bad_lines if arguments.on_bad_line == "quarantine" else 0
    began = time.perf_counter()
    manifests = preprocess(
        recipe, _jobs(arguments), arguments.workers, max_bad_lines, arguments.resume, arguments.tokenizer_engine
    )
    seconds = time.perf_counter() - began
    where = arguments.output_dir or f"{arguments.output_prefix}_text_document"
    print(f"{_summary(manifests, seconds)} → {where}")


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


def _jobs(arguments: argparse.Namespace) -> dict[Path, list[Path]]:
    one, many = (arguments.input, arguments.output_prefix), (arguments.input_dir, arguments.output_dir)
    if all(one) and not any(many) and not arguments.part:
        return {arguments.output_prefix: expand(arguments.input)}
    if all(many) and not any(one):
        sources = sources_in(*many)
        return _part(sources, arguments.part) if arguments.part else sources
    raise ConfigError("give --input with --output-prefix, or --input-dir with --output-dir; --part goes with the latter")


def _part(sources: dict[Path, list[Path]], part: str) -> dict[Path, list[Path]]:
    """Every N-th source in the order of their names: large ones, such as en and zh, rarely fall together."""
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ConfigError(f"--part {part}: write I/N with I from 0 to N - 1, such as 0/16")
    mine = sorted(sources)[int(number) :: int(parts)]
    if not mine:
        raise ConfigError(f"--part {part}: there are only {len(sources)} sources; use fewer parts")
    return {prefix: sources[prefix] for prefix in mine}


if __name__ == "__main__":
    run_command(main)
