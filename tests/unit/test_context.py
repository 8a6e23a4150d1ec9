"""Context parallelism: every position is on one rank, and the ranks share the work of causal attention equally."""

import numpy as np
import pytest
import torch

from megatron_lmt.data.batch import BatchShape
from megatron_lmt.data.context import divide, row_length
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.loader import collate, my_micro_batches
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import PIECE

SEQ_LENGTH = 48


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("context") / "documents"
    with IndexedWriter(prefix, np.dtype(np.int32)) as writer:
        for start, length in ((100, 14), (200, 30), (300, 2), (400, 49)):
            writer.add_document([list(range(start, start + length))])
    return IndexedReader(prefix)


SAMPLES = [
    Sample(0, np.array([(0, 0, 13), (1, 0, 29), (2, 0, 1)], dtype=PIECE)),
    Sample(0, np.array([(3, 0, 48)], dtype=PIECE)),
    Sample(0, np.array([(1, 5, 20)], dtype=PIECE)),
    None,
]


def shape(size, tensor=1, micro_batch_size=2):
    return BatchShape(SEQ_LENGTH, micro_batch_size, 4, 0, 1, 0, size, tensor)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_hold_every_position_once(reader, size):
    whole = collate(SAMPLES, [reader], SEQ_LENGTH)
    length = row_length(SAMPLES, shape(size, micro_batch_size=4))
    parts = [divide(whole, length, rank, size) for rank in range(size)]
    for name in ("tokens", "labels", "loss_mask", "loss_slots"):
        together = torch.cat([getattr(part, name)[0][part.loss_mask[0] == 1] for part in parts])
        expected = getattr(whole, name)[0][whole.loss_mask[0] == 1]
        assert together.sort().values.tolist() == expected.sort().values.tolist(), name
    assert {part.tokens.shape for part in parts} == {(1, length // size)}
    assert all(part.num_positions == length and part.num_samples == 4 for part in parts)
    lengths = parts[0].cu_seqlens.diff()
    assert (lengths % (2 * size) == 0).all() and parts[0].max_seqlen == lengths.max()


def test_a_rank_has_a_part_from_the_front_and_its_mirror_image(reader):
    whole = collate(SAMPLES[1:2], [reader], SEQ_LENGTH)
    first, second = (divide(whole, 64, rank, 2) for rank in (0, 1))
    assert first.tokens[0, :24].tolist() == [*range(400, 412), *range(436, 448)]
    assert second.tokens[0, :24].tolist() == list(range(412, 436))
    assert not first.tokens[0, 24:].any() and not first.loss_mask[0, 24:].any()


def test_rows_of_a_global_batch_have_one_length_that_all_ranks_can_share(reader):
    # 13 → 16, 29 → 32, 1 → 4, 5 left → 8, and 48 → 48 with nothing left
    assert row_length(SAMPLES, shape(2)) == 128  # 108 rounded up to a multiple of 2 · 2 · 16
    assert row_length(SAMPLES, shape(2, tensor=2)) == 128 and row_length(SAMPLES, shape(4, tensor=2)) == 256
    batches = list(my_micro_batches(SAMPLES, [reader], shape(2)))
    assert [batch.num_positions for batch in batches] == [128, 128]
    alone = list(my_micro_batches(SAMPLES, [reader], shape(1)))
    assert [batch.num_positions for batch in alone] == [96, 96]
