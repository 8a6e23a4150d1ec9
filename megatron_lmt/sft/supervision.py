"""What of each source is learned: checked before the first step, and shown with three examples.

Only sources with a loss mask are looked at, the first 20,000 documents of each. In rendered chats the answer, all of it with
its end of turn, must be learned and nothing else: not the prompt, nor an auxiliary sentence in it.

Cost: one reading of the tokens that are looked at, about 1 GB a second; a second or two for 294 sources of pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_lmt.data.indexed import LOSS, IndexedReader, manifest_path, read_manifest, rejected_path
from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.errors import DataError
from megatron_lmt.sft.prompts import END_OF_TURN
from megatron_lmt.text_table import text_table

START_OF_TURN = "<|im_start|>"
MOST_DOCUMENTS = 20_000
LISTED = 20
HOW_TO_TOKENISE = "tokenise again with --json-keys prompt target --loss-keys target"


def check_supervision(readers: dict[str, IndexedReader], tokenizer: Tokenizer, packing: str) -> None:
    """
    Raises:
        DataError: a mask that learns everything, nothing, a part of the prompt, or not all of the answer; rendered chats
            without a mask, or packed so that answers are cut from their prompts. One line for each source.
    """
    problems = []
    for name, reader in readers.items():
        if reader.modes is None:
            if tokenizer.decode(reader.document(0)[:32].tolist()).startswith(START_OF_TURN):
                problems.append(f"source {name}: chats without a loss mask, so prompts would be learned; {HOW_TO_TOKENISE}")
            continue
        problem = _problem(reader, tokenizer, packing)
        if problem:
            problems.append(f"source {name}: {problem}")
    if problems:
        raise DataError(problems)


def _problem(reader: IndexedReader, tokenizer: Tokenizer, packing: str) -> str | None:
    """What is wrong with the mask of a source, by its first bad document."""
    count = _looked_at(reader)
    starts = reader.starts(np.arange(count + 1))
    first, last, learned = _learned_spans(reader, count)
    checks = [
        (learned == 0, f"nothing of document {{}} is learned: {HOW_TO_TOKENISE}"),
        (learned == np.diff(starts), f"everything of document {{}} is learned, its prompt too: {HOW_TO_TOKENISE}"),
    ]
    turn, end = tokenizer.token_to_id(START_OF_TURN), tokenizer.token_to_id(END_OF_TURN)
    tokens = reader.tokens[: starts[-1]]
    if turn is not None and end is not None and turn in tokens[: starts[1]]:
        if packing != "documents":
            return f'data.packing = "{packing}" cuts answers from their prompts; take "documents"'
        turns = np.flatnonzero(tokens == turn)
        answer = turns[np.maximum(np.searchsorted(turns, starts[1:]) - 1, 0)]
        checks += [
            (first <= answer, "a part of the prompt of document {} is learned, such as its auxiliary sentence"),
            (learned != last - first, "the answer of document {} is learned in parts only"),
            # after the end of turn there may be the end of the document
            (~_ends_with(tokens, last, end), f"the end of turn {END_OF_TURN} of document {{}} is not learned"),
        ]
    for is_bad, message in checks:
        if is_bad.any():
            others = f" ({is_bad.sum():,} of {count:,} documents are like that)"
            return message.format(int(is_bad.argmax())) + others
    return None


def _looked_at(reader: IndexedReader) -> int:
    return min(reader.num_documents, MOST_DOCUMENTS)


def _learned_spans(reader: IndexedReader, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 [count] each: first learned token of a document, the one behind its last, and how many there are."""
    documents = reader.first_sequences[:count]
    stop = reader.first_sequences[count]
    lengths = reader.lengths[:stop].astype(np.int64)
    starts = reader.pointers[:stop] // reader.dtype.itemsize
    learned = reader.modes[:stop] == LOSS
    first = np.minimum.reduceat(np.where(learned, starts, np.iinfo(np.int64).max), documents)
    last = np.maximum.reduceat(np.where(learned, starts + lengths, 0), documents)
    return first, last, np.add.reduceat(np.where(learned, lengths, 0), documents)


def _ends_with(tokens: np.ndarray, ends: np.ndarray, token: int) -> np.ndarray:
    """bool [ends]: whether the last or the last but one before each end is this token."""
    return (tokens[np.maximum(ends - 1, 0)] == token) | (tokens[np.maximum(ends - 2, 0)] == token)


def supervision_lines(readers: dict[str, IndexedReader], tokenizer: Tokenizer, seq_length: int) -> list[str]:
    """Lines of text: what is learned of each source with a mask, what is cut and what was left out, three examples."""
    masked = {name: reader for name, reader in readers.items() if reader.modes is not None}
    if not masked:
        return []
    rows, cut, left_out = [], [], []
    for name, reader in masked.items():
        learned = int(reader.lengths[reader.modes == LOSS].sum(dtype=np.int64))
        rows.append((name, f"{reader.num_documents:,}", f"{reader.num_tokens:,}", f"{learned / reader.num_tokens:.1%}"))
        cut += _cut(name, reader, seq_length)
        left_out += _left_out(name, reader.prefix)
    names = list(masked)
    examples = [names[0], names[len(names) // 2], names[-1]]
    return [
        "",
        *text_table(("learned", "documents", "tokens", "share learned"), rows),
        *_some(cut, "documents are longer than a sample and are cut: what follows the cut has no prompt"),
        *_some(left_out, "records were left out when they were tokenised"),
        *(line for number, name in enumerate(examples) for line in _example(name, masked[name], tokenizer, number)),
    ]


def _cut(name: str, reader: IndexedReader, seq_length: int) -> list[str]:
    lengths = reader.document_lengths(np.arange(_looked_at(reader)))
    return [
        f"{name} document {number}: {lengths[number]:,} tokens, a sample has {seq_length:,} and one more"
        for number in np.flatnonzero(lengths > seq_length + 1).tolist()
    ]


def _left_out(name: str, prefix: Path) -> list[str]:
    """One line for each reason."""
    if not manifest_path(prefix).is_file():
        return []
    rejected = read_manifest(prefix).get("rejected", {})
    return [f"{name}: {count:,} because {reason}; see {rejected_path(prefix)}" for reason, count in rejected.items()]


def _some(lines: list[str], title: str) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return ["", f"{title}:", *(f"  {line}" for line in lines[:LISTED]), *more]


def _example(name: str, reader: IndexedReader, tokenizer: Tokenizer, number: int) -> list[str]:
    """A document with the learned part in brackets."""
    document = number * (reader.num_documents - 1) // 2
    parts = [(mode, tokenizer.decode(tokens.tolist())) for mode, tokens in reader.document_sequences(document)]
    text = "".join(f"⟦{part}⟧" if mode == LOSS else part for mode, part in parts)
    return ["", f"{name} document {document}, what is learned in ⟦ ⟧:", *(f"  | {line}" for line in text.split("\n"))]
