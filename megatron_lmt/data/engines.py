"""What makes tokens of text, many texts at a time: the tokenizer's own library, or a faster one that gives the same ids.

gigatoken (the extra "fast") encodes byte-level BPE ten times as fast as Hugging Face's library. It is used only where its
ids were equal to that library's, at the start of this very run, on `proof_texts` and on text of the run's own inputs.

Cost: the proof takes some 0.1 s, and opening gigatoken 0.3 s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain

import numpy as np
import orjson

from megatron_lmt.data.recipe import Recipe
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer, read_definition
from megatron_lmt.errors import ConfigError, MissingExtraError

Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
"""Texts → ids [sum of lengths] and lengths [texts]."""

ENGINES = AUTO, STANDARD, GIGATOKEN = "auto", "standard", "gigatoken"

SCRIPTS = (
    (0x21, 0x7E), (0xA1, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4),
    (0x600, 0x6FF), (0x750, 0x77F), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xC00, 0xC7F), (0xD80, 0xDFF),
    (0xE01, 0xE5B), (0xE81, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1200, 0x139F), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFF), (0x2010, 0x2049), (0x20A0, 0x20BF),
    (0x2150, 0x218B), (0x2D80, 0x2DDE), (0x2E80, 0x2FDF), (0x3000, 0x30FF), (0x3400, 0x34FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xFB50, 0xFDFF), (0xFE00, 0xFE0F), (0xFE70, 0xFEFF), (0xFF01, 0xFFEE),
    (0x1F300, 0x1F64F), (0x20000, 0x200FF),
)  # fmt: skip
"""First and last code point of blocks that the 60 languages are written in, and of signs found between them."""

SPACES = " \t\n\r\x0b\x0c\x00\x1c\x85\u00a0\u1680\u180e\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u200b\u200d\u2060\ufeff"
"""And joiners, which are no spaces, but stand where some are."""


def proof_texts() -> list[str]:
    """Texts of every script of the 60 languages, by chance but always the same: words of one script and of several,
    digits, signs, all kinds of spaces, joiners, combining marks in any order, contractions, and what looks like a
    special token."""
    chosen = random.Random(1)
    letters = [[chr(code) for code in range(first, last + 1)] for first, last in SCRIPTS]
    texts = ["I'll we've IT'S he'd 'S ''s don't", "a  b   c\n\n \n d \r\n\r e\t\tf  ", "<|endoftext|> <|im_start|>x<think>"]
    texts += ["x" * 5000, "ab" * 999, " " * 3000, "\n" * 300, "1234567890" * 40, "é e\u0301 \u1100\u1161\u11a8 각", *SPACES]
    for _ in range(6):
        texts += [_words(chosen, script, 40) for script in letters]
    texts += [_words(chosen, list(chain.from_iterable(chosen.sample(letters, 3))), 40) for _ in range(60)]
    return texts


def _words(chosen: random.Random, letters: list[str], count: int) -> str:
    separators = [" "] * 12 + list(SPACES) + [", ", ". ", "  ", "\n\n", "-", "'s ", " 19", "%d", "<|im_end|>", "…", "!?"]
    words = ("".join(chosen.choices(letters, k=chosen.randint(1, 9))) for _ in range(count))
    return "".join(word + chosen.choice(separators) for word in words)


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
        found = _open_gigatoken(recipe)(texts)
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
