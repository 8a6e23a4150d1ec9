"""gigatoken behind the interface of `engines.py`, and the texts that it is not given."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import orjson

from megatron_lmt.data.proof_texts import is_assigned
from megatron_lmt.data.recipe import Recipe
from megatron_lmt.data.tokenizer import read_definition

CODE_POINTS = 0x110000


@cache
def open_gigatoken(recipe: Recipe) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    """A function that encodes: texts → ids uint32 [sum of lengths] and lengths int64 [texts]."""
    from gigatoken import Tokenizer as Gigatoken

    definition = read_definition(recipe.tokenizer_model)
    if not recipe.recognises_special:  # then they are text like any other
        definition["added_tokens"] = [token for token in definition.get("added_tokens", []) if not token["special"]]
    tokenizer = Gigatoken.from_json(orjson.dumps(definition))

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if not texts:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        layout = tokenizer.encode_batch(texts, parallel=False).layout  # an awkward array: all ids, and where texts begin
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    return encode


class KnownCharacters:
    """Whether all characters of some texts are assigned. Each is looked up once; a megabyte takes some milliseconds."""

    def __init__(self):
        self._known = np.zeros(CODE_POINTS, bool)

    def __call__(self, texts: list[str]) -> bool:
        seen = np.zeros(CODE_POINTS, bool)
        seen[np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)] = True
        new = [int(code) for code in np.flatnonzero(seen & ~self._known)]
        self._known[new] = assigned = [is_assigned(chr(code)) for code in new]
        return all(assigned)
