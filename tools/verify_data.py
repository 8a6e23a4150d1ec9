"""Check token files against their manifests: sizes, index and counts; with --full every byte.

Exit code 0 and a line for each prefix, or 1 and all that is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_lmt.data.prefixes import prefix_of, prefixes_in
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, run_tool
from megatron_lmt.preprocessing.verify import bytes_to_read, verify
from megatron_lmt.progress import progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "prefixes",
        type=Path,
        nargs="+",
        metavar="PREFIX",
        help="path without .bin, such as de_text_document; or a folder for all in it",
    )
    parser.add_argument("--full", action="store_true", help="also hashes, token ids, and the end of each document")
    parser.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer", "SentencePieceTokenizer"))
    parser.add_argument("--tokenizer-model", type=Path, metavar="PATH", help="the files must be made with this one")
    arguments = parser.parse_args()
    identity = _tokenizer_identity(arguments)
    prefixes = list(dict.fromkeys(prefix for path in arguments.prefixes for prefix in _prefixes(path)))
    problems, lines = [], []
    with progress(sum(bytes_to_read(prefix, arguments.full) for prefix in prefixes), "verifying") as bar:
        for prefix in prefixes:
            try:
                lines.append(_summary(prefix, verify(prefix, arguments.full, identity, bar), arguments.full))
            except DataError as error:
                problems += error.problems
    for line in lines:
        print(line)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _prefixes(path: Path) -> list[Path]:
    """A folder without token files stands for itself, which is then found wrong."""
    return (path.is_dir() and prefixes_in(path)) or [prefix_of(path)]


def _tokenizer_identity(arguments: argparse.Namespace) -> str | None:
    given = [arguments.tokenizer_type, arguments.tokenizer_model]
    if any(given) and not all(given):
        raise ConfigError("give --tokenizer-type and --tokenizer-model together")
    return load_tokenizer(*given).identity() if all(given) else None


def _summary(prefix: Path, manifest: dict, full: bool) -> str:
    checked = "sizes, index, hashes, token ids" if full else "sizes, index"
    return (
        f"{prefix}: {manifest['documents']:,} documents, {manifest['sequences']:,} sequences, "
        f"{manifest['tokens']:,} tokens; {checked}: in order"
    )


if __name__ == "__main__":
    run_tool(main)
