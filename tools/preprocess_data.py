"""Tokenise jsonl files into megatron-core's .bin/.idx, with a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.data.preprocess import Recipe, preprocess
from megatron_lmt.errors import ConfigError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, nargs="+", default=[], help="jsonl or jsonl.gz files that make one source")
    parser.add_argument("--output-prefix", type=Path, help="writes <prefix>_text_document.{bin,idx,manifest.json}")
    parser.add_argument("--input-dir", type=Path, help="instead of --input: every jsonl file in it makes its own source")
    parser.add_argument("--output-dir", type=Path, help="with --input-dir: where <name>_text_document.* go")
    parser.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer", "SentencePieceTokenizer"), required=True)
    parser.add_argument("--tokenizer-model", type=Path, required=True, help="folder with tokenizer.json, or .model file")
    parser.add_argument("--workers", type=int, default=1, help="tokenising processes (default 1)")
    parser.add_argument("--append-eod", action="store_true", help="end each document with the end-of-document token")
    parser.add_argument("--json-keys", nargs="+", default=["text"], help="keys of a record to tokenise (default: text)")
    parser.add_argument("--loss-keys", nargs="+", default=[], help="of --json-keys: those to learn; others are context")
    arguments = parser.parse_args()
    recipe = Recipe(
        arguments.tokenizer_type,
        arguments.tokenizer_model,
        tuple(arguments.json_keys),
        tuple(arguments.loss_keys),
        arguments.append_eod,
    )
    manifests = preprocess(recipe, _jobs(arguments), arguments.workers)
    documents = sum(manifest["documents"] for manifest in manifests)
    tokens = sum(manifest["tokens"] for manifest in manifests)
    seconds = sum(manifest["seconds"] for manifest in manifests)
    print(
        f"{len(manifests)} sources: {documents:,} documents, {tokens:,} tokens in {seconds:.1f} s "
        f"({documents / seconds:,.0f} documents/s) → {arguments.output_dir or arguments.output_prefix}"
    )


def _jobs(arguments: argparse.Namespace) -> dict[Path, list[Path]]:
    one, many = (arguments.input, arguments.output_prefix), (arguments.input_dir, arguments.output_dir)
    if all(one) and not any(many):
        return {arguments.output_prefix: arguments.input}
    if all(many) and not any(one):
        files = sorted([*arguments.input_dir.glob("*.jsonl"), *arguments.input_dir.glob("*.jsonl.gz")])
        return {arguments.output_dir / file.name.removesuffix(".gz").removesuffix(".jsonl"): [file] for file in files}
    raise ConfigError("give --input with --output-prefix, or --input-dir with --output-dir")


if __name__ == "__main__":
    run_command(main)
