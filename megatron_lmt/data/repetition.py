"""How often one target sentence is the answer to different sources: the cause of directional degeneration.

In multi-way text a sentence of English is the target of every other language. LMT (arXiv 2511.07003) keeps 5 % of X→en and
X→zh for that reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.languages import split_direction


@dataclass(frozen=True)
class Targets:
    """What was seen of one direction: its targets, each once, and the share of tokens that are target."""

    texts: set[str]
    token_share: float


@dataclass(frozen=True)
class Repetition:
    """For the distinct targets of one direction: directions that have the same target, on average and at most, as the
    text is and after downsampling. One source to each target is 1.
    """

    distinct_targets: int
    mean_sources: float
    max_sources: int
    mean_sources_downsampled: float


def read_targets(reader: IndexedReader, tokenizer: Tokenizer, direction: str, documents: int) -> Targets | None:
    """Look at documents of a direction, spread evenly over the file.

    Args:
        documents: how many at most.
    Returns:
        None where the target cannot be told from the source: pairs without tags or loss mask.
    """
    chosen = np.unique(np.linspace(0, reader.num_documents - 1, min(documents, reader.num_documents)).astype(int))
    texts, target_tokens, all_tokens = set(), 0, 0
    for number in chosen.tolist():
        found = _target(reader, tokenizer, direction, number)
        if found is None:
            return None
        text, tokens = found
        texts.add(text)
        target_tokens += tokens
        all_tokens += len(reader.document(number))
    return Targets(texts, target_tokens / all_tokens)


def _target(reader: IndexedReader, tokenizer: Tokenizer, direction: str, number: int) -> tuple[str, int] | None:
    """The target of a document, and how many tokens it has."""
    tokens, loss = reader.document(number), reader.document_loss_mask(number)
    if loss is not None:
        return tokenizer.decode(tokens[loss].tolist()), int(loss.sum())
    source, target = split_direction(direction)
    text = tokenizer.decode(tokens.tolist())
    head, tag, answer = text.partition(f" <{target}> ")
    if not tag or not head.startswith(f"<{source}2{target}> "):
        return None
    return answer, len(tokens) - len(tokenizer.encode(head + tag.rstrip()))


def repetitions(targets: dict[str, Targets], rates: dict[str, float]) -> dict[str, Repetition]:
    """Compare the targets of all directions into the same language.

    Args:
        targets: direction → what was seen of it.
        rates: direction → the share of it that training keeps.
    """
    sources: dict[str, Counter] = {}
    kept: dict[str, Counter] = {}
    for direction, seen in targets.items():
        _, language = split_direction(direction)
        counts, rate_sums = sources.setdefault(language, Counter()), kept.setdefault(language, Counter())
        for text in seen.texts:
            counts[text] += 1
            rate_sums[text] += rates[direction]
    found = {}
    for direction, seen in targets.items():
        _, language = split_direction(direction)
        counts = [sources[language][text] for text in seen.texts]
        # a target that training meets at all has at least one source
        after = [max(1.0, kept[language][text]) for text in seen.texts]
        found[direction] = Repetition(len(counts), sum(counts) / len(counts), max(counts), sum(after) / len(after))
    return found
