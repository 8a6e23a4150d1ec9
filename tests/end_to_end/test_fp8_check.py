"""BF16 against FP8 from the metrics of two trials; on a machine without a GPU the tool says why it cannot try."""

import json
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.fp8_check import compare, report, write
from tests.conftest import REPOSITORY
from tests.end_to_end.processes import tool


def trial(folder, losses, speed, fingerprint="f", skipped=0):
    folder.mkdir()
    steps = [
        {
            "iteration": number + 1,
            "lm_loss": loss,
            # the first ones are slow
            "tokens_per_second_per_gpu": speed if number >= 5 else speed / 10,
            "data_fingerprint": f"{fingerprint}{number}",
            "skipped_iterations": skipped,
        }
        for number, loss in enumerate(losses)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


@pytest.fixture
def bf16(tmp_path):
    return trial(tmp_path / "bf16", [9.0] * 10 + [2.0] * 10, 1000.0)


def test_a_small_gap_and_a_good_speed_are_recommended(tmp_path, bf16):
    fp8 = trial(tmp_path / "fp8", [99.0] * 10 + [2.006, 2.002] * 5, 1300.0)  # only the second half counts
    comparison = compare(bf16, fp8)
    assert comparison.gap == pytest.approx(0.002) and comparison.noise == pytest.approx(0.001)
    assert comparison.gain == pytest.approx(1.3) and comparison.objections == []
    text = "\n".join(report(comparison, 1_720_574_976, "tensorwise"))
    assert "FP8 tensorwise for this model of 1.72 billion parameters: recommended" in text
    assert "loss gap +0.200%" in text and "1.30 times as fast" in text
    write(comparison, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["gain"] == pytest.approx(1.3)


def test_every_objection_is_given(tmp_path, bf16):
    fp8 = trial(tmp_path / "fp8", [9.0] * 10 + [2.1] * 9 + [None], 900.0, skipped=1)
    text = report(compare(bf16, fp8), 600_000_000, "delayed")[-1]
    for reason in ("not recommended", "1 iterations were skipped", "differs by +5.00%", "0.90 times as fast, less than 1.1"):
        assert reason in text


def test_trials_that_cannot_be_compared(tmp_path, bf16):
    with pytest.raises(DataError, match="did not train on the same data"):
        compare(bf16, trial(tmp_path / "other", [2.0] * 20, 1.0, fingerprint="g"))
    with pytest.raises(DataError, match="no iteration of the second half has a finite loss"):
        compare(bf16, trial(tmp_path / "broken", [2.0] * 10 + [None] * 10, 1.0))
    with pytest.raises(DataError, match="3 iterations are too few"):
        compare(trial(tmp_path / "a", [1.0] * 3, 1.0), trial(tmp_path / "b", [1.0] * 3, 1.0))


def test_without_a_gpu_the_tool_says_why_it_cannot(tiny_run):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    output = tool("fp8_check.py", tiny_run, "fp8.recipe=blockwise", code=2)
    for reason in ("there is no GPU here", "Transformer Engine is not installed", "recipe = 'blockwise': hidden_size = 32"):
        assert reason in output
    assert not (tiny_run.parent / "run-fp8-check").exists()


def test_a_trial_is_the_start_of_the_run(tiny_run):
    """The half of the tool that a CPU can do: the BF16 trial, and the settings of the other one."""
    spec = spec_from_file_location("fp8_check_tool", REPOSITORY / "tools/fp8_check.py")
    check = module_from_spec(spec)
    spec.loader.exec_module(check)
    arguments = Namespace(run_file=tiny_run, overrides=["train.train_iters=500", "fp8={}"], iterations=10, processes=1)
    run = load_run(tiny_run, arguments.overrides)
    work = tiny_run.parent / "check"
    check._train(arguments, run, work, is_fp8=False)
    steps = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 10 and not (work / "checkpoints").exists()
    assert json.loads((work / "resolved.json").read_text())["run"]["train"]["bf16"] is True
    with pytest.raises(UserError, match="the trial ended with code"):
        check._train(arguments, run, work, is_fp8=True)
