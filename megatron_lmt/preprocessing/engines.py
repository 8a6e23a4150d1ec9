"""What makes tokens of text, many texts at a time: the tokenizer's own library, or a faster one that gives the same ids.

gigatoken (the extra "fast") encodes byte-level BPE ten times as fast as Hugging Face's library. It is used only where its
ids were equal to that library's, at the start of this very run, on `proof_texts` and on text of the run's own inputs, and
for text whose characters both libraries know (`known_characters.py`).

Cost: opening gigatoken takes 0.5 s, and the proof 0.2 s at the same time, where another process opens gigatoken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, compress
from typing import TypeVar

import numpy as np

from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.preprocessing.gigatoken_engine import Encode, Encoded, open_gigatoken
from megatron_lmt.preprocessing.proof_texts import proof_texts
from megatron_lmt.preprocessing.recipe import Recipe

Result = TypeVar("Result")

ENGINES = AUTO, STANDARD, GIGATOKEN = "auto", "standard", "gigatoken"


def open_engine(engine: str, recipe: Recipe) -> Encode:
    """A function that encodes as `Tokenizer.encode_batch` does, opened anew."""
    return OPENERS[engine](recipe)


def _open_standard(recipe: Recipe) -> Encode:
    return standard(load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model), recipe.recognises_special)


def standard(tokenizer: Tokenizer, allow_special: bool) -> Encode:
    return partial(_encode, tokenizer, allow_special)


def _encode(tokenizer: Tokenizer, allow_special: bool, texts: list[str]) -> Encoded:
    ids = tokenizer.encode_batch(texts, allow_special)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def _open_gigatoken(recipe: Recipe) -> Encode:
    encode, are_known = open_gigatoken(recipe)

    def encode_exactly(texts: list[str]) -> Encoded:
        known = are_known(texts)
        if known.all():
            return encode(texts)
        of_others = open_standard_once(recipe)(list(compress(texts, ~known)))
        return _merged(known, encode(list(compress(texts, known))), of_others)

    return encode_exactly


def _merged(known: np.ndarray, of_known: Encoded, of_others: Encoded) -> Encoded:
    """Ids and lengths of all texts, from those of some and of the others."""
    lengths = np.empty(len(known), np.int64)
    lengths[known], lengths[~known] = of_known[1], of_others[1]
    ids = np.empty(lengths.sum(), np.int32)
    of_which = np.repeat(known, lengths)
    ids[of_which], ids[~of_which] = of_known[0], of_others[0]
    return ids, lengths


@cache
def open_standard_once(recipe: Recipe) -> Encode:
    return _open_standard(recipe)


@cache
def open_engine_once(recipe: Recipe, engine: str) -> Encode:
    return open_engine(engine, recipe)


def forget_engines() -> None:
    """What was opened before: there may be another tokenizer in the folder now."""
    for opened in (open_engine_once, open_standard_once, open_gigatoken):
        opened.cache_clear()


OPENERS = {STANDARD: _open_standard, GIGATOKEN: _open_gigatoken}


def probable_engine(asked: str, recipe: Recipe) -> str:
    """The one that `choose_engine` will most probably find."""
    may_be = asked != STANDARD and recipe.tokenizer_type == "HuggingFaceTokenizer" and find_spec("gigatoken") is not None
    return GIGATOKEN if may_be else STANDARD


def at_once(function: Callable[..., Result], *arguments) -> Future[Result]:
    future = Future()
    future.set_result(function(*arguments))
    return future


def choose_engine(
    asked: str, recipe: Recipe, tokenizer: Tokenizer, texts: Iterable[str], submit: Callable[..., Future] = at_once
) -> str:
    """The engine to use: gigatoken where it is asked for or may be, and gives equal ids.

    Args:
        asked: "auto", "standard" or "gigatoken".
        texts: of the run's own inputs, beside `proof_texts`; not read where there is no choice.
        submit: called with a function and its arguments; as that of an executor, so that another process may try gigatoken
            while this one encodes with Hugging Face's library.
    Raises:
        UserError: gigatoken was asked for, and is not there or gives other ids.
    """
    if asked == GIGATOKEN and find_spec("gigatoken") is None:
        raise MissingExtraError("gigatoken", "fast", "--tokenizer-engine gigatoken")
    if probable_engine(asked, recipe) == GIGATOKEN:
        problem = _difference(recipe, tokenizer, [*proof_texts(), *texts], submit)
    else:
        problem = f"not for {recipe.tokenizer_type}"
    if problem and asked == GIGATOKEN:
        raise ConfigError(f"--tokenizer-engine gigatoken: {problem}; leave it out")
    return STANDARD if problem else GIGATOKEN


def _difference(recipe: Recipe, tokenizer: Tokenizer, texts: list[str], submit: Callable[..., Future]) -> str | None:
    """How gigatoken's ids differ from those of the tokenizer's own library; None if they do not."""
    tried = submit(_try_gigatoken, recipe, texts)
    ids, lengths = standard(tokenizer, recipe.recognises_special)(texts)
    found = tried.result()
    if isinstance(found, str):
        return found
    known, found = found
    expected = ids[np.repeat(known, lengths)], lengths[known]
    if all(map(np.array_equal, found, expected)):
        return None
    both = [np.split(ids, lengths.cumsum()) for ids, lengths in (found, expected)]
    pairs = zip(compress(texts, known), *both, strict=False)
    first = next(text for text, theirs, right in pairs if not np.array_equal(theirs, right))
    return f"it gives other ids than Hugging Face's library for {first!r:.80}"


def _try_gigatoken(recipe: Recipe, texts: list[str]) -> tuple[np.ndarray, Encoded] | str:
    """Which of the texts it may be given, and what it makes of these; or why it cannot be used."""
    try:
        encode, are_known = open_gigatoken(recipe)
        known = are_known(texts)
        return known, encode(list(compress(texts, known)))
    except Exception as error:  # it says in many ways what it cannot do
        return f"it cannot be used with {recipe.tokenizer_model} ({error})"


def engine_version(engine: str, tokenizer_type: str) -> str:
    """Such as "gigatoken 0.10.0", for the manifest."""
    library = "tokenizers" if tokenizer_type == "HuggingFaceTokenizer" else "sentencepiece"
    package = library if engine == STANDARD else engine
    return f"{package} {version(package)}"
