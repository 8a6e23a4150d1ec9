"""What makes tokens of text, many texts at a time: the tokenizer's own library, or a faster one that gives the same ids.

gigatoken (the extra "fast") encodes byte-level BPE ten times as fast as Hugging Face's library. It is used only where its
ids were equal to that library's, at the start of this very run, on `proof_texts` and on text of the run's own inputs, and
for text whose characters both libraries know (`known_characters.py`).

Cost: opening gigatoken takes 0.25 s, and Hugging Face's side of the proof 0.3, in a process beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, compress

import numpy as np

from megatron_lmt.data.tokenizer import HuggingFaceTokenizer, Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.preprocessing.gigatoken_engine import Encode, Encoded, open_gigatoken
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


def may_be_gigatoken(asked: str, recipe: Recipe) -> bool:
    return asked != STANDARD and recipe.tokenizer_type == "HuggingFaceTokenizer" and find_spec("gigatoken") is not None


def open_early(asked: str, recipe: Recipe) -> None:
    """Open the engine that `choose_engine` will probably find, while the tokenizer is examined elsewhere.

    Processes that are forked afterwards share it; another one they would have to open themselves.
    """
    for engine in (GIGATOKEN, STANDARD) if may_be_gigatoken(asked, recipe) else (STANDARD,):
        with suppress(Exception):  # both say later what is wrong, in their own words
            open_engine_once(recipe, engine)
            return


def choose_engine(asked: str, recipe: Recipe, right: Trial) -> str:
    """The engine to use: gigatoken where it is asked for or may be, and gives equal ids.

    Args:
        asked: "auto", "standard" or "gigatoken".
        right: what Hugging Face's library makes of some texts.
    Raises:
        UserError: gigatoken was asked for, and is not there or gives other ids.
    """
    if asked == GIGATOKEN and find_spec("gigatoken") is None:
        raise MissingExtraError("gigatoken", "fast", "--tokenizer-engine gigatoken")
    if may_be_gigatoken(asked, recipe):
        problem = _difference(recipe, right)
    else:
        problem = f"not for {recipe.tokenizer_type}"
    if problem and asked == GIGATOKEN:
        raise ConfigError(f"--tokenizer-engine gigatoken: {problem}; leave it out")
    return STANDARD if problem else GIGATOKEN


def trial(tokenizer: HuggingFaceTokenizer, allow_special: bool, texts: Iterable[str]) -> Trial:
    """What Hugging Face's library makes of `proof_texts`, of all added tokens, and of these."""
    texts = [*proof_texts(), *(f"a{token}b {token} {token}{token}\n" for token in tokenizer.added_tokens), *texts]
    return Trial(texts, *standard(tokenizer, allow_special)(texts))


@dataclass(frozen=True)
class Trial:
    """Texts to try an engine on, and their right ids [sum of lengths] and lengths [texts]."""

    texts: list[str]
    ids: np.ndarray
    lengths: np.ndarray


def _difference(recipe: Recipe, right: Trial) -> str | None:
    """How gigatoken's ids differ from the right ones; None if they do not."""
    try:
        encode, are_known = open_gigatoken(recipe)
        known = are_known(right.texts)
        texts = list(compress(right.texts, known))
        found = encode(texts)
    except Exception as error:  # it says in many ways what it cannot do
        return f"it cannot be used with {recipe.tokenizer_model} ({error})"
    expected = right.ids[np.repeat(known, right.lengths)], right.lengths[known]
    if all(map(np.array_equal, found, expected)):
        return None
    both = [np.split(ids, lengths.cumsum()) for ids, lengths in (found, expected)]
    first = next(text for text, theirs, ours in zip(texts, *both, strict=False) if not np.array_equal(theirs, ours))
    return f"it gives other ids than Hugging Face's library for {first!r:.80}"


def engine_version(engine: str, tokenizer_type: str) -> str:
    """Such as "gigatoken 0.10.0", for the manifest."""
    library = "tokenizers" if tokenizer_type == "HuggingFaceTokenizer" else "sentencepiece"
    package = library if engine == STANDARD else engine
    return f"{package} {version(package)}"
