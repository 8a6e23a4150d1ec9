"""gigatoken behind the interface of `engines.py`, and the texts that it is not given."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import orjson

from megatron_lmt.data.tokenizer import definition_file, read_definition
from megatron_lmt.preprocessing.encoded import END_OF_TEXT, Encode, Encoded, Texts
from megatron_lmt.preprocessing.known_characters import KnownCharacters
from megatron_lmt.preprocessing.recipe import Recipe

REMEMBERED_BYTES = 256 << 20
"""Of words, in each process. A gigabyte of text in 60 languages has as many; to open gigatoken anew takes 0.3 s."""


@cache
def open_gigatoken(recipe: Recipe) -> tuple[Encode, KnownCharacters]:
    """A function that encodes, and one that says which texts it may get.

    Raises:
        Exception: the tokenizer is of a kind that it does not know.
    """
    definition, content, model = _definition_and_model(recipe.tokenizer_model)
    added = definition.get("added_tokens", [])
    if definition.get("normalizer") not in (None, {"type": "NFC"}):
        raise ValueError(f"its normalizer is {definition['normalizer']}; NFC and none are known to be the same")
    end = _unused_id(added, content)
    separator = {"id": end, "content": END_OF_TEXT, "special": True, "normalized": False}
    separator |= {"single_word": False, "lstrip": False, "rstrip": False}
    if not recipe.recognises_special:  # then they are text like any other
        added = [token for token in added if not token["special"]]
    before = orjson.dumps({**definition, "added_tokens": [*added, separator]}).removesuffix(b"}")
    encode = _Gigatoken(b",".join([before, memoryview(content)[model:]]), end)
    nfc = definition.get("normalizer") is not None
    return encode, KnownCharacters(nfc, only_nfc=nfc and any(map(_may_come_of_nfc, added)))


def _may_come_of_nfc(token: dict) -> bool:
    """Whether an added token may be found in normalised text where it is not in the text itself, or the reverse.

    The libraries differ in which of both they search. (The Kelvin sign, a Greek question mark and accent become ASCII.)
    """
    return token["normalized"] or not token["content"].isascii() or not set("K;`").isdisjoint(token["content"])


def _unused_id(added: list[dict], content: bytes) -> int:
    """Not far above all others: gigatoken reserves memory for those below, and each that is tried is sought in 10 MB."""

    def candidates() -> Iterator[int]:
        behind = 1 + max((token["id"] for token in added), default=0)
        yield behind  # most tokenizers have them behind all others
        pieces = content.count(b'":')  # and some keys
        yield from count(max(pieces, behind))

    return next(number for number in candidates() if str(number).encode() not in content)


class _Gigatoken:
    """Encodes with gigatoken all texts of a chunk at once, a tenth faster than one by one, with a special token between.

    It remembers all words that it has seen; when they take too much memory, it is opened anew.

    Args:
        definition: the content of a tokenizer.json.
        end: the id of END_OF_TEXT in it.
    """

    def __init__(self, definition: bytes, end: int):
        self._definition, self._end = definition, end
        self._open()

    def _open(self) -> None:
        from gigatoken import Tokenizer

        self._encode_one = None  # first let go of the old one
        self._encode_one = Tokenizer.from_json(self._definition).backend.encode
        self._held = resident_bytes()

    def __call__(self, texts: Texts) -> Encoded:
        if resident_bytes() - self._held > REMEMBERED_BYTES:
            self._open()
        # encode_batch is slower, and needs 0.2 s to import awkward arrays
        tokens = self._encode_one(texts.joined).view(np.int32)
        ends = np.flatnonzero(tokens == self._end)
        if len(ends) != len(texts.each):
            raise ValueError(f"{len(texts.each)} texts became {len(ends)}")
        return Encoded(tokens, ends)


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _definition_and_model(folder: Path) -> tuple[dict, bytes, int]:
    """What is in tokenizer.json but its model; a text, and where in it the model stands, with its key and the end of all.

    Reading the 10 MB of a model as JSON takes 0.1 s; the library that writes such files puts it at their end.
    """
    content = definition_file(folder).read_bytes()
    model = content.find(b'"model":')
    try:
        definition = orjson.loads(content[: max(model, 0)].rstrip().removesuffix(b",") + b"}")
    except ValueError:
        definition = {}
    if definition.keys() >= {"added_tokens", "normalizer"}:
        return definition, content, model
    definition = read_definition(folder)
    return definition, orjson.dumps({"model": definition.pop("model", None)}), len(b"{")
