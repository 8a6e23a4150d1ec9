"""Trained checkpoints of many layouts, with their optimizer, out to Hugging Face, back in, and cut anew: bit-equal."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.mcore_to_mcore import reshard
from megatron_lmt.conversion.options import Options
from tests.conftest import TINY_MODEL, make_run
from tests.end_to_end.processes import curve, train
from tests.end_to_end.trained import (
    assert_equal,
    tensors_of_checkpoint,
    tensors_of_hf,
    weights_of_checkpoint,
)

TP, PP = "parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size"
VIRTUAL = "parallel.virtual_pipeline_model_parallel_size"
CASES = {
    # processes, tied, bf16, layout; what the layout leaves is data-parallel
    "dp2": (2, True, False, {}),
    "tp2-pp2": (4, True, True, {TP: 2, PP: 2}),
    "tp4": (4, False, False, {TP: 4}),
    "pp4": (4, False, True, {PP: 4}),
    "pp2-virtual": (2, True, False, {PP: 2, VIRTUAL: 2}),
    "tp2-pp2-virtual": (4, False, True, {TP: 2, PP: 2, VIRTUAL: 2}),
}
MODEL = {**TINY_MODEL, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}


@pytest.fixture(scope="module", params=CASES)
def trained(request, tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A run directory after two steps, its model's config.json, and how it was trained."""
    processes, tied, bf16, layout = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    (folder / "config.json").write_text(json.dumps({**MODEL, "tie_word_embeddings": tied}))
    layout = [f"{key}={size}" for key, size in layout.items()]
    train(run_file, processes, "train.train_iters=2", f"train.bf16={str(bf16).lower()}", *layout)
    return folder


def test_out_and_in_again(trained, tmp_path):
    vocab_size = MODEL["vocab_size"]
    export_to_hf(trained / "run", tmp_path / "hf", Options())
    import_from_hf(tmp_path / "hf", tmp_path / "mcore", Options())
    before = weights_of_checkpoint(trained / "run", vocab_size)
    assert_equal(weights_of_checkpoint(tmp_path / "mcore", vocab_size), before)
    export_to_hf(tmp_path / "mcore", tmp_path / "again", Options(max_shard_bytes=50_000, workers=2))
    assert_equal(tensors_of_hf(tmp_path / "again"), tensors_of_hf(tmp_path / "hf"))
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
    embedding = tensors_of_hf(tmp_path / "hf")["model.embed_tokens.weight"]
    assert embedding.shape == (vocab_size, MODEL["hidden_size"])
    assert not torch.equal(
        before["decoder.final_layernorm.weight"], torch.ones_like(before["decoder.final_layernorm.weight"])
    )
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == embedding.dtype and torch.equal(model.get_input_embeddings().weight, embedding)


@pytest.mark.parametrize("target", [1, 2, 4])
def test_cut_anew(trained, tmp_path, target):
    """Weights and optimizer state are the same; the vocabulary is padded for the new layout, with zeros."""
    reshard(trained / "run", tmp_path / "cut", Options(tensor_parallel=target))
    before, after = tensors_of_checkpoint(trained / "run"), tensors_of_checkpoint(tmp_path / "cut")
    assert any(name.startswith("optimizer.state.exp_avg_sq") for name in after)
    padded = -(-MODEL["vocab_size"] // target) * target
    for tensors in (before, after):
        for name in [name for name in tensors if name.endswith(("word_embeddings.weight", "output_layer.weight"))]:
            assert tensors is before or len(tensors[name]) == padded
            assert not tensors[name][MODEL["vocab_size"] :].any() or "exp_avg" in name
            tensors[name] = tensors[name][: MODEL["vocab_size"]]
    assert_equal(after, before)


def test_a_checkpoint_that_was_cut_anew_goes_on_as_the_old_one(tiny_run, tmp_path):
    folder = tiny_run.parent
    two = ("train.train_iters=4", "checkpoint.save_interval=2", f"{TP}=2")
    train(tiny_run, 2, *two)
    checkpoints = folder / "run" / "checkpoints"
    reshard(checkpoints / "iter_0000002", tmp_path / "iter_0000002", Options(tensor_parallel=1))
    for old in checkpoints.iterdir():
        old.rename(tmp_path / f"old_{old.name}")
    (tmp_path / "iter_0000002").rename(checkpoints / "iter_0000002")
    uninterrupted = curve(folder / "run")
    (folder / "run" / "DONE").unlink()
    train(tiny_run, 1, *two[:2])
    assert curve(folder / "run") == pytest.approx(uninterrupted, rel=1e-5)
    reshard(folder / "run", tmp_path / "untied", Options(no_save_optim=True, untie=True))
    weights = tensors_of_checkpoint(tmp_path / "untied")
    assert not any(name.startswith("optimizer") for name in weights)
    assert torch.equal(weights["output_layer.weight"], weights["embedding.word_embeddings.weight"])
    export_to_hf(tmp_path / "untied", tmp_path / "hf", Options())
    export_to_hf(folder / "run", tmp_path / "hf_untied", Options(untie=True))
    assert_equal(tensors_of_hf(tmp_path / "hf_untied"), tensors_of_hf(tmp_path / "hf"))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["tie_word_embeddings"] is False
