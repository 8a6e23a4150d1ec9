"""Train a byte-level BPE tokenizer of Qwen's kind on jsonl or plain text."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.data.train_tokenizer import train_tokenizer
from megatron_lmt.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="jsonl or plain text files, also gzipped")
    parser.add_argument("--json-key", default="text", help="key of the text in jsonl files (default: text)")
    parser.add_argument("--vocab-size", type=int, required=True, help="number of tokens, special tokens included")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    arguments = parser.parse_args()
    size = train_tokenizer(arguments.input, arguments.json_key, arguments.vocab_size, arguments.output)
    print(f"{size} tokens → {arguments.output}")


if __name__ == "__main__":
    run_command(main)
