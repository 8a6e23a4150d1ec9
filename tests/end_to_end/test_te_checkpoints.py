"""Checkpoints of Transformer Engine's layers and of torch's load into each other, and its extra state never leaves.

The engine itself needs a GPU. What matters here are the keys of its checkpoints: the weights' names, which are written down
below as its layer specification has them, and the extra state of each of its layers.
"""

import shutil

import pytest
import torch.distributed.checkpoint as dcp

from megatron_lmt.conversion.hf_to_mcore import import_from_hf
from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.mcore_to_mcore import reshard
from megatron_lmt.conversion.options import Options
from megatron_lmt.runtime.checkpoint_folder import find_checkpoint
from tests.conftest import REPOSITORY, TINY_MODEL, make_run
from tests.end_to_end.processes import curve, launch
from tests.end_to_end.trained import assert_equal, tensors_of_checkpoint, tensors_of_hf, weights_of_checkpoint

TE_LAYER = (
    "self_attention.linear_qkv.layer_norm_weight",  # TELayerNormColumnParallelLinear has the norm before it in it
    "self_attention.linear_qkv.weight",
    "self_attention.q_layernorm.weight",
    "self_attention.k_layernorm.weight",
    "self_attention.linear_proj.weight",
    "mlp.linear_fc1.layer_norm_weight",
    "mlp.linear_fc1.weight",
    "mlp.linear_fc2.weight",
)
TE_EXTRA_STATE = ("linear_qkv", "linear_proj", "core_attention", "q_layernorm", "k_layernorm", "linear_fc1", "linear_fc2")
WRITERS = {"te": [str(REPOSITORY / "tests" / "end_to_end" / "te_like.py")], "torch": ["-m", "megatron_lmt.train"]}
OVERRIDES = ("parallel.tensor_model_parallel_size=2", "train.train_iters=4", "checkpoint.save_interval=2")


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """Which layers, and the folder of a run of four steps with them, two after its first checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    launch(2, *WRITERS[request.param], str(run_file), *OVERRIDES)
    return request.param, folder


def keys_of(checkpoint) -> tuple[set[str], set[str]]:
    """The names of the weights, and of what has extra state."""
    entries = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    tensors = {name for name, entry in entries.items() if hasattr(entry, "chunks") and not name.startswith("optimizer")}
    return tensors, {name.split("._extra_state")[0].split(".")[-1] for name in entries if "_extra_state" in name}


def test_weights_have_transformer_engines_names(written):
    layers, folder = written
    weights, with_extra_state = keys_of(find_checkpoint(folder / "run"))
    others = {"embedding.word_embeddings.weight", "decoder.final_layernorm.weight"}
    assert weights == others | {f"decoder.layers.{name}" for name in TE_LAYER}
    assert layers == "torch" or with_extra_state >= set(TE_EXTRA_STATE)


def test_extra_state_never_leaves_and_is_never_asked_for(written, tmp_path):
    _, folder = written
    export_to_hf(folder / "run", tmp_path / "hf", Options())
    assert not any("extra" in name for name in tensors_of_hf(tmp_path / "hf"))
    import_from_hf(tmp_path / "hf", tmp_path / "mcore", Options())
    vocabulary = TINY_MODEL["vocab_size"]
    assert_equal(weights_of_checkpoint(tmp_path / "mcore", vocabulary), weights_of_checkpoint(folder / "run", vocabulary))
    reshard(folder / "run", tmp_path / "cut", Options(tensor_parallel=2))
    assert_equal(tensors_of_checkpoint(tmp_path / "cut"), tensors_of_checkpoint(folder / "run"))
    assert keys_of(tmp_path / "cut")[1] == set()


def test_each_loads_the_others(written, tmp_path):
    """A run goes on with the other kind of layers, with its optimizer, as with its own."""
    layers, folder = written
    (reader,) = WRITERS.keys() - {layers}
    again = tmp_path / "again"
    shutil.copytree(folder, again, symlinks=True)
    (again / "run" / "DONE").unlink()
    shutil.rmtree(again / "run" / "checkpoints" / "iter_0000004")
    output = launch(2, *WRITERS[reader], str(again / "run.toml"), *OVERRIDES)
    assert "iter_0000002" in output and curve(again / "run") == curve(folder / "run")
    newest = "run/checkpoints/iter_0000004"
    assert_equal(tensors_of_checkpoint(again / newest), tensors_of_checkpoint(folder / newest))
