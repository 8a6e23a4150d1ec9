"""The loss on held-out data, one number for each source, with every document counted exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.loader import BatchShape, MicroBatch, collate
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import whole_documents
from megatron_lmt.step import Trainee


def validation_losses(
    trainee: Trainee, readers: dict[str, IndexedReader], shape: BatchShape, eval_samples: int | None
) -> dict[str, float]:
    """Mean loss per predicted token for each source. All processes call it together.

    Args:
        readers: source name → its token files.
        eval_samples: at most this many samples of each source; None takes all documents.
    """
    return {name: _loss(trainee, reader, shape, eval_samples) for name, reader in readers.items()}


def _loss(trainee: Trainee, reader: IndexedReader, shape: BatchShape, eval_samples: int | None) -> float:
    documents = np.arange(reader.num_documents)
    packed = whole_documents(documents, reader.document_lengths(documents) - 1, shape.seq_length)
    samples = [Sample(0, pieces) for pieces in packed[:eval_samples]]
    stride = shape.micro_batch_size * shape.data_parallel_size
    samples += [None] * (-len(samples) % stride)  # samples of padding carry no loss

    def micro_batches() -> Iterator[MicroBatch]:
        for mine in shape.my_samples(samples):
            yield collate(mine, [reader], shape.seq_length)

    loss_sum, num_tokens = trainee.evaluate(micro_batches(), len(samples) // stride)
    return loss_sum / num_tokens
