"""Tokenise jsonl files into megatron-core's .bin/.idx, with a manifest.

one source:    --input F… --output-prefix P        writes P_text_document.{bin,idx,manifest.json}
many sources:  --input-dir DIR --output-dir DIR    writes <name>_text_document.* for each <name>.jsonl[.gz]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from megatron_lmt.data.preprocess import Recipe, preprocess, sources_in
from megatron_lmt.errors import ConfigError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, nargs="+", metavar="FILE", help="jsonl or jsonl.gz files of one source")
    parser.add_argument("--output-prefix", type=Path, metavar="P", help="of the files to write")
    parser.add_argument("--input-dir", type=Path, metavar="DIR", help="each jsonl or jsonl.gz file in it is a source")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where their token files go")
    parser.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer", "SentencePieceTokenizer"), required=True)
    parser.add_argument(
        "--tokenizer-model", type=Path, required=True, metavar="PATH", help="folder with tokenizer.json, or .model file"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="tokenising processes (default: 1)")
    parser.add_argument("--append-eod", action="store_true", help="end each document with the end-of-document token")
    parser.add_argument(
        "--json-keys", nargs="+", default=["text"], metavar="KEY", help="keys to tokenise, in order (default: text)"
    )
    parser.add_argument(
        "--loss-keys",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of --json-keys: those to learn; the others are context, and special tokens in the text are recognised",
    )
    arguments = parser.parse_args()
    recipe = Recipe(
        arguments.tokenizer_type,
        arguments.tokenizer_model,
        tuple(arguments.json_keys),
        tuple(arguments.loss_keys),
        arguments.append_eod,
    )
    began = time.perf_counter()
    manifests = preprocess(recipe, _jobs(arguments), arguments.workers)
    seconds = time.perf_counter() - began
    documents = sum(manifest["documents"] for manifest in manifests)
    tokens = sum(manifest["tokens"] for manifest in manifests)
    where = arguments.output_dir or f"{arguments.output_prefix}_text_document"
    print(
        f"{len(manifests)} sources, {documents:,} documents, {tokens:,} tokens in {seconds:.1f} s "
        f"({documents / seconds:,.0f} documents/s) → {where}"
    )


def _jobs(arguments: argparse.Namespace) -> dict[Path, list[Path]]:
    one, many = (arguments.input, arguments.output_prefix), (arguments.input_dir, arguments.output_dir)
    if all(one) and not any(many):
        return {arguments.output_prefix: arguments.input}
    if all(many) and not any(one):
        return sources_in(*many)
    raise ConfigError("give --input with --output-prefix, or --input-dir with --output-dir")


if __name__ == "__main__":
    run_command(main)
