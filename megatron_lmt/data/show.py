"""Documents and samples as text for a person: decoded, with the place of each part and whether it is learned."""

from __future__ import annotations

import json

from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedReader
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import lengths_of
from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.errors import DataError

MODES = {CONTEXT: "CONTEXT", LOSS: "LOSS"}
PREVIEW_CHARACTERS = 80


def show_document(reader: IndexedReader, tokenizer: Tokenizer, number: int) -> list[str]:
    """Lines of text: a document with its sequences.

    Raises:
        DataError: there is no such document.
    """
    if not 0 <= number < reader.num_documents:
        raise DataError(f"document {number}: {reader.prefix} has documents 0 to {reader.num_documents - 1}")
    sequences = reader.document_sequences(number)
    tokens = sum(len(sequence) for _, sequence in sequences)
    learned = sum(len(sequence) for mode, sequence in sequences if mode == LOSS)
    title = f"document {number} of {reader.prefix}: {tokens} tokens, {learned} of them LOSS, in {len(sequences)} sequences"
    return [title, *_show_tokens(reader, number, 0, tokens, tokenizer)]


def show_sample(sample: Sample, source: str, reader: IndexedReader, tokenizer: Tokenizer) -> list[str]:
    """Lines of text: a sample with the whole text of its pieces, labels included."""
    lines = [f"source {source}, {lengths_of(sample.pieces).sum()} positions, {len(sample.pieces)} pieces"]
    for document, start, stop in sample.pieces.tolist():
        # the last position predicts the token after it
        lines += [_place(document, start, stop, reader), *_show_tokens(reader, document, start, stop + 1, tokenizer)]
    return lines


def preview_sample(sample: Sample, reader: IndexedReader, tokenizer: Tokenizer) -> list[str]:
    """Lines of text: a sample, each piece with the beginning of its text."""
    lines = []
    for document, start, stop in sample.pieces.tolist():
        text = tokenizer.decode(reader.document(document)[start : stop + 1].tolist())
        # as JSON, so that line ends and control characters are seen
        lines.append(f"{_place(document, start, stop, reader)} {json.dumps(text[:PREVIEW_CHARACTERS], ensure_ascii=False)}")
    return lines


def _place(document: int, start: int, stop: int, reader: IndexedReader) -> str:
    return f"  document {document}, positions {start} to {stop - 1} of {len(reader.document(document)) - 1}"


def _show_tokens(reader: IndexedReader, document: int, start: int, stop: int, tokenizer: Tokenizer) -> list[str]:
    """The tokens [start, stop) of a document, each sequence under its mode; a bar marks the lines of the text."""
    lines, begin = [], 0
    for mode, sequence in reader.document_sequences(document):
        part = sequence[max(start - begin, 0) : max(stop - begin, 0)].tolist()
        begin += len(sequence)
        if part:
            lines.append(f"    {MODES[mode]}, {len(part)} tokens")
            lines += [f"      | {line}" for line in tokenizer.decode(part).split("\n")]
    return lines
