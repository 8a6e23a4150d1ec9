"""Fine-tuning: the loss is per target token over the global batch however it is packed, and generation ends after it."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_lmt.config import load_run
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.loader import collate
from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import PIECE, lengths_of, whole_documents
from megatron_lmt.preflight import check_run
from megatron_lmt.preprocessing.inputs import sources_in
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from megatron_lmt.runtime.device import open_device
from megatron_lmt.sft.corpus import build_sft_corpus
from tests.conftest import QUICKSTART, REPOSITORY, RUN_HEAD, TINY_MODEL
from tests.end_to_end.processes import curve, tool, train

DIRECTIONS = ("en-zh", "zh-hi")
SEQ_LENGTH = 512
CORPUS = """
[pmp]
share = 0.5
[[aligned]]
path = "{language}.txt"
pairs = ["en-zh", "zh-hi"]
"""
RUN = f"""{RUN_HEAD}
seq_length = 512
[data.mixture.sft]
weight = 1
path = "tokens/{{direction}}_text_document"
directions = ["en-zh", "zh-hi"]
[train]
train_iters = 120
micro_batch_size = 1
global_batch_size = 2
[optimizer]
lr = 4e-3
[checkpoint]
save_interval = 120
[logging]
log_interval = 40
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quickstart_tokenizer):
    """A run file with all that it names: chats of two pairs, zh-hi also with English beside it."""
    folder = tmp_path_factory.mktemp("sft")
    (folder / "corpus.toml").write_text(CORPUS)
    build_sft_corpus(folder / "corpus.toml", folder / "text", quickstart_tokenizer, root=str(QUICKSTART / "corpus"))
    recipe = Recipe("HuggingFaceTokenizer", quickstart_tokenizer, ("prompt", "target"), ("target",), append_eod=False)
    preprocess(recipe, sources_in(folder / "text", folder / "tokens"), workers=1)
    (folder / "config.json").write_text(json.dumps({**TINY_MODEL, "hidden_size": 64, "max_position_embeddings": SEQ_LENGTH}))
    (folder / "tokenizer").symlink_to(quickstart_tokenizer)
    (folder / "run.toml").write_text(RUN)
    return folder


@pytest.fixture(scope="module")
def trainee(folder):
    """The trainer's own model, gradients and loss, in this process."""
    ready, device = check_run(load_run(folder / "run.toml"), 1), open_device()

    from megatron_lmt.runtime.parallel import close_process_groups, open_process_groups
    from megatron_lmt.start import build_trainee

    open_process_groups(ready.run.parallel, device, seed=1)
    yield build_trainee(ready, device)
    close_process_groups()


def gradients(trainee, batches):
    """The loss, and all gradients in one vector."""
    losses, _ = trainee.compute_gradients(batches, ())
    return losses.mean, torch.cat([parameter.main_grad.flatten().clone() for parameter in trainee.bare_model.parameters()])


def packed(reader):
    documents = np.arange(reader.num_documents)
    return whole_documents(documents, reader.document_lengths(documents) - 1, SEQ_LENGTH)


def test_packed_and_unpacked_gradients_agree(folder, trainee):
    readers = [IndexedReader(folder / f"tokens/{direction}_text_document") for direction in DIRECTIONS]
    samples = [Sample(number, pieces) for number in (0, 1) for pieces in packed(readers[number])[:3]]
    assert all(len(sample.pieces) > 1 for sample in samples)
    alone = [Sample(sample.source, sample.pieces[i : i + 1]) for sample in samples for i in range(len(sample.pieces))]
    lengths = [int(lengths_of(sample.pieces)[0]) for sample in alone]
    layouts = {
        "packed, a sample in each micro batch": [collate([sample], readers, SEQ_LENGTH) for sample in samples],
        "packed, two samples": [collate(samples[i : i + 2], readers, SEQ_LENGTH) for i in range(0, len(samples), 2)],
        "unpacked, padded": [collate([sample], readers, SEQ_LENGTH) for sample in alone],
        "unpacked, without padding": [
            collate([sample], readers, length) for sample, length in zip(alone, lengths, strict=True)
        ],
    }
    found = {name: gradients(trainee, batches) for name, batches in layouts.items()}
    expected_loss, expected = found.pop("unpacked, without padding")
    for name, (loss, gradient) in found.items():
        assert loss == pytest.approx(expected_loss, abs=1e-6), name
        assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max(), name
        assert torch.linalg.norm(gradient - expected) < 1e-5 * torch.linalg.norm(expected), name


