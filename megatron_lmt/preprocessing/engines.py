"""What makes tokens of text, many texts at a time: the tokenizer's own library, or a faster one that gives the same ids.

gigatoken (the extra "fast") encodes byte-level BPE ten times as fast as Hugging Face's library. It is used only where its
ids were equal to that library's, at the start of this very run, on `proof_texts` and on text of the run's own inputs, and
for text whose characters both libraries know (`known_characters.py`).

Cost: opening gigatoken takes 0.25 s, and Hugging Face's side of the proof 0.3, in a process beside it. Text is tokenised
meanwhile; if the proof fails, again.
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

from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.preprocessing.encoded import Encode, Encoded, Texts
from megatron_lmt.preprocessing.gigatoken_engine import open_gigatoken
from megatron_lmt.preprocessing.proof_texts import proof_texts
from megatron_lmt.preprocessing.recipe import Recipe

ENGINES = AUTO, STANDARD, GIGATOKEN = "auto", "standard", "gigatoken"


def open_engine(engine: str, recipe: Recipe) -> Encode:
    """A function that encodes as `Tokenizer.encode_batch` does, opened anew."""
    return OPENERS[engine](recipe)


def _open_standard(recipe: Recipe) -> Encode:
    return partial(_encode, _tokenizer_once(recipe), recipe.recognises_special)


@cache
def _tokenizer_once(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model)


def _encode(tokenizer: Tokenizer, allow_special: bool, texts: Texts) -> Encoded:
    ids = tokenizer.encode_batch(texts.each, allow_special)
    for of_text in ids:
        of_text.append(0)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return Encoded(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths.cumsum() - 1)


def _open_gigatoken(recipe: Recipe) -> Encode:
    encode, are_known = open_gigatoken(recipe)

    def encode_exactly(texts: Texts) -> Encoded:
        known = are_known(texts)
        if known.all():
            return encode(texts)
        of_others = open_engine_once(recipe, STANDARD)(Texts(list(compress(texts.each, ~known))))
        return _merged(known, encode(Texts(list(compress(texts.each, known)))), of_others)

    return encode_exactly


def _merged(known: np.ndarray, of_known: Encoded, of_others: Encoded) -> Encoded:
    """All texts, from some and the others."""
    lengths = np.empty(len(known), np.int64)
    lengths[known], lengths[~known] = of_known.lengths + 1, of_others.lengths + 1
    tokens = np.empty(lengths.sum(), np.int32)
    of_which = np.repeat(known, lengths)
    tokens[of_which], tokens[~of_which] = of_known.tokens, of_others.tokens
    return Encoded(tokens, lengths.cumsum() - 1)


@cache
def open_engine_once(recipe: Recipe, engine: str) -> Encode:
    return open_engine(engine, recipe)


def forget_engines() -> None:
    """What was opened before: there may be another tokenizer in the folder now."""
    for opened in (open_engine_once, _tokenizer_once, open_gigatoken):
        opened.cache_clear()


OPENERS = {STANDARD: _open_standard, GIGATOKEN: _open_gigatoken}


def may_be_gigatoken(asked: str, recipe: Recipe) -> bool:
    """Whether it is to be tried.

    Args:
        asked: "auto", "standard" or "gigatoken".
    Raises:
        UserError: it is asked for, and is not there or not for such tokenizers.
    """
    is_for = recipe.tokenizer_type == "HuggingFaceTokenizer"
    if asked != GIGATOKEN:
        return asked == AUTO and is_for and find_spec(GIGATOKEN) is not None
    if find_spec(GIGATOKEN) is None:
        raise MissingExtraError(GIGATOKEN, "fast", "--tokenizer-engine gigatoken")
    if not is_for:
        raise ConfigError(f"--tokenizer-engine gigatoken: not for {recipe.tokenizer_type}; leave it out")
    return True


def open_early(engines: Iterable[str], recipe: Recipe) -> str | None:
    """Open the first of these that can be opened; None: none of them can.

    Processes that are forked afterwards share it; another one they would have to open themselves.
    """
    for engine in engines:
        with suppress(Exception):  # whoever needs it says later what is wrong
            open_engine_once(recipe, engine)
            return engine
    return None


def choose_engine(asked: str, recipe: Recipe, right: Trial) -> str:
    """The engine to use: gigatoken if it gives equal ids.

    Args:
        asked: "auto" or "gigatoken".
        right: what Hugging Face's library makes of some texts.
    Raises:
        ConfigError: gigatoken was asked for, and gives other ids.
    """
    problem = _difference(recipe, right)
    if problem and asked == GIGATOKEN:
        raise ConfigError(f"--tokenizer-engine gigatoken: {problem}; leave it out")
    return STANDARD if problem else GIGATOKEN


def trial(recipe: Recipe, texts: Iterable[str]) -> Trial:
    """What Hugging Face's library makes of `proof_texts`, of all added tokens, and of these."""
    added = _tokenizer_once(recipe).added_tokens
    texts = Texts([*proof_texts(), *(f"a{token}b {token} {token}{token}\n" for token in added), *texts])
    return Trial(texts, open_engine_once(recipe, STANDARD)(texts))


@dataclass(frozen=True)
class Trial:
    """Texts to try an engine on, and what they must become."""

    texts: Texts
    encoded: Encoded


def _difference(recipe: Recipe, right: Trial) -> str | None:
    """How gigatoken's ids differ from the right ones; None if they do not."""
    try:
        encode, are_known = open_gigatoken(recipe)
        known = are_known(right.texts)
        texts = list(compress(right.texts.each, known))
        found = encode(Texts(texts)).each()
    except Exception as error:  # it says in many ways what it cannot do
        why = str(error).partition("\n")[0]  # where in its own source comes behind
        return f"it cannot be used with {recipe.tokenizer_model} ({why})"
    expected = compress(right.encoded.each(), known)
    wrong = [text for text, *ids in zip(texts, found, expected, strict=True) if not np.array_equal(*ids)]
    return f"it gives other ids than Hugging Face's library for {wrong[0]!r:.80}" if wrong else None


def engine_version(engine: str, tokenizer_type: str) -> str:
    """Such as "gigatoken 0.10.0", for the manifest."""
    library = "tokenizers" if tokenizer_type == "HuggingFaceTokenizer" else "sentencepiece"
    package = library if engine == STANDARD else engine
    return f"{package} {version(package)}"
