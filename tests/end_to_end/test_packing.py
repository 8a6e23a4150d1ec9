"""Documents packed side by side do not see each other: each has the loss that it has alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_lmt.config import ParallelSection
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.data.loader import collate
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import concatenated, lengths_of, whole_documents
from megatron_lmt.model.hf_io import RandomTensors
from megatron_lmt.model.shape import read_shape
from megatron_lmt.runtime.device import open_device
from tests.conftest import TINY_MODEL

SEQ_LENGTH = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model in this process."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(TINY_MODEL))
    device, shape = open_device(), read_shape(folder)

    from megatron_lmt.model.qwen3 import build_model
    from megatron_lmt.model.weights import set_weights
    from megatron_lmt.runtime.parallel import close_process_groups, open_process_groups

    open_process_groups(ParallelSection(), device, seed=1)
    model = build_model(shape, ParallelSection(), device, False, True, True)
    set_weights(model, shape, RandomTensors(shape, seed=3))
    yield model
    close_process_groups()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("documents") / "documents"
    random = np.random.default_rng(0)
    with IndexedWriter(prefix, np.dtype(np.int32)) as writer:
        for length in random.integers(2, 40, 30):
            writer.add_document([random.integers(0, 700, length).tolist()])
        writer.close()
    return IndexedReader(prefix)


@torch.no_grad()
def losses(model, batch):
    """Loss of each position, 0 where none counts."""
    from megatron_lmt.model.qwen3 import packed_seq_params

    boundaries = packed_seq_params(batch.cu_seqlens, batch.max_seqlen)
    output = model(batch.tokens, None, None, labels=batch.labels, packed_seq_params=boundaries)
    return (output * batch.loss_mask)[0]


def of_piece(model, reader, piece):
    """The losses of a piece that is alone in the smallest sample that holds it."""
    batch = collate([Sample(0, piece)], [reader], int(lengths_of(piece)[0]))
    return losses(model, batch)


def packed(reader, packing):
    documents = np.arange(reader.num_documents)
    return packing(documents, reader.document_lengths(documents) - 1, SEQ_LENGTH)


@pytest.mark.parametrize("packing", ["documents", "concatenate"])
def test_a_document_has_the_same_loss_packed_and_alone(model, reader, packing):
    samples = packed(reader, whole_documents if packing == "documents" else concatenated)
    batch = collate([Sample(0, pieces) for pieces in samples[:3]] + [None], [reader], SEQ_LENGTH)
    found = losses(model, batch)
    for number, pieces in enumerate(samples[:3]):
        start = number * SEQ_LENGTH
        for i in range(len(pieces)):
            alone = of_piece(model, reader, pieces[i : i + 1])
            assert torch.allclose(found[start : start + len(alone)], alone, rtol=1e-5, atol=1e-5)
            start += len(alone)
        assert not found[start : (number + 1) * SEQ_LENGTH].any()  # padding has no loss
    assert not found[3 * SEQ_LENGTH :].any()


def test_the_loss_of_each_sample_is_counted_in_its_own_slot(model, reader):
    from megatron_lmt.step import _loss_sum

    samples = [Sample(0, pieces) for pieces in packed(reader, whole_documents)[:3]]
    batch = collate([*samples, None], [reader], SEQ_LENGTH)
    loss_sum, num_tokens, report = _loss_sum(batch, losses(model, batch)[None])
    sums, counts = report["slots"][:, ::2].tolist()
    pieces_of = [[sample.pieces[i : i + 1] for i in range(len(sample.pieces))] for sample in samples]
    alone = [sum(float(of_piece(model, reader, piece).sum()) for piece in pieces) for pieces in pieces_of]
    assert sums == pytest.approx([*alone, 0.0], rel=1e-5)
    assert counts == [int(lengths_of(sample.pieces).sum()) for sample in samples] + [0]
    assert not report["slots"][:, 1::2].any() and sum(counts) == num_tokens
    assert float(loss_sum) == pytest.approx(sum(sums))


def test_the_neighbour_would_be_noticed(model, reader):
    """The test above can fail: without the boundary between two documents the second one's loss is another."""
    pieces = packed(reader, whole_documents)[0][:2]
    batch = collate([Sample(0, pieces)], [reader], int(lengths_of(pieces).sum()))
    merged = replace(batch, cu_seqlens=batch.cu_seqlens[[0, -1]], max_seqlen=int(batch.cu_seqlens[-1]))
    second = lengths_of(pieces)[0]
    assert not torch.allclose(losses(model, batch)[second:], losses(model, merged)[second:], rtol=1e-3, atol=1e-3)
