"""The proof: it passes for conversions, and fails where tensors or what is done with them differ."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.end_to_end.processes import tool, train
from tests.end_to_end.test_convert import CONVERT, MODELS, make_hf_model
from tests.end_to_end.trained import assert_equal, tensors_of_hf

VERIFY = "checkpoint/verify.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    from tests.conftest import make_run

    run_file = make_run(tmp_path_factory.mktemp("verify"), quickstart_tokenizer, tiny_tokens)
    train(run_file, 2, "train.train_iters=3", "train.bf16=true", "parallel.tensor_model_parallel_size=2")
    folder = run_file.parent
    paths = ("--load-dir", folder / "run", "--save-dir", folder / "hf")
    output = tool(CONVERT, "--loader", "mcore", "--saver", "hf", *paths, "--verify")
    assert "46 tensors have the same SHA-256" in output
    assert "the same logits, computed in float32" in output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line[:3] in ("zh ", "all")}
    assert float(rows["all"][1]) < 1e-4 and float(rows["zh"][4]) == 1.0  # float32 kernels differ in the last bits
    return folder


def test_bf16_has_its_own_tolerance(exported):
    output = tool(VERIFY, "--hf-dir", exported / "hf", "--mcore-dir", exported / "run", "--dtype", "bfloat16")
    assert "the same logits, computed in bfloat16" in output


def test_the_same_tensors_used_otherwise_are_another_model(exported):
    config = json.loads((exported / "hf" / "config.json").read_text())
    (exported / "hf" / "config.json").write_text(json.dumps({**config, "rope_theta": 1e4}))
    try:
        output = tool(VERIFY, "--hf-dir", exported / "hf", "--mcore-dir", exported / "run", code=2)
    finally:
        (exported / "hf" / "config.json").write_text(json.dumps(config))
    assert "error: the logits are not the same, the conversion is wrong:" in output and output.count("error:") == 1
    assert "same SHA-256" not in output


def test_a_tensor_that_differs_is_named(exported, tmp_path):
    file = exported / "hf" / "model.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name].view(torch.int16)[7, 7] ^= 1
    save_file(tensors, file)
    output = tool(VERIFY, "--hf-dir", exported / "hf", "--mcore-dir", exported / "run", code=2)
    file.write_bytes(whole)
    assert output.count("error: ") == 1 and f"{name} is not what" in output


@pytest.mark.parametrize("model", MODELS)
def test_in_and_out_with_proof(tmp_path, quickstart_tokenizer, model):
    make_hf_model(tmp_path / "hf", quickstart_tokenizer, **MODELS[model])
    paths = ("--load-dir", tmp_path / "hf", "--save-dir", tmp_path / "mcore")
    assert "the same logits" in tool(CONVERT, "--loader", "hf", "--saver", "mcore", *paths, "--verify", "--untie")
    paths = (
        "--load-dir",
        tmp_path / "mcore",
        "--save-dir",
        tmp_path / "cut",
        "--target-tensor-parallel-size",
        "2",
        "--workers",
        "2",
    )
    assert "tensors have the same SHA-256" in tool(CONVERT, "--loader", "mcore", "--saver", "mcore", *paths, "--verify")
    paths = ("--load-dir", tmp_path / "cut", "--save-dir", tmp_path / "back", "--workers", "2")
    tool(CONVERT, "--loader", "mcore", "--saver", "hf", *paths)
    before, after = tensors_of_hf(tmp_path / "hf"), tensors_of_hf(tmp_path / "back")
    if "lm_head.weight" not in before:  # it was untied on the way
        assert torch.equal(after.pop("lm_head.weight"), before["model.embed_tokens.weight"])
    assert_equal(after, before)
