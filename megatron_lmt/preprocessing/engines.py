"""What makes tokens of text, many texts at a time: the tokenizer's own library, or a faster one that gives the same ids.

gigatoken (the extra "fast") encodes byte-level BPE ten times as fast as Hugging Face's library. It is used only where its
ids were equal to that library's, at the start of this very run, on `proof_texts` and on text of the run's own inputs, and
for text whose characters both libraries know (`known_characters.py`).

Cost: the proof takes some 0.1 s, and opening gigatoken 0.3 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain

import numpy as np

from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.preprocessing.gigatoken_engine import Encode, open_gigatoken
from megatron_lmt.preprocessing.proof_texts import proof_texts
from megatron_lmt.preprocessing.recipe import Recipe

ENGINES = AUTO, STANDARD, GIGATOKEN = "auto", "standard", "gigatoken"


def open_engine(engine: str, recipe: Recipe) -> Encode:
    """A function that encodes as `Tokenizer.encode_batch` does, opened anew."""
    return OPENERS[engine](recipe)


def _open_standard(recipe: Recipe) -> Encode:
    return standard(load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model), recipe.recognises_special)


def standard(tokenizer: Tokenizer, allow_special: bool) -> Encode:
    return partial(_encode, tokenizer, allow_special)


def _encode(tokenizer: Tokenizer, allow_special: bool, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    ids = tokenizer.encode_batch(texts, allow_special)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def _open_gigatoken(recipe: Recipe) -> Encode:
    encode, is_known = open_gigatoken(recipe)

    def encode_exactly(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return (encode if is_known(texts) else open_standard_once(recipe))(texts)

    return encode_exactly


@cache
def open_standard_once(recipe: Recipe) -> Encode:
    return _open_standard(recipe)


OPENERS = {STANDARD: _open_standard, GIGATOKEN: _open_gigatoken}


def probable_engine(asked: str, recipe: Recipe) -> str:
    """The one that `choose_engine` will most probably find."""
    may_be = asked != STANDARD and recipe.tokenizer_type == "HuggingFaceTokenizer" and find_spec("gigatoken") is not None
    return GIGATOKEN if may_be else STANDARD


def choose_engine(asked: str, recipe: Recipe, tokenizer: Tokenizer, texts: Iterable[str]) -> str:
    """The engine to use: gigatoken where it is asked for or may be, and gives equal ids.

    Args:
        asked: "auto", "standard" or "gigatoken".
        texts: of the run's own inputs, beside `proof_texts`; not read where there is no choice.
    Raises:
        UserError: gigatoken was asked for, and is not there or gives other ids.
    """
    if asked == GIGATOKEN and find_spec("gigatoken") is None:
        raise MissingExtraError("gigatoken", "fast", "--tokenizer-engine gigatoken")
    if probable_engine(asked, recipe) == GIGATOKEN:
        problem = _difference(recipe, tokenizer, [*proof_texts(), *texts])
    else:
        problem = f"not for {recipe.tokenizer_type}"
    if problem and asked == GIGATOKEN:
        raise ConfigError(f"--tokenizer-engine gigatoken: {problem}; leave it out")
    return STANDARD if problem else GIGATOKEN


def _difference(recipe: Recipe, tokenizer: Tokenizer, texts: list[str]) -> str | None:
    """How gigatoken's ids differ from those of the tokenizer's own library; None if they do not."""
    try:
        encode, is_known = open_gigatoken(recipe)
        texts = [text for text in texts if is_known([text])]
        found = encode(texts)
    except Exception as error:  # it says in many ways what it cannot do
        return f"it cannot be used with {recipe.tokenizer_model} ({error})"
    expected = standard(tokenizer, recipe.recognises_special)(texts)
    if all(map(np.array_equal, found, expected)):
        return None
    both = [np.split(ids, lengths.cumsum()) for ids, lengths in (found, expected)]
    first = next(text for text, theirs, right in zip(texts, *both, strict=False) if not np.array_equal(theirs, right))
    return f"it gives other ids than Hugging Face's library for {first!r:.80}"


def engine_version(engine: str, tokenizer_type: str) -> str:
    """Such as "gigatoken 0.10.0", for the manifest."""
    library = "tokenizers" if tokenizer_type == "HuggingFaceTokenizer" else "sentencepiece"
    package = library if engine == STANDARD else engine
    return f"{package} {version(package)}"
