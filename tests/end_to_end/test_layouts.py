"""The same data and seed give the same curve under every parallel layout."""

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import curve, metrics, train

TP2 = "parallel.tensor_model_parallel_size=2"
PP2 = "parallel.pipeline_model_parallel_size=2"
SP = "parallel.sequence_parallel=true"
LAYOUTS = {
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "TP2-PP2": (4, TP2, PP2),
    "DP2": (2,),
    "SP": (2, TP2, SP),
    "DP4": (4, "train.micro_batch_size=1"),
    "DP2-PP2": (4, PP2),
    "accumulation": (1, "train.micro_batch_size=1"),
}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("layouts")
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
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
    assert [step["data_fingerprint"] for step in metrics(folder / layout)] == [
        step["data_fingerprint"] for step in metrics(folder / "run")
    ]
    expected = (folder / "run" / "validation.jsonl").read_text().splitlines()
    assert len(expected) == len((folder / layout / "validation.jsonl").read_text().splitlines()) == 2


def test_bf16_learns_too(one_process):
    train(one_process, 2, "output_dir=bf16", "train.bf16=true", TP2)
    reference, found = curve(one_process.parent / "run"), curve(one_process.parent / "bf16")
    assert found == pytest.approx(reference, rel=0.02)
