"""Trained checkpoints of many layouts, with their optimizer, out to Hugging Face, back in, and cut anew: bit-equal."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.mcore_to_mcore import reshard
from megatron_lmt.conversion.options import Options
from megatron_lmt.runtime.checkpoint_folder import find_checkpoint
from tests.conftest import TINY_MODEL, make_run
from tests.end_to_end.laid_out import ParallelLayout, lay_out, saved_blocks
from tests.end_to_end.processes import curve, train
from tests.end_to_end.trained import (
    assert_equal,
    is_vocabulary,
    tensors_of_checkpoint,
    tensors_of_hf,
    weights_of_checkpoint,
    without_padding,
)

TP = "parallel.tensor_model_parallel_size"
CASES = {
    # processes, tied, bf16, layout; what the layout leaves is data-parallel
    "dp2": (2, True, False, ParallelLayout()),
    "tp2-pp2": (4, True, True, ParallelLayout(2, 2)),
    "tp4": (4, False, False, ParallelLayout(4)),
    "pp4": (4, False, True, ParallelLayout(1, 4)),
    "pp2-virtual": (2, True, False, ParallelLayout(1, 2, 2)),
    "tp2-pp2-virtual": (4, False, True, ParallelLayout(2, 2, 2)),
}
EACH_MODEL = ("dp2", "tp2-pp2", "tp4", "pp4")
"""Tied and untied, in float32 and bfloat16."""
LAYOUTS = [
    ParallelLayout(tensor, pipeline, virtual)
    for tensor in (1, 2, 4)
    for pipeline, virtual in ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2))
]
VOCABULARIES = (704, 702, 701)
"""Is not padded, is padded for four tensor-parallel ranks, and for two as well."""
MODEL = {**TINY_MODEL, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "num_hidden_layers": 8}


@pytest.fixture(scope="module", params=CASES)
def trained(request, tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A folder with a run directory after two steps, and its model's config.json."""
    processes, tied, bf16, layout = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    (folder / "config.json").write_text(json.dumps({**MODEL, "tie_word_embeddings": tied}))
    train(run_file, processes, "train.train_iters=2", f"train.bf16={str(bf16).lower()}", *layout.overrides())
    return folder


@pytest.fixture(scope="module")
def whole(trained):
    """Its tensors, optimizer state included, without the rows that pad the vocabulary."""
    return without_padding(tensors_of_checkpoint(trained / "run"), MODEL["vocab_size"])


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
        for name in filter(is_vocabulary, tensors):
            assert tensors is before or len(tensors[name]) == padded
            assert not tensors[name][MODEL["vocab_size"] :].any() or "exp_avg" in name
    assert_equal(without_padding(after, MODEL["vocab_size"]), without_padding(before, MODEL["vocab_size"]))


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("trained", EACH_MODEL, indirect=True)
def test_every_layout(trained, whole, tmp_path, layout, vocab_size):
    """The trained tensors as the layout's processes save them: out, in again, and cut for one rank; bit-equal.

    A larger vocabulary than the trained one repeats its first rows.
    """
    config = {**json.loads((trained / "config.json").read_text()), "vocab_size": vocab_size}
    before = {n: torch.cat([t, t[: vocab_size - len(t)]]) if is_vocabulary(n) else t for n, t in whole.items()}
    lay_out(before, find_checkpoint(trained / "run"), tmp_path / "source", layout, config)
    export_to_hf(tmp_path / "source", tmp_path / "hf", Options(check_hashes=True))
    assert len(tensors_of_hf(tmp_path / "hf")["model.embed_tokens.weight"]) == vocab_size
    import_from_hf(tmp_path / "hf", tmp_path / "mcore", Options())
    weights = {name: tensor for name, tensor in before.items() if not name.startswith("optimizer.")}
    assert_equal(tensors_of_checkpoint(tmp_path / "mcore"), weights)
    reshard(tmp_path / "source", tmp_path / "cut", Options())
    assert_equal(tensors_of_checkpoint(tmp_path / "cut"), before)


def test_layouts_are_laid_out_as_many_processes_save_them(trained, request, tmp_path):
    processes, *_, layout = CASES[request.node.callspec.params["trained"]]
    source = find_checkpoint(trained / "run")
    lay_out(
        without_padding(tensors_of_checkpoint(source), MODEL["vocab_size"]),
        source,
        tmp_path / "laid_out",
        layout,
        json.loads((trained / "config.json").read_text()),
    )
    is_parallel_in_data = processes > layout.tensor * layout.pipeline  # ranks then share what they write
    ours, theirs = (saved_blocks(folder, with_ranks=not is_parallel_in_data) for folder in (tmp_path / "laid_out", source))
    assert ours == theirs


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
