"""What only a GPU can show: Transformer Engine's layers, FP8, NCCL. Skipped without one.

The reference is the same run on this machine's CPU, in fp32.
"""

import json
import re

import pytest
import torch

from tests.conftest import TINY_MODEL, make_run
from tests.end_to_end.processes import curve, metrics, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

# every side of every matrix is a multiple of 128, for all FP8 recipes
MODEL = {
    **TINY_MODEL,
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 64,
    "num_key_value_heads": 2,
    "vocab_size": 704,
}
TP2, PP2 = "parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"
LAYOUTS = {
    "TP2-SP": (2, TP2, "parallel.sequence_parallel=true"),
    "CP2": (2, "parallel.context_parallel_size=2"),
    "PP2": (2, PP2),
    "DP2": (2,),
    "VPP2-DP2": (4, PP2, "parallel.virtual_pipeline_model_parallel_size=2"),
    "TP2-CP2": (4, TP2, "parallel.context_parallel_size=2"),
}
RECOMPUTE = {
    "full": ("parallel.recompute_granularity=full", "parallel.recompute_method=block", "parallel.recompute_num_layers=2"),
    "selective": ("parallel.recompute_granularity=selective", 'parallel.recompute_modules=["layernorm", "mlp"]'),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A run file, trained on the CPU in fp32 and on one GPU in bf16."""
    run_file = make_run(tmp_path_factory.mktemp("gpu"), quickstart_tokenizer, tiny_tokens)
    (run_file.parent / "config.json").write_text(json.dumps(MODEL))
    run_file.write_text(re.sub("seq_length = 64", "seq_length = 128", run_file.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        train(run_file, 1, "output_dir=cpu")
    train(run_file, 1, "output_dir=bf16")
    return run_file


def test_transformer_engine_learns_as_the_cpu_does(reference):
    folder = reference.parent
    assert curve(folder / "bf16") == pytest.approx(curve(folder / "cpu"), rel=0.01)
    assert metrics(folder / "bf16")[-1]["mfu"] > 0


@pytest.mark.parametrize("param_gather", [False, True], ids=["", "param_gather"])
@pytest.mark.parametrize("recipe", ["tensorwise", "delayed", "blockwise"])
def test_fp8_is_near_bf16(reference, recipe, param_gather):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("FP8 training needs compute capability 9.0")
    name = f"{recipe}-{param_gather}"
    fp8 = f"fp8={{recipe='{recipe}', param_gather={str(param_gather).lower()}}}"
    train(reference, 1, f"output_dir={name}", fp8)
    found, bf16 = curve(reference.parent / name), curve(reference.parent / "bf16")
    assert found == pytest.approx(bf16, rel=0.03)
    assert found != bf16  # it was not ignored


@pytest.mark.parametrize("kind", RECOMPUTE)
def test_recomputing_changes_nothing(reference, kind):
    train(reference, 1, f"output_dir={kind}", *RECOMPUTE[kind])
    assert curve(reference.parent / kind) == pytest.approx(curve(reference.parent / "bf16"), rel=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(reference, layout):
    gpus, *overrides = LAYOUTS[layout]
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    train(reference, gpus, f"output_dir={layout}", *overrides)
    assert curve(reference.parent / layout) == pytest.approx(curve(reference.parent / "bf16"), rel=0.01)
