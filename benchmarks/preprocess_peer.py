"""A driver that works as Megatron-LM's preprocess_data.py does, to measure against; written for this, not taken from it.

A `multiprocessing` pool takes one line at a time, `AutoTokenizer` encodes it, and one process writes each document with
megatron-core's builder. With `--free` every document becomes the same 60 tokens, so that the rest alone is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing

import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from transformers import AutoTokenizer

from benchmarks.preprocess_text import FREE_TOKENS

LINES_TOGETHER = 32


class Encoder:
    """`tokenizer` belongs to the worker that `open_tokenizer` ran in."""

    def __init__(self, folder: str, free: bool):
        self._folder, self._free = folder, free

    def open_tokenizer(self) -> None:
        Encoder.tokenizer = AutoTokenizer.from_pretrained(self._folder)

    def encode(self, line: str) -> list[int]:
        text = json.loads(line)["text"]
        tokenizer = Encoder.tokenizer
        ids = [1] * (FREE_TOKENS - 1) if self._free else tokenizer(text, add_special_tokens=False).input_ids
        return [*ids, tokenizer.eos_token_id]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output-prefix", required=True)
    parser.add_argument("--tokenizer-model", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--free", action="store_true")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.tokenizer_model, arguments.free)
    vocabulary = len(AutoTokenizer.from_pretrained(arguments.tokenizer_model))
    builder = IndexedDatasetBuilder(f"{arguments.output_prefix}.bin", dtype=DType.optimal_dtype(vocabulary))
    with multiprocessing.Pool(arguments.workers, initializer=encoder.open_tokenizer) as pool, open(arguments.input) as lines:
        for ids in pool.imap(encoder.encode, lines, LINES_TOGETHER):
            builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{arguments.output_prefix}.idx")


if __name__ == "__main__":
    main()
