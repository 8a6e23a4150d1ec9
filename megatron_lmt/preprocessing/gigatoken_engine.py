"""gigatoken behind the interface of `engines.py`, and the texts that it is not given."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import orjson

from megatron_lmt.data.tokenizer import read_definition
from megatron_lmt.preprocessing.known_characters import KnownCharacters
from megatron_lmt.preprocessing.recipe import Recipe

Encoded = tuple[np.ndarray, np.ndarray]
"""Ids [sum of lengths] and lengths [texts]."""

Encode = Callable[[list[str]], Encoded]


@cache
def open_gigatoken(recipe: Recipe) -> tuple[Encode, KnownCharacters]:
    """A function that encodes, and one that says which texts it may get.

    Raises:
        Exception: the tokenizer is of a kind that it does not know.
    """
    import awkward  # noqa: F401 (gigatoken does so at its first call: better here, before processes are forked)
    from gigatoken import Tokenizer as Gigatoken

    definition = read_definition(recipe.tokenizer_model)
    if definition.get("normalizer") not in (None, {"type": "NFC"}):
        raise ValueError(f"its normalizer is {definition['normalizer']}; NFC and none are known to be the same")
    if not recipe.recognises_special:  # then they are text like any other
        definition["added_tokens"] = [token for token in definition.get("added_tokens", []) if not token["special"]]
    tokenizer = Gigatoken.from_json(orjson.dumps(definition))

    def encode(texts: list[str]) -> Encoded:
        if not texts:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        layout = tokenizer.encode_batch(texts, parallel=False).layout  # an awkward array: all ids, and where texts begin
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    return encode, KnownCharacters(nfc=definition.get("normalizer") is not None)
