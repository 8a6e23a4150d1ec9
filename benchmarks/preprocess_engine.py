"""The bare tokenizer engine: texts in memory in, ids out, with all cores. Prints tokens and seconds as JSON.

gigatoken gets 50,000 texts at once: as fast as all 200,000, and faster than 20,000.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

AT_ONCE = 50_000


def standard(folder: Path, texts: list[str]) -> tuple[int, float]:
    """Number of tokens, and seconds."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    began = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - began
    return sum(map(len, encodings)), seconds


def gigatoken(folder: Path, texts: list[str]) -> tuple[int, float]:
    from gigatoken import Tokenizer

    tokenizer = Tokenizer(folder)
    tokenizer.encode_batch(texts[:1])  # which imports awkward
    tokens, began = 0, time.perf_counter()
    for start in range(0, len(texts), AT_ONCE):
        ids = tokenizer.encode_batch(texts[start : start + AT_ONCE], parallel=True)
        tokens += len(ids.layout.content.data)
    return tokens, time.perf_counter() - began


ENGINES = {"standard": standard, "gigatoken": gigatoken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--tokenizer-model", type=Path, required=True)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--utf8", action="store_true", help="texts as bytes, which gigatoken takes too")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    with open(arguments.input, encoding="utf-8", newline="\n") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    if arguments.utf8:
        texts = [text.encode() for text in texts]
    tokens, seconds = ENGINES[arguments.engine](arguments.tokenizer_model, texts)
    print(json.dumps({"tokens": tokens, "s": seconds}))


if __name__ == "__main__":
    main()
