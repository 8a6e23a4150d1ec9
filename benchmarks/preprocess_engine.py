"""The bare tokenizer engine: texts in memory in, ids out, with all cores. Prints tokens/s, and tokens, as JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path


def hugging_face(folder: Path, texts: list[str]) -> tuple[int, float]:
    """Number of tokens, and seconds."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    began = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - began
    return sum(map(len, encodings)), seconds


def fastokens(folder: Path, texts: list[str]) -> tuple[int, float]:
    from fastokens import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    began = time.perf_counter()
    ids, _ = tokenizer.encode_batch_flat(texts)
    return len(ids) // 4, time.perf_counter() - began


ENGINES = {"hugging_face": hugging_face, "fastokens": fastokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--tokenizer-model", type=Path, required=True)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    with open(arguments.input, encoding="utf-8", newline="\n") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    tokens, seconds = ENGINES[arguments.engine](arguments.tokenizer_model, texts)
    print(json.dumps({"tokens": tokens, "tokens_per_s": tokens / seconds}))


if __name__ == "__main__":
    main()
