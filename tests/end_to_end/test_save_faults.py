"""Saves that go wrong: they end the run with a reason, leave no half, and cost no checkpoint that was there before."""

import re
import shlex

import pytest

from tests.conftest import REPOSITORY, make_run
from tests.end_to_end.processes import curve, launch, run, train, training_command


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    return make_run(tmp_path_factory.mktemp("save_faults"), quickstart_tokenizer, tiny_tokens)


def test_a_disk_that_takes_no_more_ends_the_run_with_its_reason(run_file):
    run_dir = run_file.parent / "full"
    overrides = (f"output_dir={run_dir}", "checkpoint.async_save=true", "logging.tensorboard=false")
    train(run_file, 1, *overrides)
    for name in ("DONE", "checkpoints/iter_0000020/COMMITTED.json"):
        (run_dir / name).unlink()
    # no file may become larger than 300 blocks of 1,024 bytes: the log can, a tensor file cannot
    command = shlex.join(training_command(run_file, 1, *overrides))
    output = run(["bash", "-c", f"ulimit -f 300; {command}"], code=2)
    assert re.search(r"error: .*/iter_0000020 could not be written, with [\d.]+ GB free: Worker failure: ", output)
    assert "which is how torch puts that a file could not grow" in output
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["iter_0000010", "iter_0000020"]
    assert f"resumed from {run_dir}/checkpoints/iter_0000010" in train(run_file, 1, *overrides)


def test_what_was_saved_is_read_back(run_file):
    plain, verified = run_file.parent / "plain", run_file.parent / "verified"
    layout = ("parallel.pipeline_model_parallel_size=2",)
    output = train(run_file, 2, f"output_dir={verified}", "checkpoint.verify_after_save=true", *layout)
    assert output.count("back: every tensor is as in memory") == 2
    train(run_file, 2, f"output_dir={plain}", *layout)
    assert curve(verified) == curve(plain)  # reading back does not touch what is trained


def test_a_wrong_number_with_a_fitting_hash_is_found(run_file):
    run_dir = run_file.parent / "careless"
    overrides = (f"output_dir={run_dir}", "checkpoint.verify_after_save=true")
    train(run_file, 1, *overrides)
    for name in ("DONE", "checkpoints/iter_0000020/COMMITTED.json"):
        (run_dir / name).unlink()
    script = str(REPOSITORY / "tests/end_to_end/careless_writer.py")
    output = launch(1, script, str(run_file), *overrides, code=2)
    checkpoints = run_dir / "checkpoints"
    assert f"error: {checkpoints}/iter_0000020: optimizer.state.exp_avg_sq." in output
    assert ": not as in memory" in output
    assert f"it is kept as {checkpoints}/damaged_iter_0000020" in output
    assert sorted(path.name for path in checkpoints.iterdir()) == ["damaged_iter_0000020", "iter_0000010"]
    assert "set async_save = false" in train(run_file, 1, *overrides, "checkpoint.async_save=true", code=2)
