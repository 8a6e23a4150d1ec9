"""Where the target sentence of a pair begins in its document, so that its tokens have a loss of their own.

Documents with a mode for each sequence say so themselves: the sequences to learn are the target. A pair of continued
pre-training is one text in LMT's format, "<en2ky> … <ky> …": the target begins behind the tokens of " <ky>".
"""

from __future__ import annotations

import numpy as np

from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import split_direction


def target_markers(sources: list[str], tokenizer: Tokenizer) -> list[np.ndarray | None]:
    """For each source the token ids that stand before its targets; None where its name is not that of a direction.

    Args:
        sources: names that end in a direction, "en/en-ky" or "en-ky", or in anything else.
    """
    directions = [_direction(source.rpartition("/")[2]) for source in sources]
    return [direction and np.array(_tokens_before(direction[1], tokenizer)) for direction in directions]


def _direction(name: str) -> tuple[str, str] | None:
    try:
        return split_direction(name)
    except ConfigError:
        return None


def _tokens_before(target: str, tokenizer: Tokenizer) -> list[int]:
    # inside a text, as in a document: some tokenizers put a mark before the first word
    return tokenizer.encode(f"x <{target}>")[len(tokenizer.encode("x")) :]


def target_start(document: np.ndarray, marker: np.ndarray) -> int | None:
    """The index of the first target token, None if there is no marker in the document.

    Args:
        document: token ids [tokens].
        marker: token ids, not empty.
    """
    last = len(document) - len(marker)
    for start in np.flatnonzero(document[: last + 1] == marker[0]) if last >= 0 else ():
        if np.array_equal(document[start : start + len(marker)], marker):
            return int(start) + len(marker)
    return None
