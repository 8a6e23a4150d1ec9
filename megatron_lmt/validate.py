"""The loss on held-out data, one number for each source, with every document counted exactly once."""

from __future__ import annotations

import numpy as np

from megatron_lmt.data.batch import BatchShape
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.loader import my_micro_batches
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import whole_documents
from megatron_lmt.runtime.metrics import mean_losses
from megatron_lmt.step import Trainee


def validation_losses(
    trainee: Trainee,
    readers: dict[str, IndexedReader],
    markers: list[np.ndarray | None],
    shape: BatchShape,
    eval_samples: int | None,
) -> dict[str, float]:
    """Mean loss per predicted token of each source, and of the target tokens of pairs. All processes call it together.

    The samples of all sources go through the model as one batch, so that hundreds of small ones fill it.

    Args:
        readers: source name → its token files.
        markers: of each source, as in `collate`.
        eval_samples: at most this many samples of each source; None takes all documents.
    Returns:
        `validation_loss/<source>`, and `validation_target_loss/<source>` where targets are known.
    """
    samples: list[Sample | None] = []
    for number, reader in enumerate(readers.values()):
        documents = np.arange(reader.num_documents)
        packed = whole_documents(documents, reader.document_lengths(documents) - 1, shape.seq_length)
        samples += [Sample(number, pieces) for pieces in packed[:eval_samples]]
    stride = shape.micro_batch_size * shape.data_parallel_size * shape.micro_batch_group
    samples += [None] * (-len(samples) % stride)  # samples of padding carry no loss
    micro_batches = my_micro_batches(samples, list(readers.values()), shape, markers)
    losses = trainee.evaluate(micro_batches, len(samples) // (shape.micro_batch_size * shape.data_parallel_size))
    names = list(readers)
    return mean_losses(losses, [names[sample.source] if sample else None for sample in samples], "validation_")
