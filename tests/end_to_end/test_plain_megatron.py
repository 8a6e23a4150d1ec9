"""Weights of a checkpoint that plain Megatron-LM wrote: read with the config.json and tokenizer of its model."""

import json
import sys

import pytest
import torch

from tests.conftest import REPOSITORY, TINY_MODEL
from tests.end_to_end.processes import launch, tool
from tests.end_to_end.test_convert import CONVERT
from tests.end_to_end.trained import tensors_of_hf


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "config.json").write_text(json.dumps({**TINY_MODEL, "tie_word_embeddings": False}))
    launch(2, str(REPOSITORY / "tests" / "end_to_end" / "plain_megatron.py"), str(folder))
    return folder


def test_every_tensor_arrives(plain, tmp_path):
    """Joined by hand from what the two ranks held: heads, gate and up, columns and vocabulary."""
    paths = ("--load-dir", plain, "--save-dir", tmp_path / "hf", "--hf-config", plain)
    tool(CONVERT, "--loader", "mcore", "--saver", "hf", *paths)
    ranks = [torch.load(plain / f"rank{rank}.pt") for rank in range(2)]
    found = tensors_of_hf(tmp_path / "hf")
    hf, mcore = "model.layers.3.", "decoder.layers.3."

    def parts(name):
        return [rank[mcore + name].detach() for rank in ranks]

    # each rank has one group: two query heads, a key and a value head of 24
    query, key, value = zip(*(part.split([48, 24, 24]) for part in parts("self_attention.linear_qkv.weight")), strict=True)
    gate, up = zip(*(part.chunk(2) for part in parts("mlp.linear_fc1.weight")), strict=True)
    expected = {
        f"{hf}self_attn.q_proj.weight": torch.cat(query),
        f"{hf}self_attn.k_proj.weight": torch.cat(key),
        f"{hf}self_attn.v_proj.weight": torch.cat(value),
        f"{hf}self_attn.o_proj.weight": torch.cat(parts("self_attention.linear_proj.weight"), dim=1),
        f"{hf}mlp.gate_proj.weight": torch.cat(gate),
        f"{hf}mlp.up_proj.weight": torch.cat(up),
        f"{hf}mlp.down_proj.weight": torch.cat(parts("mlp.linear_fc2.weight"), dim=1),
        f"{hf}self_attn.k_norm.weight": parts("self_attention.k_layernorm.weight")[0],
        f"{hf}post_attention_layernorm.weight": parts("pre_mlp_layernorm.weight")[1],
        "model.norm.weight": ranks[0]["decoder.final_layernorm.weight"],
        "lm_head.weight": torch.cat([rank["output_layer.weight"] for rank in ranks])[:701],
        "model.embed_tokens.weight": torch.cat([rank["embedding.word_embeddings.weight"] for rank in ranks])[:701],
    }
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert len(found) == 4 * 11 + 3


def test_it_becomes_one_of_ours(plain, tmp_path):
    paths = ("--load-dir", plain / "iter_0000007", "--save-dir", tmp_path / "mcore", "--hf-config", plain)
    tool(CONVERT, "--loader", "mcore", "--saver", "mcore", *paths)
    tool(CONVERT, "--loader", "mcore", "--saver", "hf", "--load-dir", tmp_path / "mcore", "--save-dir", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 701
    output = tool(CONVERT, "--loader", "mcore", "--saver", "hf", *paths[:2], "--save-dir", tmp_path / "no", code=2)
    assert "--hf-config" in output and sys.executable not in output