def test_gradients_that_are_not_finite_change_no_weight(folder, trainee):
    reader = IndexedReader(folder / "tokens/en-zh_text_document")
    trainee.compute_gradients([collate([Sample(0, packed(reader)[0])], [reader], SEQ_LENGTH)], ())
    parameters = list(trainee.bare_model.parameters())
    before = [parameter.clone() for parameter in parameters]
    parameters[0].main_grad.view(-1)[0] = float("nan")
    assert math.isnan(trainee.apply_gradients())
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_the_validation_loss_counts_every_document_once(folder, trainee, micro_batch_size):
    from megatron_lmt.step import batch_shape
    from megatron_lmt.validate import validation_losses

    reader = IndexedReader(folder / "tokens/en-zh_text_document")
    shape = replace(batch_shape(load_run(folder / "run.toml")), micro_batch_size=micro_batch_size)
    found = validation_losses(trainee, {"en-zh": reader}, [None], shape, None)
    assert len(packed(reader)) % 5  # the last micro batch has room
    total = count = 0.0
    for number in range(reader.num_documents):
        piece = np.array([(number, 0, len(reader.document(number)) - 1)], PIECE)
        losses = trainee.evaluate(iter([collate([Sample(0, piece)], [reader], int(piece["stop"][0]))]), 1)
        total, count = total + losses.sums.sum(), count + losses.counts.sum()
    assert found["validation_loss/en-zh"] == pytest.approx(total / count, rel=1e-5)


def test_gradients_of_bf16_weights_are_fp32(folder, trainee):
    from megatron_lmt.start import build_trainee

    in_bf16 = build_trainee(check_run(load_run(folder / "run.toml", ["train.bf16=true"]), 1), open_device())
    dtypes = {(parameter.dtype, parameter.main_grad.dtype) for parameter in in_bf16.bare_model.parameters()}
    assert dtypes == {(torch.bfloat16, torch.float32)}


def test_a_mean_of_means_would_be_noticed(folder, trainee):
    """The test above can fail: answers differ in length, so the mean over documents is another number."""
    reader = IndexedReader(folder / "tokens/zh-hi_text_document")
    each = [collate([Sample(0, piece.reshape(1))], [reader], int(lengths_of(piece))) for piece in packed(reader)[0]]
    losses = [gradients(trainee, [batch])[0] for batch in each]
    assert abs(sum(losses) / len(losses) - gradients(trainee, each)[0]) > 1e-4


def test_two_processes_have_the_losses_of_one(folder):
    """Each has other numbers of learned tokens, and a mean of the two means would be another loss."""
    for processes in (1, 2):
        train(folder / "run.toml", processes, f"output_dir=of_{processes}", "train.train_iters=4")
    for name in ("lm_loss", "grad_norm"):
        assert curve(folder / "of_2", name) == pytest.approx(curve(folder / "of_1", name), rel=1e-5)


def test_generation_ends_with_the_answer(folder):
    """After fine-tuning on few sentences, the exported model ends its answers itself, with and without an auxiliary."""
    train(folder / "run.toml", 1)
    log = (folder / "run/train.log").read_text()
    assert "share learned" in log and log.count("what is learned in ⟦ ⟧") == 3
    tool(
        "checkpoint/convert.py",
        "--loader",
        "mcore",
        "--saver",
        "hf",
        "--load-dir",
        folder / "run",
        "--save-dir",
        folder / "model",
    )
    command = [sys.executable, "-m", "tests.end_to_end.answers", str(folder / "model")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    ended = int(result.stdout)
    assert ended >= 15, f"{ended} of 16 answers end by themselves"
