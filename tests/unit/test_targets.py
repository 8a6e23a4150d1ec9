"""The tokens of a pair's target sentence are found in its document."""

import numpy as np
import pytest

from megatron_lmt.corpus.cpt import format_pair
from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.loader import collate
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import PIECE
from megatron_lmt.data.targets import target_markers, target_start
from megatron_lmt.data.tokenizer import load_tokenizer
from tests.conftest import LINES

PAIRS = [
    ("en", "zh", LINES[0], LINES[5]),
    ("zh", "en", LINES[5], LINES[0]),
    ("en", "ar", "It (he) said: <b>x</b> <", LINES[7]),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.mark.parametrize(("source", "target", "source_text", "target_text"), PAIRS)
def test_the_target_is_all_behind_its_tag(tokenizer, source, target, source_text, target_text):
    (text,) = format_pair("tags", source, target, source_text, target_text)
    document = np.array(tokenizer.encode(text))
    (marker,) = target_markers([f"group/{source}-{target}"], tokenizer)
    start = target_start(document, marker)
    assert tokenizer.decode(document[start:].tolist()) == f" {target_text}"


def test_other_sources_and_formats_have_no_known_target(tokenizer):
    assert target_markers(["mono/en", "books"], tokenizer) == [None, None]
    (marker,) = target_markers(["en-zh"], tokenizer)
    document = np.array(tokenizer.encode(format_pair("newline", "en", "zh", LINES[0], LINES[5])[0]))
    assert target_start(document, marker) is None
    assert target_start(marker[:-1], marker) is None and target_start(np.array([], dtype=int), marker) is None


def test_the_losses_of_targets_have_slots_of_their_own(tmp_path, tokenizer):
    (marker,) = target_markers(["en-zh"], tokenizer)
    context, target = [7] * 5, [8, 9, 10]
    with IndexedWriter(tmp_path / "text", np.dtype(np.int32)) as writer:
        writer.add_document([[*context, *marker.tolist(), *target]])
        writer.add_document([context])
    with IndexedWriter(tmp_path / "modes", np.dtype(np.int32), with_modes=True) as writer:
        writer.add_document([context, target], [CONTEXT, LOSS])
    readers = [IndexedReader(tmp_path / "text"), IndexedReader(tmp_path / "modes")]
    last = len(context) + len(marker) + len(target) - 1
    # cut in two: the target begins in the second piece
    samples = [
        Sample(0, np.array([(0, 0, 3), (1, 0, 4)], dtype=PIECE)),
        Sample(0, np.array([(0, 3, last)], dtype=PIECE)),
        Sample(1, np.array([(0, 0, 7)], dtype=PIECE)),
        None,
    ]
    batch = collate(samples, readers, 16, [marker, marker])
    slots = batch.loss_slots[0].view(4, 16)
    labels, mask = batch.labels[0].view(4, 16), batch.loss_mask[0].view(4, 16)
    assert (slots // 2 == np.arange(4)[:, None]).all()
    found = [labels[i][(slots[i] % 2 == 1) & (mask[i] == 1)].tolist() for i in range(4)]
    assert found == [[], target, target, []]
    assert not (collate(samples, readers, 16).loss_slots % 2).any()
