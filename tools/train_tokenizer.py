"""Train a byte-level BPE tokenizer of Qwen's kind on jsonl or plain text."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.errors import run_tool
from megatron_lmt.preprocessing.train_tokenizer import train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--input", type=Path, nargs="+", required=True, metavar="FILE", help="jsonl or plain text files, also gzipped"
    )
    parser.add_argument(
        "--json-keys", nargs="+", default=["text"], metavar="KEY", help="of the text in jsonl files (default: text)"
    )
    parser.add_argument(
        "--vocab-size", type=int, required=True, metavar="N", help="number of tokens, the three special ones included"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new or empty folder")
    arguments = parser.parse_args()
    size = train_tokenizer(arguments.input, arguments.json_keys, arguments.vocab_size, arguments.output)
    shortfall = "" if size == arguments.vocab_size else f" (the text is too small for {arguments.vocab_size})"
    print(f"{size} tokens{shortfall} → {arguments.output}")


if __name__ == "__main__":
    run_tool(main)
