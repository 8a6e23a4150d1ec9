"""Documents and samples shown to a person: every token is there, under its mode, with its place."""

import numpy as np
import pytest

from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import PIECE
from megatron_lmt.data.show import preview_sample, show_document, show_sample
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError

QUESTION, ANSWER = "water and\nbread", " the river"


def sample_of(*pieces):
    return Sample(0, np.array(list(pieces), PIECE))


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.fixture
def pairs(tmp_path, tokenizer):
    """Document 0 is one LOSS sequence, document 1 has context and then loss."""
    with IndexedWriter(tmp_path / "pairs", np.dtype(np.int32), with_modes=True) as writer:
        writer.add_document([tokenizer.encode("house")], [LOSS])
        writer.add_document([tokenizer.encode(QUESTION), tokenizer.encode(ANSWER)], [CONTEXT, LOSS])
        writer.close()
    return IndexedReader(tmp_path / "pairs")


def test_a_document_is_shown_with_its_sequences_and_modes(pairs, tokenizer):
    context, loss = len(tokenizer.encode(QUESTION)), len(tokenizer.encode(ANSWER))
    assert show_document(pairs, tokenizer, 1) == [
        f"document 1 of {pairs.prefix}: {context + loss} tokens, {loss} of them LOSS, in 2 sequences",
        f"    CONTEXT, {context} tokens",
        "      | water and",
        "      | bread",
        f"    LOSS, {loss} tokens",
        "      |  the river",
    ]


def test_in_files_without_modes_all_is_loss(tmp_path, tokenizer):
    tokens = tokenizer.encode("water")
    with IndexedWriter(tmp_path / "plain", np.dtype(np.int32)) as writer:
        writer.add_document([tokens])
        writer.close()
    lines = show_document(IndexedReader(tmp_path / "plain"), tokenizer, 0)
    assert lines[1:] == [f"    LOSS, {len(tokens)} tokens", "      | water"]


@pytest.mark.parametrize("number", [-1, 2])
def test_a_document_that_is_not_there(pairs, tokenizer, number):
    with pytest.raises(DataError, match=f"document {number}: .*pairs has documents 0 to 1"):
        show_document(pairs, tokenizer, number)


def test_a_piece_shows_its_tokens_and_the_last_label(pairs, tokenizer):
    context, loss = len(tokenizer.encode(QUESTION)), len(tokenizer.encode(ANSWER))
    last = context + loss - 1  # the document has one position less than tokens
    whole = show_sample(sample_of((1, 0, last)), "sft", pairs, tokenizer)
    assert whole[0] == f"source sft, {last} positions, 1 pieces"
    assert whole[1] == f"  document 1, positions 0 to {last - 1} of {last}"
    assert whole[2:] == show_document(pairs, tokenizer, 1)[1:]

    # from the last context token on: it stands alone under its mode
    end = show_sample(sample_of((1, context - 1, last)), "sft", pairs, tokenizer)
    assert [line for line in end if "tokens" in line] == ["    CONTEXT, 1 tokens", f"    LOSS, {loss} tokens"]

    # positions within the context: nothing of the answer is seen
    begin = show_sample(sample_of((1, 0, context - 1)), "sft", pairs, tokenizer)
    assert begin[2:] == [f"    CONTEXT, {context} tokens", "      | water and", "      | bread"]


def test_a_preview_has_a_line_for_each_piece(pairs, tokenizer):
    sample = sample_of((0, 0, len(tokenizer.encode("house")) - 1), (1, 0, 1))
    lines = preview_sample(sample, pairs, tokenizer)
    assert len(lines) == 2
    assert lines[0].startswith("  document 0, positions 0 to ") and lines[0].endswith('"house"')
