"""From samples to batches: shifted labels, boundaries, loss masks, and the same global batch for any number of ranks."""

from itertools import islice

import numpy as np
import pytest
import torch

from megatron_lmt.data.indexed import CONTEXT, LOSS, IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.loader import BatchShape, collate, global_batches
from megatron_lmt.data.mixture import Mixture, Sample
from megatron_lmt.data.packing import PIECE, lengths_of
from megatron_lmt.data.weights import Phase, Plan, Source


@pytest.fixture
def reader(tmp_path):
    with IndexedWriter(tmp_path / "plain", np.dtype(np.int32)) as writer:
        writer.add_document([[10, 11, 12, 13]])
        writer.add_document([[20, 21]])
        writer.add_document([list(range(30, 45))])
        writer.close()
    return IndexedReader(tmp_path / "plain")


def test_documents_lie_side_by_side_and_never_predict_each_other(reader):
    sample = Sample(0, np.array([(0, 0, 3), (1, 0, 1), (2, 4, 8)], PIECE))
    batch = collate([sample, None], [reader], seq_length=10)
    assert batch.tokens[0, :8].tolist() == [10, 11, 12, 20, 34, 35, 36, 37]
    assert batch.labels[0, :8].tolist() == [11, 12, 13, 21, 35, 36, 37, 38]
    assert batch.loss_mask[0].tolist() == [1.0] * 8 + [0.0] * 12
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 8, 10, 20]
    assert batch.max_seqlen == 10


def test_only_tokens_of_loss_sequences_count(tmp_path):
    with IndexedWriter(tmp_path / "pairs", np.dtype(np.int32), with_modes=True) as writer:
        writer.add_document([[1, 2, 3], [4, 5]], [CONTEXT, LOSS])
        writer.close()
    batch = collate([Sample(0, np.array([(0, 0, 4)], PIECE))], [IndexedReader(tmp_path / "pairs")], seq_length=6)
    assert batch.labels[0, :4].tolist() == [2, 3, 4, 5]
    assert batch.loss_mask[0].tolist() == [0, 0, 1, 1, 0, 0]


def first_batches(reader, tmp_path, rank, size, micro_batch_size=1):
    plan = Plan([Source("s", "g", tmp_path)], [Phase(0, [1.0])])
    mixture = Mixture(plan, {"s": reader}, seed=1, seq_length=8, packing="documents")
    shape = BatchShape(8, micro_batch_size, 8, rank, size)
    return list(islice(global_batches(mixture, [reader], shape), 3))


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_one_global_batch(reader, tmp_path, size):
    whole = first_batches(reader, tmp_path, 0, 1)
    ranks = [first_batches(reader, tmp_path, rank, size) for rank in range(size)]
    for step, batch in enumerate(whole):
        parts = [ranks[rank][step].micro_batches[i] for i in range(8 // size) for rank in range(size)]
        assert torch.equal(torch.cat([m.tokens for m in batch.micro_batches]), torch.cat([m.tokens for m in parts]))
        assert all(ranks[rank][step].data_state == batch.data_state for rank in range(size))
        assert batch.num_tokens == sum(int(m.loss_mask.sum()) for m in batch.micro_batches)
        assert batch.sum_squared_lengths == sum(int(n) ** 2 for s in batch.samples for n in lengths_of(s.pieces))
