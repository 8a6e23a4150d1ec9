"""The same data and seed give the same curve under every parallel layout."""

import json
import re

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import curve, metrics, train
from tests.end_to_end.trained import assert_equal, tensors_of_checkpoint

TP2 = "parallel.tensor_model_parallel_size=2"
PP2 = "parallel.pipeline_model_parallel_size=2"
SP = "parallel.sequence_parallel=true"
CP2 = "parallel.context_parallel_size=2"
VPP2 = "parallel.virtual_pipeline_model_parallel_size=2"
OVERLAP = ("parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")
UNEVEN = "parallel.num_layers_in_first_pipeline_stage=1"
SELECTIVE_RECOMPUTE = ("parallel.recompute_granularity=selective", 'parallel.recompute_modules=["core_attn", "mlp"]')
FULL_RECOMPUTE = (
    "parallel.recompute_granularity=full",
    "parallel.recompute_method=uniform",
    "parallel.recompute_num_layers=1",
)
LAYOUTS = {
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "TP2-PP2": (4, TP2, PP2),
    "DP2": (2,),
    "SP": (2, TP2, SP),
    "DP4": (4, "train.micro_batch_size=1"),
    "DP2-PP2": (4, PP2),
    "CP2-TP2-SP": (4, CP2, TP2, SP),
    "CP2-PP2-recompute": (4, CP2, PP2, *FULL_RECOMPUTE),
    "VPP2-TP2": (4, PP2, VPP2, TP2),
    "VPP2-DP2-overlap": (4, PP2, VPP2, *OVERLAP),
    "uneven-recompute": (2, PP2, UNEVEN, *SELECTIVE_RECOMPUTE),
    "accumulation": (1, "train.micro_batch_size=1"),
}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("layouts")
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    pair = 'sources = { zh = "tokens/mono.zh_text_document", en-zh = "tokens/en-zh_text_document" }'
    run_file.write_text(re.sub("sources = {.*}", pair, run_file.read_text()))
    train(run_file, 1)
    return run_file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_curves_agree(one_process, layout):
    processes, *overrides = LAYOUTS[layout]
    folder = one_process.parent
    train(one_process, processes, f"output_dir={layout}", *overrides)
    reference, found = curve(folder / "run"), curve(folder / layout)
    assert len(found) == 20 and found[-1] < 0.95 * found[0]
    assert found == pytest.approx(reference, rel=1e-4)
    assert curve(folder / layout, "grad_norm") == pytest.approx(curve(folder / "run", "grad_norm"), rel=1e-3)
    for name in ("target_loss", "loss/mono", "loss/parallel", "target_loss/parallel"):
        assert curve(folder / layout, name) == pytest.approx(curve(folder / "run", name), rel=1e-4)
    for mine, theirs in zip(metrics(folder / layout)[9::10], metrics(folder / "run")[9::10], strict=True):
        sources = [name for name in theirs if name.count("/") == 2]
        assert {"loss/mono/zh", "target_loss/parallel/en-zh"} <= set(sources)
        assert [mine[name] for name in sources] == pytest.approx([theirs[name] for name in sources], rel=1e-4)
    assert [step["data_fingerprint"] for step in metrics(folder / layout)] == [
        step["data_fingerprint"] for step in metrics(folder / "run")
    ]
    expected, validated = ([json.loads(line) for line in open(folder / d / "validation.jsonl")] for d in ("run", layout))
    assert len(expected) == len(validated) == 2
    for mine, theirs in zip(validated, expected, strict=True):
        assert set(theirs) == {"iteration", "validation_loss/zh", "validation_loss/en-zh", "validation_target_loss/en-zh"}
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_a_run_goes_on_under_another_layout(one_process):
    """Overlapped gathering has updated parameters still on their way when a checkpoint is due."""
    folder = one_process.parent
    overrides = ("output_dir=moved", "checkpoint.save_interval=15")  # no validation gathers them before
    processes, *layout = LAYOUTS["VPP2-DP2-overlap"]
    train(one_process, processes, *overrides, *layout)
    saved = tensors_of_checkpoint(folder / "moved/checkpoints/iter_0000015")
    updated = {
        name.split("param.")[1]: tensor for name, tensor in saved.items() if name.startswith("optimizer.state.param.")
    }
    assert_equal({name: saved[name] for name in updated}, updated)
    for name in ("DONE", "checkpoints/iter_0000020/COMMITTED.json"):
        (folder / "moved" / name).unlink()
    assert "resumed from" in train(one_process, 2, *overrides, CP2)
    assert curve(folder / "moved") == pytest.approx(curve(folder / "run"), rel=1e-4)


def test_bf16_learns_too(one_process):
    train(one_process, 2, "output_dir=bf16", "train.bf16=true", TP2)
    reference, found = curve(one_process.parent / "run"), curve(one_process.parent / "bf16")
    assert found == pytest.approx(reference, rel=0.02)
