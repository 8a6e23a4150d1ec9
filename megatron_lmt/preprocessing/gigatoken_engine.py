"""gigatoken behind the interface of `engines.py`, and the texts that it is not given."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import orjson

from megatron_lmt.data.tokenizer import definition_file, read_definition
from megatron_lmt.preprocessing.known_characters import KnownCharacters
from megatron_lmt.preprocessing.recipe import Recipe

Encoded = tuple[np.ndarray, np.ndarray]
"""Ids [sum of lengths] and lengths [texts]."""

REMEMBERED_BYTES = 256 << 20
"""Of words, in each process. A gigabyte of text in 60 languages has as many; to open gigatoken anew takes 0.3 s."""

Encode = Callable[[list[str]], Encoded]


@cache
def open_gigatoken(recipe: Recipe) -> tuple[Encode, KnownCharacters]:
    """A function that encodes, and one that says which texts it may get.

    Raises:
        Exception: the tokenizer is of a kind that it does not know.
    """
    definition, model = _definition_and_model(recipe.tokenizer_model)
    if definition.get("normalizer") not in (None, {"type": "NFC"}):
        raise ValueError(f"its normalizer is {definition['normalizer']}; NFC and none are known to be the same")
    if not recipe.recognises_special:  # then they are text like any other
        definition["added_tokens"] = [token for token in definition.get("added_tokens", []) if not token["special"]]
    encode = _Gigatoken(orjson.dumps(definition).removesuffix(b"}") + model)
    return encode, KnownCharacters(nfc=definition.get("normalizer") is not None)


class _Gigatoken:
    """Encodes with gigatoken, which remembers all words that it has seen; when they take too much memory, it is opened anew.

    Args:
        definition: the content of a tokenizer.json.
    """

    def __init__(self, definition: bytes):
        self._definition = definition
        self._open()

    def _open(self) -> None:
        from gigatoken import Tokenizer

        self._encode_one = None  # first let go of the old one
        self._encode_one = Tokenizer.from_json(self._definition).backend.encode
        self._held = resident_bytes()

    def __call__(self, texts: list[str]) -> Encoded:
        if resident_bytes() - self._held > REMEMBERED_BYTES:
            self._open()
        # encode_batch is no faster, and needs 0.2 s to import awkward arrays. An array has far more memory than it needs:
        # where each goes at once, the next is made of the same, which the processor's cache still holds
        ids = [array.tobytes() for array in map(self._encode_one, texts)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids)) // np.dtype(np.uint32).itemsize
        return np.frombuffer(b"".join(ids), np.uint32), lengths


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _definition_and_model(folder: Path) -> tuple[dict, bytes]:
    """What is in tokenizer.json before its model, and the text that is to follow, to make it whole again.

    Reading the 10 MB of a model as JSON takes 0.1 s; the library that writes such files puts it at their end.
    """
    before, key, model = definition_file(folder).read_bytes().partition(b'"model":')
    try:
        definition = orjson.loads(before.rstrip().removesuffix(b",") + b"}")
    except ValueError:
        definition = {}
    if definition.keys() >= {"added_tokens", "normalizer"}:
        return definition, b"," + key + model
    return read_definition(folder), b"}"
