"""A checkpoint saved on TP2·PP2 is the same state on any layout: weights and optimizer, tensor by tensor, bit for bit."""

import json
import os
import subprocess

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests.conftest import REPOSITORY, TINY_MODEL, make_run
from tests.end_to_end.processes import curve, launch, train

TP, PP = "parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size"
TP2_PP2 = (4, f"{TP}=2", f"{PP}=2")
LAYOUTS = {
    "TP1": (1,),
    "TP4": (4, f"{TP}=4"),
    "PP4": (4, f"{PP}=4"),
    "DP4": (4, "train.micro_batch_size=1"),
}
VOCABULARY = TINY_MODEL["vocab_size"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("reshard")
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    (folder / "config.json").write_text(json.dumps({**TINY_MODEL, "num_key_value_heads": 4}))
    processes, *overrides = TP2_PP2
    train(run_file, processes, *overrides, "checkpoint.async_save=true")
    return run_file


def tensors(checkpoint, tmp_path):
    """All tensors of a checkpoint, whole, by their keys; the embedding without the rows that pad it."""
    dcp_to_torch_save(checkpoint, tmp_path / "whole.pt")
    state = torch.load(tmp_path / "whole.pt", weights_only=True)
    found = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    return {key: value[:VOCABULARY] if "word_embeddings" in key else value for key, value in found.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_optimizer_state_are_equal_tensor_by_tensor(saved, tmp_path, layout):
    processes, *overrides = LAYOUTS[layout]
    launch(processes, str(REPOSITORY / "tests/end_to_end/resave.py"), str(saved), str(tmp_path / "again"), *overrides)
    before = tensors(saved.parent / "run" / "checkpoints" / "iter_0000020", tmp_path)
    after = tensors(tmp_path / "again", tmp_path)
    assert before.keys() == after.keys()
    moments = [key for key in before if key.startswith("optimizer.state.exp_avg")]
    assert len(moments) == 2 * len([key for key in before if key.startswith("optimizer.state.param.")])
    assert all(before[key].abs().max() > 0 for key in moments)
    assert not [key for key in before if not torch.equal(before[key], after[key])]


def test_training_goes_on_under_another_layout(saved):
    moved, whole = saved.parent / "moved", saved.parent / "run"
    subprocess.run(["cp", "-r", str(whole), str(moved)], check=True)
    os.remove(moved / "DONE")
    (moved / "checkpoints" / "iter_0000020").rename(moved / "checkpoints" / "aside")
    train(saved, 4, f"output_dir={moved}", f"{TP}=4")
    assert curve(moved) == pytest.approx(curve(whole), rel=1e-5)
